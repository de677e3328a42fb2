"""The tokens of a batch that ask decoders for masks."""

from __future__ import annotations

from dataclasses import dataclass
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
