"""What the stock vision-language classes have in common on the side of the language model."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.core.errors import ShapeError
from medvlm.models.generate import end_ids
from medvlm.models.vlm import VLM
from medvlm.recipe.targets import REMEDY

LOADING_ANSWERS = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor, model = AutoProcessor.from_pretrained("FOLDER"), AutoModelForImageTextToText.from_pretrained("FOLDER")
chat = [{"role": "user", "content": [{"type": "image", "image": Image.open("IMAGE")}, \
{"type": "text", "text": "What does the image show?"}]}]
inputs = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True, \
return_tensors="pt")
print(processor.decode(model.generate(**inputs)[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```"""


def generation_config(model: VLM, tokenizer: Any) -> Any:
    """Greedy and never saying the placeholder of an image, as the model was evaluated.

    256 new tokens where the caller does not say: transformers' own default is 20, prompt and image included.
    """
    from transformers import GenerationConfig

    ends = end_ids(model, tokenizer)
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=256,
        suppress_tokens=[model.image_token_id],
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
    )


def padded_left(tokenizer: Any) -> Any:
    """A copy that pads on the left: several prompts in one batch are continued at their right end."""
    tokenizer = copy.deepcopy(tokenizer)
    # What is saved are the arguments that a tokenizer was made with.
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    return tokenizer


def renamed(tokenizer: Any, old: str, new: str) -> Any:
    """The tokenizer with another word for one of its special tokens, which keeps its number. Raises ShapeError for a
    word that is taken."""
    if old == new:
        return tokenizer
    if new in tokenizer.get_vocab():
        raise ShapeError(
            f"export: images are {old} and the stock processor calls them {new}, which this tokenizer has for something"
            f" else; {REMEDY}"
        )
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        for file in Path(scratch).iterdir():
            file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        return AutoTokenizer.from_pretrained(scratch)


def module_name(root: nn.Module, module: nn.Module) -> str:
    """Its dotted path within `root`."""
    return next(name for name, found in root.named_modules() if found is module)


def head_is_linear(language: Any) -> None:
    """The stock class computes lm_head(hidden) and nothing after it; Gemma 2 caps, Cohere and Granite scale."""
    ids = torch.arange(8)[None]
    with torch.no_grad():
        whole = language(input_ids=ids, use_cache=False).logits
        linear = language.get_output_embeddings()(language.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    diff = (whole - linear).abs().max().item()
    if diff > 1e-4:
        raise ShapeError(
            f"export: {type(language).__name__} does more after its last layer than a linear head (logits differ by"
            f" {diff:.2g}), which the stock class does not do; {REMEDY}"
        )
