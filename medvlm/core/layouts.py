"""Layouts of released models whose classes are their own: which of our tensors each of their tensors is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from medvlm.core.config import component, is_available, kinds, list_permitted

if TYPE_CHECKING:
    import torch

ENCODER = "{encoder}"
"""Stands for the name of the encoder in the recipe."""

Convert = Callable[["torch.Tensor", "torch.Size"], "torch.Tensor"]


@dataclass(frozen=True)
class KeyRule:
    """keys: a regular expression for whole keys of the release. ours: the name of the tensor in a composed model, with
    \\1 for the groups of `keys` and {encoder} for the name of the encoder. convert: (tensor, our shape) -> the tensor
    as our module holds it; it returns the tensor unchanged if it does not fit that shape. rows: if the tensor is only
    the first or the last rows of ours. Rows that no tensor of the release has get the mean of the first."""

    keys: str
    ours: str
    convert: Convert | None = None
    rows: Literal["", "first", "last"] = ""


@dataclass(frozen=True)
class Layout:
    """A file of medvlm/released/ defines LAYOUTS, one for each form of its release.

    title: of the release. marks: keys that only this release has together. rules: the first one that matches a key
    counts. left_out: patterns of keys of parts that a composed model does not have -> what they are. keeps: patterns of
    our tensors that the release lacks and that are never used; they keep their value. recipe: a shipped recipe to
    extend, with the model at its published size."""

    title: str
    marks: tuple[str, ...]
    rules: tuple[KeyRule, ...]
    left_out: dict[str, str]
    recipe: str
    keeps: tuple[str, ...] = ()

    def find_place(self, key: str, encoder: str) -> tuple[str, KeyRule] | None:
        """Our name of a tensor of the release, and its rule; None if no rule is for it, or it is left out."""
        for rule in () if self.is_left_out(key) else self.rules:
            if (found := re.fullmatch(rule.keys, key)) is not None:
                return found.expand(rule.ours).replace(ENCODER, encoder), rule
        return None

    def is_left_out(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.left_out)


def find_layout(keys: Collection[str]) -> Layout | None:
    """The layout whose marks are all among the keys of a file; None for files that use the names of our parts. Layouts
    of a permitted plug-in are in its module `released`."""
    names = [*kinds("released"), *(f"{plugin}.released" for plugin in list_permitted())]
    for name in names:
        for layout in component("released", name).LAYOUTS if is_available("released", name) else ():
            if all(mark in keys for mark in layout.marks):
                found: Layout = layout
                return found
    return None


def join_rows(rows: Mapping[str, torch.Tensor], count: int) -> torch.Tensor:
    """`count` rows, or more if there are: the first ones, their mean where there are none, and the last ones."""
    import torch

    first = rows["first"]
    last = rows.get("last", first[:0])
    missing = max(0, count - len(first) - len(last))
    mean = first.mean(0, keepdim=True, dtype=torch.float32).to(first.dtype)
    return torch.cat([first, mean.expand(missing, *first.shape[1:]), last.to(first.dtype)])
