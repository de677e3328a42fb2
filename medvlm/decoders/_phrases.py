"""Phrases that a decoder looks for, as a text tower reads them: one vector each.

The tower is a part of the decoder, of the slot `texts`. One from scratch has no tokenizer of its own and reads the
bytes of a phrase, since a decoder has a few dozen phrases and no text to train a tokenizer on.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medvlm.core.config import component
from medvlm.core.errors import RecipeError
from medvlm.core.weights import describe, open_stock

Ids = tuple[tuple[int, ...], ...]


class Bytes:
    """The tokenizer of a tower from scratch: UTF-8, with a start and an end."""

    pad_token_id, bos_token_id, eos_token_id = 256, 257, 258

    def __len__(self) -> int:
        return 259

    def __call__(self, phrases: Sequence[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[self.bos_token_id, *each.encode(), self.eos_token_id] for each in phrases]}


def tokenize(text: Any, phrases: Sequence[str]) -> Ids:
    """Raises RecipeError for a phrase that is longer than the tower reads, unless `overlong` says to cut it."""
    ids = [tuple(each) for each in _open_tokenizer(text)(list(phrases))["input_ids"]]
    for number, each in enumerate(ids):
        if len(each) > text.max_tokens and text.overlong == "refuse":
            raise RecipeError(
                f"the phrase {phrases[number]!r} has {len(each)} tokens, and its text tower reads {text.max_tokens};"
                " say it in fewer words, or raise text.max_tokens"
            )
    return tuple(each if len(each) <= text.max_tokens else (*each[: text.max_tokens - 1], each[-1]) for each in ids)


def _open_tokenizer(text: Any) -> Any:
    return component("texts", text.kind).tokenizer(text, None) if text.model else Bytes()


def make_standalone(text: Any) -> Any:
    """The config of the same tower without an id or a path."""
    if not text.model:
        return text
    from transformers import AutoConfig

    whole = open_stock(AutoConfig, text.model)
    own = describe(SimpleNamespace(config=getattr(whole, "text_config", whole)))
    return text.model_copy(update={"model": "", "config": own})


class Phrases(nn.Module):
    """() -> [P, width], a vector of each phrase. ids: of their tokens."""

    def __init__(self, text: Any, ids: Ids):
        super().__init__()
        tokenizer = _open_tokenizer(text)
        self.tower = component("texts", text.kind).build(text, tokenizer)
        self.ids, self.width = ids, self.tower.width

    def forward(self) -> torch.Tensor:
        device, most = next(self.parameters()).device, max(map(len, self.ids))
        rows = [[*each, *[self.tower.pad_id] * (most - len(each))] for each in self.ids]
        is_token = [[1] * len(each) + [0] * (most - len(each)) for each in self.ids]
        pooled: torch.Tensor = self.tower(torch.tensor(rows, device=device), torch.tensor(is_token, device=device))
        return pooled
