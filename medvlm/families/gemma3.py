"""Gemma 3, including MedGemma: pictures are squares of 256 tokens, which attend to each other in both directions."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family
from medvlm.families._canvas import squash
from medvlm.families._tiny import TEXT, TOWER, lay_over, make_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role'])"
    " + '\n' }}{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for p in m['content'] %}{% if"
    " p['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ p['text'] | trim }}{% endif %}{% endfor %}{% endif"
    " %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = make_tokenizer(["<start_of_turn>", "<end_of_turn>", *names.values()], "<bos>", "<eos>", **names)
    images = Gemma3ImageProcessor(**(real.preprocessor if real else {"size": {"height": 32, "width": 32}}))
    processor = Gemma3Processor(
        images, words, chat_template=TEMPLATE, image_seq_length=real.config["mm_tokens_per_image"] if real else 4
    )
    ids = {
        key: words.convert_tokens_to_ids(names[f"{name}_token"])
        for key, name in (("boi_token_index", "boi"), ("eoi_token_index", "eoi"), ("image_token_id", "image"))
    }
    text = {
        **TEXT,
        "vocab_size": len(words),
        "head_dim": 8,
        "sliding_window": 16,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    tiny = {
        "text_config": text,
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 8, "vision_use_head": False},
        "mm_tokens_per_image": 4,
    }
    config = lay_over(real, tiny, {**ids, "eos_token_id": words.convert_tokens_to_ids(["<eos>", "<end_of_turn>"])})
    return {key: value for key, value in config.items() if key != "image_token_index"}, processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="box_2d",
    types="token_type_ids",
    sees_whole_pictures=True,
    canvas=squash,
    tiny=make_tiny,
)
