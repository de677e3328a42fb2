"""What short answers say, by kind of fault; and faulty scorers, each of which fails somewhere in the same tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from medvlm.core.errors import DataError, RecipeError
from medvlm.rewards._compose import Composer
from medvlm.tasks import choice, open
from medvlm.tasks._words import normalise
from tests.tasks.answer_cases import ARTICLES, CASES, NEGATION, RELATIONS, REPETITION, SCRIPTS, SIGNS, Case

Score = Callable[[str, choice.Truth], float]


@pytest.mark.parametrize(("text", "choices", "said"), CASES)
def test_what_an_answer_says(text: str, choices: tuple[str, ...], said: str | None) -> None:
    assert choice.parse(text, choice.Truth(choices=choices)) == said


@pytest.mark.parametrize(("text", "choices", "said"), CASES)
def test_reward_and_measure_are_the_score_of_the_task(text: str, choices: tuple[str, ...], said: str | None) -> None:
    composer = Composer({"choice": 1})
    for answer in choices:
        truth = choice.Truth(answer, choices)
        expected = float(said == answer)
        assert choice.score(text, truth) == composer.score(text, truth)[0] == expected
        assert choice.MEASURES[0].columns(text, truth) == (expected, 1.0)


# --- scorers that are wrong ------------------------------------------------------------------------


def contains(text: str, truth: choice.Truth) -> float:
    return float(truth.answer.casefold() in text.casefold())


def ignores_signs(text: str, truth: choice.Truth) -> float:
    def plain(words: str) -> str:
        return " ".join(re.findall(r"[^\W_]+", words.casefold()))

    blind = tuple(map(plain, truth.choices))
    said = choice.parse(plain(text), choice.Truth(choices=blind))
    return float(plain(text) == plain(truth.answer) or (said is not None and said == plain(truth.answer)))


def reads_whole_phrases_alone(text: str, truth: choice.Truth) -> float:
    """The bound and not its direction."""
    return float("3" in text and "3" in truth.answer)


def ignores_negation(text: str, truth: choice.Truth) -> float:
    found = [each for each in truth.choices if f" {normalise(each)} " in f" {normalise(text)} "]
    return float(found == [truth.answer])


def drops_marks(text: str, truth: choice.Truth) -> float:
    return float(re.findall(r"[^\W_]", text) == re.findall(r"[^\W_]", truth.answer))


def drops_articles(text: str, truth: choice.Truth) -> float:
    def plain(words: str) -> list[str]:
        return [word for word in normalise(words).split() if word not in ("a", "an", "the")]

    return float(plain(text) == plain(truth.answer) or contains(" ".join(plain(text)), replace(truth)))


def pays_the_first(text: str, truth: choice.Truth) -> float:
    found = [each for each in truth.choices if normalise(each) in normalise(text)]
    return float(found[:1] == [truth.answer])


def find_failures(score: Score, cases: list[Case]) -> list[str]:
    return [
        text
        for text, choices, said in cases
        if any(score(text, choice.Truth(answer, choices)) != float(said == answer) for answer in choices)
    ]


@pytest.mark.parametrize(
    ("score", "cases"),
    [
        *((contains, cases) for cases in (SIGNS, ARTICLES, NEGATION, REPETITION)),
        (ignores_signs, SIGNS),
        (ignores_signs, RELATIONS),
        (reads_whole_phrases_alone, RELATIONS),
        (ignores_negation, NEGATION),
        (drops_marks, SCRIPTS),
        (drops_articles, ARTICLES),
        (pays_the_first, REPETITION),
    ],
)
def test_a_faulty_scorer_fails_the_table_of_its_kind(score: Score, cases: list[Case]) -> None:
    assert len(find_failures(score, cases)) >= 3
    assert not find_failures(choice.score, cases)


# --- open answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("HER2-", "HER2+"),
        ("-2.5", "2.5"),
        ("< 5 mm", "> 5 mm"),
        ("pH < 7", "pH > 7"),
        ("1:2", "1/2"),
        ("Ca2+", "Ca2"),
        ("5'", "5"),
        ("10²", "102"),
        ("", "+"),
        ("-", "+"),
        ("👍", "👎"),
        ("influenza", "influenza A"),
        ("vitamin", "vitamin A"),
        ("की", "का"),
        ("ใช่", "ใช้"),
        ("مَلِك", "مُلك"),
        ("3 mm", "3 cm"),
        ("5", "5%"),
        ("↑", "↓"),
        ("more than 3", "less than 3"),
        ("at least 3", "more than 3"),
        ("below the 7th rib", "above the 7th rib"),
        ("below the 7th rib", "< 7th rib"),
        ("no, less than 3", "at least 3"),
        ("3 or more", "3"),
        ("über 3 cm", "3 cm"),
        ("2/3", "2-3"),
    ],
)
def test_open_answers_that_differ(text: str, truth: str) -> None:
    assert open.score(text, open.Truth(truth)) == open.score(truth, open.Truth(text or "nothing")) == 0
    assert open.score(truth, open.Truth(truth)) == 1


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("three", "3"),
        ("2.50", "2.5"),
        ("5 %", "5%"),
        ("twenty-one", "21"),
        ("1,024", "1024"),
        ("≥ 3", ">=3"),
        ("3cm", "3 cm"),
        ("\u22122", "-2"),
        ("C3\u2013C4", "C3-C4"),
        ("the T2-weighted image", "T2 weighted image"),
        ("**left lung**", "left lung"),
        ("cm²", "cm2"),
        ("less than 3 cm", "< 3 cm"),
        ("more than 50%", "over 50 %"),
        ("3 cm or more", "≥3 cm"),
        ("greater than or equal to two", ">= 2"),
        ("mehr als 3 cm", "über 3 cm"),
    ],
)
def test_open_answers_that_are_the_same(text: str, truth: str) -> None:
    assert open.score(text, open.Truth(truth)) == open.score(truth, open.Truth(text)) == 1


# --- choices that read alike -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choices",
    [
        ("x-ray", "X ray"),
        ("lesion", "a lesion"),
        ("3 cm", "3cm"),
        ("Left.", "left"),
        ("2", "two"),
        ("a", "a"),
        ("over 3", "> 3"),
    ],
)
def test_choices_that_read_alike_are_refused_with_both_names(choices: tuple[str, str]) -> None:
    truth = choice.Truth(choices[0], choices)
    with pytest.raises(DataError, match=f"{re.escape(repr(choices[0]))} and {re.escape(repr(choices[1]))} read alike"):
        choice.check(truth, ())
    with pytest.raises(ValueError, match="read alike"):
        choice.Config(kind="choice", choices=choices)


@pytest.mark.parametrize(
    "choices", [("ER+", "ER-"), ("+", "-"), ("< 3 cm", "> 3 cm"), ("C3/C4", "C3-C4"), ("A", "a b")]
)
def test_choices_that_differ_in_a_sign_are_not(choices: tuple[str, str]) -> None:
    choice.check_choices(choices)


def test_a_card_with_choices_that_read_alike_is_refused() -> None:
    from medvlm.archive.tables.questions import TableQuestion
    from medvlm.io.members import QuestionMembers

    for make in (
        lambda: TableQuestion(text="Which?", answer="{a}", choices=("x-ray", "x ray")),
        lambda: QuestionMembers(text="Which?", answer="a", choices=("x-ray", "x ray")),
    ):
        with pytest.raises(ValueError, match="'x-ray' and 'x ray' read alike"):
            make()


def test_init_refuses_answers_that_read_alike() -> None:
    from medvlm.archive.tables.answer_choices import describe_answers

    with pytest.raises((DataError, RecipeError), match="'x ray' and 'x-ray' read alike"):
        describe_answers([("Which?", answer) for answer in ["x-ray", "x ray"] * 20])
    assert describe_answers([("Which?", answer) for answer in ["ER+", "ER-"] * 20])["choices"] == ["ER+", "ER-"]
