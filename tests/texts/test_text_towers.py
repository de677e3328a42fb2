"""Text towers of dual encoders, from a config and from a folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import RecipeError
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.texts import transformers as texts

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RUN_TOKENIZER = train_tokenizer(["A small nodule in the left upper zone."] * 4, 320, IMAGE)


def make_scratch_config(**changes: Any) -> texts.Config:
    return texts.Config(kind="transformers", config={"model_type": "bert", **SMALL}, max_tokens=24, **changes)


def test_the_runs_tokenizer_gets_a_start_and_an_end_token() -> None:
    made = texts.tokenizer(make_scratch_config(), RUN_TOKENIZER)
    inner = RUN_TOKENIZER("A nodule.", add_special_tokens=False).input_ids
    assert made("A nodule.").input_ids == [RUN_TOKENIZER.bos_token_id, *inner, RUN_TOKENIZER.eos_token_id]
    assert RUN_TOKENIZER("A nodule.").input_ids == inner, "the language model's tokenizer was changed"


@pytest.mark.parametrize(("lost", "word"), [("bos_token", "start"), ("eos_token", "end")])
def test_a_tokenizer_without_a_start_or_an_end_token_is_refused(lost: str, word: str) -> None:
    """Qwen's has no start token."""
    bare = copy.deepcopy(RUN_TOKENIZER)
    setattr(bare, lost, None)
    with pytest.raises(RecipeError, match=f"the tokenizer of the run has no {word} token"):
        texts.tokenizer(make_scratch_config(), bare)


def test_a_tower_from_scratch_has_the_tokenizers_vocabulary_and_max_tokens_positions() -> None:
    tower = texts.build(make_scratch_config(), texts.tokenizer(make_scratch_config(), RUN_TOKENIZER))
    assert (tower.tower.config.vocab_size, tower.tower.config.max_position_embeddings, tower.width) == (
        len(RUN_TOKENIZER),
        24,
        16,
    )


def test_a_stored_tower_pools_like_the_stock_model(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    stock = BertModel(BertConfig(**SMALL, vocab_size=len(RUN_TOKENIZER))).eval()
    stock.save_pretrained(tmp_path)
    RUN_TOKENIZER.save_pretrained(tmp_path)
    config = texts.Config(kind="transformers", model=str(tmp_path))
    tower = texts.build(config, texts.tokenizer(config, None)).eval()
    ids, mask = torch.tensor([[5, 9, 30], [7, 8, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert torch.equal(tower(ids, mask), stock(input_ids=ids, attention_mask=mask).pooler_output)


def test_a_clip_checkpoint_gives_its_text_tower(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {
        **SMALL,
        "vocab_size": len(RUN_TOKENIZER),
        "max_position_embeddings": 24,
        "eos_token_id": RUN_TOKENIZER.eos_token_id,
    }
    stock = CLIPModel(CLIPConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 16})).eval()
    stock.save_pretrained(tmp_path)
    RUN_TOKENIZER.save_pretrained(tmp_path)
    config = texts.Config(kind="transformers", model=str(tmp_path))
    tower = texts.build(config, texts.tokenizer(config, None)).eval()
    ids = torch.tensor([[1, 5, RUN_TOKENIZER.eos_token_id]])
    assert torch.equal(
        tower(ids, torch.ones_like(ids)),
        stock.text_model(input_ids=ids, attention_mask=torch.ones_like(ids)).pooler_output,
    )
