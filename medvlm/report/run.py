"""The report of a run: one page with what was trained on which data, the results, and what was not checked."""

from __future__ import annotations

from pathlib import Path

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.evaluate.table import explain
from medvlm.report import numbers
from medvlm.report.answer_list import make_answers_list
from medvlm.report.answers import choose_cards, draw_answer, make_gallery_section
from medvlm.report.confusion import make_confusion_section
from medvlm.report.decisions import collect_decisions, make_operating_section, make_reliability_section
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import make_facts, make_notes, make_section, write_page
from medvlm.report.parts import make_parts_table
from medvlm.report.provenance import combine_licences, describe_licences, make_data_section, make_lineage_section
from medvlm.report.reading import RunRecord, read_run
from medvlm.report.results import add_measures, make_headline_section, make_results_section
from medvlm.report.robustness import is_of_robustness, make_robustness_section
from medvlm.report.rollouts import make_rollouts_section
from medvlm.report.settings import make_settings_section
from medvlm.report.shown import make_shown_section
from medvlm.report.subgroups import make_subgroups_section
from medvlm.report.training import make_curves_section, make_proof_section, make_stages_table


def write_report(run: RunFolder) -> Path:
    """Writes `report.html` of a finished or unfinished run and returns its path.

    Raises RecipeError for a folder that is no run."""
    return draw_report(run, run.report)


def draw_report(run: RunFolder, to: Path) -> Path:
    """Writes the report of a run to a file. The same folder gives the same bytes.

    The top of the page lists what is missing, damaged or unfinished; none of this raises. Raises RecipeError for a
    folder that is no run.
    """
    require_run(run)
    record = read_run(run)
    results = add_measures(record.results, record.answers)
    decisions = collect_decisions(record.answers)
    cards = choose_cards(record.answers, run.results.parent)
    made = [part for part in (make_stages_table(record), make_parts_table(record)) if part]
    sections = [
        make_headline_section(results),
        make_section("Stages and parts", "made", *made) if made else None,
        make_shown_section(record),
        make_curves_section(record),
        make_rollouts_section(run, record),
        make_results_section([row for row in results if not is_of_robustness(row)]),
        make_subgroups_section(results),
        make_robustness_section(results),
        make_operating_section(decisions),
        make_reliability_section(decisions),
        make_confusion_section(((answer, draw_answer(answer)) for answer in record.answers), decisions),
        make_gallery_section(cards),
        make_answers_list(record.answers, {key for _, key in cards}),
        make_proof_section(record),
        make_data_section(record),
        make_settings_section(record),
        make_lineage_section(record),
    ]
    head: list[Child] = [
        _make_lead(record),
        _make_facts(record),
        make_notes("What this page cannot show", [*record.notes, *_list_gaps(record)]),
    ]
    return write_page(
        to,
        title=record.name,
        eyebrow="training run" if record.stages else "evaluation",
        head=head,
        sections=sections,
    )


def require_run(run: RunFolder) -> None:
    """Raises RecipeError for a folder without anything that a run writes."""
    if not is_run(run):
        raise RecipeError(
            f"{run.root}: is not a run folder (it has no {run.recipe.name}), nor a folder of runs; give one, e.g."
            " runs/NAME"
        )


def is_run(run: RunFolder) -> bool:
    """Whether a folder has anything that a run writes."""
    written = (run.recipe, run.metrics, run.status, run.lineage, run.results)
    return any(path.is_file() for path in written) or any(run.root.glob("*/stage.json"))


def _make_lead(run: RunRecord) -> Html:
    """One sentence that describes the run."""
    finished = sum(bool(stage.done.get("finished")) for stage in run.stages.values())
    is_as_it_is = run.recipe.get("stages") == []
    stages = f"{finished} of {len(run.stages)} stages finished" if run.stages else "No stage has started"
    stages = "Not trained here" if is_as_it_is else stages
    model = run.recipe.get("model") or {}
    kind = (
        "A model that reads images and answers in text"
        if model.get("language") or model.get("pretrained") or is_as_it_is
        else "Image encoders with decoders"
        if model.get("decoders")
        else "A dual encoder of images and text"
        if model.get("encoders")
        else "A model"
    )
    data = f", trained on {' and '.join(run.sources)}" if run.sources and not is_as_it_is else ""
    return tag(
        "p",
        f"{kind}{data}. {stages}; {'evaluated on held-out samples' if run.results else 'not evaluated yet'}.",
        class_="lead",
    )


def _make_facts(run: RunRecord) -> Html:
    seconds, steps = sum(s.seconds for s in run.stages.values()), sum(s.steps for s in run.stages.values())
    size = sum(run.parameters.values())
    samples = 0
    for source in run.sources.values():
        counts = source.get("counts") or {}
        samples += sum(n for split, n in counts.items() if _is_training_split(split, source.get("fold")))
    pairs: list[tuple[str, Child]] = []
    if run.recipe.get("stages") != []:
        pairs = [("steps", numbers.format_whole(steps)), ("training time", numbers.format_duration(seconds))]
    if size:
        pairs.append(("parameters", tag("span", numbers.format_parameters(size), title=numbers.format_whole(size))))
    if samples and run.stages:
        pairs.append(("training samples", numbers.format_whole(samples)))
    allowed, unclear = combine_licences(run)
    if allowed or unclear:
        pairs.append(
            ("strictest licence", describe_licences(allowed) if allowed else tag("span", "unclear", class_="bad"))
        )
    return make_facts(pairs)


def _is_training_split(split: str, fold: int | None) -> bool:
    return split == "train" if fold is None else split.startswith("fold") and split != f"fold{fold}"


def _list_gaps(run: RunRecord) -> list[str]:
    """What the run's records do not prove."""
    lines = []
    if bare := [r for r in run.results if not r.get("baselines")]:
        lines.append(f"{len(bare)} of {len(run.results)} results have no baseline to compare with.")
    if [r for r in run.results if not r.get("ci")]:
        lines.append("Some results have no interval, so it is unknown how much they would vary on other samples.")
    lines += [
        f"{row.get('dataset')}:{row.get('split')}: {meaning}." for row in run.results if (meaning := explain(row))
    ]
    unproven = []
    for name, stage in run.stages.items():
        trained = stage.done.get("trains") or {}
        unproven += [f"{group} in {name}" for group, record in trained.items() if not record.get("moved")]
    if unproven:
        lines.append(f"Supposed to be trained, but without proof that the weights changed: {', '.join(unproven)}.")
    by_image = [n for n, s in run.sources.items() if ((s.get("card") or {}).get("splits") or {}).get("by") == "image"]
    if by_image:
        lines.append(
            f"Split by image, not by patient: {', '.join(by_image)}. A patient may be in the training and the test"
            " split, so results may be too good."
        )
    return lines
