"""What Idefics3 and SmolVLM share: tiles and an overview. The text numbers the tiles by row and column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from medvlm.core.families import Described, Processed
from medvlm.core.geometry import Canvas, resize
from medvlm.families._tiny import TEXT, TOWER, lay_over, make_tokenizer

TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}{% if m['content'][0]['type'] == 'image' %}{{ ':'"
    " }}{% else %}{{ ': ' }}{% endif %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else"
    " %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{"
    " 'Assistant:' }}{% endif %}"
)
NAMES = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
}


def find_canvas(made: Processed) -> Canvas:
    tile = made.processor.image_processor.max_image_size["longest_edge"]
    tiles = [(int(row), int(column)) for row, column in re.findall(r"<row_(\d+)_col_(\d+)>", made.expansion)]
    rows, columns = (max(numbers) for numbers in zip(*(tiles or [(1, 1)]), strict=True))
    return resize(made.size, (tile * rows, tile * columns))


def make_config_and_processor(
    real: Described | None,
    names: Mapping[str, str],
    make_processor: Callable[[Mapping[str, Any], Any, dict[str, Any]], Any],
) -> tuple[dict[str, Any], Any]:
    """See Family.tiny. names: special tokens that the processor gets from its tokenizer. make_processor: (sizes,
    tokenizer, named arguments) -> the family's processor."""
    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words = make_tokenizer(["<|im_start|>", *NAMES.values(), *rows], "<|im_start|>", "<end_of_utterance>", **names)
    sizes = real.preprocessor if real else {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    tokens = (real.vision["image_size"] // real.vision["patch_size"] // real.config["scale_factor"]) ** 2 if real else 4
    processor = make_processor(sizes, words, {"image_seq_len": tokens, "chat_template": TEMPLATE})
    text = {"model_type": "llama", **TEXT, "vocab_size": len(words), "pad_token_id": words.pad_token_id}
    tiny = {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8}, "text_config": text, "scale_factor": 2}
    ids = {"image_token_id": words.convert_tokens_to_ids("<image>"), "pad_token_id": words.pad_token_id}
    return lay_over(real, tiny, ids), processor
