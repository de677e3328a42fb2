"""What a card must say to read whole slides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlm.archive.finders._folder import Needs
from medvlm.core.errors import DataError
from medvlm.io.wsi import SUFFIXES, is_slide

MPP = 8
"""The scale, in micrometres per pixel, at which a slide is proposed to be read."""


def describe_slides(root: Path, names: Sequence[str]) -> Needs:
    """names: files under the root; nothing is needed unless the first is a slide."""
    if not names or not names[0].lower().endswith(SUFFIXES):
        return Needs()
    try:
        if not is_slide(root / names[0]):
            return Needs()
    except DataError:  # packing says why it cannot be read
        return Needs()
    note = (
        f"at which scale slides are to be read: each is one picture of {MPP} micrometres per pixel; for tiles, set"
        " `slide: {mpp: 0.5, tile_px: 224}` in the card"
    )
    return Needs({"slide": {"mpp": MPP}}, (note,))
