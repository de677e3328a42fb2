"""Image-text retrieval over the gallery of distinct findings, as records that can be scored without the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medvlm.core.sample import Sample
from medvlm.evaluate.asking import Place
from medvlm.evaluate.protocol import Answerer, Progress, Shards
from medvlm.metrics.retrieval import chance, ranks

Record = dict[str, Any]
CHUNK = 64


def pair_all(answerer: Answerer, shards: Shards, places: Sequence[Place], progress: Progress) -> list[Record]:
    """A record for every image (direction `image_to_text`) and every text (`text_to_image`); [] where there
    are no two different texts.

    The candidates are one text for each concept, that of its first sample; two samples with one concept, or
    without a concept but with equal text, are right for each other. So no image has two texts that say the same.
    rank: how many wrong candidates stand before the right one. chance: of rank 0, for a random order.
    """
    images: list[np.ndarray] = []
    paired: list[Sample] = []
    for start in range(0, len(places), CHUNK):
        items = [
            (s, files)
            for s, files in (shards.read(*place) for place in places[start : start + CHUNK])
            if s.media and s.report
        ]
        if items:
            images.append(answerer.embed_media(items))
            paired += [sample for sample, _ in items]
        progress("retrieval", min(start + CHUNK, len(places)), len(places))
    text_of: dict[str, str] = {}
    for sample in paired:
        text_of.setdefault(_concept(sample), sample.report)
    if len(text_of) < 2:
        return []
    texts = answerer.embed_texts(list(text_of.values()))
    column = {concept: number for number, concept in enumerate(text_of)}
    is_target_NC = np.array([column[_concept(sample)] for sample in paired])[:, None] == np.arange(len(column))
    similarity_NC = np.concatenate(images) @ texts.T
    by_image = zip(paired, ranks(similarity_NC, is_target_NC).tolist(), chance(is_target_NC).tolist(), strict=True)
    by_text = zip(ranks(similarity_NC.T, is_target_NC.T).tolist(), chance(is_target_NC.T).tolist(), strict=True)
    clusters: dict[str, int] = {}
    return [
        {
            "direction": "image_to_text",
            "key": s.key,
            "cluster": clusters.setdefault(s.patient or f"sample {s.key}", len(clusters)),
            "rank": rank,
            "chance": p,
        }
        for s, rank, p in by_image
    ] + [
        {"direction": "text_to_image", "key": "", "cluster": number, "rank": rank, "chance": p}
        for number, (rank, p) in enumerate(by_text)
    ]


def _concept(sample: Sample) -> str:
    return sample.concept or f"text {' '.join(sample.report.split())}"
