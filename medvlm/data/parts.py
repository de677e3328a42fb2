"""Turns the sources of a stage's mix into the parts of its stream, with temperature, epoch limits and balanced
groups."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medvlm.core.errors import DataError
from medvlm.core.stage_config import Sampling
from medvlm.data.mixture import temper
from medvlm.data.order import RANDOM, Order
from medvlm.data.source import SourceView
from medvlm.data.stream import StreamPart


def make_parts(
    views: Mapping[str, SourceView],
    mix: Mapping[str, float],
    sampling: Sampling,
    orders: Mapping[str, Order],
    stage: str,
) -> dict[str, StreamPart]:
    """Parts by name: SOURCE, or SOURCE/GROUP if a source is balanced. Raises DataError for groups that a source does
    not have."""
    weights = dict(mix)
    if sampling.temperature is not None and all(len(view) for view in views.values()):
        weights = temper(mix, {name: len(view) for name, view in views.items()}, sampling.temperature)
    parts = {}
    for name, weight in weights.items():
        groups = {name: views[name]}
        if by := sampling.balance.get(name):
            try:
                groups = {f"{name}/{group}": view for group, view in views[name].groups(by).items()}
            except DataError as reason:
                raise DataError(f"stages.{stage}.sampling.balance.{name}: {reason}") from None
        for part, view in groups.items():
            parts[part] = StreamPart(
                name, view, weight / len(groups), sampling.epochs.get(name, math.inf), orders.get(name, RANDOM)
            )
    return parts
