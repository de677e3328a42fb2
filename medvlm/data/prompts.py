"""Draws what shows an object to a decoder that takes prompts: a box, points, a mask, its class, or a text.

Coordinates are as in core/mask_prompts.py. Axes: H, W of the input, S objects, P points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from medvlm.core.decoder_config import PromptedConfig
from medvlm.core.errors import DataError
from medvlm.core.mask_prompts import ABOUT, ASKED, Prompts, Texts
from medvlm.core.text import MEDIUM
from medvlm.data.mask_words import describe_mask

GAPS = ("number", "sizes", "places")
Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Prompt:
    """Of one object. number: of its class in the decoder. inside: of each point, whether it is on the object. mask:
    bool [H, W]. ids: ASKED and ABOUT -> the tokens of the text, of a decoder that reads them. kind: the number of the
    kind of its medium among `about` of the decoder."""

    number: int
    form: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    inside: tuple[bool, ...] = ()
    mask: np.ndarray | None = None
    ids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kind: int = 0

    def fill(self, size: Sequence[int]) -> np.ndarray | None:
        """What the prompt alone marks, bool [H, W]: the pixels whose centres are in the box, or the mask; None for one
        that has neither."""
        if self.mask is not None:
            return self.mask
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        y, x = (np.arange(side) + 0.5 for side in size)
        filled: np.ndarray = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))
        return filled


def draw_prompt(
    is_marked_HW: np.ndarray, number: int, decoder: PromptedConfig, rng: np.random.Generator, form: str = ""
) -> Prompt:
    """The prompt of an object that has at least one pixel. number: of its class in the decoder. form: by default one of
    the decoder's, drawn."""
    chosen = form or decoder.prompts[int(rng.integers(len(decoder.prompts)))]
    if chosen == "box":
        return Prompt(number, ("box",), box=_draw_box(is_marked_HW, decoder.jitter_px, rng))
    if chosen == "point":
        points, inside = _draw_points(is_marked_HW, decoder, rng)
        return Prompt(number, ("point",), points=points, inside=inside)
    if chosen == "rough_mask":
        down, right = (int(rng.integers(-decoder.jitter_px, decoder.jitter_px + 1)) for _ in range(2))
        return Prompt(number, ("rough_mask",), mask=_shift(is_marked_HW, down, right))
    return Prompt(number, (chosen,))


def say(
    prompt: Prompt,
    decoder: PromptedConfig,
    question: str,
    kind: str,
    tokenize: Tokenize | None,
    rng: np.random.Generator | None = None,
    is_marked: np.ndarray | None = None,
) -> Prompt:
    """The prompt with the texts that its decoder reads. A prompt of another form asks with an empty text, so that the
    text tower reads something for each. question: of the sample. kind: of its medium. rng: draws the wording, by
    default the first. is_marked: the mask, of which {number}, {sizes} and {places} in a text tell, see mask_words.py.
    Raises DataError for a kind of medium that the decoder knows nothing about, and for such a text without a mask."""
    texts = {}
    for what in decoder.list_texts():
        if what == ABOUT:
            if kind not in decoder.about:
                raise DataError(f"a decoder reads something about each kind of medium; write about.{kind}")
            texts[what] = decoder.about[kind]
        elif "question" in prompt.form:
            texts[what] = question.replace(MEDIUM, " ").strip()
        elif "text" in prompt.form:
            name = decoder.classes[prompt.number]
            wordings = decoder.texts.get(name, (name,))
            wording = wordings[0 if rng is None else int(rng.integers(len(wordings)))]
            texts[what] = _fill_in(wording, is_marked)
        else:
            texts[what] = ""
    if not texts:
        return prompt
    assert tokenize is not None
    ids = {what: tuple(tokenize(text)) for what, text in texts.items()}
    return replace(prompt, ids=ids, kind=list(decoder.about).index(kind) if decoder.about else 0)


def _fill_in(wording: str, is_marked: np.ndarray | None) -> str:
    if not any(f"{{{gap}}}" in wording for gap in GAPS):
        return wording
    if is_marked is None or is_marked.ndim != 2:
        what = "there is no mask" if is_marked is None else "this is a volume"
        raise DataError(f"the text {wording!r} tells of the mask of an image, and {what}; ask in other words")
    for gap, words in describe_mask(is_marked).items():
        wording = wording.replace(f"{{{gap}}}", words)
    return " ".join(wording.split())


