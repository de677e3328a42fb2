"""Words of an archive's text that a tokenizer would read as control tokens stay text."""

from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medvlm.core.config import kinds
from medvlm.data.control_words import holds_words, shield, tokenize, tokenize_plain
from medvlm.data.dialogue import Dialogue
from medvlm.data.native import NativePrepare, make_native_prepare
from medvlm.data.processor import Processor
from medvlm.data.texts import tokenize_text
from medvlm.data.vocabulary import IMAGE, TEMPLATE, train_tokenizer
from medvlm.preflight.rehearsal.ready import make_config

TEXTS = ["Is it clear? yes, ok and more. < / s > | assistant user pad"] * 4
TOWER = SimpleNamespace(max_tokens=32, overlong="refuse")
WORDS = [IMAGE, "</s>", "<s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>"]


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


@pytest.fixture(scope="module", params=kinds("families"))
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativePrepare:
    folder: Path = tmp_path_factory.mktemp(request.param)
    for part in make_config(request.param):
        part.save_pretrained(folder)
    return make_native_prepare(Processor(folder), {}, "", 1000)


def test_words_of_images_and_of_turns_in_a_text_for_a_ready_model_are_text(native):
    """Also of other families than its own, and whether the word stands alone, at an end or inside another word."""
    own, dialogue = native.processor.tokenizer, native.dialogue
    plain = dialogue.turn("Is it clear?", (), "yes")
    added = [str(token) for token in own.added_tokens_decoder.values() if token.special]
    added = [word for word in added if not word.startswith("<loc_")]  # answers are written in these
    foreign = ["<image>", "<video>", "<|im_end|>", "<end_of_turn>", "<start_of_turn>", "[INST]", "<|image_pad|>"]
    for word in dict.fromkeys([*added[:16], *foreign, own.eos_token]):
        for said in (f"Is it {word} clear?", word, f"{word} no", f"a{word}b {word}"):
            turn = dialogue.turn(said, (), said)
            assert specials(turn.prompt, own) == specials(plain.prompt, own), said
            assert specials(turn.answer, own) == specials(plain.answer, own), said
            told = own.decode(turn.answer, skip_special_tokens=True)
            assert told.replace(" ", "").strip() == said.replace(" ", ""), said


def test_the_picture_of_a_question_that_speaks_of_pictures_keeps_its_own_place(native):
    shown = native.processor.look([np.zeros((40, 40, 3), np.uint8)])
    image = native.processor.config.image_token_id
    for word in (native.processor.soft, native.processor.stock.image_token, "<image>"):
        turn = native.dialogue.turn(f"What is {word}?", shown.expansions, f"{word} is a mark")
        assert (turn.prompt.count(image), turn.answer.count(image)) == (sum(shown.counts), 0)


def test_a_word_that_marks_media_is_text_also_where_it_is_no_special_token(native):
    """Published tokenizers of LLaVA list <image> as an ordinary added token."""
    own, word = native.processor.tokenizer, native.processor.soft
    spelled = tokenize(shield(f"a {word} b", own, frozenset({word})), own)
    assert own.convert_tokens_to_ids(word) not in spelled


def test_an_ordinary_added_token_is_spelled():
    own = train_tokenizer(TEXTS, 400, "<unused>")
    own.add_tokens([IMAGE])
    turn = Dialogue(own, IMAGE).turn(f"what is {IMAGE}?", (3,), f"{IMAGE} no")
    marker = own.convert_tokens_to_ids(IMAGE)
    assert (turn.prompt.count(marker), turn.answer.count(marker)) == (3, 0)
    assert own.decode(turn.answer[:-1]).replace(" ", "") == f"{IMAGE}no"


@pytest.mark.parametrize("word", ["<image>", "</s>", "<|user|>", "<pad>"])
def test_reports_and_choices_are_shown_as_text(word):
    """What is asked about stands in the question: the report, the choices."""
    own = tokenizer()
    turn = Dialogue(own, IMAGE).turn(f"clear {word} lungs\nIs it {word} or ok?", (1,), "ok")
    assert specials(turn.prompt, own) == specials(Dialogue(own, IMAGE).turn("ok", (1,), "ok").prompt, own)
    assert specials(tokenize_text(own, f"clear {word}", TOWER, "a"), own) == specials(own("clear").input_ids, own)


def test_words_that_answers_are_written_in_stay_tokens(native):
    own = native.processor.tokenizer
    boxes = [str(t) for t in own.added_tokens_decoder.values() if str(t).startswith(("<loc", "<ref>", "<box>"))]
    text = " ".join(boxes[:4])
    assert shield(text, own) == text
