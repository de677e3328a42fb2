"""A language model that draws: a token of its answer asks a decoder for a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from medvlm.compositions._opened import BATCH, AnsweringModel
from medvlm.compositions._segment import segment_medium
from medvlm.core.ask import Ask, Files
from medvlm.core.decoder_config import UNWRITTEN, DrawingConfig, find_form, list_templates
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Question, Sample, Truth, make_truth
from medvlm.core.tasks import find_task
from medvlm.data.composed import ComposedPrepare
from medvlm.data.control_words import holds_words, read_answer
from medvlm.data.dialogue import Stroke, TokenSequence, join_turns
from medvlm.data.prepare import Seen
from medvlm.models.decoding import name_output, name_presence
from medvlm.models.generate import find_end_ids, generate
from medvlm.models.parts import evaluating
from medvlm.models.sliding import Windows

if TYPE_CHECKING:
    import numpy as np


def check_tokens(decoders: Mapping[str, DrawingConfig], tokenizer: Any) -> None:
    """Raises RecipeError for a token that the tokenizer does not have, and for one that answers cannot hold."""
    for name, decoder in decoders.items():
        if decoder.token not in tokenizer.get_vocab():
            raise RecipeError(
                f"model.decoders.{name}.token: {decoder.token} is no token of the language model; add it:"
                f" model.language.special_tokens: ['{decoder.token}']"
            )
        if holds_words(decoder.token, tokenizer):
            raise RecipeError(f"model.decoders.{name}.token: {decoder.token} {UNWRITTEN}")


class DrawingModel(AnsweringModel):
    """decoders: name -> its config; those that read hidden states of the language model."""

    prepare: ComposedPrepare

    def __init__(
        self, can: frozenset[str], model: Any, prepare: Any, tokenizer: Any, decoders: Mapping[str, DrawingConfig]
    ):
        super().__init__(can | {"decode"} if decoders else can, model, prepare, tokenizer)
        self.decoders, self.by_template = decoders, list_templates(decoders)

    def can_answer(self, question: Question) -> bool:
        """Whether the question is for masks, of which a decoder knows a structure."""
        form, names = find_task(question.truth.task).ANSWERED_BY, self.by_template.get(question.template, [])
        return any(find_form(self.decoders[name]) == form and self._list_names(question, name) for name in names)

    def _find_decoder(self, ask: Ask) -> str | None:
        """The decoder that answers an ask; None if none reads its first medium."""
        sample, _ = ask.media_of or (ask.sample, ask.files)
        names, encoder = self.by_template[ask.question.template], self.prepare.find_encoder(sample)
        return next((name for name in names if self.model.reads[name] == encoder), None)

    def place_truth(self, ask: Ask) -> Truth:
        """The truth as the model perceives it, with boxes in answer coordinates, or its masks on the canvas."""
        if ask.question.truth.members:
            return self.prepare.hold(ask.sample, ask.question, ask.files)
        return super().place_truth(ask)

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        """For each question for masks, the model is asked for one structure after the other. A structure is where the
        mask is more probable than not, and nowhere if its presence is not."""
        each: list[tuple[int, str, str]] = []  # the number of an ask, its decoder, and a structure
        for number, ask in enumerate(asks):
            if ask.shows == "media" and (name := self._find_decoder(ask)):
                each += [(number, name, one) for one in self._list_names(ask.question, name)]
        found: list[dict[str, Any]] = [{} for _ in asks]
        for at in range(0, len(each), BATCH):
            piece = each[at : at + BATCH]
            spoken = [
                replace(asks[number], question=ask_for(self.decoders[name], [one])) for number, name, one in piece
            ]
            drawn = self._draw(self._write(spoken), [name for _, name, _ in piece])
            for (number, _, one), masks in zip(piece, drawn, strict=True):
                if one in masks:
                    found[number][one] = masks[one].numpy()
        return [
            self._read(ask, masks) if ask.shows == "media" else None for ask, masks in zip(asks, found, strict=True)
        ]

    def _list_names(self, question: Question, name: str) -> list[str]:
        known: Sequence[str] = question.truth.classes  # type: ignore[attr-defined]
        return [each for each in self.decoders[name].classes if each in known]

    def _read(self, ask: Ask, masks: Mapping[str, np.ndarray]) -> Any:
        """The answer of the task of a question. masks: of the structures that were drawn."""
        import numpy as np

        name = self._find_decoder(ask)
        if name is None:
            return None
        decoder, truth = self.decoders[name], ask.question.truth
        blank = np.zeros(self.prepare.preprocess[self.model.reads[name]].size, np.float32)
        decode = find_task(truth.task).decode
        assert decode is not None, truth.task
        planes = np.stack([masks.get(each, blank) for each in decoder.classes])
        return decode(planes, truth, decoder.classes, decoder.exclusive)

    def _draw(self, prompts: Sequence[TokenSequence], decoders: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        """What the greedy answers to these prompts draw, each with its decoder: structure, as the answer calls it ->
        its probabilities [*size]; 0 everywhere if it is more probably absent."""
        pad_id = self.tokenizer.pad_token_id
        batch = self.prepare.collate(prompts, pad_id, pack=False).to(self.device)
        with evaluating(self.model):
            ends = find_end_ids(self.model, self.tokenizer)
            answers = generate(self.model, batch, max_new_tokens=self.max_new_tokens, end_ids=ends)
            said = [self._find_names(ids, self.decoders[name]) for ids, name in zip(answers, decoders, strict=True)]
            answered = [
                replace(prompt, branches=[(ids, 0)], strokes=[Stroke(name, 0, at) for at in places])
                for prompt, ids, name, places in zip(prompts, answers, decoders, said, strict=True)
            ]
            outputs = self.model(self.prepare.collate(answered, pad_id, pack=False).to(self.device))
        left = {name: self._look_at(outputs, name) for name in self.decoders}
        return [
            {structure: next(left[name]) for structure in places.values()}
            for name, places in zip(decoders, said, strict=True)
        ]

    def _look_at(self, outputs: Mapping[str, torch.Tensor], name: str) -> Any:
        """The masks of a decoder, in the order of the tokens."""
        if name_output(name) not in outputs:
            return iter(())
        is_there = outputs[name_presence(name)] > 0
        masks_S = outputs[name_output(name)][:, 0].float().sigmoid()
        return iter((masks_S * is_there.view(-1, *[1] * (masks_S.ndim - 1))).cpu())

    def _find_names(self, ids: Sequence[int], decoder: DrawingConfig) -> dict[int, str]:
        """Place of a token that draws -> the structure before it in the answer."""
        token, found, start = self.tokenizer.convert_tokens_to_ids(decoder.token), dict[int, str](), 0
        for at, id_ in enumerate(ids):
            if id_ == token:
                found[at] = read_answer(ids[start:at], self.tokenizer).strip(" ,;.")
                start = at + 1
        return found

    def list_masks(self) -> list[str]:
        """The decoders that give masks."""
        return list(self.decoders)

    def segment(self, sample: Sample, files: Files, name: str, windows: Windows) -> np.ndarray:
        """The masks of all structures of a decoder, each asked for by itself: bool [K, *size], on the stored pixels of
        medium 0, see compositions/_segment.py."""
        encoder, decoder = self.model.reads[name], self.decoders[name]

        def predict(window_NC: torch.Tensor) -> torch.Tensor:
            asked = [(pixels, one) for pixels in window_NC.cpu() for one in decoder.classes]
            prompts = []
            for pixels, one in asked:
                question, seen = ask_for(decoder, [one]), Seen([(encoder, pixels)], None, [1])
                turn = self.prepare.turn(replace(sample, report=""), question, seen, ["media"], answered=False)
                prompts.append(join_turns(sample.key, [turn], seen.media))
            drawn = self._draw(prompts, [name] * len(prompts))
            blank = torch.zeros(window_NC.shape[2:])
            masks = torch.stack([each.get(one, blank) for each, (_, one) in zip(drawn, asked, strict=True)])
            return masks.unflatten(0, (len(window_NC), len(decoder.classes)))

        return segment_medium(self.prepare, sample, files, (name, encoder), decoder.exclusive, windows, predict)


def ask_for(decoder: DrawingConfig, names: Sequence[str]) -> Question:
    """A question for structures, as evaluation asks it."""
    return Question(decoder.ask(names), make_truth("open"), "draw")
