"""What a supervised stage adds for answers that draw: questions for structures by name, and the losses of their masks.

Axes: S tokens that draw, K structures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.core.decoder_config import HEAD_LOSSES, DrawingConfig
from medvlm.core.errors import DataError
from medvlm.core.mask_prompts import MaskPrompts
from medvlm.core.sample import Batch, Question, Sample, Truth
from medvlm.core.tasks import list_drawn_tasks
from medvlm.core.turns import list_turns
from medvlm.data.dialogue import Stroke, TokenSequence
from medvlm.data.order import draw
from medvlm.models.decoding import name_output, name_presence
from medvlm.objectives.presence import add_up_presence, count_known, hide_absent
from medvlm.stages._drawing_config import Draws
from medvlm.train.terms import Loss, Measured, Name, Term


@dataclass(frozen=True)
class WantedMasks:
    """What an answer is to draw. labels_K1: int64 [K, 1, *size], in the order of the answer's tokens."""

    decoder: str
    labels_K1: torch.Tensor


Targets = Mapping[Truth, WantedMasks]
"""What answers draw, by the truth of their questions, which names the structures in their order."""


class DrawnAnswers:
    """draws: decoder -> its settings in the stage. setup: of the stage, see stages/_base.py."""

    def __init__(self, draws: Mapping[str, Draws], stage: str, setup: Any, reads: Mapping[str, str]):
        self.draws, self.stage, self.setup, self.reads = draws, stage, setup, reads
        self.decoders: dict[str, DrawingConfig] = {name: setup.model.decoders[name] for name in draws}
        self.tasks = list_drawn_tasks()

    def speak(self, sample: Sample, files: Mapping[str, Any], position: int, prepare: Any) -> tuple[Sample, Targets]:
        """The sample, with questions for masks as questions for structures by name, and what their answers draw.
        Questions for masks that no decoder of the stage answers are left out. prepare: the data path."""
        questions, targets = list[Question](), dict[Truth, WantedMasks]()
        for question in sample.questions:
            if question.truth.task not in self.tasks:
                questions.append(question)
            elif name := self._find_decoder(question, prepare.routes[sample.media[0].kind]):
                labels = partial(prepare.labels, sample, question, files)
                spoken, target = self._ask(question, name, (sample.key, position), labels)
                targets[spoken.truth] = target
                questions.append(spoken)
        return replace(sample, questions=tuple(questions)), targets

    def _find_decoder(self, question: Question, encoder: str) -> str:
        """The decoder of the first medium's encoder that answers a question; "" for none."""
        own = (name for name in self.decoders if self.reads[name] == encoder)
        return next((n for n in own if question.template == (self.decoders[n].answers or n)), "")

    def _ask(
        self, question: Question, name: str, key: tuple[str, int], label: Callable[[Any], np.ndarray]
    ) -> tuple[Question, WantedMasks]:
        """label: settings of a decoder -> the label of the question."""
        decoder, truth = self.decoders[name], question.truth
        known = tuple(each for each in decoder.classes if each in truth.classes)  # type: ignore[attr-defined]
        if not known:
            raise DataError(
                f"{question.template}: its mask has none of the classes of decoder {name}"
                f" ({', '.join(decoder.classes)})"
            )
        of_known = decoder.model_copy(update={"classes": known})
        labels_K = label(of_known)
        rng = draw(self.setup.seed, self.stage, "names", question.template, *key)
        order = _draw_names(rng, (labels_K == 1).reshape(len(known), -1).any(1), self.draws[name].names)
        names = [known[number] for number in order]
        spoken = replace(
            question,
            text=decoder.ask(names, int(rng.integers(len(decoder.asks)))),
            truth=replace(truth, answer=decoder.answer(names)),
        )
        return spoken, WantedMasks(name, torch.from_numpy(labels_K[order])[:, None])

    def mark(self, made: TokenSequence, questions: Sequence[Question], targets: Targets) -> TokenSequence:
        """The document with the tokens of its answers that draw, and their masks. questions: those of the document, a
        branch each."""
        strokes: list[Stroke] = []
        for branch, question in enumerate(questions):
            own = [targets[turn.truth] for turn in list_turns(question) if turn.truth.task in self.tasks]
            wanted = [(target.decoder, label) for target in own for label in target.labels_K1]
            ids = made.branches[branch][0]
            for (name, label), at in zip(wanted, self._find_tokens(ids, wanted), strict=True):
                strokes.append(Stroke(name, branch, at, label))
        return replace(made, strokes=strokes) if strokes else made

    def _find_tokens(self, ids: Sequence[int], wanted: Sequence[tuple[str, Any]]) -> list[int]:
        if not self.setup.knows_words:  # a plan, whose ids are made up
            return list(range(len(ids) - len(wanted), len(ids)))
        convert = self.setup.tokenizer.convert_tokens_to_ids
        own = {convert(self.decoders[name].token) for name, _ in wanted}
        return [at for at, id_ in enumerate(ids) if id_ in own]

    def list_losses(self) -> list[str]:
        """The names of the losses."""
        every = ([*(_name_loss(n, loss) for loss in each.losses), _name_presence(n)] for n, each in self.draws.items())
        return [name for names in every for name in names]

    def weigh(self, micro: Batch) -> dict[str, float]:
        weights = {}
        for name, settings in self.draws.items():
            labels_S1 = _find_labels(micro.drawn.get(name))
            weights[_name_presence(name)] = 0.0 if labels_S1 is None else count_known(labels_S1)
            for loss in settings.losses:
                weight = 0.0
                if labels_S1 is not None:
                    weigh = component(HEAD_LOSSES, loss.kind).weigh
                    weight = weigh(loss, hide_absent(labels_S1), self.decoders[name].as_one())
                weights[_name_loss(name, loss)] = weight
        return weights

    def measure(self, outputs: Outputs, micro: Batch, weights: Mapping[str, float]) -> Measured:
        """The losses, and how often it is rightly said whether a structure is there."""
        found: dict[Name, Loss | Term] = {}
        for name, settings in self.draws.items():
            if name_output(name) not in outputs:  # nothing is drawn, and the decoder is not trained
                continue
            masks_S1, presence_S1 = outputs[name_output(name)], outputs[name_presence(name)].float()
            labels_S1 = _find_labels(micro.drawn.get(name))
            for loss in settings.losses:
                total = masks_S1.float().sum()  # empty: 0, with a gradient of zeros for DDP
                if labels_S1 is not None:
                    add_up = component(HEAD_LOSSES, loss.kind).add_up
                    total = loss.weight * add_up(loss, masks_S1, hide_absent(labels_S1), self.decoders[name].as_one())
                found[_name_loss(name, loss)] = Loss(total, weights[_name_loss(name, loss)])
            key, total = _name_presence(name), presence_S1.sum()
            if labels_S1 is not None:
                total, right = add_up_presence(presence_S1, labels_S1)
                found[f"{key}_accuracy"] = Term(right, weights[key])
            found[key] = Loss(settings.presence * total, weights[key])
        return found


def _find_labels(drawn: MaskPrompts | None) -> torch.Tensor | None:
    return None if drawn is None else drawn.labels_S1


def _name_loss(decoder: str, loss: Any) -> str:
    return f"{decoder}.{loss.kind.rpartition('.')[2]}"


def _name_presence(decoder: str) -> str:
    return f"{decoder}.presence"


def _draw_names(rng: np.random.Generator, is_there_K: np.ndarray, most: int) -> list[int]:
    """Numbers of structures in random order, without repetition; each is with equal probability one that is there or
    one that is not, as long as there are both."""
    count = int(rng.integers(1, most + 1))
    sides = [list(rng.permutation(np.flatnonzero(is_there_K == side))) for side in (True, False)]
    chosen: list[int] = []
    for _ in range(count):
        first = int(rng.integers(2))
        side = sides[first] or sides[1 - first]
        if side:
            chosen.append(int(side.pop()))
    return chosen
