"""Retrieval among distinct findings: texts of an image, images of a text, and images that are alike.

Rows of the group `retrieval`, each compared with `chance`, a random order:

- `image_to_text_topK`, `text_to_image_topK`: recall at K (1, 5 and 10), the share of queries with a right candidate
  among the first K. The candidates are one text per concept, and the images of the texts.
- `image_to_image_precisionK`: of the K images that are most similar to an image, the share of its class, and
  `image_to_image_map`, the mean average precision. The candidates are the images of all other patients: an image never
  finds its own study, nor another one of its patient. A class is what ConVIRT (Zhang et al. 2022,
  https://arxiv.org/abs/2010.00747) and M3Ret (https://arxiv.org/abs/2509.01360) count as right.

A row whose K is at least the number of candidates would say nothing and is left out.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NotRequired

import numpy as np

from medvlm.core.content import Content
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.sample import Sample
from medvlm.evaluate.protocols._questions import name_cluster
from medvlm.evaluate.rows import Part, make_row
from medvlm.metrics.retrieval import (
    average_precision,
    chance,
    chance_at,
    chance_of_average_precision,
    ranks,
    sort_hits,
)

NEEDS = "embed"
BASELINES = ()
NOTHING = "no two different texts with images, and no images of two patients that are alike"
PLACE_IN_OLD_COUNTS = 1
CHUNK = 64
AT = (1, 5, 10)
"""K of recall and precision."""
PAIRED = ("image_to_text", "text_to_image")
ALIKE = "image_to_image"


class Config(ProtocolConfig):
    kind: Literal["retrieval"] = "retrieval"
    alike: str = "concept"
    """What images of one class have in common: their `concept`, or a group of the samples, such as modality."""


class FORM(SplitRecord):
    direction: str
    key: str
    cluster: int
    rank: int
    chance: float
    right: NotRequired[int]
    candidates: NotRequired[int]
    hits: NotRequired[list[int]]
    average_precision: NotRequired[float]


def can_ask(content: Content, model: Any) -> bool:
    return content.media is None or bool(content.media)


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """Yields a record for every image with a text (direction `image_to_text`), every text (`text_to_image`) and every
    image of a class (`image_to_image`).

    rank: number of wrong candidates before the first right one. chance: probability of rank 0 in a random order. right,
    candidates: how many there are. hits: how many of the first 1, 5 and 10 candidates are right.
    """
    samples, images_NE = _embed_images(config, model, split)
    clusters: dict[str, int] = {}
    for sample in samples:
        clusters.setdefault(name_cluster(sample), len(clusters))
    yield from _match_texts(model, split, samples, images_NE, clusters)
    yield from _match_images(config, split, samples, images_NE, clusters)


def _match_texts(
    model: Any, split: Split, samples: Sequence[Sample], images_NE: np.ndarray, clusters: Mapping[str, int]
) -> Iterator[Record]:
    """The candidates are one text per concept, that of its first sample. Two samples with the same concept, or without
    a concept but with equal text, match each other, so no two candidates say the same. A text counts as one of the
    patient of its sample."""
    first: dict[str, Sample] = {}
    for sample in samples:
        if sample.report:
            first.setdefault(_concept(sample), sample)
    embedded = _embed_texts(model, {concept: sample.report for concept, sample in first.items()}, split)
    kept = [n for n, sample in enumerate(samples) if sample.report and _concept(sample) in embedded]
    if len(embedded) < 2:
        return
    column = {concept: number for number, concept in enumerate(embedded)}
    is_target_NC = np.array([column[_concept(samples[n])] for n in kept])[:, None] == np.arange(len(column))
    similarity_NC = images_NE[kept] @ np.stack(list(embedded.values())).T
    asked = (
        ("image_to_text", [samples[n] for n in kept], similarity_NC, is_target_NC),
        ("text_to_image", [first[concept] for concept in embedded], similarity_NC.T, is_target_NC.T),
    )
    for direction, queries, similarity_QC, is_target_QC in asked:
        found = zip(queries, ranks(similarity_QC, is_target_QC), chance(is_target_QC), is_target_QC, strict=True)
        for sample, rank, p, is_target_C in found:
            yield {
                "direction": direction,
                "key": sample.key,
                "cluster": clusters[name_cluster(sample)],
                "rank": int(rank),
                "chance": float(p),
                "right": int(is_target_C.sum()),
                "candidates": len(is_target_C),
            }


def _match_images(
    config: Config, split: Split, samples: Sequence[Sample], images_NE: np.ndarray, clusters: Mapping[str, int]
) -> Iterator[Record]:
    """An image whose class no other patient has cannot be found by any model: it is left out as a query, and
    counted."""
    of_class = [(n, name) for n, sample in enumerate(samples) if (name := _find_class(config, sample))]
    if len({name for _, name in of_class}) < 2:
        if config != Config():
            split.notes.append(f"retrieval.alike: the images do not have two different {config.alike!r}; no rows")
        return
    numbers, names = [n for n, _ in of_class], np.array([name for _, name in of_class])
    cluster_M = np.array([clusters[name_cluster(samples[n])] for n in numbers])
    vectors_ME = images_NE[numbers]
    for n, name, cluster, vector_E in zip(numbers, names, cluster_M, vectors_ME, strict=True):
        is_other_M = cluster_M != cluster
        is_right_C = sort_hits((vectors_ME @ vector_E)[is_other_M], (names == name)[is_other_M])
        num_right = int(is_right_C.sum())
        if not num_right:
            split.left_out[f"image to image: no other patient has the {config.alike} of an image"] += 1
            continue
        yield {
            "direction": ALIKE,
            "key": samples[n].key,
            "cluster": int(cluster),
            "rank": int(is_right_C.argmax()),
            "chance": num_right / len(is_right_C),
            "right": num_right,
            "candidates": len(is_right_C),
            "hits": [int(is_right_C[:k].sum()) for k in AT],
            "average_precision": average_precision(is_right_C),
        }


def _find_class(config: Config, sample: Sample) -> str:
    return sample.concept if config.alike == "concept" else sample.groups.get(config.alike, "")


def _embed_images(config: Config, model: Any, split: Split) -> tuple[list[Sample], np.ndarray]:
    """Every sample that has an image, and a text or a class; and their embeddings, [N, E]."""
    samples = [split.shards.read(*place)[0] for place in split.places]
    kept = [n for n, each in enumerate(samples) if each.media and (each.report or _find_class(config, each))]
    pieces = [kept[start : start + CHUNK] for start in range(0, len(kept), CHUNK)]

    def do(number: int) -> list[str]:
        vectors_NE = model.embed_media([split.shards.read(*split.places[position]) for position in pieces[number]])
        return [b64encode(np.float32(vector_E).tobytes()).decode() for vector_E in vectors_NE]

    found = split.pieces.collect("retrieval", [len(piece) for piece in pieces], do, split.progress)
    images = [np.frombuffer(b64decode(text), np.float32) for piece in found for text in piece]
    return [samples[position] for position in kept], np.stack(images) if images else np.zeros((0, 1), np.float32)


def _embed_texts(model: Any, text_of: Mapping[str, str], split: Split) -> dict[str, np.ndarray]:
    """Concept -> the vector of its text. A text that the tower refuses, because it is too long, is left out and
    counted, as training leaves out its sample."""
    embedded = {}
    for concept, text in text_of.items():
        try:
            embedded[concept] = model.embed_texts([text])[0]
        except DataError as reason:
            split.left_out[str(reason)] += 1
    return embedded


def _concept(sample: Sample) -> str:
    return sample.concept or f"text {' '.join(sample.report.split())}"


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    """The bootstrap resamples the queries by patient; the candidates stay the same."""
    shown = {**settings, "baselines": ["chance"]}
    return [make_row(measure, metric, parts, settings) for measure, metric, parts in list_parts(records, shown)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    """Each row as its measure, its metric and its part. Baselines are columns of the records: `chance`, or another
    model's record."""
    for direction in (*PAIRED, ALIKE):
        found = [record for record in records if record["direction"] == direction]
        for metric, (score, guess) in (_list_scores(direction, found) if found else {}).items():
            columns = {"answer": np.array([(score(record), 1.0) for record in found])}
            for name in settings["baselines"]:
                values = map(guess, found) if name == "chance" else (score(record[name]) for record in found)
                columns[name] = np.array([(value, 1.0) for value in values])
            measure = Measure(f"{direction}_{metric}", "retrieval", average(lambda value, target: value))
            yield measure, measure.metric, [Part(range(len(found)), columns, [r["cluster"] for r in found])]


