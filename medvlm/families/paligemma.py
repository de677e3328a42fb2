"""PaliGemma: a prefix language model that reads the prompt in both directions. Boxes are <loc> tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._canvas import squash
from medvlm.families._tiny import TEXT, TOWER, lay_over, make_tokenizer

TEMPLATE = (
    "{% if messages | length > 2 %}{{ raise_exception('PaliGemma answers one question') }}{% endif %}{% set asked ="
    " messages[0]['content'] %}{% if asked is string %}{{ asked }}{% else %}{% for p in asked if p['type'] == 'image'"
    " %}<image>{% endfor %}{% for p in asked if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endif %}"
)
"""The published processors have no chat template. Images come first, then the prompt, to which the processor adds a
newline."""


def lay_out(processor: Any, before: str, after: Sequence[str]) -> tuple[str, list[str]]:
    """Like PaliGemmaProcessor.prepare_inputs_layout: the first token comes after the images."""
    *between, last = [before, *after]
    closed = f"{processor.tokenizer.bos_token}{last}\n"
    return (between[0], [*between[1:], closed]) if after else (closed, [])


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import PaliGemmaProcessor, SiglipImageProcessor

    words = make_tokenizer(["<image>"], "<bos>", "<eos>", image_token="<image>")
    images = SiglipImageProcessor(**(real.preprocessor if real else {"size": {"height": 32, "width": 32}}))
    images.image_seq_length = (real.vision["image_size"] // real.vision["patch_size"]) ** 2 if real else 16
    processor = PaliGemmaProcessor(images, words)  # adds <loc> and <seg> tokens
    tower = {
        "model_type": "siglip_vision_model",
        **TOWER,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 32,
        "vision_use_head": False,
    }
    text = {"model_type": "gemma", **TEXT, "vocab_size": len(words), "head_dim": 8}
    ids = {"image_token_index": words.convert_tokens_to_ids("<image>"), "eos_token_id": words.eos_token_id}
    return lay_over(real, {"text_config": text, "vision_config": tower, "projection_dim": 32}, ids), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="loc",
    types="token_type_ids",
    first_position=1,
    reads_prompt_both_ways=True,
    shares_rows=False,
    template=TEMPLATE,
    lay_out=lay_out,
    canvas=squash,
    tiny=make_tiny,
)
