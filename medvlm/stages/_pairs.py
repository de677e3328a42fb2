"""Training on pairs of answers to one question: the preferred one becomes more probable than the rejected one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from medvlm.core.config import component
from medvlm.core.sample import Batch
from medvlm.objectives.policy import sum_answers
from medvlm.objectives.preferences._contract import SLOT, PairScores
from medvlm.stages._base import Base, Setup
from medvlm.stages._drawn import Drawn
from medvlm.stages._image_check import ImageCheck
from medvlm.stages._policy import Policy
from medvlm.train.terms import LOSS, TOKENS, Loss, Measured, Name, OfSource, Term, Terms, join


@dataclass
class Pairs:
    """A micro-batch. reference_N2: log-probabilities of the answers under the model as the stage began. counts_N:
    whether a pair is learned from; None: all are. terms: what else is known of them. drawn: what they were chosen
    from."""

    batch: Batch
    lengths_A: torch.Tensor
    sources: tuple[str, ...]
    reference_N2: torch.Tensor | None = None
    counts_N: torch.Tensor | None = None
    terms: Terms = field(default_factory=dict)
    drawn: Drawn | None = None


class PairStage(Base):
    """A subclass makes the pairs. config: with an `objective` of preferences."""

    config: Any

    def __init__(self, config: Any, setup: Setup):
        super().__init__(config, setup)
        self.model = setup.composition.build(setup, config)
        self.image_check = ImageCheck(config.name, setup.engine)
        self.policy = Policy(self.model, setup)
        self.objective: Any = component(SLOT, config.objective.kind)

    def begin(self) -> None:
        if self.objective.NEEDS_REFERENCE:
            self.policy.keep_reference()

    def set_modes(self) -> None:
        """Eval mode in training too: dropout would differ between the two answers, and from the reference."""
        super().set_modes()
        self.model.eval()

    @staticmethod
    def _add_up(log_L: torch.Tensor, micro: Pairs) -> torch.Tensor:
        return sum_answers(log_L, micro.lengths_A).view(-1, 2)

    def weigh(self, micro: Pairs) -> dict[str, float]:
        return {LOSS: len(micro.sources) if micro.counts_N is None else float(micro.counts_N.sum())}

    def compute_loss(self, model: nn.Module, micro: Pairs, step: int) -> Measured:
        device = self.engine.device
        batch = micro.batch.to(device)
        if torch.is_grad_enabled():
            self.image_check.look(self.model, batch)
        log_N2 = self._add_up(self.policy.compute_answers(model, batch), micro)
        reference_N2 = None if micro.reference_N2 is None else micro.reference_N2.to(device)
        scores = PairScores(log_N2, reference_N2, micro.lengths_A.view(-1, 2).to(device))
        margin_N = self.objective.find_margins(self.config.objective, scores)
        counts_N = torch.ones_like(margin_N) if micro.counts_N is None else micro.counts_N.to(margin_N)
        is_ahead_N, pairs = counts_N * (log_N2.detach()[:, 0] > log_N2.detach()[:, 1]), self.weigh(micro)[LOSS]
        log_N2 = log_N2.detach() * counts_N[:, None]
        terms: dict[Name, Term] = {
            **micro.terms,
            TOKENS: Term(float((batch.docs_BT >= 0).sum())),
            "margin": Term(float((counts_N * margin_N.detach()).sum()), pairs),
            "won": Term(float((counts_N * (margin_N.detach() > 0)).sum()), pairs),
            "preferred": Term(float(is_ahead_N.sum()), pairs),
            "log_preferred": Term(float(log_N2[:, 0].sum()), pairs),
            "log_rejected": Term(float(log_N2[:, 1].sum()), pairs),
        }
        for source, is_ahead, counts in zip(micro.sources, is_ahead_N.tolist(), counts_N.tolist(), strict=True):
            join(terms, {OfSource(source, "preferred"): Term(is_ahead, counts)} if counts else {})
        return {**terms, LOSS: Loss(-(counts_N * logsigmoid(margin_N)).sum(), pairs)}
