"""What a phantom can show: at most one finding, and surgical clips, all drawn independently of each other.

`side` is the patient's side, as a clinician reads a radiograph: the patient's left lung is in the right half of the
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDES = ("left", "right")
ZONES = ("upper", "middle", "lower")
KINDS = ("nodule", "cavity", "band", "consolidation")
CLIP_NAME = "clip"
STRUCTURES = (*KINDS, CLIP_NAME)
"""What a mask marks."""
SIZES_MM = {"small": 28.0, "medium": 44.0, "large": 68.0}
"""Longest extent. Far larger than in people (a nodule above 30 mm is called a mass), so that the smallest finding still
has more than 5 pixels when a small encoder sees the 320 mm image at 64 x 64."""
JITTER = 0.05
"""Sizes vary by this fraction; the classes do not overlap: 27-29, 42-46 and 65-71 mm."""
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
    """The same text for the same finding: `left|upper|nodule|small`, or `normal`; 73 in all. Clips do not matter."""
    return "normal" if finding is None else f"{finding.side}|{finding.zone}|{finding.kind}|{finding.size}"


def patient_of(index: int) -> str:
    """Six consecutive studies belong to three patients, with one, two and three studies."""
    six, place = divmod(index, 6)
    return f"p{3 * six + (0, 1, 1, 2, 2, 2)[place]:06d}"
