"""Draws a schematic chest radiograph: two dark lungs, ribs, spine, heart, diaphragm, noise, and a finding.

Lengths are in mm. The thorax has its own axes, slightly shifted and tilted: x to the right of the image (the patient's
left), y down, origin between the lungs. Grey levels are 0..255 until the exposure.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from medvlm.archive.phantom.finding import CLIP_NAME, STRUCTURES, ZONES, Finding
from medvlm.core.sample import Box

FILM_MM = 320.0
EDGE_MM = 3.0
"""Width over which an outline fades, so that nothing is finer than a pixel of a 128 px image (2.5 mm)."""
CLIP_MM = (14.0, 9.0)
"""Length and width of a clip: two pixels by one at 64 x 64."""
CLIP_GAP_MM = 26.0
"""Smallest distance between the centres of two clips."""
AIR, LUNG, TISSUE, HEART, MEDIASTINUM, CLIP = 12.0, 40.0, 72.0, 80.0, 88.0, 255.0

Grey = np.ndarray
"""float32 [H, W]."""


@dataclass(frozen=True)
class Film:
    """pixels: uint8 or uint16 [H, W]. Boxes: of the finding and the clips as drawn, in these pixels. labels: uint8 [H,
    W], 0 for none, else 1 + the place in STRUCTURES, of the pixels that are more than half covered."""

    pixels: np.ndarray
    labels: np.ndarray
    finding_box: Box | None
    clip_boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Thorax:
    """shift_mm: of its origin from the film's centre (x, y). Lungs are centred at x = +-lung_x, half as wide as half_x
    and reach from -half_y to the diaphragm at `base`."""

    shift_mm: tuple[float, float]
    tilt: float
    lung_x: float
    half_x: float
    half_y: float

    @property
    def base(self) -> float:
        return 0.84 * self.half_y

    def axes(self, film_px: int) -> tuple[Grey, Grey]:
        """x and y of every pixel's centre, float32 [H, W]."""
        along = _centres_mm(film_px)
        column, row = along[None, :] - np.float32(self.shift_mm[0]), along[:, None] - np.float32(self.shift_mm[1])
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        return cos * column + sin * row, cos * row - sin * column

    def zone_y(self, zone: str) -> tuple[float, float]:
        """Top and bottom of a third of the lung."""
        height = (self.base + self.half_y) / len(ZONES)
        top = -self.half_y + ZONES.index(zone) * height
        return top, top + height


def draw_thorax(rng: np.random.Generator) -> Thorax:
    scale = rng.uniform(0.96, 1.04)
    return Thorax(
        shift_mm=(rng.uniform(-7, 7), rng.uniform(-4, 8)),
        tilt=np.deg2rad(rng.uniform(-3, 3)),
        lung_x=scale * rng.uniform(63, 67),
        half_x=scale * rng.uniform(50, 54),
        half_y=scale * rng.uniform(117, 123),
    )


def draw_film(rng: np.random.Generator, finding: Finding | None, num_clips: int, film_px: int, bits: int) -> Film:
    """A radiograph of film_px x film_px pixels over FILM_MM x FILM_MM. The finding is within its zone; clips are in the
    lungs, outside the finding."""
    thorax = draw_thorax(rng)
    x, y = thorax.axes(film_px)
    grey = draw_chest(rng, thorax, x, y)
    taken: list[tuple[float, float, float]] = []
    finding_box, labels = None, np.zeros(grey.shape, np.uint8)
    if finding is not None:
        at = place_finding(rng, thorax, finding)
        added, mask = SHAPES[finding.kind](rng, x - np.float32(at[0]), y - np.float32(at[1]), finding.size_mm)
        # Adds less where the image is already bright, as over the heart, so that only clips saturate.
        grey += added * ((255 - grey) / (255 - LUNG))
        finding_box = box_of(mask)
        labels[mask > 0.5] = 1 + STRUCTURES.index(finding.kind)
        taken.append((*at, finding.size_mm / 2 + 18))
    grey *= np.float32(rng.uniform(0.9, 1.05))
    grey += rng.uniform(-8, 12)
    grey += rng.uniform(4, 7) * rng.standard_normal(grey.shape, dtype=np.float32)
    clip_boxes = []
    for at in place_clips(rng, thorax, num_clips, taken):
        mask = bar(x - np.float32(at[0]), y - np.float32(at[1]), *CLIP_MM, angle=rng.uniform(0, np.pi))
        grey += mask * (CLIP - grey)
        clip_boxes.append(box_of(mask))
        labels[mask > 0.5] = 1 + STRUCTURES.index(CLIP_NAME)
    pixels = np.clip(grey, 0, 255)
    return Film(
        pixels.round().astype(np.uint8) if bits == 8 else (pixels * 257).round().astype(np.uint16),
        labels,
        finding_box,
        tuple(clip_boxes),
    )


