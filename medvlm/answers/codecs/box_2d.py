"""`[{"box_2d": [y1, x1, y2, x2], "label": "..."}]` in thousandths of the image, rows first: Gemma 3 and MedGemma 1.5.

Source: the anatomy localisation notebook of Google-Health/medgemma, from memory and not checked against a copy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from medvlm.answers.brackets import parse as parse_brackets
from medvlm.answers.codecs.thousandths import extent, place
from medvlm.core.sample import Box

__all__ = ["extent", "parse", "place", "write"]


def write(boxes: Sequence[Box], label: str) -> str:
    return json.dumps(
        [{"box_2d": [round(value) for value in (y1, x1, y2, x2)], "label": label} for x1, y1, x2, y2 in boxes],
        ensure_ascii=False,
    )


def parse(text: str, repair: bool = False) -> list[Box] | None:
    found = parse_brackets(text, repair)
    return found and [(y1, x1, y2, x2) for x1, y1, x2, y2 in found]
