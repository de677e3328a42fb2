"""Language models of an encoder and a decoder, and their tokenizers, from a config and from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from medvlm.backbones import seq2seq
from medvlm.core.errors import RecipeError
from medvlm.data.dialogue import Dialogue
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from tests.models.tiny import ENCODED, Ids

WORDS = ("▁Is", "▁there", "▁a", "▁nodule", "?", "▁yes", "▁no", "▁Where", "▁left", "▁lung")
SMALL = {key: value for key, value in ENCODED["t5"].items() if key != "vocab_size"}


def train_small(size: int) -> Any:
    return train_tokenizer(["Is there a nodule in the left lung?", "yes", "no"] * 4, size, IMAGE)


def make_t5_tokenizer() -> Any:
    from transformers import T5Tokenizer

    letters = sorted({letter for word in WORDS for letter in word})
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    sentinels = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    pieces = [(word, -2.0 - number / 10) for number, word in enumerate(WORDS)]
    return T5Tokenizer(vocab=[*special, *pieces, *((x, -9.0) for x in letters if x not in WORDS), *sentinels])


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small pretrained T5, with a tokenizer of its class."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder, tokenizer = tmp_path_factory.mktemp("t5"), make_t5_tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    settings = {key: value for key, value in SMALL.items() if key != "model_type"}
    config = T5Config(**settings, vocab_size=len(tokenizer) + 3, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_question_and_answer_are_the_ids_that_t5_is_tuned_with(stored: Path, tmp_path: Path) -> None:
    """Both end with the end token, and an image is a sentinel, which has a row already."""
    config = seq2seq.Config(kind="seq2seq", model=str(stored))
    tokenizer = seq2seq.tokenizer(config, train_small, tmp_path)
    stock = make_t5_tokenizer()
    turn = Dialogue(tokenizer, tokenizer.image_token).turn("Is there a nodule?", [], "yes")
    assert turn.prompt == stock("Is there a nodule?").input_ids and turn.answer == stock("yes").input_ids
    assert stock.unk_token_id not in turn.prompt + turn.answer
    shown = Dialogue(tokenizer, tokenizer.image_token).turn("Is there a nodule?", [2], "yes")
    image = tokenizer.convert_tokens_to_ids("<extra_id_99>")
    assert tokenizer.image_token == "<extra_id_99>"
    assert shown.prompt == [image, image, *turn.prompt] and shown.answer == turn.answer
    model: Any = seq2seq.build(config, tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(stock) + 3, "nothing is resized"


def test_turns_of_a_dialogue_are_read_by_the_encoder(stored: Path, tmp_path: Path) -> None:
    from medvlm.core.turns import Message

    tokenizer = seq2seq.tokenizer(seq2seq.Config(kind="seq2seq", model=str(stored)), train_small, tmp_path)
    stock = make_t5_tokenizer()
    said: list[tuple[Any, str]] = [
        ("user", "Is there a nodule?"),
        ("assistant", "yes"),
        ("user", "Where?"),
        ("assistant", "left lung"),
    ]
    turn = Dialogue(tokenizer, tokenizer.image_token).converse([Message(role, (text,)) for role, text in said], [])
    assert turn.prompt == [i for _, text in said[:3] for i in stock(text).input_ids]
    assert turn.answer == stock("left lung").input_ids
    (start, end) = turn.earlier[0]
    assert turn.prompt[start:end] == stock("yes").input_ids


def test_a_model_from_scratch_starts_its_answers_with_the_padding_token(tmp_path: Path) -> None:
    config = seq2seq.Config(kind="seq2seq", config=SMALL, vocabulary=320)
    tokenizer = seq2seq.tokenizer(config, train_small, tmp_path)
    model: Any = seq2seq.build(config, tokenizer)
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer) and seq2seq.facts(config) == 16


@pytest.mark.parametrize("family", ["t5", "t5 1.1"])
def test_a_stored_model_is_described_without_its_folder(family: str, tmp_path: Path) -> None:
    """T5 scales what its decoder gives, and T5 1.1 does not."""
    from transformers import T5Config, T5ForConditionalGeneration

    settings = {key: value for key, value in ENCODED[family].items() if key != "model_type"}
    made = T5ForConditionalGeneration(T5Config(**settings, decoder_start_token_id=0)).eval()
    made.save_pretrained(tmp_path)

    config = seq2seq.Config(kind="seq2seq", model=str(tmp_path))
    built = seq2seq.build(config, Ids())
    alone = seq2seq.standalone(config, built)
    again: Any = seq2seq.build(alone, Ids())
    again.load_state_dict(built.state_dict())
    ids = torch.tensor([[5, 6, 7, 1]])
    with torch.no_grad():
        wanted, found = (model.eval()(input_ids=ids, decoder_input_ids=ids).logits for model in (made, again))
    assert str(tmp_path) not in alone.model_dump_json() and torch.equal(wanted, found)


def test_settings_that_are_not_for_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="quantize"):
        seq2seq.Config.model_validate({"kind": "seq2seq", "model": "a/b", "quantize": "nf4"})
    with pytest.raises(ValidationError, match=r"config.model_type is missing, e.g. t5, mt5, umt5"):
        seq2seq.Config.model_validate({"kind": "seq2seq", "config": {"d_model": 8}})
    causal = {"model_type": "qwen2", "hidden_size": 16, "num_attention_heads": 2}
    config = seq2seq.Config(kind="seq2seq", config=causal, vocabulary=320)
    with pytest.raises(RecipeError, match=r"model.language.config: .*Qwen2Config"):
        seq2seq.build(config, seq2seq.tokenizer(config, train_small, tmp_path))
