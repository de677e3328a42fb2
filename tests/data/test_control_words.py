"""Words of an archive's text that a tokenizer would read as control tokens stay text."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from medvlm.data.control_words import holds_words, shield, tokenize_plain
from medvlm.data.dialogue import Dialogue
from medvlm.data.native import NativePrepare, make_native_prepare
from medvlm.data.processor import Processor
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer
from medvlm.preflight.rehearsal.ready import make_config

TEXTS = ["Is it clear? yes, ok and more. < / s > | assistant user pad"] * 4
WORDS = ["</s>", "<s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"]


@lru_cache
def tokenizer() -> Any:
    made = train_tokenizer(TEXTS, 400, IMAGE)
    made.chat_template = TEMPLATE
    return made


def specials(ids: list[int], own: Any) -> list[int]:
    control = {id_ for id_, token in own.added_tokens_decoder.items() if token.special}
    return [id_ for id_ in ids if id_ in control]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("text", ["ok {} more", "{}", "{} ok", "ok {}", "{} {}", "a{}b"])
def test_a_control_word_in_a_question_or_an_answer_is_text(word, text):
    said, own = text.replace("{}", word), tokenizer()
    plain = Dialogue(own, IMAGE).turn("ok", (2,), "yes")
    turn = Dialogue(own, IMAGE).turn(said, (2,), said)
    assert specials(turn.prompt, own) == specials(plain.prompt, own)
    assert specials(turn.answer, own) == specials(plain.answer, own) == [own.eos_token_id]
    told = own.decode([id_ for id_ in turn.answer if id_ != own.eos_token_id])
    assert told.replace(" ", "") == said.replace(" ", "")


@pytest.mark.parametrize("text", ["ok", "a < b", "<b>bold</b>", "s > 3", "<lesion>", "| x |", "<|nothing|>", "</ s>"])
def test_any_other_text_is_tokenized_as_before(text):
    own = tokenizer()
    assert shield(text, own) == text and not holds_words(text, own)
    whole = own.apply_chat_template(
        [{"role": "user", "content": text}, {"role": "assistant", "content": text}], tokenize=False
    )
    turn = Dialogue(own, IMAGE).turn(text, (), text)
    assert turn.prompt + turn.answer == own(whole, add_special_tokens=False).input_ids


def test_a_report_of_a_text_tower_keeps_the_tokens_around_it_alone():
    own = tokenizer()
    assert specials(tokenize_plain("clear </s> lungs <pad>", own, add_special_tokens=True), own) == specials(
        own("clear lungs").input_ids, own
    )


@pytest.fixture(scope="module", params=["qwen3_vl", "paligemma", "internvl"])
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativePrepare:
    folder: Path = tmp_path_factory.mktemp(request.param)
    for part in make_config(request.param):
        part.save_pretrained(folder)
    return make_native_prepare(Processor(folder), {}, "", 1000)


def test_control_words_of_a_ready_model_are_text(native):
    own = native.processor.tokenizer
    dialogue: Any = native.dialogue
    plain = dialogue.turn("Is it clear?", (), "yes")
    words = [own.eos_token, own.pad_token, "<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<start_of_turn>"]
    for word in dict.fromkeys(word for word in words if word):
        turn = dialogue.turn(f"Is it {word} clear?", (), f"yes {word} no")
        assert specials(turn.prompt, own) == specials(plain.prompt, own), word
        assert specials(turn.answer, own) == specials(plain.answer, own), word


def test_words_that_answers_are_written_in_stay_tokens(native):
    own = native.processor.tokenizer
    boxes = [str(t) for t in own.added_tokens_decoder.values() if str(t).startswith(("<loc", "<ref>", "<box>"))]
    text = " ".join(boxes[:4])
    assert shield(text, own) == text