# --- where ----------------------------------------------------------------------------------------------


def place_finding(rng: np.random.Generator, thorax: Thorax, finding: Finding) -> tuple[float, float]:
    """Centre (x, y) such that the whole finding is in its zone; a large one nearly fills it."""
    top, bottom = thorax.zone_y(finding.zone)
    free_y = max((bottom - top - finding.size_mm) / 2, 0.0)
    free_x = max(0.9 * thorax.half_x - finding.size_mm / 2, 4.0)
    towards_wall = 5.0 + rng.uniform(-free_x, free_x)
    side = 1 if finding.side == "left" else -1
    return side * (thorax.lung_x + towards_wall), (top + bottom) / 2 + rng.uniform(-free_y, free_y)


def place_clips(
    rng: np.random.Generator, thorax: Thorax, num_clips: int, taken: list[tuple[float, float, float]]
) -> list[tuple[float, float]]:
    """Centres inside the lungs, CLIP_GAP_MM from each other and outside the discs (x, y, radius) that are taken."""
    centres: list[tuple[float, float]] = []
    for _ in range(1000):
        if len(centres) == num_clips:
            return centres
        x = rng.choice((-1, 1)) * (thorax.lung_x + thorax.half_x * rng.uniform(-0.6, 0.75))
        y = rng.uniform(-0.8 * thorax.half_y, thorax.base - CLIP_MM[0])
        if all(np.hypot(x - a, y - b) > r for a, b, r in taken):
            centres.append((float(x), float(y)))
            taken = [*taken, (float(x), float(y), CLIP_GAP_MM)]
    raise AssertionError(f"no room for {num_clips} clips beside {taken}")


# --- what -----------------------------------------------------------------------------------------------


def draw_chest(rng: np.random.Generator, thorax: Thorax, x: Grey, y: Grey) -> Grey:
    """The chest without a finding. The heart lies towards the image's right, the patient's left."""
    aside = np.abs(x)
    across = aside - np.float32(thorax.lung_x)
    shoulder = y + np.float32(thorax.half_y + rng.uniform(20, 28)) - 0.22 * np.maximum(aside - 36, 0)
    body = soft(
        round_corner(shoulder, thorax.lung_x + thorax.half_x + rng.uniform(16, 24) + 0.05 * y - aside, radius=45), 6
    )
    # A lung narrows towards its apex and ends at the dome of the diaphragm, with a sharp angle at the chest wall.
    half_x = thorax.half_x * (0.94 + np.float32(0.11 / thorax.half_y) * y)
    outline = 1 - np.abs(across / half_x) ** 3 - np.abs(y / np.float32(thorax.half_y)) ** 3
    dome = np.float32(thorax.base + 2) + (across * np.float32(1 / 12)) ** 2 - y
    lungs = soft(np.minimum(outline * 40, dome), 6)
    heart = soft(
        46 * (1 - np.hypot((x - rng.uniform(10, 18)) / rng.uniform(42, 48), (y - 0.46 * thorax.half_y) / 54)), 12
    )
    spine = soft(rng.uniform(14, 18) - aside, 14)
    trachea = soft(np.minimum(7 - aside, -20 - y), 8)
    hilum = soft(22 - np.hypot(aside - 34, y + 8), 40)
    grey = AIR + (TISSUE - AIR) * body
    grey += lungs * (LUNG - grey)
    grey += 9 * hilum * lungs
    grey += heart * body * 0.9 * (HEART - grey)
    vertebrae = 3 * np.cos(y * np.float32(2 * np.pi / 22))
    grey += spine * body * 0.85 * (MEDIASTINUM + vertebrae - grey) - 14 * trachea * body
    ribs = np.cos((y + rng.uniform(0, 24) - 0.0032 * (aside - 20) ** 2) * np.float32(2 * np.pi / 25))
    grey += rng.uniform(4, 6) * body * (1 - 0.8 * spine) * np.maximum(ribs, 0) ** 2
    grey += 4 * lungs * clouds(rng, x.shape[0], 14)
    return grey


