"""Florence-2: an encoder reads one picture and one question, and a decoder writes the answer. Boxes are <loc_N> words,
in 1000 bins of the picture.

Questions may be one of the processor's own tasks, such as <OD>, which it puts into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvlm.core.errors import DataError
from medvlm.core.families import Described, Family
from medvlm.families._canvas import squash
from medvlm.families._tiny import lay_over, make_tokenizer

TEMPLATE = (
    "{% if messages | length > 1 %}{{ raise_exception('Florence-2 answers one question') }}{% endif %}"
    "{% set asked = messages[0]['content'] %}{% if asked is string %}{{ asked }}{% else %}"
    "{% for p in asked if p['type'] == 'text' %}{{ p['text'] }}{% endfor %}{% endif %}"
)
"""The published processors have no chat template. They put the picture before the text by themselves."""
BINS, MADE_OF = 1000, 17
"""MADE_OF: tokens of a tiny picture, one for each of 4 x 4 places and one for their mean."""
TOWER = {
    "depths": [1, 1],
    "patch_size": [7, 3],
    "patch_stride": [4, 2],
    "patch_padding": [3, 1],
    "patch_prenorm": [False, True],
    "embed_dim": [16, 32],
    "num_heads": [2, 4],
    "num_groups": [2, 4],
    "window_size": 4,
    "projection_dim": 32,
    "max_position_embeddings": 8,
    "max_temporal_embeddings": 4,
    "drop_path_rate": 0.0,
}
LANGUAGE = {
    "model_type": "bart",
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 1024,
    "forced_eos_token_id": None,
    "dropout": 0.0,
}


def lay_out(processor: Any, before: str, after: Sequence[str]) -> tuple[str, list[str]]:
    """Like Florence2Processor.prepare_inputs_layout. Without a picture, only the picture is missing."""
    try:
        _, (asked,), *_ = processor.prepare_inputs_layout(text=[after[-1] if after else before])
    except ValueError as reason:  # a task with other words around it
        raise DataError(f"{reason} It is a task of Florence-2; leave the other words of the question out") from None
    closed = f"{processor.tokenizer.bos_token}{asked}{processor.tokenizer.eos_token}"
    return ("", [closed]) if after else (closed, [])


def make_tiny(real: Described | None) -> tuple[dict[str, Any], Any]:
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPImageProcessor, Florence2Processor

    words = make_tokenizer(["<image>"], "<s>", "</s>", image_token="<image>")
    places = [f"<loc_{number}>" for number in range(BINS)]
    words.add_special_tokens({"additional_special_tokens": places}, replace_extra_special_tokens=False)
    pad, bos, eos = words.pad_token_id, words.bos_token_id, words.eos_token_id
    # Like that of BART, it puts a begin and an end around a text, unless it is told not to.
    words.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", bos), ("</s>", eos)]
    )
    small = {"size": {"height": 32, "width": 32}, "do_center_crop": False, "image_seq_length": MADE_OF}
    images = CLIPImageProcessor(**(real.preprocessor if real else small))
    text = {
        **LANGUAGE,
        "vocab_size": len(words),
        "pad_token_id": pad,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "decoder_start_token_id": eos,
    }
    ids = {"image_token_id": words.convert_tokens_to_ids("<image>")}
    return lay_over(real, {"vision_config": TOWER, "text_config": text}, ids), Florence2Processor(images, words)


FAMILY = Family(
    tower="vision_tower",
    connectors=("multi_modal_projector",),
    language="language_model",
    codec="loc_1000",
    has_encoder=True,
    begins_answers=True,
    places_picture=True,
    shares_rows=False,
    template=TEMPLATE,
    lay_out=lay_out,
    canvas=squash,
    tiny=make_tiny,
)
