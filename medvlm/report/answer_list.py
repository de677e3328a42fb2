"""All answers in a list that is searched, filtered and sorted on the page, of one model or of several side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from medvlm.report import numbers
from medvlm.report.answers import draw_answer
from medvlm.report.markup import Child, tag
from medvlm.report.page import Section, make_data, make_section
from medvlm.report.reading import Record
from medvlm.report.results import is_number

LISTED = 20_000
"""Most questions in a list. A page with 20,000 has some 6 MB."""
LONG = 400
"""Characters of a text in it."""
ABOUT = "Click a heading to sort; the mean score is of the rows that the filters leave."
Asked = tuple[str, ...]


def make_answers_list(answers: Sequence[Record], shown: Collection[str]) -> Section | None:
    """shown: the keys of samples whose picture is in the gallery."""
    return _make_list("All answers", {"answer": answers}, shown) if answers else None


def make_paired_list(models: Mapping[str, Sequence[Record]]) -> Section | None:
    """The questions that all models were asked, each with all answers."""
    common = set.intersection(*({_identify(a) for a in answers} for answers in models.values()))
    kept = {name: [a for a in answers if _identify(a) in common] for name, answers in models.items()}
    return _make_list("Answers side by side", kept, ()) if common else None


def _make_list(title: str, models: Mapping[str, Sequence[Record]], shown: Collection[str]) -> Section:
    first, *others = ({_identify(a): a for a in answers} for answers in models.values())
    asked = list(first)[:LISTED]
    rows = [_make_row([each[question] for each in (first, *others)]) for question in asked]
    left = len(first) - len(asked)
    about = f"{ABOUT} {numbers.format_whole(left)} more questions are only in evaluate/." if left else ABOUT
    needs: Child = tag("noscript", tag("p", "This list needs JavaScript, which this viewer does not run."))
    data = make_data({"models": list(models), "rows": rows, "shown": sorted(shown)})
    return make_section(title, "all-answers", needs, tag("div", data, class_="answer-list"), about=about)


def _identify(answer: Record) -> Asked:
    """A question of a sample. Some ask the same in other words, with another template or truth."""
    truth = answer.get("truth") or {}
    names = ("dataset", "split", "task", "key", "template", "question")
    return (*(str(answer.get(name, "")) for name in names), str(truth.get("answer")), str(truth.get("label")))


def _make_row(answers: Sequence[Record]) -> list[Any]:
    first, drawings = answers[0], [draw_answer(a) for a in answers]
    said = [_cut(d.answer or a.get("answer")) for a, d in zip(answers, drawings, strict=True)]
    scores = [a.get("score") for a in answers]
    return [
        str(first.get("key", "")),
        f"{first.get('dataset')}:{first.get('split')}",
        str((first.get("truth") or {}).get("task") or first.get("task") or ""),
        str(first.get("template") or ""),
        _cut(first.get("question")),
        _cut(drawings[0].truth),
        said,
        [round(float(s), 4) if isinstance(s, int | float) and is_number(s) else None for s in scores],
    ]


def _cut(text: object) -> str | None:
    if text is None:
        return None
    written = str(text)
    return written if len(written) <= LONG else written[:LONG] + "\N{HORIZONTAL ELLIPSIS}"
