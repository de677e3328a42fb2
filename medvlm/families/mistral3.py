"""Mistral Small 3 with the Pixtral tower: pictures at their own size, in rows of patches."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._canvas import keep_shape
from medvlm.families._tiny import TEXT, TOWER, lay_over, make_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '[IMG]' }}{% else %}{{ p['text'] }}{% endif %}{% endfor %}{{ '[/INST]' }}"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
)


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import PixtralImageProcessor, PixtralProcessor

    words = make_tokenizer(["[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"], "<s>", "</s>")
    patch = real.vision["patch_size"] if real else 8
    images = PixtralImageProcessor(patch_size=patch, **(real.preprocessor if real else {"size": {"longest_edge": 64}}))
    processor = PixtralProcessor(images, words, patch_size=patch, spatial_merge_size=2, chat_template=TEMPLATE)
    tower = {"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 64, "patch_size": 8}
    text = {"model_type": "mistral", **TEXT, "vocab_size": len(words), "head_dim": 8, "sliding_window": None}
    tiny = {"text_config": text, "vision_config": tower, "spatial_merge_size": 2, "vision_feature_layer": -1}
    return lay_over(real, tiny, {"image_token_index": words.convert_tokens_to_ids("[IMG]")}), processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="thousandths",
    canvas=keep_shape,
    tiny=make_tiny,
)
