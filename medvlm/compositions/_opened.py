"""Opened models, the interface that evaluation, chat and embed use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from operator import getitem
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.ask import Ask, CutAnswer, Files
from medvlm.core.errors import RecipeError
from medvlm.core.geometry import Canvas
from medvlm.core.sample import Sample, Truth, make_truth
from medvlm.data.control_words import read_answer
from medvlm.data.dialogue import join_turns
from medvlm.data.order import draw
from medvlm.data.prepare import Prepare, Seen
from medvlm.io.images import encode_png
from medvlm.models.generate import find_end_ids, generate, is_cut
from medvlm.models.parts import evaluating
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np

BATCH = 64
MOST_TOKENS = 1 << 16
"""Maximum number of tokens of the prompts that are answered together, with padding."""


Hear = Callable[[str], None]
"""Is called with an answer so far, which may end in half a character (U+FFFD)."""


class Opened:
    """can: what it can do, see core/composition.py; other calls raise RecipeError. max_new_tokens: maximum length of an
    answer. find_origin: returns what identifies its weights, such as their hash, as plain JSON; may read all of
    them."""

    can: frozenset[str] = frozenset()
    max_new_tokens = 256
    find_origin: Callable[[], Mapping[str, Any]] = staticmethod(dict)

    @cached_property
    def spent(self) -> list[tuple[int, int]]:
        """tell() adds the tokens of its prompt, with those of images, and those that it generated, the end included."""
        return []

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """What decides its answers: its weights, how they are computed, and the limit of an answer."""
        return {**self.find_origin(), **self._describe_computing(), "max_new_tokens": self.max_new_tokens}

    def _describe_computing(self) -> Mapping[str, Any]:
        return {}

    def kind_of(self, axes: int, asked: str = "") -> str:
        """The kind of medium of a file that does not name one, see data/prepare.Prepare."""
        raise NotImplementedError

    def set_precision(self, dtype: torch.dtype) -> None:
        """Computes in this precision from here on."""

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers, in the order of the asks. Equal asks get equal answers."""
        raise RecipeError("this model does not answer questions")

    def tell(self, ask: Ask, hear: Hear, temperature: float = 0.0, seed: int = 0) -> str:
        """The answer to one ask: greedy, or random with a temperature. `hear` is called with the text so far, at least
        once before the end; what it raises ends the answer."""
        hear("")
        return self.answer([ask])[0] if temperature == 0 else self.draw([ask], 1, temperature, seed)[0][0]

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        """So many random answers to each ask. Equal arguments get equal answers."""
        raise RecipeError("this model draws no random answers")

    def weigh(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """For each ask, the log-probability of each of its texts as the answer, and its number of tokens."""
        raise RecipeError("this model gives no probabilities of texts")

    def embed_media(self, items: Sequence[tuple[Sample, Files]]) -> np.ndarray:
        """Unit vectors [N, P] of the first medium of each sample."""
        raise RecipeError("this model does not embed images and texts in one space")

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, P] in the same space as embed_media."""
        raise RecipeError("this model does not embed images and texts in one space")

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        """Yields a vector for each medium of a sample: in the shared space if there is one, else the pooled output of
        the encoder."""
        raise RecipeError("this model gives no vector for an image by itself")


class AssembledModel(Opened):
    """A model built by a composition, with its data path."""

    def __init__(self, can: frozenset[str], model: Any, prepare: Prepare, tokenizer: Any):
        self.can, self.model, self.prepare, self.tokenizer = can, model, prepare, tokenizer

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def _describe_computing(self) -> Mapping[str, Any]:
        return describe_computing(self.model)

    def set_precision(self, dtype: torch.dtype) -> None:
        self.model.to(dtype)

    def kind_of(self, axes: int, asked: str = "") -> str:
        return self.prepare.kind_of(axes, asked)

    def find_canvas(self, ask: Ask) -> Canvas | None:
        """How the model perceives medium 0; None if it is not shown as stored."""
        return self.prepare.see(ask.sample, ask.files).canvas

    def find_writing(self) -> Writing:
        """How it writes boxes."""
        return self.prepare.boxes

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        """(width, height) of the canvas that the model perceives, in the units in which boxes are written."""
        canvas = self.find_canvas(ask)
        return self.prepare.boxes.extent(canvas) if canvas else (1.0, 1.0)

    def place_truth(self, ask: Ask) -> Truth:
        """The truth as the model perceives it, with boxes in answer coordinates."""
        return self.prepare.truth(ask.question, self.prepare.see(ask.sample, ask.files).canvas)

    def draw_thumbnail(self, ask: Ask) -> bytes:
        """Medium 0 as the model sees it, as PNG. Of a volume, the middle slice."""
        return encode_png(self.prepare.picture(ask.sample, ask.files))


class AnsweringModel(AssembledModel):
    """A model that answers in text."""

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers, in the order of the asks, as CutAnswer if they did not end.

        At most BATCH of them, in the given order, are answered together. If they have more than MOST_TOKENS tokens with
        padding, those of similar length are."""
        texts: list[str] = []
        for at in range(0, len(asks), BATCH):
            documents = self._write(asks[at : at + BATCH])
            answers: dict[int, str] = {}
            for batch in group_by_length([len(document) for document in documents], MOST_TOKENS):
                answers |= zip(batch, self._continue([documents[n] for n in batch]), strict=True)
            texts += [answers[n] for n in range(len(documents))]
        return texts

    def _write(self, asks: Sequence[Ask]) -> list[Any]:
        """The prompts."""
        return [
            join_turns(ask.sample.key, [turn(ask.question, answered=False)], media)
            for ask, turn, media in self._perceive(asks)
        ]

    def _perceive(self, asks: Sequence[Ask]) -> Iterator[tuple[Ask, Callable[..., Any], list[tuple[str, Any]]]]:
        """Each ask, what makes a turn about its sample, and its media."""
        perceived_once: dict[
            tuple[str, ...], Seen
        ] = {}  # questions about one sample share its pixels, so they are encoded once
        for ask in asks:
            sample, files = ask.media_of or (ask.sample, ask.files)
            shown = sample.key, *(medium.member for medium in sample.media)
            if shown not in perceived_once:
                perceived_once[shown] = self.prepare.see(sample, files)
            seen = perceived_once[shown]
            shows = ["media"] if ask.shows == "media" else []
            yield ask, partial(self.prepare.turn, ask.sample, seen=seen, shows=shows), seen.media if shows else []

    def weigh(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """All texts about one ask share its prompt and its images. At most BATCH asks are computed together."""
        found: list[list[tuple[float, int]]] = []
        for at in range(0, len(asks), BATCH):
            documents = []
            for (ask, turn, media), own in zip(
                self._perceive(asks[at : at + BATCH]), texts[at : at + BATCH], strict=True
            ):
                asked = [replace(ask.question, truth=make_truth("open", text)) for text in own]
                documents.append(join_turns(ask.sample.key, [turn(each, answered=True) for each in asked], media))
            weighed: dict[int, list[tuple[float, int]]] = {}
            for batch in group_by_length([len(document) for document in documents], MOST_TOKENS):
                weighed |= zip(batch, self._weigh([documents[n] for n in batch]), strict=True)
            found += [weighed[n] for n in range(len(documents))]
        return found

    def _weigh(self, documents: Sequence[Any]) -> list[list[tuple[float, int]]]:
        batch = self.prepare.collate(documents, self.tokenizer.pad_token_id).to(self.device)
        with evaluating(self.model):
            log_L = self.model(batch, _read_log_probability)["log_L"].cpu().double()
        lengths = batch.answers_L.bincount().tolist()
        answers = iter([(float(own.sum()), len(own)) for own in log_L.split(lengths)])
        return [[next(answers) for _ in document.branches] for document in documents]

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        """Random numbers depend on the seed, the sample and the question alone. All asks are answered together."""
        texts = self._continue(self._write(asks), **self._sample(asks, copies, temperature, seed))
        return [texts[at : at + copies] for at in range(0, len(texts), copies)]

    def _sample(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> dict[str, Any]:
        """How generate() draws."""
        shape = self.max_new_tokens, copies
        uniform = [draw(seed, ask.sample.key, ask.question.template, ask.question.text).random(shape) for ask in asks]
        draws = [partial(getitem, numbers) for numbers in uniform]
        return {"copies": copies, "temperature": temperature, "draws": draws}

    def tell(self, ask: Ask, hear: Hear, temperature: float = 0.0, seed: int = 0) -> str:
        """`hear` is called after each token."""
        said: list[int] = []

        def note(_: int, token: int) -> None:
            said.append(token)
            hear(read_answer(said, self.tokenizer))

        sampling = self._sample([ask], 1, temperature, seed) if temperature else {}
        documents = self._write([ask])
        (text,) = self._continue(documents, hear=note, **sampling)
        self.spent.append((len(documents[0]), len(said)))
        return text

    def _continue(self, documents: Sequence[Any], **sampling: Any) -> list[str]:
        batch = self.prepare.collate(documents, self.tokenizer.pad_token_id, pack=False).to(self.device)
        ends = find_end_ids(self.model, self.tokenizer)
        with evaluating(self.model):
            ids = generate(self.model, batch, max_new_tokens=self.max_new_tokens, end_ids=ends, **sampling)
        texts = [read_answer(each, self.tokenizer) for each in ids]
        return [
            CutAnswer(text) if is_cut(answer, self.max_new_tokens, ends) else text
            for text, answer in zip(texts, ids, strict=True)
        ]


def _read_log_probability(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"log_L": logits_LV.float().log_softmax(-1).gather(-1, targets_L[:, None]).squeeze(-1)}


def group_by_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of texts that are padded to one length: all in their order if that takes at most `most` tokens; else
    those of similar length, as many as fit, at least one."""
    if max(lengths, default=0) * len(lengths) <= most:
        return [list(range(len(lengths)))]
    groups: list[list[int]] = [[]]
    for number in sorted(range(len(lengths)), key=lambda n: (lengths[n], n)):
        if groups[-1] and lengths[number] * (len(groups[-1]) + 1) > most:
            groups.append([])
        groups[-1].append(number)
    return groups


def describe_computing(model: torch.nn.Module) -> dict[str, str]:
    """The precision and the kind of device of a model."""
    first = next(model.parameters())
    return {"precision": str(first.dtype).removeprefix("torch."), "device": first.device.type}


def find(opened: Iterable[Any], need: str) -> Any | None:
    """The first model that can do what is needed, or None."""
    return next((model for model in opened if need in model.can), None)
