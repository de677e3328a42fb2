"""What further losses of pairs of images and texts are computed from (medvlm/objectives/joint/KIND.py).

Axes: N pairs, R patches of an image, T tokens of its text, E width of a tower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvlm.core.sample import Box, Question, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch

    from medvlm.core.contracts import Features, Masking


@dataclass(frozen=True)
class Towers:
    """The towers that a loss is built for. tokenize: text -> ids as the text tower reads them, with its start and end
    tokens. text_width: of its pooled outputs. vocabulary: the number of its ids. mask_id: of the token that stands
    for a hidden word, None if the tower has none. can_mask: whether the image tower can leave out patches, see
    Masking."""

    patch_width: int
    word_width: int
    text_width: int
    grid: tuple[int, ...]
    input_shape: tuple[int, ...]
    tokenize: Callable[[str], list[int]]
    vocabulary: int
    pad_id: int
    mask_id: int | None
    can_mask: bool


@dataclass(frozen=True)
class Item:
    """A sample with the first text that was drawn for it. where: for messages. ids: its tokens. locate: the characters
    (start, end) of each token, (0, 0) for start and end. label: the labels of a question for a decoder. find_boxes: the
    boxes of objects of this name (left, top, right, bottom), as shares of what the encoder sees. rng: for what is
    random, by the seed and the position of the sample."""

    sample: Sample
    where: str
    text: str
    ids: list[int]
    locate: Callable[[], list[tuple[int, int]]]
    label: Callable[[Question, Any], np.ndarray]
    find_boxes: Callable[[str], list[Box]]
    rng: np.random.Generator


@dataclass(frozen=True)
class Seen:
    """What the towers gave for pairs; the texts are the first of each sample.

    patches_NRE, pooled_NE: of the images. words_NTE: of the tokens ids_NT; mask_NT is 0 where a text has ended.
    texts_NE: the pooled outputs of the texts; the first token is none, as it sees nothing in towers that read from left
    to right. embed: ids, mask -> pooled outputs of the text tower, for texts that are no sample's. read: ids, mask ->
    the outputs of its tokens. pixels: of the images. look: the features of the images with patches left out."""

    patches_NRE: torch.Tensor
    pooled_NE: torch.Tensor
    words_NTE: torch.Tensor
    texts_NE: torch.Tensor
    ids_NT: torch.Tensor
    mask_NT: torch.Tensor
    grid: tuple[int, ...]
    embed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    pixels: torch.Tensor
    look: Callable[[Masking], Features]

    def find_inner(self) -> torch.Tensor:
        """bool [N, T]: the tokens of each text without its first and last one, which start and end it."""
        is_last = self.mask_NT.cumsum(1) == self.mask_NT.sum(1, keepdim=True)
        inner = (self.mask_NT > 0) & ~is_last
        inner[:, 0] = False
        return inner
