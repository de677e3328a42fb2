"""What asks decoders for masks: tokens of a language model, or boxes, points, masks and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass
class MaskPrompts:
    """What answers draw with one decoder: a mask for each of S tokens.

    from_S: the flat index (row * T + column) of the token. rows_S: the index of its medium among those of the decoder's
    encoder. labels_S1: int64 [S, 1, *size] of 0, 1 and MISSING, see core/decoder_config.py; None if they are to be
    predicted.
    """

    from_S: torch.Tensor
    rows_S: torch.Tensor
    labels_S1: torch.Tensor | None = None

    def to(self, device: torch.device) -> MaskPrompts:
        labels = None if self.labels_S1 is None else self.labels_S1.to(device)
        return MaskPrompts(self.from_S.to(device), self.rows_S.to(device), labels)


ASKED, ABOUT = "asked", "about"
"""What a text says: which object is asked for, or what its medium is."""


@dataclass(frozen=True)
class Texts:
    """Texts of S objects, as tokens. ids_BT, is_token_BT: int64, each text once; 0 marks padding. rows_S: which of them
    an object has."""

    ids_BT: torch.Tensor
    is_token_BT: torch.Tensor
    rows_S: torch.Tensor

    def to(self, device: torch.device) -> Texts:
        return Texts(self.ids_BT.to(device), self.is_token_BT.to(device), self.rows_S.to(device))

    def take(self, rows: Sequence[int]) -> Texts:
        return replace(self, rows_S=self.rows_S[list(rows)])


@dataclass(frozen=True)
class ReadTexts:
    """The same as a text tower reads them. pooled_SE: a vector of each. words_STE: of its tokens, with zeros where
    is_token_ST is 0."""

    pooled_SE: torch.Tensor
    words_STE: torch.Tensor
    is_token_ST: torch.Tensor

    def take(self, rows: Sequence[int] | torch.Tensor) -> ReadTexts:
        own: Any = list(rows) if isinstance(rows, Sequence) else rows
        return ReadTexts(self.pooled_SE[own], self.words_STE[own], self.is_token_ST[own])


class TextWidth(NamedTuple):
    """Of the vectors of texts, and of those of their words."""

    pooled: int
    words: int


@dataclass(frozen=True)
class Prompts:
    """What shows each of S objects. Coordinates are (x, y) in pixels of the decoder's input, whose first pixel reaches
    from 0 to 1.

    forms: of each object, the forms of core/decoder_config.PromptForm that are given. num_points: of each. boxes_S4:
    left, top, right and bottom edges. points_SP2, inside_SP: 1 for a point on the object, 0 for one beside it, -1 for
    none. masks_S1: [S, 1, *size] of 0 and 1; None if no object has one. classes_S: the number of its class in the
    decoder. texts: ASKED and ABOUT -> the texts, of a decoder that reads them. read: the same once a text tower has
    read them, for the decoder. rows_S: the medium of each object; only decoders get it. kinds_S: the number of the kind
    of its medium among `about` of the decoder."""

    forms: tuple[tuple[str, ...], ...]
    num_points: tuple[int, ...]
    boxes_S4: torch.Tensor
    points_SP2: torch.Tensor
    inside_SP: torch.Tensor
    classes_S: torch.Tensor
    masks_S1: torch.Tensor | None = None
    texts: dict[str, Texts] = field(default_factory=dict)
    read: dict[str, ReadTexts] = field(default_factory=dict)
    rows_S: torch.Tensor | None = None
    kinds_S: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.forms)

    def to(self, device: torch.device) -> Prompts:
        texts = {name: each.to(device) for name, each in self.texts.items()}
        return replace(self._change(lambda tensor: tensor.to(device)), texts=texts)

    def take(self, rows: Sequence[int]) -> Prompts:
        """Those of some objects, without the places of points that none of them has."""
        numbers = tuple(self.num_points[row] for row in rows)
        forms = tuple(self.forms[row] for row in rows)
        taken = self._change(lambda tensor: tensor[list(rows)])
        most = max(numbers, default=0)
        return replace(
            taken,
            forms=forms,
            num_points=numbers,
            points_SP2=taken.points_SP2[:, :most],
            inside_SP=taken.inside_SP[:, :most],
            texts={name: each.take(rows) for name, each in self.texts.items()},
            read={name: each.take(rows) for name, each in self.read.items()},
        )

    def group(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """Forms, each with the objects that it shows, by as many points: what is padded would be read too."""
        found: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for row, key in enumerate(zip(self.forms, self.num_points, strict=True)):
            found.setdefault(key, []).append(row)
        return [(form, rows) for (form, _), rows in found.items()]

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Prompts:
        return replace(
            self,
            boxes_S4=change(self.boxes_S4),
            points_SP2=change(self.points_SP2),
            inside_SP=change(self.inside_SP),
            classes_S=change(self.classes_S),
            masks_S1=None if self.masks_S1 is None else change(self.masks_S1),
            rows_S=None if self.rows_S is None else change(self.rows_S),
            kinds_S=None if self.kinds_S is None else change(self.kinds_S),
        )
