"""Plans the rows of a stage, whose lengths it finds without decoding images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from medvlm.core.sample import Medium, Sample
from medvlm.data.dialogue import TokenSequence
from medvlm.data.estimate import NoFiles
from medvlm.data.prepare import Prepare, Seen
from medvlm.data.row_plan import Load, RowPlanner, Rows, find_load
from medvlm.data.stream import Item, measure_at
from medvlm.stages._base import Base

SIZES = 4096
"""Combinations of sizes of media whose numbers of tokens are kept."""


class SizePrepare:
    """A Prepare that reads no files: documents have their real length, and media their size, but no pixels. Media of
    the same sizes are looked at once, because a processor takes as long for a blank picture as for a real one."""

    def __init__(self, prepare: Prepare):
        self._prepare = prepare.estimate(knows_words=True)
        self._see = lru_cache(maxsize=SIZES)(self._look)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prepare, name)

    def see(self, sample: Sample, files: Mapping[str, Any], scale: float = 1.0) -> Seen:
        # Members are the keys of files. Only their order matters here.
        return self._see(tuple(replace(m, member=str(i)) for i, m in enumerate(sample.media)), scale)

    def _look(self, media: tuple[Medium, ...], scale: float) -> Seen:
        seen = self._prepare.see(Sample("", "", "", media), NoFiles(), scale)
        return replace(seen, media=[(name, _drop_pixels(medium)) for name, medium in seen.media])


def _drop_pixels(medium: Any) -> Any:
    if isinstance(medium, torch.Tensor):
        return medium.to("meta")
    return replace(medium, tensors={name: tensor.to("meta") for name, tensor in medium.tensors.items()})


def make_row_planner(stage: Base, rows: Rows) -> RowPlanner:
    """stage: its samples are prepared as TokenSequence."""
    blank, config, engine = copy(stage), stage.config, stage.engine
    blank.setup = replace(stage.setup, prepare=SizePrepare(stage.setup.prepare))  # type: ignore[arg-type]

    def measure(item: Item) -> Load:
        sample, place = stage.keep_asked(item.sample), item.place
        return find_load(blank.prepare_sample(sample, NoFiles(), place.epoch, place.position))

    return RowPlanner(
        stage.stream,
        rows,
        config.batch,
        config.steps * config.batch,
        engine.rank,
        engine.world,
        lambda position: measure_at(stage.stream, position, measure, Load(1, 0, 0)),
        engine.sum_over_ranks,
    )


def find_heaviest_row(documents: Sequence[TokenSequence], rows: Rows) -> list[TokenSequence]:
    """The row with the most pixels that documents like these can make up, and then the most tokens; or one of them that
    exceeds the budget."""
    loads = {id(document): find_load(document) for document in documents}
    tokens, images = rows.tokens, rows.images or 10**9
    row: list[TokenSequence] = []
    while fitting := [d for d in documents if loads[id(d)].tokens <= tokens and loads[id(d)].images <= images]:
        row.append(max(fitting, key=lambda d: (loads[id(d)].pixels / loads[id(d)].tokens, loads[id(d)].tokens)))
        tokens, images = tokens - loads[id(row[-1])].tokens, images - loads[id(row[-1])].images
    alone = max(documents, key=lambda d: (loads[id(d)].pixels, loads[id(d)].tokens))
    return max(row, [alone], key=lambda those: tuple(sum(loads[id(d)][what] for d in those) for what in (2, 0)))
