"""Encoders that learn from images alone, with the parts that a method adds to one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.models.parts import build_encoders, build_seeded

OBJECTIVE = "objective"
"""The module with the parts that a method adds."""


@dataclass
class Views:
    """What a method sees of some samples, see Objective.draw, stacked. keys: of the samples, for messages."""

    tensors: dict[str, torch.Tensor]
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> Views:
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})


def build_pretraining(encoders: Mapping[str, Any], name: str, loss: Any, seed: int) -> Pretraining:
    """name: of the encoder that learns. loss: the settings of the method. Raises ShapeError if it cannot train it."""
    towers = build_encoders(encoders, seed)
    method = component("objectives.ssl", loss.kind)
    return Pretraining(towers, build_seeded(seed, OBJECTIVE, lambda: method.build(loss, towers[name])), name)


class Pretraining(nn.Module):
    """forward(views) -> what the method computes of them, see its file; of a teacher, forward(views, outputs of the
    student). Without an objective, encoders alone."""

    runs_all = False

    def __init__(self, encoders: nn.ModuleDict, objective: Any = None, name: str = ""):
        super().__init__()
        self.encoders, self.objective, self.name = encoders, objective, name

    def forward(self, views: Views, own: Outputs | None = None) -> Outputs:
        is_here = self.name in self.encoders
        encoder = self.encoders[self.name] if is_here else None
        found: Outputs = self.objective(encoder, views.tensors, own)
        return found

    def copy_teacher(self, averages_encoder: bool) -> Pretraining:
        """A frozen copy of the parts that are averaged, with the method's memory as buffers `memory_NAME`."""
        own = {self.name: copy.deepcopy(self.encoders[self.name])} if averages_encoder else {}
        made = Pretraining(nn.ModuleDict(own), copy.deepcopy(self.objective), self.name)
        for name, tensor in self.objective.start_memory().items():
            made.register_buffer(f"memory_{name}", tensor)
        return made.requires_grad_(False).eval()

    @property
    def memory(self) -> dict[str, torch.Tensor]:
        return {name.removeprefix("memory_"): buffer for name, buffer in self.named_buffers(recurse=False)}

    def follow(
        self, student: Pretraining, find_momentum: Callable[[str], float], upcoming: Mapping[str, torch.Tensor]
    ) -> None:
        """Moves a teacher towards the student, and replaces its memory. Batch statistics are copied, unless they are of
        a part that stays. find_momentum: name of a tensor -> the share that it keeps."""
        now, buffers = dict(student.named_parameters()), dict(student.named_buffers())
        for name, mean in self.named_parameters():
            mean.lerp_(now[name].to(mean.dtype), 1 - find_momentum(name))
        for name, buffer in self.named_buffers():
            if name in buffers and find_momentum(name) < 1:
                buffer.copy_(buffers[name])
        for name, value in upcoming.items():
            self.memory[name].copy_(value)
