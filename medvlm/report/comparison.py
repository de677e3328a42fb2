"""The page that compares models on the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medvlm.core.run import RunFolder
from medvlm.evaluate.compare import Comparison, explain_left_out, find_deviation, list_seed_notes
from medvlm.report import numbers
from medvlm.report.answer_list import make_paired_list
from medvlm.report.bars import choose_bar_axis, draw_bar, draw_bar_ruler
from medvlm.report.markup import Child, Html, tag
from medvlm.report.overlaid import make_overlaid_section
from medvlm.report.page import Section, make_notes, make_section, make_table, write_page
from medvlm.report.reading import read_run
from medvlm.report.results import describe_metric, title_of
from medvlm.report.scales import Axis

ABOUT = (
    "The difference is value minus reference, on the questions that both answered; patients are drawn together for its"
    " 95 % interval. A verdict needs p < 0.05 after Holm's correction for all comparisons on this list."
)
ABOUT_ALL = (
    "p is of no difference, from the same draws as the interval, and not corrected: rows without a Holm value are"
    " descriptive. McNemar's test is for answers that are right or wrong; with several questions of a patient it is"
    " Durkalski's for clusters."
)


def write_comparison(path: Path, found: Sequence[Comparison], models: Mapping[str, Sequence[Path]]) -> Path:
    """models: name -> the run folder of each seed. Of several seeds, the answers of the first are listed."""
    names = list(dict.fromkeys(each.model for each in found))
    reference = found[0].reference
    lead = tag("p", f"{' and '.join(names)} against {reference}, on the same questions.", class_="lead")
    return write_page(
        path,
        title=f"{' and '.join(names)} against {reference}",
        eyebrow="comparison",
        head=[
            lead,
            *(tag("p", note) for note in list_seed_notes(found)),
            make_notes("What is not compared", explain_left_out(found)),
        ],
        sections=[*make_comparison_sections(found), *_make_run_sections(models)],
    )


def _make_run_sections(models: Mapping[str, Sequence[Path]]) -> list[Section | None]:
    runs = {
        f"{name}{seed}": read_run(RunFolder(folder))
        for name, folders in models.items()
        for seed, folder in _name_seeds(folders).items()
    }
    firsts = {name: read_run(RunFolder(folders[0])).answers for name, folders in models.items()}
    return [make_overlaid_section(runs), make_paired_list(firsts)]


def _name_seeds(folders: Sequence[Path]) -> dict[str, Path]:
    """What follows the name of the model -> the run folder: nothing for a single one, else as many last parts of its
    path as tell the folders apart."""
    if len(folders) == 1:
        return {"": folders[0]}
    places = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(place.parts) for place in places)):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len({*names}) == len(names):
            break
    return {f", {name}": folder for name, folder in zip(names, folders, strict=True)}


def make_comparison_sections(found: Sequence[Comparison]) -> list[Section | None]:
    return [_make_headlines([each for each in found if each.is_headline]), _make_all(found)]


def _make_headlines(found: Sequence[Comparison]) -> Section | None:
    if not found:
        return None
    # Differences of shares have one axis, so that they can be compared. Others, such as errors of counts, have another.
    shares = [each for each in found if max(map(abs, _list_numbers(each))) <= 1]
    axis = choose_bar_axis([number for each in shares for number in _list_numbers(each)])
    rows = [_make_row(each, axis if each in shares else choose_bar_axis(_list_numbers(each))) for each in found]
    return make_section("Differences", "differences", tag("div", *rows, class_="bars"), about=ABOUT)


def _list_numbers(each: Comparison) -> list[float]:
    return [0.0, each.difference, *(each.ci or ())]


def _make_row(each: Comparison, axis: Axis) -> Html:
    where = f"{each.model}, {each.dataset}:{each.split} \N{MIDDLE DOT} n {each.n} of {each.patients} patients"
    name = tag("b", f"{title_of(each.task)}: {_describe(each)} {_draw_arrow(each)}")
    difference = tag("b", numbers.format_value(each.difference))
    return tag(
        "div",
        tag("div", name, tag("span", where), class_="bar-name"),
        tag("div", draw_bar(each.difference, each.ci, {}, [], axis), draw_bar_ruler(axis), class_="bar-track"),
        tag("div", difference, tag("span", numbers.format_interval(each.ci)), class_="bar-value"),
        tag("p", _describe_verdict(each)),
        class_="bar-row",
    )


def _describe_verdict(each: Comparison) -> Html:
    p = f"p {_format_p(each.holm)} (Holm)"
    marks = {"better": ("\N{CHECK MARK} better", "good"), "worse": ("\N{BALLOT X} worse", "bad")}
    words, style = marks.get(each.verdict, ("\N{ALMOST EQUAL TO} no significant difference", "part"))
    values = f"{_format_mean(each.value, each.values)} against {_format_mean(each.against, each.values_against)}"
    return tag("span", f"{words}: {values}, {p}", class_=f"verdict {style}")


def _make_all(found: Sequence[Comparison]) -> Section:
    rows: list[list[Child]] = [
        [
            f"{each.dataset}:{each.split}",
            each.task,
            tag("span", f"{_describe(each)} {_draw_arrow(each)}", class_="nowrap"),
            each.model,
            tag("span", _format_mean(each.value, each.values), class_="nowrap"),
            tag("span", _format_mean(each.against, each.values_against), class_="nowrap"),
            tag("strong", numbers.format_value(each.difference)),
            tag("span", numbers.format_interval(each.ci), class_="nowrap"),
            _format_p(each.p),
            _format_p(each.holm),
            _format_p(each.mcnemar),
            numbers.format_whole(each.n),
        ]
        for each in found
    ]
    columns = ["data", "task", "metric", "model", "value", "reference", "difference", "95 % interval", "p", "Holm",
               "McNemar", "n"]  # fmt: skip
    table = make_table("All metrics of both models", columns, rows, {4, 5, 6, 8, 9, 10, 11})
    return make_section("All comparisons", "all", table, about=ABOUT_ALL)


def _format_mean(value: float, values: Sequence[float]) -> str:
    """With the standard deviation over seeds, if there are several."""
    deviation = find_deviation(values)
    shown = numbers.format_value(value)
    return shown if deviation is None else f"{shown} \N{PLUS-MINUS SIGN} {numbers.format_value(deviation)}"


def _describe(each: Comparison) -> str:
    return describe_metric({"task": each.task, "metric": each.metric})


def _draw_arrow(each: Comparison) -> str:
    return {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}.get(each.better or "", "")


def _format_p(p: float | None) -> str:
    return "\N{EN DASH}" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
