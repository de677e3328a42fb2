"""What a phantom can show: one finding or none, and surgical clips, all drawn independently of each other.

`side` is the patient's, as a clinician reads a film: the patient's left lung is on the right half of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "middle", "lower")
KINDS = ("nodule", "cavity", "band", "consolidation")
SIZES_MM = {"small": 28.0, "medium": 44.0, "large": 68.0}
"""Longest extent. Far larger than in people (a clinician calls a nodule above 30 mm a mass), so that the smallest
is still more than 5 pixels on a film of 320 mm that a small encoder sees at 64 x 64."""
JITTER = 0.05
"""Sizes vary by this share; the classes stay apart: 27-29, 42-46 and 65-71 mm."""
SHARE_NORMAL = 0.1
MAX_CLIPS = 5


@dataclass(frozen=True)
class Finding:
    kind: str
    side: str
    zone: str
    size: str
    size_mm: float


def draw_finding(rng: np.random.Generator) -> Finding | None:
    """A finding whose kind, side, zone and size are uniform and independent; None, a normal study, in SHARE_NORMAL of
    the draws."""
    is_normal = rng.random() < SHARE_NORMAL
    size = str(rng.choice(list(SIZES_MM)))
    size_mm = SIZES_MM[size] * rng.uniform(1 - JITTER, 1 + JITTER)
    finding = Finding(str(rng.choice(KINDS)), str(rng.choice(SIDES)), str(rng.choice(ZONES)), size, float(size_mm))
    return None if is_normal else finding


def concept_of(finding: Finding | None) -> str:
    """Equal for equal findings: `left|upper|nodule|small`, or `normal`; 73 in all. Clips are no part of it."""
    return "normal" if finding is None else f"{finding.side}|{finding.zone}|{finding.kind}|{finding.size}"
