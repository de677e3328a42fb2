"""A model as a policy: makes its prompts and computes log-probabilities of answers, now and at the start of the stage.

Shared by all stages that learn by comparing answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from medvlm.compositions._expert import open_expert
from medvlm.core.contracts import Outputs
from medvlm.core.sample import Batch, Question, Sample
from medvlm.core.turns import tell
from medvlm.data.control_words import read_answer
from medvlm.models.generate import bar_words, find_end_ids, is_cut
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import entropy, log_probability
from medvlm.objectives.policy import sum_answers
from medvlm.rollouts._contract import Answer, Parts, Prompt
from medvlm.stages._base import Setup
from medvlm.stages._image_check import blank_images


class Policy:
    """temperature: of sampling. Log-probabilities are computed at the same temperature.

    reference: the trained parameters at the start of the stage, empty until `keep_reference` is called. Frozen
    parameters do not change, so if only adapters are trained, the reference holds only the adapters.
    """

    model: Any
    """A module that answers (see models/generate.py)."""

    def __init__(self, model: nn.Module, setup: Setup, temperature: float = 1.0):
        self.model, self.setup, self.engine, self.temperature = model, setup, setup.engine, temperature
        self.reference: dict[str, torch.Tensor] = {}

    def make_parts(self, stage: str) -> Parts:
        """What a rollout engine needs. stage: the name of the stage."""
        setup = self.setup
        return Parts(self.model, setup.prepare, setup.tokenizer, self.engine, setup.seed, stage, open_expert)

    def make_prompt(
        self, sample: Sample, files: Mapping[str, Any], question: Question, position: int, with_right: bool = False
    ) -> Prompt:
        """with_right: with the tokens of the right answer. Raises DataError for media that the model cannot be
        shown."""
        prepare = self.setup.prepare
        seen = prepare.see(sample, files)
        document = prepare.document(sample, [question], seen, ["media"], answered=False)
        truth = prepare.truth(question, seen.canvas)
        right = prepare.turn(sample, question, seen, ["media"], answered=True).answer if with_right else ()
        about: Any = {"steps": question.steps, "question": question, "right": tuple(right)}
        return Prompt(sample.key, document, tell(question), sample, files, truth, position, **about)

    def collate(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]) -> Batch:
        """A batch of prompts with their answers, all of which are trained, in order. Answers to one prompt share it,
        unless they have media of their own and the model does not allow that."""
        pairs = list(zip(prompts, answers, strict=True))
        if not self.setup.prepare.shares_before_media and any(each.media for own in answers for each in own):
            pairs = [(prompt, [answer]) for prompt, own in pairs for answer in own]
        documents = [prompt.add_answers(own) for prompt, own in pairs]
        return self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id)

    def read(self, ids: Sequence[int]) -> str:
        """The text of an answer."""
        return read_answer(ids, self.setup.tokenizer)

    def is_cut(self, ids: Sequence[int], max_new_tokens: int) -> bool:
        """Whether an answer ended at the limit and not with an end token."""
        return is_cut(ids, max_new_tokens, find_end_ids(self.model, self.setup.tokenizer))

    def compute_log_probability(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """[L] log-probability of each answer token, and [L] entropy of the distribution that it was drawn from. model:
        the policy as wrapped by the engine. batch: on the policy's device."""
        found = model(batch, self._read_with_entropy)
        return found["log_L"], found["entropy_L"]

    def compute_answers(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The same without the entropy."""
        log_L: torch.Tensor = model(batch, self._read)["log_L"]
        return log_L

    def keep_reference(self) -> None:
        """Copies the trained parameters. Called once the starting weights are loaded, before a checkpoint is."""
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.reference = {name: self.engine.unshard(p).detach().clone() for name, p in trained}

    @torch.no_grad()
    def compute_reference(self, batch: Batch) -> torch.Tensor:
        """[L] log-probabilities under the weights at the start of the stage, on the CPU. The policy is not changed."""
        batch = batch.to(self.engine.device)
        with evaluating(self.model), self.engine.gather_weights(self.model):
            # FSDP2 gathers parameters in the dtype that it computes in. requires_grad is set because torch chooses
            # kernels by it too: at the first step the reference must equal the policy bit for bit.
            now = {name: p.dtype for name, p in self.model.named_parameters() if name in self.reference}
            began = {name: self.reference[name].to(dtype).requires_grad_() for name, dtype in now.items()}
            return functional_call(self.model, began, (batch, self._read))["log_L"].cpu()

    def compute_image_gain(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Answer]]) -> list[float]:
        """For each answer, by how much more probable its tokens are with the images than with blank ones, in nats per
        token. Called on every rank, with or without prompts."""
        with evaluating(self.model), self.engine.gather_weights(self.model):
            if not prompts:
                return []
            batch = self.collate(prompts, answers).to(self.engine.device)
            own_L, blank_L = (self.model(each, self._read)["log_L"] for each in (batch, blank_images(batch)))
        lengths = torch.tensor([len(answer.written) for own in answers for answer in own])
        gains: list[float] = (sum_answers((own_L - blank_L).cpu(), lengths) / lengths).tolist()
        return gains

    def _read(self, logits_LV: torch.Tensor, targets_L: torch.Tensor) -> Outputs:
        logits_LV = bar_words(logits_LV, self.model.barred_ids)
        return {"log_L": log_probability(logits_LV, targets_L, self.temperature)}

    def _read_with_entropy(self, logits_LV: torch.Tensor, targets_L: torch.Tensor) -> Outputs:
        masked_LV = bar_words(logits_LV, self.model.barred_ids)
        return {**self._read(logits_LV, targets_L), "entropy_L": entropy(masked_LV, self.temperature)}
