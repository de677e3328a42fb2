"""The options in the text of a question, and the same question with its options in another order."""

from __future__ import annotations

import pytest

from medvlm.core.sample import Question, make_truth
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols._options import find_options, turn
from medvlm.evaluate.protocols._sensitivity import is_same

TEXT = "What is shown?\n A: A stone \n B: A cyst \n C: Air\nAnswer with the letter."


def ask(text: str, answer: str, *choices: str) -> Question:
    return Question(text, make_truth("choice", answer, choices=choices), "t")


@pytest.mark.parametrize(
    ("answer", "choices", "turned", "said"),
    [
        ("B", ("A", "B", "C"), "C", ("B", "C", "A")),
        ("A cyst", ("A stone", "A cyst", "Air"), "A cyst", ("A stone", "A cyst", "Air")),
        ("B: A cyst", ("A: A stone", "B: A cyst", "C: Air"), "C: A cyst", ("B: A stone", "C: A cyst", "A: Air")),
        ("B", ("A", "B", "C", "D"), "C", ("B", "C", "A", "D")),  # the text lists three of four letters
    ],
)
def test_options_move_and_letters_stay(
    answer: str, choices: tuple[str, ...], turned: str, said: tuple[str, ...]
) -> None:
    question = ask(TEXT, answer, *choices)
    options = find_options(question)
    assert options is not None and len(options) == 3
    other = turn(question, options, 1)
    assert other.text == "What is shown?\n A: Air \n B: A stone \n C: A cyst\nAnswer with the letter."
    assert other.truth.answer == turned and other.truth.choices == said  # type: ignore[attr-defined]
    assert turn(question, options, 0) == question
    score = find_task("choice").score
    assert score is not None and score(turned, other.truth) == 1
    assert is_same(answer, turned, question.truth, other.truth) and is_same("?", "?", question.truth, other.truth)
    assert not is_same(answer, said[0], question.truth, other.truth)


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Is it left or right?", ("left", "right")),
        ("A: one", ("A", "B")),
        ("A: one\nC: two", ("A", "C")),
        ("(A) one\n(B) two", ("one", "three")),
        ("Vitamin A: what for?\nB: two", ("A", "B")),
    ],
)
def test_other_questions_have_no_other_order(text: str, choices: tuple[str, ...]) -> None:
    assert find_options(ask(text, choices[0], *choices)) is None


def test_the_last_list_counts() -> None:
    question = ask("A: history\nWhich?\n(a) one\n(b) two", "b", "a", "b")
    options = find_options(question)
    assert options is not None
    assert turn(question, options, 1).text == "A: history\nWhich?\n(a) two\n(b) one"
