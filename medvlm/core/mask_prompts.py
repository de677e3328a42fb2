"""What asks decoders for masks: tokens of a language model, or boxes, points, masks and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

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


@dataclass(frozen=True)
class Prompts:
    """What shows each of S objects. Coordinates are (x, y) in pixels of the decoder's input, whose first pixel reaches
    from 0 to 1.

    forms: of each object, those of `box`, `point`, `rough_mask` and `class` that are given. num_points: of each.
    boxes_S4: left, top, right and
    bottom edges. points_SP2, inside_SP: 1 for a point on the object, 0 for one beside it, -1 for none. masks_S1: [S, 1,
    *size] of 0 and 1; None if no object has one. classes_S: the number of its class in the decoder."""

    forms: tuple[tuple[str, ...], ...]
    num_points: tuple[int, ...]
    boxes_S4: torch.Tensor
    points_SP2: torch.Tensor
    inside_SP: torch.Tensor
    classes_S: torch.Tensor
    masks_S1: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.forms)

    def to(self, device: torch.device) -> Prompts:
        return self._change(lambda tensor: tensor.to(device), self.forms, self.num_points)

    def take(self, rows: Sequence[int]) -> Prompts:
        """Those of some objects, without the places of points that none of them has."""
        numbers = tuple(self.num_points[row] for row in rows)
        forms = tuple(self.forms[row] for row in rows)
        taken = self._change(lambda tensor: tensor[list(rows)], forms, numbers)
        most = max(numbers, default=0)
        return replace(taken, points_SP2=taken.points_SP2[:, :most], inside_SP=taken.inside_SP[:, :most])

    def group(self) -> list[tuple[tuple[str, ...], list[int]]]:
        """Forms, each with the objects that it shows, by as many points: what is padded would be read too."""
        found: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for row, key in enumerate(zip(self.forms, self.num_points, strict=True)):
            found.setdefault(key, []).append(row)
        return [(form, rows) for (form, _), rows in found.items()]

    def _change(
        self,
        change: Callable[[torch.Tensor], torch.Tensor],
        forms: tuple[tuple[str, ...], ...],
        num_points: tuple[int, ...],
    ) -> Prompts:
        return Prompts(
            forms,
            num_points,
            change(self.boxes_S4),
            change(self.points_SP2),
            change(self.inside_SP),
            change(self.classes_S),
            None if self.masks_S1 is None else change(self.masks_S1),
        )
