"""Language models and tokenizers from a config and from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.backbones import causal
from medvlm.core.errors import RecipeError
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer

TEXTS = ["Is there a nodule in the left lung?", "yes", "no", "How many clips are there? 3 or 12"] * 4
SMALL = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}


def scratch(**changes: Any) -> causal.Config:
    return causal.Config(kind="causal", config=SMALL, vocabulary=320, **changes)


def trained(size: int) -> Any:
    return train_tokenizer(TEXTS, size, IMAGE)


def stored_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """A small pretrained model: no image token yet."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = train_tokenizer(TEXTS, 320, "<unused>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in SMALL.items() if k != "model_type"}, vocab_size=len(tokenizer))).save_pretrained(folder)
    return folder


def test_a_tokenizer_is_made_once_and_read_back_afterwards(tmp_path: Path) -> None:
    first = causal.tokenizer(scratch(), trained, tmp_path)

    def never(size: int) -> Any:
        raise AssertionError("trained a second time")

    again = causal.tokenizer(scratch(), never, tmp_path)
    assert again.get_vocab() == first.get_vocab() and again.chat_template == first.chat_template


def test_an_image_is_one_token_and_a_model_from_scratch_has_a_row_for_every_token(tmp_path: Path) -> None:
    tokenizer = causal.tokenizer(scratch(), trained, tmp_path)
    assert tokenizer(f"a{IMAGE}b", add_special_tokens=False).input_ids.count(tokenizer.convert_tokens_to_ids(IMAGE)) == 1
    model: Any = causal.build(scratch(), tokenizer)
    assert model.config.vocab_size == len(tokenizer) and model.config.eos_token_id == tokenizer.eos_token_id


def test_a_pretrained_model_keeps_its_rows_and_gets_one_for_the_image(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = causal.Config(kind="causal", model=str(stored_model(tmp_path / "model")))
    tokenizer = causal.tokenizer(config, trained, tmp_path / "run")
    ours: Any = causal.build(config, tokenizer).eval()
    stock: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    old = stock.config.vocab_size
    assert old <= tokenizer.convert_tokens_to_ids(IMAGE) < ours.config.vocab_size == len(tokenizer)
    ids = torch.tensor([[1, 5, 80, 200]])
    torch.testing.assert_close(ours(ids).logits[..., :old], stock(ids).logits, rtol=0, atol=1e-6)


def test_a_message_as_text_and_as_a_list_of_parts_becomes_the_same_prompt(tmp_path: Path) -> None:
    """Training hands over texts, the processor of an exported model lists of parts."""
    for name, config in {"scratch": scratch(), "stored": causal.Config(kind="causal", model=str(stored_model(tmp_path / "model")))}.items():
        tokenizer = causal.tokenizer(config, trained, tmp_path / name)
        parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Is there a nodule?"}]
        as_text = tokenizer.apply_chat_template([{"role": "user", "content": f"{IMAGE}{IMAGE}Is there a nodule?"}], tokenize=False, add_generation_prompt=True)
        assert as_text == tokenizer.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
        assert as_text == f"<s><|user|>{IMAGE}{IMAGE}Is there a nodule?<|assistant|>"


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    config = causal.Config(kind="causal", model=str(stored_model(tmp_path / "model", template=None)))
    with pytest.raises(RecipeError, match="has no chat template; use an instruction-tuned model"):
        causal.tokenizer(config, trained, tmp_path / "run")


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    folder = stored_model(tmp_path / "model")
    from transformers import AutoTokenizer

    bare = AutoTokenizer.from_pretrained(folder)
    bare.pad_token = None
    bare.save_pretrained(folder)
    tokenizer = causal.tokenizer(causal.Config(kind="causal", model=str(folder)), trained, tmp_path / "run")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("settings", [{}, {"model": "x", "config": SMALL}, {"config": {"hidden_size": 16}}])
def test_a_config_names_one_source_and_its_type(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"either `model`|model_type is missing"):
        causal.Config(kind="causal", **settings)


def test_the_width_is_known_without_building() -> None:
    assert causal.facts(scratch()) == 16
