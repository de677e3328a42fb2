"""Draws a schematic chest CT in Hounsfield units: body, lungs, spine, heart, noise, and a finding.

Axes: D from head to feet, H from front to back, W from the patient's right to left, as CT is displayed (seen from the
feet): the patient's left lung is on the right of the image, as in a radiograph. Lengths are in mm.
"""

from __future__ import annotations

import numpy as np

from medvlm.archive.phantom.finding import CLIP_NAME, STRUCTURES, ZONES, Finding

VOLUME_MM = (192.0, 320.0, 320.0)
"""Depth, height, width of the scanned region; the lungs fill the depth."""
AIR, LUNG, TISSUE, BONE, METAL = -1000.0, -800.0, 40.0, 500.0, 2500.0
CLIP_MM = (8.0, 5.0, 7.5)
"""Half extents of a clip (z, y, x): at least 2 x 2 x 3 voxels of 8 x 5 x 5 mm."""
CLIP_GAP_MM = 32.0

Axes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""z [D, 1, 1], y [1, H, 1], x [1, 1, W] in mm from the centre of the volume, float32."""


def draw_volume(
    rng: np.random.Generator, finding: Finding | None, num_clips: int, size: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """HU, int16 [D, H, W], over VOLUME_MM, and labels, uint8 [D, H, W]: 0 for none, else 1 + the place in STRUCTURES.
    The finding is within its zone; clips are in the lungs, outside the finding."""
    z, y, x = axes = _axes(size, shift_mm=(0.0, rng.uniform(-8, 8), rng.uniform(-8, 8)))
    hu = draw_chest(rng, axes)
    taken, labels = [], np.zeros(hu.shape, np.uint8)
    if finding is not None:
        at = place_finding(rng, finding)
        alone = np.full_like(hu, np.nan)
        SHAPES[finding.kind](rng, alone, (z - at[0], y - at[1], x - at[2]), finding.size_mm)
        is_drawn = ~np.isnan(alone)
        hu[is_drawn], labels[is_drawn] = alone[is_drawn], 1 + STRUCTURES.index(finding.kind)
        taken.append((at, finding.size_mm / 2 + 16))
    hu += rng.uniform(25, 45) * rng.standard_normal(hu.shape, dtype=np.float32)
    for at in place_clips(rng, num_clips, taken):
        box = np.maximum(
            np.maximum(np.abs(z - at[0]) / CLIP_MM[0], np.abs(y - at[1]) / CLIP_MM[1]), np.abs(x - at[2]) / CLIP_MM[2]
        )
        hu[box < 1], labels[box < 1] = METAL, 1 + STRUCTURES.index(CLIP_NAME)
    return np.clip(hu, -1024, 3071).round().astype(np.int16), labels


def place_finding(rng: np.random.Generator, finding: Finding) -> tuple[float, float, float]:
    """Centre (z, y, x); the zones are thirds of the depth."""
    height = VOLUME_MM[0] / len(ZONES)
    free_z = max((height - finding.size_mm) / 2, 0.0)
    z = (ZONES.index(finding.zone) - 1) * height + rng.uniform(-free_z, free_z)
    free_y, free_x = max(45 - finding.size_mm / 2, 3.0), max(38 - finding.size_mm / 2, 3.0)
    side = 1 if finding.side == "left" else -1
    return float(z), float(rng.uniform(-free_y, free_y)), float(side * (70 + rng.uniform(-free_x, free_x)))


def place_clips(
    rng: np.random.Generator, num_clips: int, taken: list[tuple[tuple[float, float, float], float]]
) -> list[tuple[float, float, float]]:
    """Centres inside the lungs, CLIP_GAP_MM from each other and outside the balls (centre, radius) that are taken."""
    centres: list[tuple[float, float, float]] = []
    for _ in range(1000):
        if len(centres) == num_clips:
            return centres
        at = (
            float(rng.uniform(-75, 75)),
            float(rng.uniform(-45, 45)),
            float(rng.choice((-1, 1)) * rng.uniform(45, 95)),
        )
        if all(np.linalg.norm(np.subtract(at, other)) > radius for other, radius in taken):
            centres.append(at)
            taken = [*taken, (at, CLIP_GAP_MM)]
    raise AssertionError(f"no room for {num_clips} clips beside {taken}")


def draw_chest(rng: np.random.Generator, axes: Axes) -> np.ndarray:
    """HU without a finding, float32 [D, H, W]. The heart lies towards the patient's left."""
    z, y, x = axes
    hu = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), AIR, dtype=np.float32)
    put(hu, (x / rng.uniform(140, 152)) ** 2 + (y / rng.uniform(98, 108)) ** 2 + 0 * z < 1, TISSUE)
    aside, half_x, half_y = np.abs(x) - 70, rng.uniform(46, 52), rng.uniform(72, 80)
    put(hu, (aside / half_x) ** 2 + (y / half_y) ** 2 + (z / 108) ** 4 < 1, LUNG + rng.uniform(-40, 40))
    put(hu, ((x - 18) / 45) ** 2 + ((y + 28) / 36) ** 2 + ((z - 40) / 50) ** 2 < 1, TISSUE)
    put(hu, (x / 18) ** 2 + ((y - 72) / 18) ** 2 + 0 * z < 1, BONE)
    return hu


def nodule(rng: np.random.Generator, hu: np.ndarray, axes: Axes, size_mm: float) -> None:
    """A ball of soft tissue."""
    put(hu, _radius(axes) < size_mm / 2, TISSUE)


def cavity(rng: np.random.Generator, hu: np.ndarray, axes: Axes, size_mm: float) -> None:
    """A shell of soft tissue around air."""
    radius = _radius(axes)
    put(hu, radius < size_mm / 2, TISSUE)
    put(hu, radius < size_mm / 2 - 5, AIR)


def band(rng: np.random.Generator, hu: np.ndarray, axes: Axes, size_mm: float) -> None:
    """A plate, upright and up to 40 degrees from the frontal plane."""
    z, y, x = axes
    angle = np.deg2rad(rng.uniform(-40, 40))
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    put(hu, (np.maximum(np.abs(along), np.abs(z)) < size_mm / 2) & (np.abs(across) < 4.5), TISSUE)


def consolidation(rng: np.random.Generator, hu: np.ndarray, axes: Axes, size_mm: float) -> None:
    """A mottled ball, with densities between lung and soft tissue."""
    inside = _radius(axes) < size_mm / 2
    hu[inside] = rng.uniform(-600, -50, int(inside.sum()))


SHAPES = {"nodule": nodule, "cavity": cavity, "band": band, "consolidation": consolidation}
"""Kind -> (rng, hu, axes from the finding's centre, size_mm): draws into hu."""


def put(hu: np.ndarray, where: np.ndarray, value: float) -> None:
    hu[where] = value


def _radius(axes: Axes) -> np.ndarray:
    z, y, x = axes
    return np.sqrt(z * z + y * y + x * x)


def _axes(size: tuple[int, int, int], shift_mm: tuple[float, float, float]) -> Axes:
    z, y, x = (
        ((np.arange(n) + 0.5) / n - 0.5) * mm - shift for n, mm, shift in zip(size, VOLUME_MM, shift_mm, strict=True)
    )
    return z.astype(np.float32)[:, None, None], y.astype(np.float32)[None, :, None], x.astype(np.float32)[None, None, :]
