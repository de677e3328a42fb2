"""A mark that can be found in a small image, but whose stripes can only be told in full resolution.

The stripes are one pixel wide where a 64 x 64 encoder sees the film: resizing to that size takes them away and leaves
the same grey spot, whichever way they run.
"""

from __future__ import annotations

import numpy as np

from medvlm.archive.phantom.film import FILM_MM
from medvlm.core.sample import Box, Question, make_truth

WAYS = ("horizontal", "vertical")
MARK_MM = 60.0
"""Diameter, with an edge that fades over all of it: a sharp one would be seen in the small image."""
PERIOD_MM = 5.0
"""Of a bright and a dark stripe."""
PLACES_MM = tuple((x, y) for x in (-65.0, 65.0) for y in (-83.0, -10.0, 63.0))
"""From the centre of the film: the zones of both lungs."""
SHIFT_MM = 5.0
"""Largest distance from there, on each axis."""
GREY, CONTRAST = 150.0, 80.0

ASK = (
    "Which way do the stripes of the mark run?",
    "Are the stripes of the mark horizontal or vertical?",
    "Name the direction of the stripes.",
)
FIND = ("Where is the mark?", "Mark the striped spot.", "Locate the mark.")


def draw_mark(rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, tuple[Question, Question]]:
    """The film with a mark, and the questions which way its stripes run (template `mark`), and where it is
    (`boxes:mark`). pixels: uint8 or uint16 [H, W] of a square film."""
    way, (x, y) = str(rng.choice(WAYS)), PLACES_MM[int(rng.integers(len(PLACES_MM)))]
    at_mm = x + rng.uniform(-SHIFT_MM, SHIFT_MM), y + rng.uniform(-SHIFT_MM, SHIFT_MM)
    marked = add_mark(pixels, way, at_mm, rng.uniform(0, 2 * np.pi))
    asked = Question(ASK[int(rng.integers(len(ASK)))], make_truth("choice", way, choices=WAYS), "mark")
    where = make_truth("boxes", boxes=(find_box(at_mm, len(pixels)),), label="mark")
    return marked, (asked, Question(FIND[int(rng.integers(len(FIND)))], where, "boxes:mark"))


def add_mark(pixels: np.ndarray, way: str, at_mm: tuple[float, float], phase: float) -> np.ndarray:
    """at_mm: its centre (x, y) from that of the film. phase: of the stripes, in radians."""
    along_mm = ((np.arange(len(pixels)) + 0.5) / len(pixels) - 0.5) * FILM_MM
    x, y = along_mm[None, :] - at_mm[0], along_mm[:, None] - at_mm[1]
    window = np.cos(np.pi / 2 * np.minimum(np.hypot(x, y) / (MARK_MM / 2), 1)) ** 2
    stripes = np.cos(2 * np.pi / PERIOD_MM * (y if way == WAYS[0] else x) + phase)
    full = 1.0 if pixels.dtype == np.uint8 else 257.0
    grey = pixels / full * (1 - window) + (GREY + CONTRAST * stripes) * window
    marked: np.ndarray = (np.clip(grey, 0, 255) * full).round().astype(pixels.dtype)
    return marked


def find_box(at_mm: tuple[float, float], film_px: int) -> Box:
    """The square around a mark, in whole pixels."""
    x, y = at_mm
    half, px = MARK_MM / 2, film_px / FILM_MM
    sides = (side + FILM_MM / 2 for side in (x - half, y - half, x + half, y + half))
    x1, y1, x2, y2 = (float(round(side * px)) for side in sides)
    return x1, y1, x2, y2
