"""Words of tokenizers that stand for media, which a model reads and must never write."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_MEDIUM = re.compile(
    r"image|img|vision|video|audio|speech|thumbnail|pixel|frame|row_\d|col_\d|patch(?!_index)"
    r"|tile_|\btile|^[be]o[iva]_",
    re.IGNORECASE,
)
"""In published tokenizers: <image_soft_token>, <|vision_start|>, [IMG_BREAK], <row_1_col_2>, <|tile_x_separator|>,
<|patch|>, TILE_GLOBAL; in processors, names such as boi_token. <patch_index_0012> is how Kosmos-2 writes a box."""


def names_medium(word: str) -> bool:
    """Whether a token, or a name that a processor gives to one, stands for a medium or a part of it."""
    return _MEDIUM.search(word) is not None


def list_media_ids(tokenizer: Any, words: Iterable[str] = ()) -> tuple[int, ...]:
    """The ids of all added tokens that stand for media, and of `words`: placeholders, marks of begin and end, of tiles,
    rows and columns. Tokens that end a text are left out.

    Sampling them would put features where there is no medium, or open a medium that never comes."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found = {id_ for id_, token in added.items() if names_medium(str(token))}
    found |= {tokenizer.convert_tokens_to_ids(word) for word in words}
    return tuple(sorted(found - {None, tokenizer.eos_token_id, getattr(tokenizer, "unk_token_id", None)}))
