"""Image retrieval by the vectors of an encoder or of a decoder of vectors: are images with equal answers near each
other?

For each question with a short answer, the image is compared with those of all other patients of the split whose image
has an answer to the same question. Rows of the group `neighbours`, each compared with `chance`, a random order:
`recallK`, the share of images of which one of the K nearest has the same answer, and `map`, the mean average precision.
They are over all templates, and of each. Nothing is fitted, so no training sample is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from medvlm.core.measure import Measure, average
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols import _vectors
from medvlm.evaluate.protocols._questions import name_cluster
from medvlm.evaluate.rows import Part, make_row
from medvlm.metrics.retrieval import average_precision, chance_at, chance_of_average_precision, sort_hits

NEEDS = "represent"
BASELINES = ("chance",)
NOTHING = "no two patients with images and equal short answers"
BY_NAME_ONLY = True
AT = (1, 2, 4, 8)
"""K of recall."""
can_ask = _vectors.can_ask


class Config(ProtocolConfig):
    kind: Literal["neighbours"] = "neighbours"


class FORM(SplitRecord):
    key: str
    cluster: int
    template: str
    rank: int
    right: int
    candidates: int
    average_precision: float


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """A record for each image and question. rank: number of images with another answer that are nearer than the nearest
    one with the same answer. An answer that no other patient has cannot be found: it is left out and counted."""
    found = _vectors.embed_first(model, split, split.places, "vectors")
    if not found:
        return
    samples = [sample for sample, _ in found]
    vectors_ME = _vectors.scale(np.stack([vector_E for _, vector_E in found]))
    clusters: dict[str, int] = {}
    cluster_M = np.array([clusters.setdefault(name_cluster(sample), len(clusters)) for sample in samples])
    for template, answer_of in _list_answers(samples).items():
        numbers = np.array(list(answer_of))
        names = np.array(list(answer_of.values()))
        for number, name in zip(numbers, names, strict=True):
            others = cluster_M[numbers] != cluster_M[number]
            similarity_C = vectors_ME[numbers[others]] @ vectors_ME[number]
            is_right_C = sort_hits(similarity_C, names[others] == name)
            if not is_right_C.any():
                split.left_out[f"{template}: no other patient has the answer of an image"] += 1
                continue
            yield {
                "key": samples[number].key,
                "cluster": int(cluster_M[number]),
                "template": template,
                "rank": int(is_right_C.argmax()),
                "right": int(is_right_C.sum()),
                "candidates": len(is_right_C),
                "average_precision": average_precision(is_right_C),
            }


def _list_answers(samples: Sequence[Any]) -> dict[str, dict[int, str]]:
    """Template -> number of a sample -> its answer, of templates with several answers, but not too many."""
    found: dict[str, dict[int, str]] = {}
    for number, sample in enumerate(samples):
        for question in filter(_vectors.is_asked, sample.questions):
            found.setdefault(question.template, {})[number] = find_task(question.truth.task).summarise(question.truth)
    return {t: of for t, of in sorted(found.items()) if 2 <= len(set(of.values())) <= _vectors.MOST_ANSWERS}


Score = Callable[[Record], float]


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    """The bootstrap resamples the queries by patient; the candidates stay the same."""
    rows = []
    for template in ("", *sorted({record["template"] for record in records})):
        of = [record for record in records if template in ("", record["template"])]
        fewest = min((record["candidates"] for record in of), default=0)
        scores: dict[str, tuple[Score, Score]] = {
            f"recall{k}": (partial(_is_found, k), partial(_guess, k)) for k in AT if k < fewest
        }
        scores["map"] = (_find_precision, _guess_precision)
        for metric, (score, guess) in scores.items() if of else ():
            columns = {
                name: np.array([(of_record(record), 1.0) for record in of])
                for name, of_record in (("answer", score), ("chance", guess))
                if name in ("answer", *settings["baselines"])
            }
            measure = Measure(metric, "neighbours", average(lambda value, _: value), headline=metric == "map")
            named = f"{metric}:{template}" if template else metric
            rows.append(make_row(measure, named, [Part(range(len(of)), columns, [r["cluster"] for r in of])], settings))
    return rows


def _is_found(k: int, record: Record) -> float:
    return float(record["rank"] < k)


def _guess(k: int, record: Record) -> float:
    return chance_at(k, record["right"], record["candidates"])


def _find_precision(record: Record) -> float:
    return float(record["average_precision"])


def _guess_precision(record: Record) -> float:
    return chance_of_average_precision(record["right"], record["candidates"])
