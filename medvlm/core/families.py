"""What differs between the families of ready vision-language models, beyond what their own classes do by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from medvlm.core.errors import RecipeError, did_you_mean


@dataclass(frozen=True)
class Family:
    """Paths are of modules or parameters below the `model` of the family's ForConditionalGeneration class (transformers
    5.24).

    tower: what looks at pixels, without what `connectors` takes out of it. language: the language model, whose head is
    `lm_head`. codec: how it was taught to write boxes, a file of answers/codecs. types: the argument that marks image
    tokens, "" where there is none. reads_prompt_both_ways: the prompt's tokens see each other in both directions (a
    prefix language model). several: whether it takes more than one image. first_position: of the first token.
    """

    tower: str
    connectors: tuple[str, ...]
    language: str
    codec: str
    types: str = ""
    reads_prompt_both_ways: bool = False
    several: bool = True
    first_position: int = 0


_LLAVA = Family("vision_tower", ("multi_modal_projector",), "language_model", "relative")
_IDEFICS = Family("vision_model", ("connector",), "text_model", "thousandths")
FAMILIES = {
    "qwen2_vl": Family("visual", ("visual.merger",), "language_model", "bbox_2d", "mm_token_type_ids"),
    "qwen2_5_vl": Family("visual", ("visual.merger",), "language_model", "bbox_2d_pixels", "mm_token_type_ids"),
    "qwen3_vl": Family(
        "visual", ("visual.merger", "visual.deepstack_merger_list"), "language_model", "bbox_2d", "mm_token_type_ids"
    ),
    "gemma3": Family("vision_tower", ("multi_modal_projector",), "language_model", "box_2d", "token_type_ids"),
    "internvl": Family("vision_tower", ("multi_modal_projector",), "language_model", "tags"),
    "llava": _LLAVA,
    "llava_onevision": Family("vision_tower", ("multi_modal_projector", "image_newline"), "language_model", "relative"),
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    "paligemma": Family(
        "vision_tower", ("multi_modal_projector",), "language_model", "loc", "token_type_ids", True, first_position=1
    ),
    "mistral3": Family("vision_tower", ("multi_modal_projector",), "language_model", "thousandths"),
}
"""By the `model_type` of config.json."""


def family_of(model_type: str) -> Family:
    """Raises RecipeError for a model that is none of them."""
    if model_type not in FAMILIES:
        near = did_you_mean(model_type, FAMILIES)
        raise RecipeError(
            f"model.pretrained: a {model_type!r} is no vision-language model that is known here{near} (known are"
            f" {', '.join(FAMILIES)})"
        )
    return FAMILIES[model_type]
