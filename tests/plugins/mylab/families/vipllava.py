"""ViP-LLaVA (arXiv 2312.00784): LLaVA with features of several layers of its tower."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas, resize

SIDE, PATCH, WIDTH = 32, 8, 32
CHAT = (
    "{% for m in messages %}{{ m['role'] + ':' }}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ ' <image>\n' }}{% else %}{{ ' ' + p['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token if m['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def find_canvas(made: Processed) -> Canvas:
    """Published processors resize the short side and cut the centre; this lab sets them to squash."""
    size = made.processor.image_processor.size
    return resize(made.size, (size["height"], size["width"]))


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    """Arguments of VipLlavaConfig, and a processor with a tokenizer of single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>")
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)
    processor = LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    shared = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {
        "vision_config": {"model_type": "clip_vision_model", **shared, "image_size": SIDE, "patch_size": PATCH},
        "text_config": {"model_type": "llama", **shared, "vocab_size": len(words), "max_position_embeddings": 2048},
        "vision_feature_layer": [-1, -2],
        "image_token_index": words.convert_tokens_to_ids("<image>"),
    }
    return config, processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="relative",
    canvas=find_canvas,
    tiny=make_tiny,
)
