from __future__ import annotations

import pytest

from medvlm.tasks.open import Truth, best_constant, score, token_f1, token_recall


def test_open_answers_are_the_same_up_to_case_punctuation_and_articles() -> None:
    assert score("The Chest X-ray.", Truth("chest x ray"))
    assert not score("chest", Truth("chest x-ray"))
    assert not score("5", Truth("5%"))


def test_token_f1_by_hand() -> None:
    """Two of two words right, two of three found: precision 1, recall 2/3, F1 0.8."""
    assert token_f1("right lobe", Truth("right upper lobe")) == pytest.approx(0.8)
    assert token_f1("right right", Truth("right")) == pytest.approx(2 / 3)
    assert token_f1("left", Truth("right")) == 0
    assert token_f1("", Truth("right")) == 0
    assert token_f1("", Truth("...")) == 0
    assert token_f1("", Truth("")) == 1


def test_token_recall_by_hand() -> None:
    """A word counts as often as the truth has it, and words that the truth does not have cost nothing."""
    assert token_recall("it is the right lobe of the lung", Truth("right upper lobe")) == pytest.approx(2 / 3)
    assert token_recall("right right", Truth("right right upper")) == pytest.approx(2 / 3)
    assert token_recall("", Truth("right")) == 0 and token_recall("", Truth("")) == 1
    assert token_recall("right " * 1000, Truth("right")) == 0


def test_the_most_frequent_answer_whatever_its_writing() -> None:
    truths = [Truth(answer) for answer in ("PA", "Axial", "axial", "The axial", "PA")]
    assert best_constant(truths) == "Axial"
