"""Classifies images by their vectors. The vectors are those of an encoder, the classes the answers of training samples.

Axes: N training samples, M evaluated samples, E width.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from pydantic import Field

from medvlm.core.content import Content
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import Place, ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols._majority import spread
from medvlm.evaluate.protocols._questions import name_cluster
from medvlm.evaluate.rows import Part, make_row

BASELINE = "majority"
"""The most frequent answer of the training samples."""
MOST_SAMPLES = 20_000
"""Maximum number of training samples, at equal distances."""
MOST_ANSWERS = 50
"""Templates with more different answers are left out."""
TOGETHER = 64
Classify = Callable[[np.ndarray, Sequence[str], np.ndarray], list[str]]
"""(vectors [N, E], their answers, vectors [M, E]) -> an answer for each of the M."""


class FORM(SplitRecord):
    key: str
    cluster: int
    template: str
    truth: dict[str, Any]
    expected: str
    found: str
    majority: str


def can_ask(content: Content, model: Any) -> bool:
    return content.media is None or bool(content.media)


class FittedConfig(ProtocolConfig):
    """Base of the settings of protocols that classify by training samples."""

    per_answer: int = Field(0, ge=0)
    """Uses this many training samples of each answer of a template, drawn by the seed; 0: all."""


def ask(config: FittedConfig, model: Any, split: Split, classify: Classify) -> Iterator[Record]:
    """A record for each question with a short answer, of templates that training samples answer in several ways.

    Vectors are those of the first medium. They are centred and scaled to length 1 by the training samples' mean."""
    places = list(spread(split.training(), MOST_SAMPLES))
    train, test = (
        embed_first(model, split, of, what) for of, what in ((places, "training-vectors"), (split.places, "vectors"))
    )
    if not train or not test:
        return
    known: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for n, (sample, _) in enumerate(train):
        for question in filter(is_asked, sample.questions):
            known[question.template].append((n, find_task(question.truth.task).summarise(question.truth)))
    if config.per_answer:
        keys = [sample.key for sample, _ in train]
        known = {template: keep_few(of, keys, config.per_answer, split.seed) for template, of in known.items()}
    train_NE, test_ME = (np.stack([vector for _, vector in of]) for of in (train, test))
    mean_E = train_NE.mean(axis=0)
    train_NE, test_ME = scale(train_NE - mean_E), scale(test_ME - mean_E)

    def answer(template: str, rows_M: Sequence[int]) -> list[str]:
        of = known[template]
        return classify(train_NE[[n for n, _ in of]], [each for _, each in of], test_ME[rows_M])

    answers = {template: [each for _, each in of] for template, of in known.items()}
    yield from record_answers(split, [sample for sample, _ in test], answers, answer)


def keep_few(known: Sequence[tuple[int, str]], keys: Sequence[str], count: int, seed: int) -> list[tuple[int, str]]:
    """`count` pairs of (index of a sample, answer) for each answer, or all where there are fewer. The same for every
    model."""
    times: Counter[str] = Counter()
    kept = []
    for n, answer in sorted(known, key=lambda pair: blake2b(f"{seed} {keys[pair[0]]}".encode()).digest()):
        times[answer] += 1
        if times[answer] <= count:
            kept.append((n, answer))
    return sorted(kept)


def record_answers(
    split: Split,
    samples: Sequence[Sample],
    known: Mapping[str, Sequence[str]],
    answer: Callable[[str, Sequence[int]], list[str]],
) -> Iterator[Record]:
    """A record for each question of the samples. known: template -> the answers of training samples. answer: (template,
    indices of samples) -> an answer for each."""
    clusters: dict[str, int] = {}
    for template, answers in known.items():
        asked = [(m, q) for m, sample in enumerate(samples) for q in sample.questions if q.template == template]
        if not 2 <= len(set(answers)) <= MOST_ANSWERS or not asked:
            why = f"{template}: its training answers are all the same, or of more than {MOST_ANSWERS} kinds"
            split.left_out[why] += len(asked)
            continue
        most = Counter(answers).most_common(1)[0][0]
        for (m, question), found in zip(asked, answer(template, [m for m, _ in asked]), strict=True):
            yield {
                "key": samples[m].key,
                "cluster": clusters.setdefault(name_cluster(samples[m]), len(clusters)),
                "template": template,
                "truth": question.truth.to_json(),
                "expected": find_task(question.truth.task).summarise(question.truth),
                "found": found,
                BASELINE: most,
            }