def stack_prompts(prompts: Sequence[Prompt]) -> Prompts:
    """Masks of several prompts have one size."""
    most = max((len(each.points) for each in prompts), default=0)
    S = len(prompts)
    boxes, points, inside = np.zeros((S, 4), np.float32), np.zeros((S, most, 2), np.float32), np.full((S, most), -1)
    for row, each in enumerate(prompts):
        boxes[row] = each.box or (0, 0, 0, 0)
        if each.points:
            points[row, : len(each.points)] = each.points
            inside[row, : len(each.points)] = each.inside
    masks = None
    if sizes := {each.mask.shape for each in prompts if each.mask is not None}:
        (size,) = sizes
        blank = np.zeros(size, bool)
        masks = torch.from_numpy(np.stack([blank if each.mask is None else each.mask for each in prompts]))[:, None]
    return Prompts(
        tuple(each.form for each in prompts),
        tuple(len(each.points) for each in prompts),
        torch.from_numpy(boxes),
        torch.from_numpy(points),
        torch.from_numpy(inside),
        torch.tensor([each.number for each in prompts], dtype=torch.long),
        None if masks is None else masks.float(),
        {what: _stack_texts([each.ids[what] for each in prompts]) for what in (ASKED, ABOUT) if what in prompts[0].ids},
        kinds_S=torch.tensor([each.kind for each in prompts], dtype=torch.long),
    )


def _stack_texts(texts: Sequence[tuple[int, ...]]) -> Texts:
    number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    longest = max(map(len, number))
    ids, is_token = (torch.zeros(len(number), longest, dtype=torch.long) for _ in range(2))
    for text, row in number.items():
        ids[row, : len(text)], is_token[row, : len(text)] = torch.tensor(text), 1
    return Texts(ids, is_token, torch.tensor([number[text] for text in texts]))


def _draw_box(is_marked_HW: np.ndarray, jitter_px: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Outwards only, as in MedSAM's code: a box that cuts the object shows another one."""
    left, top, right, bottom = find_box(is_marked_HW)
    height, width = is_marked_HW.shape
    out = rng.integers(0, jitter_px + 1, 4).tolist()
    grown = left - out[0], top - out[1], right + out[2], bottom + out[3]
    return (
        float(max(grown[0], 0)),
        float(max(grown[1], 0)),
        float(min(grown[2], width)),
        float(min(grown[3], height)),
    )


def find_box(is_marked_HW: np.ndarray) -> tuple[int, int, int, int]:
    """The edges of the smallest box around the marked pixels, left, top, right and bottom."""
    rows, columns = np.flatnonzero(is_marked_HW.any(1)), np.flatnonzero(is_marked_HW.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _draw_points(
    is_marked_HW: np.ndarray, decoder: PromptedConfig, rng: np.random.Generator
) -> tuple[tuple[tuple[float, float], ...], tuple[bool, ...]]:
    """The centres of pixels, without repetition."""
    own = _choose(is_marked_HW, int(rng.integers(1, decoder.points + 1)), rng)
    left, top, right, bottom = find_box(is_marked_HW)
    dx, dy = (right - left + 1) // 2, (bottom - top + 1) // 2
    near = np.zeros_like(is_marked_HW)
    near[max(top - dy, 0) : bottom + dy, max(left - dx, 0) : right + dx] = True
    beside = _choose(near & ~is_marked_HW, int(rng.integers(0, decoder.points_beside + 1)), rng)
    return (*own, *beside), (True,) * len(own) + (False,) * len(beside)


def _choose(among_HW: np.ndarray, count: int, rng: np.random.Generator) -> tuple[tuple[float, float], ...]:
    pixels = np.flatnonzero(among_HW)
    chosen = rng.choice(pixels, min(count, len(pixels)), replace=False) if count else ()
    return tuple((float(at % among_HW.shape[1]) + 0.5, float(at // among_HW.shape[1]) + 0.5) for at in chosen)


def _shift(mask_HW: np.ndarray, down: int, right: int) -> np.ndarray:
    """What is shifted out of the image is lost."""
    height, width = mask_HW.shape
    down, right = max(-height, min(down, height)), max(-width, min(right, width))
    shifted = np.zeros_like(mask_HW)
    shifted[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = mask_HW[
        max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)
    ]
    return shifted
