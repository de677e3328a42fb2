"""Answers that clinicians wrote, read as they stand in the archives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medvlm.tasks import choice, count
from medvlm.tasks.open import Truth, score, token_f1


def vqa_rad(real_data: Path) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((real_data / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    return records


def slake(real_data: Path) -> list[dict[str, Any]]:
    return [r for r in json.loads((real_data / "slake_questions" / "validate.json").read_text()) if r["q_lang"] == "en"]


def test_every_yes_or_no_of_vqa_rad_is_read(real_data: Path) -> None:
    """Their number is that of answers that start so, whatever follows: `Yes`, `no `, `No, ...`."""
    answers = [str(r["answer"]) for r in vqa_rad(real_data) if r["answer_type"].strip() == "CLOSED"]
    read = [choice.parse(answer, choice.Truth(choices=("yes", "no"))) for answer in answers]
    for word in ("yes", "no"):
        assert read.count(word) == sum(
            answer.strip().lower().startswith(word) and not answer.strip().lower().startswith(("non", "nor", "not"))
            for answer in answers
        )


def test_every_how_many_of_slake_is_a_count(real_data: Path) -> None:
    answers = [r["answer"] for r in slake(real_data) if "how many" in r["question"].lower()]
    assert len(answers) == 56
    assert [count.parse(a) for a in answers] == [int(a) for a in answers]


def test_an_answer_is_the_same_as_itself_however_it_is_written(real_data: Path) -> None:
    for record in [*vqa_rad(real_data), *slake(real_data)]:
        answer = str(record["answer"])
        assert score(f" The {answer.upper()}. ", Truth(answer)), answer
        assert token_f1(answer.title(), Truth(answer)) == 1, answer