def list_known(split: Split) -> dict[str, list[str]]:
    """Template -> the answers of training samples."""
    known: dict[str, list[str]] = defaultdict(list)
    for place in spread(split.training(), MOST_SAMPLES):
        for question in filter(is_asked, split.shards.read(*place)[0].questions):
            known[question.template].append(find_task(question.truth.task).summarise(question.truth))
    return known


def is_asked(question: Question) -> bool:
    task = find_task(question.truth.task)
    return not task.FREE_TEXT and not task.NEEDS_CANVAS


def embed_first(model: Any, split: Split, places: Sequence[Place], what: str) -> list[tuple[Sample, np.ndarray]]:
    """Samples with media and questions, and the vectors [E] of their first medium, computed once for all protocols."""
    if (model, what) not in split.shared:
        split.shared[model, what] = embed(
            split, places, what, lambda sample, files: next(model.embed_each(sample, files)).float().cpu().numpy()
        )
    found: list[tuple[Sample, np.ndarray]] = split.shared[model, what]
    return found


def embed(
    split: Split, places: Sequence[Place], what: str, make: Callable[[Sample, Any], np.ndarray]
) -> list[tuple[Sample, np.ndarray]]:
    """Samples with media and questions, and their vectors [E]. what: the name of this work."""
    samples = [split.shards.read(*place)[0] for place in places]
    kept = [n for n, sample in enumerate(samples) if sample.media and any(map(is_asked, sample.questions))]
    pieces = [kept[at : at + TOGETHER] for at in range(0, len(kept), TOGETHER)]

    def do(number: int) -> list[str]:
        read = (split.shards.read(*places[n]) for n in pieces[number])
        return [b64encode(np.float32(make(sample, files)).tobytes()).decode() for sample, files in read]

    found = split.pieces.collect(what, list(map(len, pieces)), do, split.progress)
    vectors = [np.frombuffer(b64decode(text), np.float32).astype(np.float64) for piece in found for text in piece]
    return [(samples[n], vector_E) for n, vector_E in zip(kept, vectors, strict=True)]


def scale(vectors_NE: np.ndarray) -> np.ndarray:
    """To length 1."""
    length_N1 = np.linalg.norm(vectors_NE, axis=1, keepdims=True)
    return vectors_NE / np.where(length_N1 > 0, length_N1, 1.0)


def rows_of(group: str, records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    """Accuracy over all questions and of each template."""
    return [make_row(*found, settings) for found in list_parts(group, records, settings)]


def list_parts(
    group: str, records: Sequence[Record], settings: Mapping[str, Any]
) -> Iterator[tuple[Measure, str, list[Part]]]:
    """Each row as its measure, its metric and its part. Baselines are what the records have under their names."""
    measure = Measure("accuracy", group, average(lambda answer, truth: answer), by_template=True, headline=True)
    for template in ("", *sorted({record["template"] for record in records})):
        of = [record for record in records if template in ("", record["template"])]
        if of:
            who_found = {"answer": "found", **{name: name for name in settings["baselines"] if name in of[0]}}
            columns = {
                who: np.array([(float(record[key] == record["expected"]), 1.0) for record in of])
                for who, key in who_found.items()
            }
            metric = f"accuracy:{template}" if template else "accuracy"
            yield measure, metric, [Part(range(len(of)), columns, [record["cluster"] for record in of])]


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records of the questions that both have, with what another model's vectors say as the baseline `name`."""
    found = dict(zip(_identify(others), others, strict=True))
    named = zip(_identify(records), records, strict=True)
    return [{**record, name: found[identity]["found"]} for identity, record in named if identity in found]


def _identify(records: Sequence[Record]) -> list[tuple[str, str, int]]:
    """A template may be asked several times of a sample."""
    times: Counter[tuple[str, str]] = Counter()
    identities = []
    for record in records:
        asked = record["key"], record["template"]
        times[asked] += 1
        identities.append((*asked, times[asked]))
    return identities
