"""The terms that make a published system, as its recipe sets them: without one, loss and gradient are others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvlm.recipe.load import load
from medvlm.train.accumulate import accumulate, sum_weights
from tests.stages.batches import first

Make = Callable[..., Any]
KINDS = {"nodule": ["a small round density"], "band": ["a line"], "cavity": ["a ring"], "consolidation": ["a patch"]}


def read_settings(system: str) -> dict[str, Any]:
    """Of the last stage, which is the one with the terms. The question of the labels is one that the films here
    have."""
    settings = load(f"systems/{system}.yaml").recipe.stages[-1].model_dump(mode="json", by_alias=True)
    if settings["labels"]:
        dictionary = settings["labels"]["dictionary"]
        known = dictionary and {**dictionary, "entries": {**dictionary["entries"], **KINDS}}
        settings["labels"] |= {"of": "kind", "dictionary": known}
    return settings


@pytest.mark.parametrize(
    ("system", "key", "off"),
    [
        ("gloria", "terms", lambda terms: {}),
        ("gloria", "weight", lambda weight: 0),
        ("flair", "labels", lambda labels: {**labels, "dictionary": None}),
        ("flair", "labels", lambda labels: None),
    ],
)
def test_a_system_without_its_term_learns_something_else(
    system: str, key: str, off: Callable[[Any], Any], stage_of: Make
) -> None:
    settings = read_settings(system)
    assert settings[key], f"{system} has no {key}"
    found = []
    for value in (settings[key], off(settings[key])):
        own = {name: settings[name] for name in ("terms", "weight", "labels", "alike")} | {key: value}
        trains = ["encoders", "text", "heads", *(["terms"] if own["terms"] else [])]
        stage = stage_of("contrastive", batch=8, loss=settings["loss"], trains=trains, **own)
        stage.model.eval()
        micros = stage.make_micros(first(stage), 1)
        weights = sum_weights(stage, micros, stage.engine)
        terms = accumulate(stage.compute_loss, stage.model, micros, stage.engine, weights, 0)
        slope = torch.cat([p.grad.flatten() for p in stage.model.encoders.parameters() if p.grad is not None])
        found.append((sum(terms[name].sum / terms[name].weight for name in weights), slope))
    (loss, slope), (loss_without, slope_without) = found
    assert loss != pytest.approx(loss_without, rel=1e-6)
    assert (slope - slope_without).norm() > 1e-4 * slope.norm() > 0
