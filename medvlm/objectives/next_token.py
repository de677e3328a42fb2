"""Cross-entropy of the next token, over trained tokens only."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy


def token_losses(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> torch.Tensor:
    """[L], in float32. Their sum is divided by the number of trained tokens of the whole step over all ranks."""
    return cross_entropy(logits_LV.float(), targets_L, reduction="none")


def answer_losses(losses_L: torch.Tensor, answers_L: torch.Tensor) -> torch.Tensor:
    """[L]: each token's share of the mean over its answer's tokens. Their sum is divided by the number of answers of
    the whole step.

    This way, a count of one token has the same weight as a box of twenty tokens.
    """
    tokens_of = answers_L.bincount().to(losses_L.device)
    return losses_L / tokens_of[answers_L]


def sum_answer_weights(answers_L: torch.Tensor, weights_L: torch.Tensor | None) -> float:
    """The sum of the weights of all answers, which are those of their tokens; their number if weights_L is None."""
    if weights_L is None:
        return len(answers_L.unique())
    return float(answer_losses(weights_L.double(), answers_L).sum())


def read_losses(logits_LV: torch.Tensor, targets_L: torch.Tensor) -> dict[str, torch.Tensor]:
    """`losses_L`, and `is_right_L`: whether the target is the most probable token."""
    return {"losses_L": token_losses(logits_LV, targets_L), "is_right_L": logits_LV.detach().argmax(-1) == targets_L}


def log_probability(logits_LV: torch.Tensor, targets_L: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """[L]: log-probability of each target, under the distribution that tokens were sampled from."""
    return (logits_LV.float() / temperature).log_softmax(-1).gather(-1, targets_L[:, None]).squeeze(-1)


@torch.no_grad()
def entropy(logits_LV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """[L], in nats: of the distribution that each token is sampled from. Without gradient."""
    return torch.special.entr((logits_LV.float() / temperature).softmax(-1)).sum(-1)
