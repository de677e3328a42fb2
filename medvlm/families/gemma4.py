"""Gemma 4: pictures at their own shape, embeddings per layer, experts in the larger ones. What hears audio is kept and
never runs."""

from __future__ import annotations

from typing import Any

from medvlm.core.families import Described, Family, Processed
from medvlm.core.geometry import Canvas, resize
from medvlm.families._tiny import TEXT, TOWER, lay_over, make_tokenizer

NAMES = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] | trim }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}{{ '<|image|>' }}{% else %}{{ p['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<turn|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
AUDIO = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [4, 2],
    "output_proj_dims": 16,
}


def find_canvas(made: Processed) -> Canvas:
    """The picture is stretched over patches that the pooling divides, as many as fit."""
    images = made.processor.image_processor
    seen_N2 = made.tensors["image_position_ids"][made.number]
    columns, rows = (seen_N2.amax(0) + 1).tolist()
    return resize(made.size, (rows * images.patch_size, columns * images.patch_size))


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor, Gemma4VideoProcessor

    words = make_tokenizer(["<|turn>", "<turn|>", "<|video|>", *NAMES.values()], "<bos>", "<eos>", **NAMES)
    sizes = real.preprocessor if real else {"patch_size": 8, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(**sizes),
        words,
        Gemma4VideoProcessor(),
        chat_template=TEMPLATE,
    )
    keys = ("image_token_id", "boi_token_id", "eoi_token_id", "audio_token_id", "boa_token_id", "eoa_token_index")
    ids = dict(zip(keys, words.convert_tokens_to_ids(list(NAMES.values())), strict=True))
    ids["video_token_id"] = words.convert_tokens_to_ids("<|video|>")
    layers = ["sliding_attention", "full_attention"] * 2
    text = {
        **TEXT,
        "num_hidden_layers": len(layers),
        "layer_types": layers,
        "num_kv_shared_layers": 2,
        "vocab_size": len(words),
        "vocab_size_per_layer_input": len(words),
        "hidden_size_per_layer_input": 8,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 16,
        "final_logit_softcapping": 30.0,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }
    tower = {**TOWER, "num_key_value_heads": 2, "head_dim": 16, "patch_size": 8, "position_embedding_size": 128}
    tiny = {"text_config": text, "vision_config": tower, "audio_config": AUDIO}
    config = lay_over(real, tiny, {**ids, "eos_token_id": words.convert_tokens_to_ids(["<eos>", "<turn|>"])})
    return config, processor


FAMILY = Family(
    tower="vision_tower",
    connectors=("embed_vision",),
    language="language_model",
    unread=("audio_tower", "embed_audio"),
    codec="box_2d",
    types="mm_token_type_ids",
    whole_in_windows=lambda config: config.text_config.use_bidirectional_attention == "vision",
    canvas=find_canvas,
    tiny=make_tiny,
)
