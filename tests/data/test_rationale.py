"""Answers with a rationale: what is written can be read again, and so can what models write by themselves."""

from __future__ import annotations

import pytest

from medvlm.core.errors import DataError
from medvlm.core.sample import Question, make_truth
from medvlm.data.rationale import Order, Said, read_direct, read_said, write_questions

TRUTH = make_truth("choice", "B. pneumonia", choices=("A. effusion", "B. pneumonia"))
QUESTION = Question("Which?", TRUTH, "t", {"feature": "A dense lobe.", "conclusion": "It is infected."})


@pytest.mark.parametrize("order", ["before", "after"])
def test_what_training_writes_is_read_again(order: Order) -> None:
    (asked,) = write_questions(QUESTION, order)
    before, after = asked.around
    said = read_said(f"{before}{asked.truth.answer}{after}", order)
    assert said == Said("B. pneumonia", "A dense lobe.\nIt is infected.", True)
    assert asked.text.startswith("Which?\n") and asked.truth == TRUTH


def test_two_stages_are_two_questions() -> None:
    rationale, answer = write_questions(QUESTION, "apart")
    assert rationale.truth.answer == "A dense lobe.\nIt is infected." and rationale.around == ("", "")
    assert answer.truth == TRUTH and "A dense lobe.\nIt is infected." in answer.text


def test_a_question_without_steps_is_refused() -> None:
    with pytest.raises(DataError, match="'t' has no rationale; its card gives no `steps`"):
        list(write_questions(Question("Which?", TRUTH, "t"), "before"))


@pytest.mark.parametrize(
    ("text", "answer", "rationale", "is_stated"),
    [
        ("The lung is clear.\nThe answer is (B).", "(B)", "The lung is clear.", True),
        ("It is dark. So, the final answer is: left lung", "left lung", "It is dark.", True),
        ("**Answer:** B", "B", "", True),
        ("Dark.\n**Final Answer**: pneumonia\n", "pneumonia", "Dark.", True),
        ("Answer: A would be wrong.\nThe correct answer is B.", "B.", "Answer: A would be wrong.", True),
        ("<think>Answer: A or C?</think>B", "B", "Answer: A or C?", False),
        ("<think>Never ends", "", "Never ends", False),
        (r"Dark, so \boxed{left}.", "left", "Dark, so", True),
        ("<think>Dark.</think><answer>left lung</answer>", "left lung", "Dark.", True),
        ("Because it is dark.\nTherefore effusion", "Therefore effusion", "Because it is dark.", False),
        ("The answer is yes. It is dark.", "yes", "It is dark.", True),
        ("No answer", "No answer", "", False),
        ("", "", "", False),
    ],
)
def test_the_answer_is_found_in_a_text(text: str, answer: str, rationale: str, is_stated: bool) -> None:
    assert read_said(text) == Said(answer, rationale, is_stated)


def test_of_an_explanation_the_first_answer_counts() -> None:
    text = "The answer is B. pneumonia. The answer is not A, since it is dense."
    assert read_said(text, "after").answer == "B. pneumonia" and "dense" in read_said(text, "after").rationale
    assert read_said("Left.\nIt is dark there.", "after") == Said("Left.", "It is dark there.", False)


def test_a_direct_answer_is_the_whole_text_unless_it_names_one() -> None:
    assert read_direct("left\nlung") == "left\nlung" and read_direct("I look. Answer: left") == "left"
