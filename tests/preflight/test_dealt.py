"""A plan of towers whose inputs are dealt over the ranks counts an even share of a step."""

from __future__ import annotations

import pytest
import torch

from medvlm.core.stage_config import StageConfig
from medvlm.data.dialogue import TokenSequence
from medvlm.data.processor import Pictures
from medvlm.preflight.dealt import count_pixels, even_out, measure_share
from medvlm.preflight.simulate import Step

VOLUME = TokenSequence("volume", [1], [([2], 0)], [("volume", torch.zeros(1, 16, 8, 8, device="meta"))])
FILM = TokenSequence("film", [1], [([2], 0)], [("film", torch.zeros(1, 8, 8, device="meta"))])
TEXT = TokenSequence("text", [1], [([2], 0)], [])


SLIDES = TokenSequence(
    "slides",
    [1],
    [([2], 0)],
    [
        (
            "image",
            Pictures({"pixel_values": torch.zeros(32, 6), "image_grid_thw": torch.ones(2, 3).long()}, ("", ""), (4, 4)),
        )
    ],
)


def config(**mix: float) -> StageConfig:
    return StageConfig(kind="supervised", name="s", mix=mix, trains=("connectors",), steps=1, batch=8)


def test_pixels_are_those_of_the_media_of_a_sample() -> None:
    assert [count_pixels(item) for item in (VOLUME, FILM, TEXT, SLIDES)] == [1024, 64, 0, 192]


def test_eight_ranks_with_one_volume_among_radiographs_compute_less_than_a_volume_each() -> None:
    """The mixture gives every eighth sample: one volume and seven radiographs are 1472 pixels, 184 for each rank."""
    items = {"ct": [VOLUME], "cxr": [FILM]}
    share = measure_share(config(ct=1, cxr=7), items, [VOLUME], 8, seed=0)
    assert 184 / 1024 <= share <= 2 * 184 / 1024, "no step of 8 samples has more than two volumes"


def test_ranks_whose_samples_are_alike_save_nothing() -> None:
    assert measure_share(config(ct=1), {"ct": [VOLUME]}, [VOLUME, VOLUME], 8, seed=0) == 1.0
    assert measure_share(config(t=1), {"t": [TEXT]}, [TEXT], 8, seed=0) == 1.0


def test_only_what_towers_hold_shrinks() -> None:
    step = Step(
        {"forward": {"encoders.ct": 8.0, "language": 4.0, "gradients": 2.0}},
        {"optimiser": 1.0},
        5.0,
        {"encoders.ct.layers": (6.0, 2.0, 9.0, 12), "language.layers": (6.0, 2.0, 9.0, 12)},
    )
    found = even_out(step, 0.25)
    assert found.sections == {"forward": {"encoders.ct": 2.0, "language": 4.0, "gradients": 2.0}}
    assert found.layers == {"encoders.ct.layers": (1.5, 0.5, 9.0, 12), "language.layers": (6.0, 2.0, 9.0, 12)}
    assert found.held == step.held and found.flops == step.flops
    assert found.sections["forward"]["encoders.ct"] == pytest.approx(0.25 * 8)
