"""Draws a schematic chest radiograph with one mass that is plain to see, and faint opacities in places where
findings are often missed: beside the trachea, behind the heart and below the diaphragm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medvlm.archive.phantom.film import LUNG, Thorax, box_of, draw_chest, draw_thorax, nodule, soft
from medvlm.archive.phantom.finding import SIDES, ZONES
from medvlm.core.sample import Box

SPOTS_MM = {"trachea": (-24.0, -72.0), "heart": (24.0, 48.0), "diaphragm": (-62.0, 126.0)}
"""Place -> its centre (x, y) on the axes of the thorax. In the order in which annotators look for an opacity there."""
SPOT_MM, MASS_MM = 40.0, 52.0
"""Diameters."""
MASS_X_MM, MASS_SHIFT_MM = 74.0, 5.0
"""Distance of a mass from the midline, and the largest shift from the middle of its zone on each axis. It never reaches
a spot."""
EDGE_MM = 8.0
"""Width over which an opacity fades."""


@dataclass(frozen=True)
class SpotsFilm:
    """pixels: uint8 [H, W]. boxes: in pixels of it, in the order in which annotators mark one: the opacities, in the
    order of SPOTS_MM, and last the mass."""

    pixels: np.ndarray
    boxes: tuple[Box, ...]


def draw_spots(rng: np.random.Generator, share: float) -> tuple[str, ...]:
    """The places with an opacity, independent of each other. share: probability of each."""
    return tuple(name for name in SPOTS_MM if rng.random() < share)


def draw_spots_film(rng: np.random.Generator, spots: tuple[str, ...], contrast: float, film_px: int) -> SpotsFilm:
    """film_px x film_px pixels over FILM_MM x FILM_MM. The mass is in any zone of either lung. contrast: grey levels,
    of 255, that an opacity adds to the lung; less where it is brighter."""
    thorax = draw_thorax(rng)
    x, y = thorax.axes(film_px)
    grey = draw_chest(rng, thorax, x, y)
    places = [SPOTS_MM[name] for name in spots]
    masks = [soft(SPOT_MM / 2 - np.hypot(x - np.float32(a), y - np.float32(b)), EDGE_MM) for a, b in places]
    added = sum((np.float32(contrast) * mask for mask in masks), np.zeros_like(grey))
    a, b = _place_mass(rng, thorax)
    mass, mask = nodule(rng, x - np.float32(a), y - np.float32(b), MASS_MM)
    grey += (added + mass) * ((255 - grey) / (255 - LUNG))
    grey *= np.float32(rng.uniform(0.9, 1.05))
    grey += rng.uniform(-8, 12)
    grey += rng.uniform(4, 7) * rng.standard_normal(grey.shape, dtype=np.float32)
    pixels = np.clip(grey, 0, 255).round().astype(np.uint8)
    return SpotsFilm(pixels, tuple(box_of(each) for each in [*masks, mask]))


def _place_mass(rng: np.random.Generator, thorax: Thorax) -> tuple[float, float]:
    side, zone = SIDES[int(rng.integers(len(SIDES)))], ZONES[int(rng.integers(len(ZONES)))]
    top, bottom = thorax.zone_y(zone)
    shift_x, shift_y = rng.uniform(-MASS_SHIFT_MM, MASS_SHIFT_MM, 2)
    return (1 if side == "left" else -1) * MASS_X_MM + shift_x, (top + bottom) / 2 + shift_y
