"""Frozen is proven frozen, trained is proven trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from medvlm.core.errors import RecipeError

GroupOf = Callable[[str], str]


def digest(tensors: list[torch.Tensor]) -> str:
    """16 hex digits over the bytes of the tensors, in order."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


@dataclass
class Proof:
    """Groups of a model with what each is: a group is trained when one of its parameters is.

    A group that is trained in part counts twice: its frozen tensors must stay as they are.
    """

    model: nn.Module
    group_of: GroupOf
    stage: str
    start: dict[tuple[str, bool], str] = field(init=False)
    with_gradient: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = {key: digest(tensors) for key, tensors in self._tensors().items()}

    def table(self) -> str:
        """What is trained and what is frozen, for people."""
        lines = [f"  {'module':<24}{'trained':>14}{'frozen':>14}"]
        counts: dict[str, list[int]] = {}
        for (group, trained), tensors in self._tensors().items():
            counts.setdefault(group, [0, 0])[0 if trained else 1] += sum(t.numel() for t in tensors)
        lines += [f"  {group:<24}{_grouped(a):>14}{_grouped(b):>14}" for group, (a, b) in counts.items()]
        return "\n".join(lines)

    def note_gradients(self) -> list[str]:
        """The groups that have had a gradient so far. Called before an optimiser step, in the first few steps."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None and self.group_of(name) not in self.with_gradient and parameter.grad.any():
                self.with_gradient.add(self.group_of(name))
        return sorted(self.with_gradient)

    def check_trained(self, step: int) -> None:
        """Raises RecipeError naming a trained group that got no gradient or has not moved."""
        if not self.with_gradient:
            raise RecipeError(
                f"stages.{self.stage}: nothing got a gradient in {step} steps: the loss is flat. In grpo, no answer earned more than another of its group: "
                "look at `rewards` and `temperature`, or train the stage before it further"
            )
        for (group, trained), tensors in self._tensors().items():
            if not trained:
                continue
            if group not in self.with_gradient:
                raise RecipeError(
                    f"stages.{self.stage}.trains: {group} got no gradient in the first {step} steps: nothing in this stage's data or loss reaches it. "
                    "Leave it out of `trains`, or show it media (`shows`, `mix`)"
                )
            if digest(tensors) == self.start[group, True]:
                raise RecipeError(f"stages.{self.stage}.trains: {group} has not moved after {step} steps; is its learning rate 0 (optim.lr, optim.lr_of)?")

    def check_frozen(self) -> dict[str, str]:
        """Group -> hash of what is frozen in it. Fails when any of it changed: then the fault is ours."""
        now = {group: digest(tensors) for (group, trained), tensors in self._tensors().items() if not trained}
        changed = [group for group, found in now.items() if found != self.start[group, False]]
        assert not changed, f"frozen parts changed during stage {self.stage}: {changed}"
        return now

    def trained_counts(self) -> dict[str, int]:
        return {group: sum(t.numel() for t in tensors) for (group, trained), tensors in self._tensors().items() if trained}

    def _tensors(self) -> dict[tuple[str, bool], list[torch.Tensor]]:
        """Parameters by (group, trained); the buffers (batch statistics) of a module in eval mode belong to what is frozen."""
        found: dict[tuple[str, bool], list[torch.Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            found.setdefault((self.group_of(name), parameter.requires_grad), []).append(parameter)
        for name, buffer in self.model.named_buffers():
            if not self.model.get_submodule(name.rpartition(".")[0]).training:
                found.setdefault((self.group_of(name), False), []).append(buffer)
        return found


def _grouped(count: int) -> str:
    return f"{count:,}" if count else "-"
