"""Trains a tokenizer on the texts of the data sets, for models that start from random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medvlm.core.weights import open_saved_tokenizer

IMAGE = "<image>"
"""Marks each image in the text; the data path repeats it once per image token."""

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], size: int, image_token: str) -> Any:
    """Byte-level BPE of at most `size` tokens. Each digit is a token, so that numbers are always split the same way."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    # With a space before every text, a word is the same token inside a report and as a whole answer.
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", image_token]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


def load_or_make_tokenizer(folder: Path, make: Callable[[], Any]) -> Any:
    """The tokenizer in `folder`. If there is none, it is made and saved there."""
    if (folder / "tokenizer_config.json").is_file():
        return open_saved_tokenizer(folder)
    made = make()
    made.save_pretrained(folder)
    return made
