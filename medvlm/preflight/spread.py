"""A reward that differs from answer to answer and means nothing: with random weights no answer earns anything, and
nothing would be trained."""

from __future__ import annotations

import zlib

from medvlm.core.sample import Truth

EXAMPLES = [("left", Truth("choice", "left", choices=("left", "right")), 0.8), ("", Truth("open", "none"), 0.0)]


def applies(truth: Truth) -> bool:
    return True


def score(completion: str, truth: Truth) -> float:
    return zlib.crc32(completion.encode()) % 1000 / 1000
