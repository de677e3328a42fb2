"""What the tiny models of all families share: sizes, a tokenizer, and a chat template that several of them use.

Chat templates follow those of the published models, without the parts that are not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.families import Described

WORDS = [
    "Which side is the finding on? left right",
    "How many opacities are there? 0 1 2 3 4 5 6 7 8 9",
    "none [12, 340, 56, 789]",
    "What does the image show?",
] * 8
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}{%"
    " else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ 'IMAGE' }}{% else %}{{ p['text'] }}{% endif"
    " %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{"
    " '<|im_start|>assistant\n' }}{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{{ m['role'].upper() + ':' }}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '"
    " <image>\n' }}{% endif %}{% endfor %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ ' ' + p['text'] +"
    " (eos_token if m['role'] == 'assistant' else ' ') }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt"
    " %}{{ 'ASSISTANT:' }}{% endif %}"
)


def make_tokenizer(special: list[str], bos: str | None, eos: str, **named: str) -> Any:
    """A small byte-level tokenizer. named: tokens that a processor gets from the tokenizer by name, e.g. boi_token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(["<pad>", *filter(None, [bos]), eos, *special]))
    raw.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=380,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    extra = {"extra_special_tokens": named} if named else {}
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token=bos, eos_token=eos, **extra)


def lay_over(real: Described | None, tiny: Mapping[str, Any], ids: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a described model, or the tiny config, with the token ids of the small tokenizer."""
    return {**(real.config if real else tiny), **ids}
