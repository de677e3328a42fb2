"""The report of a run: one page that says what was trained on what, how well it works, and what was not checked."""

from __future__ import annotations

from pathlib import Path

from medvlm.core.run import RunFolder
from medvlm.report import numbers
from medvlm.report.answers import draw_answer, gallery_section
from medvlm.report.confusion import confusion_section
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import facts, notes, section, write_page
from medvlm.report.parts import parts_table
from medvlm.report.provenance import data_section, licence_words, licences, lineage_section
from medvlm.report.reading import RunRecord, read_run
from medvlm.report.results import add_measures, headline_section, results_section
from medvlm.report.training import curves_section, proof_section, stages_table


def write_report(run: RunFolder) -> Path:
    """Writes `report.html` of a run, finished or not, and returns its path.

    Whatever is missing, damaged or not finished is said at the top; nothing missing raises.
    """
    record = read_run(run)
    results = add_measures(record.results, record.answers)
    made = [part for part in (stages_table(record), parts_table(record)) if part]
    sections = [
        headline_section(results),
        section("What was trained on what", "made", *made) if made else None,
        curves_section(record),
        results_section(results),
        confusion_section((answer, draw_answer(answer)) for answer in record.answers),
        gallery_section(record.answers, run.results.parent),
        proof_section(record),
        data_section(record),
        lineage_section(record),
    ]
    head: list[Child] = [
        _lead(record),
        _facts(record),
        notes("What this page cannot show", [*record.notes, *_unchecked(record)]),
    ]
    return write_page(run.report, title=record.name, eyebrow="training run", head=head, sections=sections)


def _lead(run: RunRecord) -> Html:
    """What the run is, in one sentence."""
    finished = sum(bool(stage.done.get("finished")) for stage in run.stages.values())
    stages = f"{finished} of {len(run.stages)} stages finished" if run.stages else "No stage has begun"
    model = run.recipe.get("model") or {}
    kind = (
        "A model that reads images and answers in text"
        if model.get("language") or model.get("pretrained")
        else "A dual encoder of images and text"
        if model.get("encoders")
        else "A model"
    )
    data = f", trained on {' and '.join(run.sources)}" if run.sources else ""
    return tag(
        "p",
        f"{kind}{data}. {stages}; {'evaluated on held-out samples' if run.results else 'not evaluated yet'}.",
        class_="lead",
    )


def _facts(run: RunRecord) -> Html:
    seconds, steps = sum(s.seconds for s in run.stages.values()), sum(s.steps for s in run.stages.values())
    size = sum(run.parameters.values())
    samples = sum(
        n
        for s in run.sources.values()
        for split, n in (s.get("counts") or {}).items()
        if _trained_on(split, s.get("fold"))
    )
    pairs: list[tuple[str, Child]] = [("steps", numbers.whole(steps)), ("training time", numbers.duration(seconds))]
    if size:
        pairs.append(("parameters", tag("span", numbers.parameters(size), title=numbers.whole(size))))
    if samples:
        pairs.append(("training samples", numbers.whole(samples)))
    allowed, unclear = licences(run)
    if allowed or unclear:
        pairs.append(("strictest licence", licence_words(allowed) if allowed else tag("span", "unclear", class_="bad")))
    return facts(pairs)


def _trained_on(split: str, fold: int | None) -> bool:
    return split == "train" if fold is None else split.startswith("fold") and split != f"fold{fold}"


def _unchecked(run: RunRecord) -> list[str]:
    """Gaps in the evidence itself."""
    lines = []
    if bare := [r for r in run.results if not r.get("baselines")]:
        lines.append(f"{len(bare)} of {len(run.results)} results have no baseline to compare with.")
    if [r for r in run.results if not r.get("ci")]:
        lines.append("Some results have no interval: how much they would vary on other samples is unknown.")
    still = [
        f"{g} in {name}"
        for name, s in run.stages.items()
        for g, t in (s.done.get("trains") or {}).items()
        if not t.get("moved")
    ]
    if still:
        lines.append(f"Named as trained, but not shown to have moved: {', '.join(still)}.")
    by_image = [n for n, s in run.sources.items() if ((s.get("card") or {}).get("splits") or {}).get("by") == "image"]
    if by_image:
        lines.append(
            f"Split by image, not by patient: {', '.join(by_image)}. A patient may be in training and in test, so"
            " results may be too good."
        )
    return lines
