"""Frozen is proven frozen, trained is proven trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medvlm.core.errors import RecipeError

GroupOf = Callable[[str], str]
Whole = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def holds_gradient(parameter: nn.Parameter) -> bool:
    """Whether this rank's part of it has one that is not zero throughout."""
    grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
    return grad is not None and bool(grad.any())


def digest(tensors: list[torch.Tensor], whole: Whole = as_it_is) -> str:
    """16 hex digits over the bytes of the tensors, in order. whole: makes one of its ranks' parts, one at a time."""
    total = hashlib.sha256()
    for tensor in (whole(tensor) for tensor in tensors):
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


@dataclass
class Proof:
    """Groups of a model with what each is: a group is trained when one of its parameters is.

    A group that is trained in part counts twice: its frozen tensors must stay as they are. whole: the engine's.
    moves_by_itself: whether a stage moves a parameter or buffer without an optimizer; these are not watched. Made and
    asked on every rank, before the engine sets the model up.
    """

    model: nn.Module
    group_of: GroupOf
    stage: str
    whole: Whole = as_it_is
    moves_by_itself: Callable[[str], bool] = lambda name: False
    start: dict[tuple[str, bool], str] = field(init=False)
    counts: dict[tuple[str, bool], int] = field(init=False)
    with_gradient: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = {key: digest(tensors, self.whole) for key, tensors in self._tensors().items()}
        self.counts = {key: sum(t.numel() for t in tensors) for key, tensors in self._tensors(with_moving=True).items()}

    def table(self) -> str:
        """What is trained and what is frozen, for people."""
        lines = [f"  {'module':<24}{'trained':>14}{'frozen':>14}"]
        counts: dict[str, list[int]] = {}
        for (group, trained), number in self.counts.items():
            counts.setdefault(group, [0, 0])[0 if trained else 1] += number
        lines += [f"  {group:<24}{_grouped(a):>14}{_grouped(b):>14}" for group, (a, b) in counts.items()]
        return "\n".join(lines)

    def note_gradients(self, has_gradient: Callable[[nn.Parameter], bool] = holds_gradient) -> list[str]:
        """The groups that have had a gradient so far, on this rank. Called before an optimiser step, in the first few
        steps."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and self.group_of(name) not in self.with_gradient and has_gradient(parameter):
                self.with_gradient.add(self.group_of(name))
        return sorted(self.with_gradient)

    def check_trained(self, step: int) -> None:
        """Raises RecipeError naming a trained group that got no gradient or has not moved."""
        if not self.with_gradient:
            raise RecipeError(
                f"stages.{self.stage}: nothing got a gradient in {step} steps: the loss is flat. In grpo, no answer"
                " earned more than another of its group: look at `rewards` and `temperature`, or train the stage"
                " before it further"
            )
        for (group, trained), tensors in self._tensors().items():
            if not trained:
                continue
            if group not in self.with_gradient:
                raise RecipeError(
                    f"stages.{self.stage}.trains: {group} got no gradient in the first {step} steps: nothing in this"
                    " stage's data or loss reaches it. Leave it out of `trains`, or show it media (`shows`, `mix`)"
                )
            if digest(tensors, self.whole) == self.start[group, True]:
                raise RecipeError(
                    f"stages.{self.stage}.trains: {group} has not moved after {step} steps; is its learning rate 0"
                    " (optim.lr, optim.lr_of)?"
                )

    def check_frozen(self) -> dict[str, str]:
        """Group -> hash of what is frozen in it. Fails when any of it changed: then the fault is ours."""
        now = {
            group: digest(tensors, self.whole) for (group, trained), tensors in self._tensors().items() if not trained
        }
        changed = [group for group, found in now.items() if found != self.start[group, False]]
        assert not changed, (
            f"frozen parts changed during stage {self.stage}: {changed}; what a stage moves itself belongs into its"
            " own_updates"
        )
        return now

    def trained_counts(self) -> dict[str, int]:
        return {group: number for (group, trained), number in self.counts.items() if trained}

    def _tensors(self, with_moving: bool = False) -> dict[tuple[str, bool], list[torch.Tensor]]:
        """Parameters by (group, trained); the buffers (batch statistics) of a module in eval mode belong to what is
        frozen. with_moving: also those that the stage moves by itself."""
        found: dict[tuple[str, bool], list[torch.Tensor]] = {}
        tensors = [(name, parameter, parameter.requires_grad) for name, parameter in self.model.named_parameters()]
        for name, buffer in self.model.named_buffers():
            if not self.model.get_submodule(name.rpartition(".")[0]).training:
                tensors.append((name, buffer, False))
        for name, tensor, is_trained in tensors:
            if is_trained or with_moving or not self.moves_by_itself(name):
                found.setdefault((self.group_of(name), is_trained), []).append(tensor)
        return found


def _grouped(count: int) -> str:
    return f"{count:,}" if count else "-"
