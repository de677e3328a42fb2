"""Which questions are answered together, and that it does not change the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm.compositions import _opened
from medvlm.compositions._open import open_model
from medvlm.compositions._opened import group_by_length
from medvlm.core.ask import Ask
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.preflight.rehearsal.ready import save_tiny


def test_what_fits_stays_in_its_order() -> None:
    assert group_by_length([3, 9, 1], 27) == [[0, 1, 2]]
    assert group_by_length([], 27) == [[]]


def test_what_does_not_fit_is_grouped_by_length() -> None:
    groups = group_by_length([10, 2, 10, 3, 50, 2], 20)
    assert groups == [[1, 5, 3], [0, 2], [4]]  # 3 x 3, 2 x 10, and one that is alone too long


def test_answers_do_not_depend_on_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("qwen3_vl", tmp_path)
    (model,) = open_model(tmp_path, max_new_tokens=5)
    texts = ["Why?", "What is shown in this image, and where exactly?", "Where?", "Is it large, or is it rather small?"]
    asks = [
        Ask(Sample(f"s{n}", "own", "", ()), {}, Question(text, make_truth("open"), "own"), "none")
        for n, text in enumerate(texts)
    ]
    together = model.answer(asks)
    assert len(set(together)) > 1
    sizes: list[int] = []
    own = model._continue  # type: ignore[attr-defined]

    def count(documents: list[Any]) -> list[str]:
        sizes.append(len(documents))
        return own(documents)  # type: ignore[no-any-return]

    monkeypatch.setattr(model, "_continue", count)
    monkeypatch.setattr(_opened, "MOST_TOKENS", 40)
    assert model.answer(asks) == together
    assert len(sizes) > 1 and sum(sizes) == len(asks)


def test_random_answers_depend_on_their_question_alone(tmp_path: Path) -> None:
    save_tiny("qwen3_vl", tmp_path)
    (model,) = open_model(tmp_path, max_new_tokens=5)
    asks = [
        Ask(Sample(f"s{n}", "own", "", ()), {}, Question(text, make_truth("open"), "own"), "none")
        for n, text in enumerate(["Why?", "Where is it, exactly?"])
    ]
    drawn = model.draw(asks, 4, 1.0, seed=3)
    assert [len(each) for each in drawn] == [4, 4] and len({*drawn[0], *drawn[1]}) > 4
    assert model.draw(asks[1:], 4, 1.0, seed=3) == drawn[1:]
    assert model.draw(asks, 4, 1.0, seed=4) != drawn
    assert model.draw(asks, 2, 1e-6, seed=3) == [[answer] * 2 for answer in model.answer(asks)]
