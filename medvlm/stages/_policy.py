"""A model as a policy: the prompts it is given, the probabilities of its answers, and those it gave as the stage began.

Shared by all stages that learn from answers that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from medvlm.core.sample import Batch, Question, Sample
from medvlm.models.generate import without_image
from medvlm.models.parts import evaluating
from medvlm.objectives.next_token import log_probability
from medvlm.rollouts._contract import Parts, Prompt
from medvlm.stages._base import Setup


class Policy:
    """temperature: that answers are drawn at; probabilities are those of the same distribution.

    reference: the trained parameters as the stage began, empty until `keep_reference`. What is not trained has not
    changed since, so where adapters are trained these are the adapters alone.
    """

    model: Any
    """A module that answers (see models/generate.py)."""

    def __init__(self, model: nn.Module, setup: Setup, temperature: float = 1.0):
        self.model, self.setup, self.engine, self.temperature = model, setup, setup.engine, temperature
        self.reference: dict[str, torch.Tensor] = {}

    def parts(self, stage: str) -> Parts:
        """What answers are drawn with, for a stage of this name."""
        return Parts(self.model, self.setup.prepare, self.setup.tokenizer, self.engine, self.setup.seed, stage)

    def ask(self, sample: Sample, files: Mapping[str, Any], question: Question, position: int) -> Prompt:
        """Raises DataError for media that cannot be shown."""
        prepare = self.setup.prepare
        seen = prepare.see(sample, files)
        document = prepare.document(sample, [question], seen, ["media"], answered=False)
        truth = prepare.truth(question, seen.canvas)
        return Prompt(sample.key, document, question.text, sample, files, truth, position)

    def collate(self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Sequence[int]]]) -> Batch:
        """Prompts with their answers. All answers are trained, in their order; those of a prompt share it."""
        documents = [prompt.with_answers(own) for prompt, own in zip(prompts, answers, strict=True)]
        return self.setup.prepare.collate(documents, self.setup.tokenizer.pad_token_id)

    def read(self, ids: Sequence[int]) -> str:
        """The text of an answer."""
        return str(self.setup.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def log_probability(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[L], of each token of the answers. model: the policy, as the loop calls it; batch: on its device."""
        return self._log_probability(model(batch), batch)

    def keep_reference(self) -> None:
        """Called when the starting weights are in place, before any resume."""
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.reference = {name: self.engine.whole(p).detach().clone() for name, p in trained}

    @torch.no_grad()
    def reference_log_probability(self, batch: Batch) -> torch.Tensor:
        """[L], on the CPU, under the weights that the stage began with. The weights of the policy are not touched."""
        batch = batch.to(self.engine.device)
        with evaluating(self.model), self.engine.unsharded(self.model):
            # FSDP2 gathers parameters in the type that it computes in. They are marked as trained: torch also looks at
            # that mark to choose how it multiplies, and at first the reference is the policy to the last bit.
            now = {name: p.dtype for name, p in self.model.named_parameters() if name in self.reference}
            began = {name: self.reference[name].to(dtype).requires_grad_() for name, dtype in now.items()}
            return self._log_probability(functional_call(self.model, began, (batch,)), batch).cpu()

    def _log_probability(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        logits_LV = without_image(outputs["logits_LV"], self.model.image_token_id)
        return log_probability(logits_LV, batch.targets_L, self.temperature)
