"""The page that says whether reinforcement helped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medvlm.evaluate.compare import Comparison, list_seed_notes
from medvlm.evaluate.reinforcement import AS_WELL, HELPED, WORDS, Difference, Judgement
from medvlm.report import numbers
from medvlm.report.bars import choose_bar_axis, draw_bar, draw_bar_ruler
from medvlm.report.comparison import make_comparison_sections
from medvlm.report.markup import Html, tag
from medvlm.report.page import make_facts, make_section, write_page
from medvlm.report.scales import Axis

ABOUT = (
    "Scores are those of answers, in [0, 1], over all tasks that reinforcement trains and for each task. Patients are"
    " drawn together for all models, and the intervals hold the spread over seeds too."
)
ABOUT_IMAGES = (
    "Every question was also asked with the images of another patient. A gain that does not come from the images is"
    " none: reinforcement must not lower the share of right answers that are wrong then."
)
STYLE = {HELPED: "good", AS_WELL: "part"}


def write_judgement(path: Path, name: str, found: Judgement, compared: Sequence[Comparison]) -> Path:
    """name: of the run and the stage. compared: all metrics, against the control."""
    verdict = tag("p", tag("strong", found.verdict, class_=f"verdict {STYLE.get(found.verdict, 'bad')}"), class_="lead")
    reasons = tag("ul", *(tag("li", why) for why in found.why))
    facts = make_facts(
        [
            ("seeds of each arm", str(found.seeds)),
            ("compute of the control", f"{found.compute:.2f} of that of reinforcement"),
            ("questions", numbers.format_whole(found.differences[0].n) if found.differences else "0"),
            ("patients", numbers.format_whole(found.differences[0].patients) if found.differences else "0"),
        ]
    )
    scores = [each for each in found.differences if each.what == "score"]
    images = [each for each in found.differences if each.what != "score"]
    return write_page(
        path,
        title=f"Did reinforcement help? {name}",
        eyebrow="reinforcement",
        head=[verdict, reasons, facts, *(tag("p", note) for note in list_seed_notes(compared))],
        sections=[
            make_section("Scores", "scores", _draw(scores), about=ABOUT) if scores else None,
            make_section("Dependence on the images", "images", _draw(images), about=ABOUT_IMAGES) if images else None,
            *make_comparison_sections(compared),
        ],
    )


def _draw(found: Sequence[Difference]) -> Html:
    axis = choose_bar_axis([x for each in found for x in (0.0, each.difference, *(each.ci or ()))])
    return tag("div", *(_make_row(each, axis) for each in found), class_="bars")


def _make_row(each: Difference, axis: Axis) -> Html:
    of, against = (_describe_mean(values) for values in (each.values, each.values_against))
    name = tag("b", f"{each.of} against {each.against}")
    what = f"{WORDS[each.what]}{f' of {each.task}' if each.task else ''}"
    where = f"{what} \N{MIDDLE DOT} n {each.n} of {each.patients} patients"
    return tag(
        "div",
        tag("div", name, tag("span", where), class_="bar-name"),
        tag("div", draw_bar(each.difference, each.ci, {}, [], axis), draw_bar_ruler(axis), class_="bar-track"),
        tag(
            "div",
            tag("b", f"{each.difference:+.3f}"),
            tag("span", f"{each.ci[0]:+.3f} to {each.ci[1]:+.3f}" if each.ci else "no interval"),
            class_="bar-value",
        ),
        tag("p", f"{of} against {against}"),
        class_="bar-row",
    )


def _describe_mean(values: Sequence[float]) -> str:
    mean = f"{sum(values) / len(values):.3f}"
    return mean + (f" ({', '.join(f'{value:.3f}' for value in values)})" if len(values) > 1 else "")
