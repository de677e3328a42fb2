"""Predictions in windows, and back to the stored pixels: against MONAI and torch, and how much memory they take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from medvlm.compositions._segment import segment_medium
from medvlm.core.contracts import Preprocess
from medvlm.core.sample import Medium, Sample
from medvlm.data.restore import restore_rows, see_whole
from medvlm.data.steps import plan_steps
from medvlm.data.transforms import MediaTransform
from medvlm.models.sliding import Windows, average_flips, list_starts, slide

CASES: list[tuple[tuple[int, ...], tuple[int, ...], float, int]] = [
    ((20, 17, 23), (8, 8, 8), 0.5, 3),
    ((8, 30, 9), (8, 8, 8), 0.25, 1),
    ((9, 8, 8), (8, 8, 8), 0.0, 2),
    ((7, 7, 7), (7, 7, 7), 0.5, 1),
    ((31, 26), (12, 10), 0.6, 4),
]


def net_of(axes: int) -> Any:
    """Looks beyond its pixel, so that a window differs from the whole at its edges."""
    torch.manual_seed(0)
    conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
    return nn.Sequential(conv(2, 3, 3, padding=1), nn.GELU(), conv(3, 3, 3, padding=1)).requires_grad_(False)


@pytest.mark.parametrize(("size", "window", "overlap", "batch"), CASES)
def test_windows_are_those_of_monai(size: tuple[int, ...], window: tuple[int, ...], overlap: float, batch: int) -> None:
    from monai.inferers import sliding_window_inference

    net, pixels = net_of(len(size)), torch.randn(2, *size)
    slabs = list(slide(net, pixels, window, overlap, batch))
    theirs = sliding_window_inference(pixels[None], window, batch, net, overlap=overlap, mode="gaussian")
    torch.testing.assert_close(torch.cat(slabs, 1), theirs[0], rtol=1e-5, atol=1e-6)
    assert len(slabs) == len(list_starts(size[0], window[0], overlap))


def test_memory_does_not_grow_with_the_depth_of_a_volume() -> None:
    """A slab is at most as deep as a window; only one is held."""
    pixels = torch.zeros(1, 1, 6, 6).expand(1, 40, 6, 6)
    slabs = slide(lambda windows: windows.repeat(1, 5, 1, 1, 1), pixels, (4, 4, 4), 0.5)
    assert [slab.shape[1] for slab in slabs] == [2] * 18 + [4]


def test_pixels_that_are_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pixels \[4, 8\] are smaller than a window \[6, 6\]"):
        next(slide(net_of(2), torch.zeros(2, 4, 8), (6, 6), 0.5))


def test_the_mean_over_mirror_images_is_the_same_for_each_of_them() -> None:
    net, windows = net_of(3), torch.randn(2, 2, 4, 5, 6)
    run = average_flips(net, (0, 2))
    expected = sum(net(windows.flip(axes)).flip(axes) for axes in ([], [2], [4], [2, 4])) / 4
    torch.testing.assert_close(run(windows), expected)
    torch.testing.assert_close(run(windows.flip(2)).flip(2), run(windows))
    torch.testing.assert_close(average_flips(net, ())(windows), net(windows))


# --- back to the stored pixels ------------------------------------------------------------------------------

BACK: list[tuple[tuple[int, ...], tuple[float, ...], tuple[int, ...], tuple[float, ...]]] = [
    ((10, 12, 14), (2.0, 1.0, 1.0), (16, 8, 8), (1.0, 1.5, 1.5)),  # padded along one axis, cropped along others
    ((23, 9, 8), (1.0, 1.0, 1.0), (8, 8, 8), (2.5, 1.0, 1.0)),  # fewer rows than stored
    ((1, 9, 8), (3.0, 1.0, 1.0), (4, 8, 8), (3.0, 0.5, 1.0)),
    ((30, 41), (0.5, 0.5), (12, 48), (1.0, 0.4)),
]


@pytest.mark.parametrize(("stored", "stored_mm", "size", "mm"), BACK)
def test_maps_are_interpolated_as_torch_does_and_padding_is_dropped(
    stored: tuple[int, ...], stored_mm: tuple[float, ...], size: tuple[int, ...], mm: tuple[float, ...]
) -> None:
    preprocess = Preprocess(size=size, spacing_mm=mm, fit="crop")
    steps = plan_steps(stored, stored_mm, preprocess, "0", whole=True)
    assert all(a >= b for a, b in zip(steps.size, steps.resized, strict=True)) and min(steps.before) >= 0
    maps = torch.randn(3, *steps.size)
    inner = maps[(slice(None), *(slice(b, b + n) for b, n in zip(steps.before, steps.resized, strict=True)))]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    expected = interpolate(inner[None], size=stored, mode=mode, align_corners=False)[0]
    found = torch.stack(list(restore_rows(maps.split([1, steps.size[0] - 1], 1), steps, stored)), 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_mask_of_a_picture_by_an_encoder_of_volumes_is_that_of_its_only_slice(exclusive: bool) -> None:
    preprocess = Preprocess(size=(4, 8, 8), channels=1, mean=(0.0,), std=(1.0,))
    prepare: Any = SimpleNamespace(
        routes={"film": "deep"}, preprocess={"deep": preprocess}, transforms={"deep": MediaTransform(preprocess)}
    )
    picture = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    sample = Sample("k", "films", "", (Medium("film", "0.png", (8, 8)),))

    def predict(windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([1 - windows, windows], 1)

    files: Any = {"0.png": picture}
    mask = segment_medium(prepare, sample, files, ("spots", "deep"), exclusive, Windows(), predict)
    expected = picture > 127
    assert np.array_equal(mask, expected if exclusive else np.stack([~expected, expected]))


def test_a_medium_that_is_not_cropped_holds_what_the_input_crops() -> None:
    preprocess = Preprocess(
        size=(4, 6, 6), spacing_mm=(1, 1, 1), fit="crop", channels=1, mean=(0.5,), std=(0.5,), window=(0, 1)
    )
    volume = np.random.default_rng(0).random((9, 5, 8), np.float32)
    medium = Medium("volume", "0.npy", volume.shape, (1.0, 1.0, 1.0))
    transform = MediaTransform(preprocess)
    whole, steps = see_whole(transform, volume, medium)
    assert tuple(whole.shape[1:]) == steps.size == (9, 6, 8)
    cut, _ = transform(volume, "0.npy", medium)
    assert torch.equal(whole[:, 2:6, :, 1:7], cut)
    torch.testing.assert_close(whole[0, :, :5], torch.from_numpy(volume) * 2 - 1)
