"""Which target holds a composition, or why none does: asked when a recipe is validated and again at export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlm.core.composition import composition_of_stage
from medvlm.core.config import component, kinds
from medvlm.core.errors import did_you_mean

NEAREST = {
    "vlm": ("llava", "idefics3"),
    "dual": ("siglip", "clip", "vision_text_dual_encoder", "open_clip"),
    "encoder": ("tower", "timm", "onnx"),
}
"""What `stock` stands for, by what the stages make, and what `encoder` stands for: the first in order that holds the
model."""
REMEDY = "set export.target: custom"


def accepted() -> list[str]:
    return ["stock", "encoder", *kinds("export.targets")]


def unknown(target: str) -> str | None:
    """Why this is no name of a target, or None. `encoder.NAME` is the encoder of that name."""
    kind, _, part = target.partition(".")
    if kind in accepted() and (not part or kind == "encoder" or kind in NEAREST["encoder"]):
        return None
    return f"there is no export target {target!r}{did_you_mean(kind, accepted())} (accepts {', '.join(accepted())})"


def resolve(target: str, model: Any, stages: Sequence[Any]) -> tuple[str, str, str]:
    """(kind, part, "") of the target that is written, or ("", "", why there is none).

    target: a name out of `accepted`. model: the recipe's (encoders, language). stages: those that the exported model
    went through. What is only known by a hub id that is not here is taken to fit; the export looks at the built model.
    """
    answers = "answer" in composition_of_stage(model, stages[-1]).CAN if stages else model.language is not None
    makes = "vlm" if answers else "dual"
    kind, _, part = target.partition(".")
    if kind in ("stock", "encoder"):
        reasons = []
        for near in (
            ("native",) if model.pretrained and kind == "stock" else NEAREST[makes if kind == "stock" else kind]
        ):
            if (reason := component("export.targets", near).reason(model, stages, part)) is None:
                return near, part, ""
            reasons.append(reason)
        what = "no stock class holds this model" if kind == "stock" else "no encoder to export"
        return "", "", f"{what}: {'; '.join(dict.fromkeys(reasons))}"
    module = component("export.targets", kind)
    if makes not in module.MAKES:
        wanted, other = (
            ("a dual encoder", "answers in text")
            if module.MAKES == ("dual",)
            else ("a model that answers in text", "is a dual encoder")
        )
        return "", "", f"{target} is {wanted}, and what stage {stages[-1].name} makes {other}"
    reason = module.reason(model, stages, part)
    return ("", "", f"{target} does not hold this model: {reason}") if reason else (kind, part, "")
