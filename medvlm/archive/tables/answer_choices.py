"""Which answers of a table are choices: those that are given often to the same questions, and yes and no."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from medvlm.core.tasks import check_choices

MAX_CHOICES, MIN_EACH = 12, 3
"""A question is multiple choice if it has at most MAX_CHOICES different answers, each given at least MIN_EACH times."""
LONG_WORDS = 12
"""Texts of more words, by their median, are long texts."""


def describe_answers(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The keys of a card's question for these pairs of question and answer: which answers are choices, and what the
    others are."""
    lists = _find_choices(pairs)
    written: dict[str, set[str]] = {choice: set() for each in lists for choice in each}
    for _, answer in pairs:
        if answer.lower() in written:
            written[answer.lower()].add(answer)
    found: dict[str, Any] = {}
    if any(len(forms) > 1 for forms in written.values()):
        found = {"lower": True}
    else:
        lists = [[form for choice in each for form in written[choice]] for each in lists]
    if lists:
        found |= {"choices": lists[0]} if len(lists) == 1 else {"choice_lists": lists}
    others = [answer for _, answer in pairs if answer.lower() not in written]
    return found | ({"task": "report"} if count_words(others) > LONG_WORDS else {})


def count_words(texts: Sequence[str]) -> int:
    """The median of their numbers of words; 0 if there are none."""
    counts = sorted(len(text.split()) for text in texts)
    return counts[len(counts) // 2] if counts else 0


def _find_choices(pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Lists of choices, in lower case. The answers to one question belong together, and so do yes and no. Raises
    DataError for two choices that are read alike."""
    given = Counter(answer.lower() for _, answer in pairs)
    same = {answer: answer for answer in (*given, "yes", "no")}

    def find_first(answer: str) -> str:
        while same[answer] != answer:
            same[answer] = same[same[answer]]
            answer = same[answer]
        return answer

    same["no"] = "yes"
    answer_to: dict[str, str] = {}
    for question, said in pairs:
        answer = said.lower()
        same[find_first(answer)] = find_first(answer_to.setdefault(question, answer))
    together: dict[str, list[str]] = {}
    for answer in sorted(same):
        together.setdefault(find_first(answer), []).append(answer)

    def is_list(group: list[str]) -> bool:
        return 1 < len(group) <= MAX_CHOICES and all(given[answer] >= MIN_EACH for answer in group)

    # Where a question is also answered in other words, yes and no are choices, and the other answers are open.
    groups = [each if is_list(each) or "yes" not in each else ["no", "yes"] for each in together.values()]
    lists = [each for each in groups if is_list(each)]
    for each in lists:
        check_choices(tuple(each))
    return lists
