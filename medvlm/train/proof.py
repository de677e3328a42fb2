"""Proves that frozen parts did not change and that trained parts did."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from medvlm.core.errors import RecipeError
from medvlm.train.tensors import shape_of

PIECE = 1 << 24
"""Elements."""

GroupOf = Callable[[str], str]
Whole = Callable[[torch.Tensor], torch.Tensor]


def return_unchanged(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def holds_gradient(parameter: nn.Parameter) -> bool:
    """Whether this rank's part of a parameter has a gradient that is not all zeros."""
    grad = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
    return grad is not None and bool(grad.any())


def digest(tensors: list[torch.Tensor], whole: Whole = return_unchanged) -> str:
    """A hash of 16 hex digits over the bytes of the tensors, in order. whole: gathers a sharded tensor."""
    total = hashlib.sha256()
    for tensor in tensors:
        for piece in whole(tensor).detach().flatten().split(PIECE):  # the host need not hold all of it
            total.update(piece.cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()[:16]


@dataclass
class Proof:
    """Records the groups of a model at the start of a stage, and compares them later.

    A group with both trained and frozen tensors counts twice, once as trained and once as frozen. whole:
    engine.unshard. moves_by_itself: whether the stage changes a parameter or buffer without an optimizer; these are not
    checked. Created on every rank, before engine.setup, and used on every rank.
    """

    model: nn.Module
    group_of: GroupOf
    stage: str
    whole: Whole = return_unchanged
    moves_by_itself: Callable[[str], bool] = lambda name: False
    start: dict[tuple[str, bool], str] = field(init=False)
    counts: dict[tuple[str, bool], int] = field(init=False)
    with_gradient: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.start = {key: digest(tensors, self.whole) for key, tensors in self._collect_tensors().items()}
        self.counts = {
            key: sum(shape_of(t).numel() for t in tensors)
            for key, tensors in self._collect_tensors(with_moving=True).items()
        }

    def format_table(self) -> str:
        """A table of the numbers of trained and frozen parameters of each group."""
        lines = [f"  {'module':<24}{'trained':>14}{'frozen':>14}"]
        counts: dict[str, list[int]] = {}
        for (group, trained), number in self.counts.items():
            counts.setdefault(group, [0, 0])[0 if trained else 1] += number
        lines += [f"  {group:<24}{_format_count(a):>14}{_format_count(b):>14}" for group, (a, b) in counts.items()]
        return "\n".join(lines)

    def note_gradients(self, has_gradient: Callable[[nn.Parameter], bool] = holds_gradient) -> list[str]:
        """The groups that have had a gradient so far, on this rank. Called before the optimizer, in the first few
        steps."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and self.group_of(name) not in self.with_gradient and has_gradient(parameter):
                self.with_gradient.add(self.group_of(name))
        return sorted(self.with_gradient)

    def check_trained(self, step: int, had: Mapping[str, bool], may_wait: bool = False) -> list[str]:
        """Raises RecipeError naming a trained group that got no gradient or has not changed.

        had: loss -> whether there has been a sample for it. Losses of the group `terms.concepts` are `concepts` and
        `concepts.*`. may_wait: returns the groups whose losses have all had no sample, and does not raise for them."""
        if not self.with_gradient:
            raise RecipeError(
                f"stages.{self.stage}: nothing got a gradient in {step} steps: the loss is flat. In grpo, no answer"
                " earned more than another of its group: look at `rewards` and `temperature`, or train the stage"
                " before it further"
            )
        waiting: list[str] = []
        for (group, trained), tensors in self._collect_tensors().items():
            if not trained:
                continue
            own = [name for name in had if f"{name}.".startswith(f"{group.partition('.')[2]}.")]
            is_idle = bool(own) and not any(had[name] for name in own)
            if group not in self.with_gradient and is_idle and may_wait:
                waiting.append(group)
                continue
            if group not in self.with_gradient and is_idle:
                raise RecipeError(
                    f"stages.{self.stage}.trains: {group} learnt nothing, because no sample of {step} steps had"
                    f" anything for {', '.join(own)}. Leave it out, or give it samples that have (`mix`)"
                )
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
        return waiting

    def check_frozen(self) -> dict[str, str]:
        """Group -> hash of its frozen tensors. Fails if any of them changed, which is a bug in medvlm or in a
        plug-in."""
        frozen = {group: tensors for (group, trained), tensors in self._collect_tensors().items() if not trained}
        now = {group: digest(tensors, self.whole) for group, tensors in frozen.items()}
        changed = [group for group, found in now.items() if found != self.start[group, False]]
        assert not changed, (
            f"frozen parts changed during stage {self.stage}: {changed}; what a stage changes itself belongs in its"
            " own_updates"
        )
        return now

    def list_frozen(self) -> set[str]:
        """The names of the tensors that do not change during the stage, tied ones by all their names."""
        named = [t for name, t, is_trained in self._name_tensors() if not is_trained and not self.moves_by_itself(name)]
        frozen = {id(tensor) for tensor in named}
        every = (
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        )
        return {name for name, tensor in every if id(tensor) in frozen}

    def count_trained(self) -> dict[str, int]:
        return {group: number for (group, trained), number in self.counts.items() if trained}

    def _collect_tensors(self, with_moving: bool = False) -> dict[tuple[str, bool], list[torch.Tensor]]:
        """Parameters by (group, is trained). Buffers (batch statistics) of modules in eval mode count as frozen.
        with_moving: including those that the stage changes by itself."""
        found: dict[tuple[str, bool], list[torch.Tensor]] = {}
        for name, tensor, is_trained in self._name_tensors():
            if is_trained or with_moving or not self.moves_by_itself(name):
                found.setdefault((self.group_of(name), is_trained), []).append(tensor)
        return found

    def _name_tensors(self) -> list[tuple[str, torch.Tensor, bool]]:
        """(name, tensor, is trained). Buffers of modules in training mode are left out."""
        tensors = [(name, parameter, parameter.requires_grad) for name, parameter in self.model.named_parameters()]
        for name, buffer in self.model.named_buffers():
            if not self.model.get_submodule(name.rpartition(".")[0]).training:
                tensors.append((name, buffer, False))
        return tensors


def _format_count(count: int) -> str:
    return f"{count:,}" if count else "-"
