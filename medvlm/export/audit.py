"""An account of every tensor of a trained model in its export: merged, replaced, copied or unused. None is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from medvlm.core.errors import ShapeError

WORDS = {
    "merged": "with adapters merged in",
    "replaced": "trained",
    "copied": "unchanged",
    "adapters": "adapters merged",
    "unused": "unused",
    "shared": "shared",
    "left_out": "left out",
    "missing": "missing",
}


@dataclass
class Audit:
    """Names of the tensors in the exported folder. Each is in exactly one of merged, replaced and copied.

    merged: base weights with their adapter folded in. replaced: weights that were trained without an adapter. copied:
    weights that were never trained. adapters: the trained adapter tensors that were folded into `merged`. unused:
    tensor -> why the exported class loads it although its output does not depend on it. shared: tied tensor -> the
    tensor that is stored for both. left_out: trained tensor that the exported class has no place for -> its value and
    what that means.
    """

    merged: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def count(self) -> dict[str, int]:
        """The number of tensors in each group. `missing` is always 0, since `account` raises otherwise."""
        return {**{k: len(v) for k, v in vars(self).items()}, "missing": 0}

    def summarize(self) -> str:
        return ", ".join(f"{count} {WORDS[name]}" for name, count in self.count().items() if count or name == "missing")


def list_tensors(prefix: str, module: nn.Module) -> dict[str, Any]:
    """The module's state dict, with `prefix` in front of every name."""
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def account(
    source: Mapping[str, Any],
    place_of: Callable[[str], str | None],
    wanted: Mapping[str, Any],
    adapters: Iterable[str],
    is_trained: Callable[[str], bool],
) -> tuple[dict[str, Any], Audit]:
    """The tensors under their exported names, and the audit.

    source: medvlm name -> tensor, with adapters already folded in. place_of: medvlm name -> exported name. wanted:
    exported name -> the exported class's own tensor on the meta device. adapters: names of the adapter tensors that
    were folded in. Raises ShapeError if a tensor has no place, a place has no tensor, or the shapes differ.
    """
    audit = Audit(adapters=sorted(adapters))
    adapted = {name.partition(".lora_")[0] for name in audit.adapters}
    placed: dict[str, Any] = {}
    homeless = []
    for name, tensor in source.items():
        place = place_of(name)
        if place is None or place not in wanted:
            homeless.append(name)
            continue
        if tuple(wanted[place].shape) != tuple(tensor.shape):
            raise ShapeError(
                f"export: {name} is {tuple(tensor.shape)}, the exported class takes {tuple(wanted[place].shape)} at"
                f" {place}"
            )
        placed[place] = tensor
        layer = name.rpartition(".")[0]
        if layer in adapted and name.endswith(".weight"):
            audit.merged.append(place)
        elif is_trained(name):
            audit.replaced.append(place)
        else:
            audit.copied.append(place)
    if homeless:
        raise ShapeError(
            f"export: {len(homeless)} tensors have no place in the exported class: {', '.join(sorted(homeless)[:5])};"
            " use export.target: custom"
        )
    if missing := sorted(set(wanted) - set(placed)):
        raise ShapeError(
            f"export: {len(missing)} tensors of the exported class have no source: {', '.join(missing[:5])}; use"
            " export.target: custom"
        )
    if lost := adapted - {name.rpartition(".")[0] for name in source}:
        raise ShapeError(
            f"export: adapters whose layer is not in the model after merging: {', '.join(sorted(lost)[:5])}"
        )
    return placed, audit
