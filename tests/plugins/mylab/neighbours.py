"""A protocol: is the most similar other image of the split one of the same finding?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from medvlm.core.measure import Measure
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split
from medvlm.evaluate.rows import Part, make_row

NEEDS = "compare"
BASELINES = ("anyone",)
"""Another image, drawn at random: the share of the others that have the same finding."""
NOTHING = "no two images with a finding"


class Config(ProtocolConfig):
    kind: Literal["mylab.neighbours"] = "mylab.neighbours"
    nearest: int = 1
    """How many neighbours are asked."""


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """A record an image. hit: share of its nearest neighbours that have its finding."""
    read = [split.shards.read(*place) for place in split.places]
    found = [
        (sample, next(model.embed_each(sample, files))) for sample, files in read if sample.media and sample.concept
    ]
    if len(found) < 2:
        return
    vectors_NP = torch.stack([vector for _, vector in found]).float().cpu()
    likeness_NN = (vectors_NP @ vectors_NP.T).fill_diagonal_(-2)
    concepts = [sample.concept for sample, _ in found]
    clusters = {patient: number for number, patient in enumerate(dict.fromkeys(s.patient for s, _ in found))}
    for number, (sample, _) in enumerate(found):
        nearest = likeness_NN[number].topk(min(config.nearest, len(found) - 1)).indices.tolist()
        same = [concepts[other] == sample.concept for other in nearest]
        others = concepts.count(sample.concept) - 1
        yield {
            "key": sample.key,
            "cluster": clusters[sample.patient],
            "hit": sum(same) / len(same),
            "anyone": others / (len(found) - 1) if "anyone" in split.baselines else None,
        }
        split.progress("neighbours", number + 1, len(found))


AGREES = Measure("agrees", "neighbours", lambda hit, truth: (hit, 1.0))


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    if not records:
        return []
    columns = {"answer": np.array([(record["hit"], 1.0) for record in records])}
    if all(record["anyone"] is not None for record in records):
        columns["anyone"] = np.array([(record["anyone"], 1.0) for record in records])
    part = Part(range(len(records)), columns, [record["cluster"] for record in records])
    return [make_row(AGREES, AGREES.metric, [part], settings)]