Score = Callable[[Record], float]


def _list_scores(direction: str, records: Sequence[Record]) -> dict[str, tuple[Score, Score]]:
    """Metric -> its value of a record, and that of a random order. Records of early releases have no number of
    candidates, and so only recall at 1."""
    fewest = min(record.get("candidates", 2) for record in records)
    cut_offs = [(n, k) for n, k in enumerate(AT) if k < fewest]
    if direction == ALIKE:
        precision = {f"precision{k}": (partial(_find_precision, n, k), _find_chance) for n, k in cut_offs}
        return {**precision, "map": (_find_average_precision, _guess_average_precision)}
    return {f"top{k}": (partial(_is_found, k), partial(_guess_found, k)) for _, k in cut_offs}


def _is_found(k: int, record: Record) -> float:
    return float(record["rank"] < k)


def _guess_found(k: int, record: Record) -> float:
    return float(record["chance"]) if k == 1 else chance_at(k, record["right"], record["candidates"])


def _find_precision(n: int, k: int, record: Record) -> float:
    return float(record["hits"][n] / k)


def _find_chance(record: Record) -> float:
    return float(record["chance"])


def _find_average_precision(record: Record) -> float:
    return float(record["average_precision"])


def _guess_average_precision(record: Record) -> float:
    return chance_of_average_precision(record["right"], record["candidates"])


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records that both have, with the record of another model as the baseline `name`."""
    found = {(other["direction"], other["key"], other["cluster"]): other for other in others}
    named = (((record["direction"], record["key"], record["cluster"]), record) for record in records)
    return [{**record, name: found[identity]} for identity, record in named if identity in found]
