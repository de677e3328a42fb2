"""An opened model of encoders with decoders: its class scores and masks of media."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from medvlm.compositions._cost import Cost, measure_decoding
from medvlm.compositions._opened import AssembledModel
from medvlm.compositions._prompted import fill_prompts, make_prompted, mark_asked
from medvlm.compositions._segment import segment_medium, to_stored
from medvlm.compositions._whole_boxes import find_boxes
from medvlm.core.ask import Ask, Files
from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import TEXT_FORMS, find_form, gives_answers, list_templates, takes_prompts
from medvlm.core.mask_prompts import Prompts
from medvlm.core.sample import Question, Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.data.bags import choose_media
from medvlm.data.composed import ComposedPrepare
from medvlm.data.prepare import Seen
from medvlm.data.prompts import Prompt, say
from medvlm.data.texts import tokenize_prompt
from medvlm.models.decoding import Decoding, Labelled, make_bags, name_output
from medvlm.models.parts import encode, evaluating
from medvlm.models.sliding import Windows

if TYPE_CHECKING:
    import numpy as np

BATCH = 16


class DecodingModel(AssembledModel):
    """decoders: name -> its config. text, tokenizer: of the text tower, its config and its own tokenizer."""

    CAN = frozenset({"decode", "represent"})
    prepare: ComposedPrepare

    def __init__(
        self,
        model: Decoding,
        prepare: ComposedPrepare,
        decoders: Mapping[str, Any],
        text: Any = None,
        tokenizer: Any = None,
    ):
        super().__init__(self.CAN, model, prepare, tokenizer)
        self.decoders = decoders
        self.tokenize = None if text is None else partial(tokenize_prompt, tokenizer, text)
        self.by_template = list_templates(decoders)
        self.most_media = max(each.most_media for each in decoders.values())

    def can_answer(self, question: Question) -> bool:
        return bool(self._list_able(question))

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        found: list[Any] = []
        for at in range(0, len(asks), BATCH):
            found += self._decode_some(asks[at : at + BATCH])
        return found

    def _decode_some(self, asks: Sequence[Ask]) -> list[Any]:
        """Those by decoders that take prompts, and the others."""
        by_decoder: dict[str, list[int]] = {}
        for number, ask in enumerate(asks):
            by_decoder.setdefault(self._find_prompted(ask), []).append(number)
        found: dict[int, Any] = {}
        for name, numbers in by_decoder.items():
            own = [asks[number] for number in numbers]
            found |= dict(zip(numbers, self._mark(name, own) if name else self._decode(own), strict=True))
        return [found[number] for number in range(len(asks))]

    def _find_prompted(self, ask: Ask) -> str:
        """The decoder that takes prompts and answers an ask; "" for none."""
        read_by = self.prepare.find_encoder((ask.media_of or (ask.sample,))[0])
        name = next((each for each in self._list_able(ask.question) if self.model.reads[each] == read_by), "")
        return name if name and takes_prompts(self.decoders[name]) else ""

    def fills(self, question: Question) -> bool:
        """Whether a prompt shows what a question asks for, so that it can be filled in, or be that of another."""
        decoders = [self.decoders[name] for name in self._list_able(question)]
        return any(takes_prompts(decoder) and decoder.prompts[0] not in TEXT_FORMS for decoder in decoders)

    def _mark(self, name: str, asks: Sequence[Ask]) -> list[Any]:
        """Answers by a decoder that takes prompts."""
        decoder, encoder = self.decoders[name], self.model.reads[name]
        size, found = self.prepare.preprocess[encoder].size, [None] * len(asks)
        shown: dict[int, tuple[Ask, torch.Tensor]] = {}
        for number, ask in enumerate(asks):
            if ask.shows == "prompt":
                found[number] = fill_prompts(self.prepare, ask, decoder, size)
            elif ask.shows == "media":
                shown[number] = ask, self.prepare.see(*(ask.media_of or (ask.sample, ask.files))).media[0][1]
        mark = partial(self._mark_objects, name)
        marked = mark_asked(self.prepare, list(shown.values()), decoder, mark, self.tokenize)
        for number, each in zip(shown, marked, strict=True):
            found[number] = each
        return found

    def _mark_objects(self, name: str, pixels: torch.Tensor, rows: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        batch = Labelled({self.model.reads[name]: pixels}, {name: rows}, prompts={name: prompts})
        with evaluating(self.model):
            return _to_answers(self.model(batch.to(self.device))[name_output(name)], self.decoders[name])[:, 0]

    def place_truth(self, ask: Ask) -> Truth:
        """The truth with its masks, placed on the canvas that the model sees."""
        return self.prepare.hold(ask.sample, ask.question, ask.files)

    def note_media(self, samples: Sequence[Sample]) -> list[str]:
        """What the user should know about media that are not read."""
        if self.most_media == 1:
            return []
        left_out = [len(sample.media) - len(self._choose(sample).media) for sample in samples]
        if not any(left_out):
            return []
        return [
            f"{sum(left_out)} media of {sum(map(bool, left_out))} samples are not read: attention.most allows"
            f" {self.most_media} of a sample, all of one encoder"
        ]

    def _choose(self, sample: Sample) -> Sample:
        """Of a decoder that reads several media, those that it reads."""
        if self.most_media == 1 or not sample.media:
            return sample
        return replace(sample, media=choose_media(sample, self.prepare.routes, self.most_media))

    def embed_each(self, sample: Sample, files: Files) -> Iterator[torch.Tensor]:
        """Of an encoder with a decoder of vectors, what that gives, of all media that it reads together; else the
        pooled output of the encoder."""
        media = self.prepare.see(self._choose(sample), files).media
        for number, (name, pixels) in enumerate(media):
            decoder = next((each for each in self.decoders if self._gives_vectors(each, name)), "")
            if decoder and self.decoders[decoder].most_media > 1:
                if not number:
                    yield self._read_bag([each for _, each in media], name, [decoder])[name_output(decoder)][0, 0]
                continue
            with evaluating(self.model):
                if decoder:
                    batch = Labelled({name: pixels[None]}, {decoder: torch.tensor([0])})
                    yield self.model(batch.to(self.device))[f"decoders.{decoder}"][0, 0]
                else:
                    yield encode(self.model.encoders[name], pixels[None].to(self.device), name).pooled[0]

    def _read_bag(self, pixels: Sequence[torch.Tensor], encoder: str, reading: Sequence[str]) -> Outputs:
        """What these decoders of an encoder give about a sample. pixels: of its media."""
        own, most = (
            {name: torch.tensor([0]) for name in reading},
            {name: self.decoders[name].most_media for name in reading},
        )
        bags = {name: make_bags([range(len(pixels))], most[name]) for name in reading if most[name] > 1}
        batch = Labelled({encoder: torch.stack(list(pixels))}, own, bags=bags)
        with evaluating(self.model):
            found: Outputs = self.model(batch.to(self.device))
        return found

    def _gives_vectors(self, decoder: str, encoder: str) -> bool:
        module = component("decoders", self.decoders[decoder].kind)
        return self.model.reads[decoder] == encoder and getattr(module, "GIVES_VECTORS", False)

    def score(self, sample: Sample, files: Files) -> dict[str, dict[str, float]]:
        """Decoder -> class -> probability, or number, of the decoders that give one for the whole medium."""
        found = self._answer_all(self.prepare.see(self._choose(sample), files))
        return {
            name: dict(zip(self.decoders[name].classes, answer_K.tolist(), strict=True))
            for name, answer_K in found.items()
            if answer_K.ndim == 1
        }

    def look(self, sample: Sample, files: Files) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Class -> probability, and class -> the probability of each stored pixel [H, W], of an image: what its
        decoders find in the first medium. Pixels that the model does not see have 0."""
        seen, size = self.prepare.see(self._choose(sample), files), sample.media[0].size
        scores: dict[str, float] = {}
        maps: dict[str, np.ndarray] = {}
        for name, answer in self._answer_all(seen).items():
            classes = self.decoders[name].classes
            if answer.ndim == 1:
                scores |= dict(zip(classes, answer.tolist(), strict=True))
            elif answer.ndim == 3 and seen.canvas is not None:
                own = answer.numpy()[-len(classes) :]  # of exclusive classes, what is none of them comes first
                planes = [to_stored(plane, seen.canvas, size) for plane in own]
                maps |= dict(zip(classes, planes, strict=True))
        return scores, maps

    def _answer_all(self, seen: Seen) -> dict[str, torch.Tensor]:
        """Decoder -> its answer about the first medium, or about all that it reads, [K] or [K, *size]."""
        encoder, _ = seen.media[0]
        reading = [
            name
            for name, each in self.decoders.items()
            if self.model.reads[name] == encoder and gives_answers(each) and not takes_prompts(each)
        ]
        shown = [pixels for _, pixels in seen.media[: self.most_media]]
        outputs = self._read_bag(shown, encoder, reading)
        return {name: _to_answers(outputs[name_output(name)], self.decoders[name])[0] for name in reading}

    def measure_cost(self) -> Cost:
        return measure_decoding(self.model, self.prepare.preprocess, torch.device(self.device))

    def list_masks(self) -> list[str]:
        """The decoders that give masks."""
        return [name for name, each in self.decoders.items() if find_form(each) == "maps"]

    def segment(
        self, sample: Sample, files: Files, name: str, windows: Windows, shown: Sequence[Prompt] = (), words: str = ""
    ) -> np.ndarray:
        """The mask of medium 0 by a decoder, see compositions/_segment.py. shown: prompts on its stored pixels, for a
        decoder that takes them. words: of a prompt of form `question`. Raises DataError for a medium larger than the
        input, if a prompt shows a place of it."""
        encoder, decoder = self.model.reads[name], self.decoders[name]

        def predict_alone(window_NC: torch.Tensor) -> torch.Tensor:
            batch = Labelled({encoder: window_NC}, {name: torch.arange(len(window_NC))}).to(self.device)
            return _to_answers(self.model(batch)[name_output(name)], decoder)

        predict: Callable[[torch.Tensor], torch.Tensor] = predict_alone
        if shown:
            said = [say(prompt, decoder, words, sample.media[0].kind, self.tokenize) for prompt in shown]
            mark = partial(self._mark_objects, name)
            predict = make_prompted(self.prepare, sample, files, said, len(decoder.classes), mark)
        with evaluating(self.model):
            return segment_medium(self.prepare, sample, files, (name, encoder), decoder.exclusive, windows, predict)

    def mark_whole(self, ask: Ask, windows: Windows) -> dict[str, np.ndarray] | None:
        """Class -> where medium 0 shows it, bool on all of its stored pixels; None for an ask without media, or that no
        decoder answers. A decoder that takes prompts is asked for each of its classes by its first form, without a
        place."""
        sample, files = ask.media_of or (ask.sample, ask.files)
        read_by = self.prepare.find_encoder(sample)
        name = next((each for each in self._list_able(ask.question) if self.model.reads[each] == read_by), None)
        if ask.shows != "media" or name is None:
            return None
        decoder, shown = self.decoders[name], list[Prompt]()
        if takes_prompts(decoder):
            shown = [Prompt(number, (decoder.prompts[0],)) for number in range(len(decoder.classes))]
        mask = self.segment(sample, files, name, windows, shown, ask.question.text)
        exclusive = decoder.exclusive
        return {each: mask == n + 1 if exclusive else mask[n] for n, each in enumerate(decoder.classes)}

    def find_whole(self, ask: Ask, windows: Windows) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """The objects on all stored pixels of medium 0, see compositions/_whole_boxes.py, and the classes that their
        numbers mean; None for an ask without media, or that no decoder answers."""
        sample, files = ask.media_of or (ask.sample, ask.files)
        read_by = self.prepare.find_encoder(sample)
        name = next((each for each in self._list_able(ask.question) if self.model.reads[each] == read_by), None)
        if ask.shows != "media" or name is None or read_by is None:
            return None
        decoder = self.decoders[name]

        def predict(windows_NC: torch.Tensor) -> torch.Tensor:
            batch = Labelled({read_by: windows_NC}, {name: torch.arange(len(windows_NC))}).to(self.device)
            return _to_answers(self.model(batch)[name_output(name)], decoder)

        with evaluating(self.model):
            return find_boxes(self.prepare, sample, files, read_by, windows, predict), decoder.classes

    def _decode(self, asks: Sequence[Ask]) -> list[Any]:
        media: dict[str, list[torch.Tensor]] = {}
        rows: dict[str, list[int]] = {}
        places: list[tuple[str, int] | None] = []  # of each ask: its decoder and its row in the output
        rows_of_sample: dict[str, range] = {}  # questions about one sample share its pixels
        bags: dict[str, list[range]] = {}
        for ask in asks:
            sample, files = ask.media_of or (ask.sample, ask.files)
            read_by = self.prepare.find_encoder(sample)
            name = next((each for each in self._list_able(ask.question) if self.model.reads[each] == read_by), None)
            if ask.shows == "none" or name is None:
                places.append(None)
                continue
            if sample.key not in rows_of_sample:
                shown = self.prepare.see(self._choose(sample), files).media[: self.most_media]
                pixels = media.setdefault(shown[0][0], [])
                rows_of_sample[sample.key] = range(len(pixels), len(pixels) + len(shown))
                pixels += [each for _, each in shown]
            rows_of_decoder = rows.setdefault(name, [])
            places.append((name, len(rows_of_decoder)))
            rows_of_decoder.append(rows_of_sample[sample.key][0])
            bags.setdefault(name, []).append(rows_of_sample[sample.key])
        if not media:
            return [None] * len(asks)
        batch = Labelled(
            {name: torch.stack(pixels) for name, pixels in media.items()},
            {name: torch.tensor(numbers) for name, numbers in rows.items()},
            bags={name: make_bags(bags[name], most) for name in rows if (most := self.decoders[name].most_media) > 1},
        )
        with evaluating(self.model):
            outputs = self.model(batch.to(self.device))
        answers = {name: _to_answers(outputs[f"decoders.{name}"], self.decoders[name]) for name in rows}
        return [
            None if place is None else self._decode_answer(ask.question, place[0], answers[place[0]][place[1]])
            for ask, place in zip(asks, places, strict=True)
        ]

    def _decode_answer(self, question: Question, name: str, answer: torch.Tensor) -> Any:
        task, decoder = find_task(question.truth.task), self.decoders[name]
        assert task.decode is not None, question.truth.task
        return task.decode(answer.numpy(), question.truth, decoder.classes, decoder.exclusive)

    def _list_able(self, question: Question) -> list[str]:
        """The decoders that answer the template of a question, if their output is of the form that the task needs."""
        form = find_task(question.truth.task).ANSWERED_BY
        return [name for name in self.by_template.get(question.template, []) if find_form(self.decoders[name]) == form]


def _to_answers(logits: torch.Tensor, decoder: Any) -> torch.Tensor:
    """What tasks decode: by default probabilities."""
    logits, module = logits.float(), component("decoders", decoder.kind)
    if hasattr(module, "to_answers"):
        found: torch.Tensor = module.to_answers(decoder, logits)
        return found.cpu()
    return (logits.softmax(1) if decoder.exclusive else logits.sigmoid()).cpu()
