"""Image-text retrieval among distinct findings, as records that can be scored without the model."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from medvlm.core.content import Content
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, average
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split, SplitRecord
from medvlm.core.sample import Sample
from medvlm.evaluate.rows import Part, make_row
from medvlm.metrics.retrieval import chance, ranks

NEEDS = "embed"
BASELINES = ()
NOTHING = "no two different texts with images"
PLACE_IN_OLD_COUNTS = 1
CHUNK = 64
TOP1 = {
    direction: Measure(f"{direction}_top1", "retrieval", average(lambda hit, target: float(hit)))
    for direction in ("image_to_text", "text_to_image")
}


class Config(ProtocolConfig):
    kind: Literal["retrieval"] = "retrieval"


class FORM(SplitRecord):
    direction: str
    key: str
    cluster: int
    rank: int
    chance: float


def can_ask(content: Content, model: Any) -> bool:
    return content.has_reports is not False and (content.media is None or bool(content.media))


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """Yields a record for every image (direction `image_to_text`) and every text (`text_to_image`), or none if there
    are fewer than two texts.

    The candidates are one text per concept, that of its first sample. Two samples with the same concept, or without a
    concept but with equal text, match each other, so no two candidates say the same. rank: number of wrong candidates
    before the right one. chance: probability of rank 0 in a random order.
    """
    images, paired = _embed_images(model, split)
    text_of: dict[str, str] = {}
    for sample in paired:
        text_of.setdefault(_concept(sample), sample.report)
    embedded = _embed_texts(model, text_of, split)
    kept = [n for n, sample in enumerate(paired) if _concept(sample) in embedded]
    images, paired = [images[n] for n in kept], [paired[n] for n in kept]
    if len(embedded) < 2:
        return
    column = {concept: number for number, concept in enumerate(embedded)}
    is_target_NC = np.array([column[_concept(sample)] for sample in paired])[:, None] == np.arange(len(column))
    similarity_NC = np.stack(images) @ np.stack(list(embedded.values())).T
    by_image = zip(paired, ranks(similarity_NC, is_target_NC).tolist(), chance(is_target_NC).tolist(), strict=True)
    by_text = zip(ranks(similarity_NC.T, is_target_NC.T).tolist(), chance(is_target_NC.T).tolist(), strict=True)
    clusters: dict[str, int] = {}
    for sample, rank, p in by_image:
        cluster = clusters.setdefault(sample.patient or f"sample {sample.key}", len(clusters))
        yield {"direction": "image_to_text", "key": sample.key, "cluster": cluster, "rank": rank, "chance": p}
    for number, (rank, p) in enumerate(by_text):
        yield {"direction": "text_to_image", "key": "", "cluster": number, "rank": rank, "chance": p}


def _embed_images(model: Any, split: Split) -> tuple[list[np.ndarray], list[Sample]]:
    """Embeddings of every sample that has an image and a text, and these samples."""
    samples = [split.shards.read(*place)[0] for place in split.places]
    paired = [position for position, sample in enumerate(samples) if sample.media and sample.report]
    pieces = [paired[start : start + CHUNK] for start in range(0, len(paired), CHUNK)]

    def do(number: int) -> list[str]:
        vectors_NE = model.embed_media([split.shards.read(*split.places[position]) for position in pieces[number]])
        return [b64encode(np.float32(vector_E).tobytes()).decode() for vector_E in vectors_NE]

    found = split.pieces.collect("retrieval", [len(piece) for piece in pieces], do, split.progress)
    images = [np.frombuffer(b64decode(text), np.float32) for piece in found for text in piece]
    return images, [samples[position] for position in paired]


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
    """Top-1 accuracy. The bootstrap resamples images (by patient) or texts; the candidates stay the same."""
    shown = {**settings, "baselines": ["chance"]}
    return [make_row(measure, metric, parts, settings) for measure, metric, parts in list_parts(records, shown)]


def list_parts(records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[tuple[Measure, str, list[Part]]]:
    """Each row as its measure, its metric and its part. Baselines are columns of the records."""
    for direction, measure in TOP1.items():
        found = [record for record in records if record["direction"] == direction]
        if found:
            columns = {"answer": np.array([(float(record["rank"] == 0), 1.0) for record in found])}
            for name in settings["baselines"]:
                columns[name] = np.array([(record[name], 1.0) for record in found])
            yield measure, measure.metric, [Part(range(len(found)), columns, [r["cluster"] for r in found])]


def merge(records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
    """The records that both have, with whether another model was right as the baseline `name`."""
    found = {(other["direction"], other["key"], other["cluster"]): float(other["rank"] == 0) for other in others}
    named = (((record["direction"], record["key"], record["cluster"]), record) for record in records)
    return [{**record, name: found[identity]} for identity, record in named if identity in found]
