"""A fusion encoder: words and patches attend to each other in several layers, with a stream of entities beside the
words, which attend to the patches too and are added to their words (ARL, arXiv 2209.07118, section 3.3).

Axes: N pairs, R patches, T tokens, K entities of a text, P width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class Text(NamedTuple):
    """words_NTP: of the tokens, as wide as the fusion encoder; mask_NT is 0 where a text has ended. spans_NK2: the
    first token of each entity and the last one + 1, -1 for none. entities_NK: their numbers, of which one is none."""

    words_NTP: torch.Tensor
    mask_NT: torch.Tensor
    spans_NK2: torch.Tensor
    entities_NK: torch.Tensor

    def take(self, rows_N: torch.Tensor) -> Text:
        return Text(*(each[rows_N] for each in self))


class States(NamedTuple):
    """The tokens and patches after each layer."""

    words: list[torch.Tensor]
    patches: list[torch.Tensor]


class Fusion(nn.Module):
    """entities: how many there are; one more stands for none."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float, entities: int):
        super().__init__()

        def make_layers() -> nn.ModuleList:
            return nn.ModuleList(
                nn.TransformerDecoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
                for _ in range(layers)
            )

        self.words, self.patches, self.entities = make_layers(), make_layers(), make_layers()
        self.known = nn.Embedding(entities + 1, width)
        nn.init.normal_(self.known.weight, std=0.02)

    def forward(self, text: Text, patches_NRP: torch.Tensor) -> States:
        is_over_NT = text.mask_NT == 0
        words_NTP, entities_NKP, found = text.words_NTP, self.known(text.entities_NK), States([], [])
        share_NTK = share_tokens(text.spans_NK2, words_NTP.shape[1]).to(words_NTP.dtype)
        for read, look, know in zip(self.words, self.patches, self.entities, strict=True):
            entities_NKP = know(entities_NKP, patches_NRP)
            told_NTP = words_NTP + share_NTK @ entities_NKP
            words_NTP, patches_NRP = (
                read(told_NTP, patches_NRP, tgt_key_padding_mask=is_over_NT),
                look(patches_NRP, told_NTP, memory_key_padding_mask=is_over_NT),
            )
            found.words.append(words_NTP)
            found.patches.append(patches_NRP)
        return found


def share_tokens(spans_NK2: torch.Tensor, length: int) -> torch.Tensor:
    """bool [N, T, K]: whether a token is one of an entity's."""
    place_T = torch.arange(length, device=spans_NK2.device)
    inside_NKT = (place_T >= spans_NK2[..., :1]) & (place_T < spans_NK2[..., 1:])
    return inside_NKT.transpose(1, 2)
