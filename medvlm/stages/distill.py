"""Learns from a teacher: the model draws answers, and its next-token distributions in them move to the teacher's.

The student is corrected where its own answers lead it, and needs no right answers (on-policy distillation, GKD, arXiv
2306.13649, with a student data fraction of 1). The teacher sees the same images through its own processor.

Axes: L tokens of all answers, C those of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from medvlm.core.config import Slot, component
from medvlm.core.contracts import Outputs
from medvlm.core.errors import RecipeError
from medvlm.core.needs import Needs, Toy
from medvlm.core.sample import Batch, Sample
from medvlm.core.stage_config import RANDOM, StageConfig
from medvlm.core.tasks import TextTask, list_text_tasks
from medvlm.core.turns import show_until
from medvlm.data.prepare import choose
from medvlm.models.parts import evaluating
from medvlm.objectives.distillation import find_divergence
from medvlm.rollouts._contract import Answer, Prompt, SamplingParams, make_default
from medvlm.stages._base import Base, Setup, split_evenly
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._policy import Policy
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join, to_terms

NEEDS = "answer"


class Config(StageConfig):
    kind: Literal["distill"]
    teacher: str = Field(min_length=1)
    """The model that is learned from, which has the same tokens: a stage of another run (RUN_FOLDER:STAGE), a folder of
    an exported model (./FOLDER), or a hub id (OWNER/NAME)."""
    tasks: tuple[TextTask, ...] = ()
    """Tasks whose questions are asked; by default all with answers in text."""
    beta: float = Field(1.0, ge=0, le=1)
    """1: the reverse divergence, which keeps the model from what the teacher would not say. 0: the forward one, which
    covers all that the teacher may say. Between: their generalised Jensen-Shannon divergence."""
    temperature: float = Field(1.0, gt=0)
    """Of the answers that are drawn, and of the distributions that are compared."""
    max_new_tokens: int = Field(32, gt=0)
    rollouts: Annotated[Any, Slot("rollouts")] = Field(default_factory=make_default)
    """What generates the answers. `local`: the model in training, in its own process."""

    @property
    def asked_tasks(self) -> tuple[str, ...]:
        return self.tasks or tuple(list_text_tasks())

    def find_needs(self, model: Any) -> Needs:
        return Needs(self.asked_tasks, media=True)

    def list_teachers(self) -> dict[str, str]:
        return {"teacher": self.teacher}

    def shares_prompts(self) -> bool:
        return True

    def scale_down(self, toy: Toy) -> Config:
        small = {"teacher": RANDOM, "max_new_tokens": toy.answer_tokens, "temperature": 1.0}
        return super().scale_down(toy).model_copy(update=small)


@dataclass
class Lesson:
    """A micro-batch. teacher_LV: logits of the teacher."""

    batch: Batch
    teacher_LV: torch.Tensor
    sources: tuple[str, ...]
    lengths_A: torch.Tensor
    num_cut: int = 0


def build(config: Config, setup: Setup) -> Distill:
    return Distill(config, setup)


class Distill(Base):
    config: Config

    def __init__(self, config: Config, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.policy = Policy(self.model, setup, config.temperature)
        engine = component("rollouts", config.rollouts.kind)
        self.rollouts = engine.build(config.rollouts, self.policy.make_parts(config.name))
        self.teacher: Policy

    def begin(self) -> None:
        """The teacher is no part of checkpoints, and every rank holds the whole of it."""
        setup, where, device = self.setup, self.config.teacher, self.engine.device
        if where == RANDOM:
            model, prepare, tokenizer = self._build_random().to(device), setup.prepare, setup.tokenizer
        else:
            # Checking a recipe loads this module, and must not load torch.distributed for it.
            from medvlm.compositions._teacher import open_teacher

            opened = open_teacher(where, str(device))
            model, prepare, tokenizer = opened.model, opened.prepare, opened.tokenizer
        if tokenizer.get_vocab() != setup.tokenizer.get_vocab():
            raise RecipeError(
                f"stages.{self.config.name}.teacher: {where} has other tokens than the model that learns from it; take"
                " a teacher of the same family, or one that was trained on the same data with the same vocabulary"
            )
        model.requires_grad_(False)
        self.teacher = Policy(model, replace(setup, prepare=prepare, tokenizer=tokenizer), self.config.temperature)

    @torch.no_grad()
    def _build_random(self) -> Any:
        """A model of the same parts that answers otherwise: for a rehearsal, in which there is no teacher."""
        model, chance = self.setup.composition.build(self.setup, self.config), torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=chance))
        return model

    def set_modes(self) -> None:
        """Eval mode in training too: with dropout, the trained model would differ from the one that drew the
        answers."""
        super().set_modes()
        self.model.eval()

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Prompt:
        (question,) = choose(sample, self.config.asked_tasks, 1, epoch, self.setup.seed, self.config.name)
        return self.policy.make_prompt(show_until(sample, question), files, question, position)

    def count_tokens(self, item: Prompt) -> int:
        return len(item.document)

    def make_micros(self, prepared: list[Prompt], count: int) -> list[Lesson]:
        return [self._draw(part) for part in split_evenly(prepared, count)]

    def make_heaviest(self, items: list[Prompt]) -> Lesson:
        """Every answer has the maximum length."""
        ids = [len(self.setup.tokenizer) - 1] * self.config.max_new_tokens
        answers = [[Answer(ids)] for _ in items]
        blank_LV = torch.zeros(len(items) * len(ids), len(self.setup.tokenizer))
        return self._collate(items, answers, blank_LV)

    def _draw(self, prompts: list[Prompt]) -> Lesson:
        sampling = SamplingParams(1, self.config.temperature, self.config.max_new_tokens)
        answers = self.rollouts.draw(prompts, sampling)
        return self._collate(prompts, answers, self._ask_teacher(prompts, answers))

    @torch.no_grad()
    def _ask_teacher(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]) -> torch.Tensor:
        """[L, V] logits in the answers, which are not its own."""
        asked = []
        for prompt in prompts:
            assert prompt.question is not None
            asked.append(self.teacher.make_prompt(prompt.sample, prompt.files, prompt.question, prompt.position))
        batch = self.teacher.collate(asked, answers).to(self.engine.device)
        with evaluating(self.teacher.model), self.engine.autocast():
            logits_LV: torch.Tensor = self.teacher.model(batch)["logits_LV"]
        return logits_LV[:, : len(self.setup.tokenizer)].float()

    def _collate(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]], teacher_LV: torch.Tensor
    ) -> Lesson:
        drawn = [answer for own in answers for answer in own]
        is_cut = [self.policy.is_cut(answer.ids, self.config.max_new_tokens) for answer in drawn]
        lengths_A = torch.tensor([len(answer.ids) for answer in drawn])
        sources = tuple(prompt.source for prompt in prompts)
        return Lesson(self.policy.collate(prompts, answers), teacher_LV, sources, lengths_A, sum(is_cut))

    def weigh(self, micro: Lesson) -> dict[str, float]:
        return {LOSS: len(micro.teacher_LV)}

    def compute_loss(self, model: nn.Module, micro: Lesson, step: int) -> Measured:
        batch, teacher_LV = micro.batch.to(self.engine.device), micro.teacher_LV.to(self.engine.device)
        if torch.is_grad_enabled():
            self.image_check.look(self.model, batch)
        config, width = self.config, teacher_LV.shape[1]

        def read(logits_CV: torch.Tensor, number_C: torch.Tensor) -> Outputs:
            """number_C: which of the L tokens these are. Ids beyond the tokenizer's only fill up the matrix."""
            divergence_C = find_divergence(logits_CV[:, :width], teacher_LV[number_C], config.beta, config.temperature)
            return {"divergence_L": divergence_C}

        numbered = replace(batch, targets_L=torch.arange(len(teacher_LV), device=teacher_LV.device))
        divergence_L = model(numbered, read)["divergence_L"]
        answers = len(micro.lengths_A)
        terms: dict[Name, Term] = {
            TOKENS: Term(float((batch.docs_BT >= 0).sum())),
            "answer_tokens": Term(float(micro.lengths_A.sum()), answers),
            "cut": Term(float(micro.num_cut), answers),
        }
        for source, own_L in zip(
            micro.sources, divergence_L.detach().cpu().split(micro.lengths_A.tolist()), strict=True
        ):
            join(terms, {OfSource(source, "divergence"): Term(float(own_L.sum()), len(own_L))})
        return {**terms, LOSS: Loss(divergence_L.sum(), len(divergence_L))}

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """The divergence in answers that are drawn to held-out questions, the same random numbers each time."""
        prompts, found = self.prepare_validation(samples), dict[Name, Term]()
        size = max(1, self.config.batch // self.engine.world)
        with torch.no_grad():
            for at in range(0, len(prompts), size):
                lesson = self._draw(prompts[at : at + size])
                join(found, to_terms(self.compute_loss(model, lesson, self.config.steps)))
        return {name: found[name] for name in (LOSS, "answer_tokens", "cut")}