def nodule(rng: np.random.Generator, x: Grey, y: Grey, size_mm: float) -> tuple[Grey, Grey]:
    """A smooth bright disc."""
    mask = soft(size_mm / 2 - np.hypot(x, y), EDGE_MM)
    return 155 * mask, mask


def cavity(rng: np.random.Generator, x: Grey, y: Grey, size_mm: float) -> tuple[Grey, Grey]:
    """A ring: a bright wall around air, which is as dark as the lung."""
    distance = np.hypot(x, y)
    outer = soft(size_mm / 2 - distance, EDGE_MM)
    hole = soft(size_mm / 2 - (4.5 + 0.06 * size_mm) - distance, EDGE_MM)
    return 155 * (outer - hole) - 12 * hole, outer


def band(rng: np.random.Generator, x: Grey, y: Grey, size_mm: float) -> tuple[Grey, Grey]:
    """A narrow streak, up to 40 degrees from the horizontal."""
    mask = bar(x, y, size_mm, 10.0, angle=np.deg2rad(rng.uniform(-40, 40)))
    return 155 * mask, mask


def consolidation(rng: np.random.Generator, x: Grey, y: Grey, size_mm: float) -> tuple[Grey, Grey]:
    """A mottled patch with a ragged, blurred outline."""
    angle = np.arctan2(y, x)
    ragged = 0.94 + 0.06 * np.cos(3 * angle + rng.uniform(0, 6.28)) * np.cos(2 * angle + rng.uniform(0, 6.28))
    mask = soft(size_mm / 2 * ragged - np.hypot(x, y), 5)
    return mask * np.clip(85 + 42 * clouds(rng, x.shape[0], 32), 25, 155), mask


SHAPES = {"nodule": nodule, "cavity": cavity, "band": band, "consolidation": consolidation}
"""Kind -> (rng, x, y, size_mm) -> (grey levels to add, mask 0..1), with x and y from the finding's centre."""


def bar(x: Grey, y: Grey, length_mm: float, width_mm: float, angle: float) -> Grey:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return soft(
        np.minimum(length_mm / 2 - np.abs(cos * x + sin * y), width_mm / 2 - np.abs(cos * y - sin * x)), EDGE_MM
    )


def soft(inside_mm: Grey, edge_mm: float) -> Grey:
    """1 inside an outline, 0 outside, 1/2 on it; inside_mm: distance from the outline, negative outside."""
    return np.clip(inside_mm / np.float32(edge_mm) + np.float32(0.5), 0, 1)


def round_corner(first_mm: Grey, second_mm: Grey, radius: float) -> Grey:
    """Distance inside the intersection of two outlines, with a rounded corner."""
    corner = radius - np.hypot(np.maximum(radius - first_mm, 0), np.maximum(radius - second_mm, 0))
    return np.minimum(np.minimum(first_mm, second_mm), corner)


def box_of(mask: Grey) -> Box:
    """The tight box around the pixels that are more than half covered."""
    inside = mask > 0.5
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert rows.size, "a finding or a clip was drawn outside the film"
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def clouds(rng: np.random.Generator, film_px: int, cells: int) -> Grey:
    """Smooth noise with a standard deviation of about 1 and `cells` bumps across the image."""
    blend = _blend(film_px, cells)
    return blend @ rng.standard_normal((cells, cells), dtype=np.float32) @ blend.T


@lru_cache
def _centres_mm(film_px: int) -> np.ndarray:
    return (((np.arange(film_px) + 0.5) / film_px - 0.5) * FILM_MM).astype(np.float32)


@lru_cache
def _blend(film_px: int, cells: int) -> np.ndarray:
    """[film_px, cells] weights of a linear interpolation, scaled so that each pixel's variance is 1."""
    at = np.linspace(0, cells - 1, film_px)[:, None]
    weights = np.maximum(1 - np.abs(at - np.arange(cells)), 0)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
