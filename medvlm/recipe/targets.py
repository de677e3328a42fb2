"""Which export target can hold a model, or why none can. Validation and export both ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from medvlm.core.composition import Composition, composition_of_stage
from medvlm.core.config import component, kinds
from medvlm.core.errors import RecipeError, did_you_mean, list_some

OURS = "medvlm"
"""LOADER of a target that needs this package."""
STOCK, ENCODER = "stock", "encoder"
"""The nearest class that other libraries load without medvlm; the same for one encoder of the model."""
EVERY = "custom"
"""The target that holds every model of our parts."""
REMEDY = f"set export.target: {EVERY}"


def list_targets() -> list[str]:
    return [STOCK, ENCODER, *kinds("export.targets")]


def split_target(target: str) -> tuple[str, str]:
    """(kind, encoder): `onnx.ct` is the encoder `ct` as ONNX. Any other name with a dot belongs to a plugin."""
    kind, _, part = target.partition(".")
    return (kind, part) if kind in list_targets() else (target, "")


def explain_unknown(target: str) -> str | None:
    """Why no target has this name, or None if one has."""
    kind, part = split_target(target)
    if kind in (STOCK, ENCODER):
        is_known = not part or kind == ENCODER
    elif "." in kind:
        try:
            component("export.targets", kind)
        except RecipeError as reason:
            return str(reason)
        except ImportError as reason:
            return f"cannot import {kind!r} ({reason}); install the package that holds it"
        is_known = True
    else:
        is_known = kind in list_targets() and (not part or component("export.targets", kind).HOLDS.is_part)
    if is_known:
        return None
    targets = list_targets()
    near = did_you_mean(target.partition(".")[0], targets)
    return f"there is no export target {target!r}{near} (accepts {list_some(targets)})"


def resolve(target: str, model: Any, stages: Sequence[Any]) -> tuple[str, str, str]:
    """(kind, encoder, "") of the target to write, or ("", "", the reason why there is none).

    target: a known name. model: the recipe's section. stages: those that the exported model went through, at least one.
    A part that is named by a hub id and is not on this machine is assumed to fit; the export checks the built model.
    """
    composition = composition_of_stage(model, stages[-1])
    kind, part = split_target(target)
    stacked = next((name for name, encoder in model.encoders.items() if encoder.deepstack), "")
    if stacked and (kind in (STOCK, ENCODER) or component("export.targets", kind).LOADER != OURS):
        why = f"encoders.{stacked}.deepstack adds tokens behind layers of the language model"
        return "", "", f"no class of another library computes this model: {why}"
    if kind in (STOCK, ENCODER):
        reasons = []
        for near in _nearest(composition, is_part=kind == ENCODER):
            if (reason := component("export.targets", near).reason(model, stages, part)) is None:
                return near, part, ""
            reasons.append(reason)
        what = "no stock class holds this model" if kind == STOCK else "no encoder to export"
        why = "; ".join(dict.fromkeys(reasons)) or f"it is {composition.NOUN}, and none is for such models"
        return "", "", f"{what}: {why}"
    module: Any = component("export.targets", kind)
    if not issubclass(composition.MODEL, module.HOLDS.models):
        return "", "", f"{target} does not hold {composition.NOUN}, which stage {stages[-1].name} makes"
    reason = module.reason(model, stages, part)
    return ("", "", f"{target} does not hold this model: {reason}") if reason else (kind, part, "")


def _nearest(composition: Composition, is_part: bool) -> Iterator[str]:
    """The targets that hold models of the composition's class, in the order in which they are tried."""
    ordered = []
    for kind in kinds("export.targets"):
        holds = component("export.targets", kind).HOLDS
        if holds.order is not None and holds.is_part == is_part and issubclass(composition.MODEL, holds.models):
            ordered.append((holds.order, kind))
    yield from (kind for _, kind in sorted(ordered))
