"""What the exports to stock vision-language classes share for the language model and its tokenizer."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import ShapeError
from medvlm.core.weights import open_stock
from medvlm.models.generate import find_end_ids
from medvlm.models.vlm import VLM
from medvlm.recipe.targets import REMEDY

ASKING = """\
chat = [{"role": "user", "content": [{"type": "image", "image": Image.open("IMAGE")}, \
{"type": "text", "text": "What does the image show?"}]}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True, \
return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
ASKING_ENCODER = """\
inputs = processor(images=Image.open("IMAGE"), text="What does the image show?", return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0]))
"""
"""The same for a ready model of an encoder and a decoder, which does not repeat the prompt, and writes boxes as special
tokens."""
LOADING_ANSWERS = f"""\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor, model = AutoProcessor.from_pretrained("FOLDER"), AutoModelForImageTextToText.from_pretrained("FOLDER")
{ASKING}```"""


def make_generation_config(model: VLM, tokenizer: Any) -> Any:
    """Greedy decoding that never generates words that stand for media, as in evaluation.

    The default is 256 new tokens; that of transformers is 20 tokens including the prompt and the image.
    """
    from transformers import GenerationConfig

    ends = find_end_ids(model, tokenizer)
    starts = dict(zip(("decoder_start_token_id", "forced_bos_token_id"), getattr(model, "start_ids", ()), strict=False))
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=256,
        suppress_tokens=list(model.barred_ids),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        **starts,
    )


def pad_left(tokenizer: Any) -> Any:
    """A copy that pads on the left, because generation continues every prompt of a batch at its right end."""
    tokenizer = copy.deepcopy(tokenizer)
    # save_pretrained writes init_kwargs, not the current attributes.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


def rename_token(tokenizer: Any, old: str, new: str) -> Any:
    """The tokenizer with special token `old` renamed to `new`; the token keeps its id. Raises ShapeError if `new` is
    already a token."""
    if old == new:
        return tokenizer
    if new in tokenizer.get_vocab():
        raise ShapeError(
            f"export: the image token is {old}, the stock processor expects {new}, and this tokenizer already has a"
            f" token {new}; {REMEDY}"
        )
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        return open_stock(AutoTokenizer, scratch)


def find_module_name(root: nn.Module, module: nn.Module) -> str:
    """The module's dotted path within `root`."""
    return next(name for name, found in root.named_modules() if found is module)


def check_head_is_linear(language: Any) -> None:
    """Raises ShapeError unless the logits are lm_head(hidden), which is all that the stock class computes. Gemma 2 caps
    its logits afterwards; Cohere and Granite scale them."""
    ids = torch.arange(8)[None]
    with torch.no_grad():
        whole = language(input_ids=ids, use_cache=False).logits
        linear = language.get_output_embeddings()(language.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    diff = (whole - linear).abs().max().item()
    if diff > 1e-4:
        raise ShapeError(
            f"export: {type(language).__name__} changes its logits after the linear head (by up to {diff:.2g}), and the"
            f" stock class does not; {REMEDY}"
        )
