"""The tokenizer that is trained for models that start from scratch."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvlm.data.vocabulary import IMAGE, load_or_make_tokenizer, train_tokenizer

TEXTS = ["No focal finding is seen.", "A small nodule, 12 mm, in the left upper zone.", "How many clips? 5"] * 5
TOKENIZER = train_tokenizer(TEXTS, 420, IMAGE)


@pytest.mark.parametrize(
    "text",
    [
        "A small nodule, 12 mm.",
        "Größe: 5 µm², naïve",
        "no  double  spaces are lost\n\tnor tabs",
        "未知の所見 🫁",
        "[10, 200, 3, 45]",
    ],
)
def test_any_text_comes_back_as_it_was(text: str) -> None:
    """Bytes are the last resort, so no word is unknown. A space is put in front of a text, and taken off by who reads
    answers."""
    assert TOKENIZER.decode(TOKENIZER(text).input_ids).strip() == text.strip()


def test_every_digit_is_a_token_of_its_own() -> None:
    texts = [f"[{a}, {b}]" for a in range(0, 300, 7) for b in range(0, 300, 11)]
    many = train_tokenizer(texts, 500, IMAGE)
    assert all(sum(c.isdigit() for c in many.convert_ids_to_tokens(i)) <= 1 for i in range(len(many)))
    assert sum(any(c.isdigit() for c in many.convert_ids_to_tokens(i)) for i in many("[123, 45]").input_ids) == 5


def test_a_word_is_the_same_token_in_a_report_and_as_a_whole_answer() -> None:
    (answer,) = train_tokenizer(["the left lung", "the right lung"] * 20, 400, IMAGE)("left").input_ids
    assert answer in train_tokenizer(["the left lung", "the right lung"] * 20, 400, IMAGE)("the left lung").input_ids


def test_control_tokens_are_whole_and_the_size_is_kept() -> None:
    for token in ("<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", IMAGE):
        assert TOKENIZER(token, add_special_tokens=False).input_ids == [TOKENIZER.convert_tokens_to_ids(token)]
    assert len(TOKENIZER) <= 420
    assert (TOKENIZER.pad_token, TOKENIZER.bos_token, TOKENIZER.eos_token) == ("<pad>", "<s>", "</s>")


def test_the_same_texts_give_the_same_tokenizer() -> None:
    assert train_tokenizer(TEXTS, 420, IMAGE).get_vocab() == TOKENIZER.get_vocab()


def test_a_saved_tokenizer_is_read_and_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> object:
        made.append(1)
        return TOKENIZER

    first, again = load_or_make_tokenizer(tmp_path / "t", make), load_or_make_tokenizer(tmp_path / "t", make)
    assert (
        made == [1]
        and again("A small nodule").input_ids == first("A small nodule").input_ids
        and again.chat_template == TOKENIZER.chat_template
    )
