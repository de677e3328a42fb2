"""The statistics of a data set on one page: its contents, how its splits differ, and the result of its audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from medvlm.archive.audit.receipt import AUDIT, audits_of
from medvlm.core.config import is_available
from medvlm.core.sample import Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.core.turns import tell
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.histogram import draw_histogram
from medvlm.report.images import draw_box_key
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, make_facts, make_section, write_page
from medvlm.report.provenance import describe_audit
from medvlm.report.reading import sort_splits
from medvlm.report.sample_card import list_boxes, make_sample_card
from medvlm.report.shown import ABOUT, make_shown_lines
from medvlm.report.spread import READ, choose_evenly, make_answers_section, make_counts_section
from medvlm.report.stats_media import make_media_sections

DECODED = 300
"""Number of samples whose pixels are read."""
SHOWN = 12


def write_stats(where: Path | str, out: Path, describe: Callable[[Sequence[Sample]], list[str]] | None = None) -> Path:
    """Writes a self-contained page about a folder of shards (or a tar, or a pattern of tars) and returns its path.

    describe: says in which pixels and millimetres a model is shown the samples, see preflight/scales.py.
    Counts come from the index and cover all samples. The rest is measured on samples at equal distances, and the page
    says so. Raises DataError for shards that cannot be read.
    """
    import numpy as np

    shards = open_shards(where)
    splits = sort_splits(shards.splits)
    places = [(s, i) for s in splits for i in range(shards.count(s))]
    samples = [shards.read(*place)[0] for place in choose_evenly(places, READ)]
    decoded = [shards.read(*place) for place in choose_evenly(places, DECODED)]
    said, said_decoded = _describe_count(len(samples), len(places)), _describe_count(len(decoded), len(places))
    images = sum(len(sample.media) for sample in samples)
    head: list[Child] = [
        tag(
            "p",
            f"{numbers.format_whole(len(places))} samples in {len(splits)} {'split' if len(splits) == 1 else 'splits'},"
            " counted and measured.",
            class_="lead",
        ),
        make_facts(
            [
                ("samples", numbers.format_whole(len(places))),
                ("splits", ", ".join(splits)),
                ("media per sample", numbers.format_value(images / len(samples))),
                ("questions per sample", numbers.format_value(float(np.mean([len(s.questions) for s in samples])))),
                ("fingerprint", tag("code", shards.fingerprint[:16])),
            ]
        ),
    ]
    sections = [
        make_counts_section(shards, splits),
        _make_audit_section(shards, Path(where)),
        *make_media_sections(samples, decoded, splits, said, said_decoded),
        _make_shown_section(samples, describe),
        make_answers_section(samples, len(places)),
        _make_texts_section(samples, splits, said),
        _make_samples_section(shards, places),
    ]
    sources = sorted({sample.source for sample in samples})
    return write_page(out, title=", ".join(sources), eyebrow="statistics of a data set", head=head, sections=sections)


def _describe_count(some: int, total: int) -> str:
    return (
        f"all {numbers.format_whole(total)} samples"
        if some == total
        else f"{numbers.format_whole(some)} of {numbers.format_whole(total)} samples, at equal distances"
    )


def _make_audit_section(shards: ShardSet, where: Path) -> Section:
    folder = where if where.is_dir() else where.parent
    audit = audits_of({"here": shards.fingerprint}, [folder / AUDIT]).get("here", {})
    remedy = (
        None
        if audit
        else tag(
            "p",
            "It was not checked whether a patient or an image is in more than one split. To check it, run ",
            tag("code", "medvlm data audit SHARDS"),
            ".",
        )
    )
    return make_section("Audit", "audit", remedy or describe_audit(audit))


def _make_shown_section(
    samples: Sequence[Sample], describe: Callable[[Sequence[Sample]], list[str]] | None
) -> Section | None:
    """In which pixels and millimetres a model is shown these samples; without a model, how to find out."""
    if not any(sample.media for sample in samples):
        return None
    if describe is None:
        ask = tag(
            "p",
            "The sizes above are those of the files. How many pixels and millimetres are left after a model's"
            " preprocessing, and whether labelled boxes become smaller than a patch, is shown with ",
            tag("code", "--recipe RECIPE"),
            ".",
        )
        return make_section("Shown to the model", "shown", ask)
    lines = describe(samples)
    found = make_shown_lines(lines) if lines else tag("p", "The recipe's encoders take none of these media.")
    return make_section("Shown to the model", "shown", found, about=ABOUT)


def _is_free_text(truth: Truth) -> bool:
    return is_available("tasks", truth.task) and find_task(truth.task).FREE_TEXT


def _make_texts_section(samples: Sequence[Sample], splits: Sequence[str], said: str) -> Section | None:
    import numpy as np

    texts = {
        "questions": lambda s: [tell(q) for q in s.questions],
        "free answers": lambda s: [q.truth.answer for q in s.questions if _is_free_text(q.truth)],
        "reports": lambda s: [s.report] if s.report else [],
    }
    figures = []
    for name, of in texts.items():
        lengths = {
            split: np.array([len(t.split()) for s in samples if s.split == split for t in of(s)]) for split in splits
        }
        figures.append(draw_histogram(name, lengths, "words"))
    if not any(figures):
        return None
    return make_section(
        "Texts", "texts", tag("div", *figures, class_="curves"), about=f"Number of words per text, for {said}."
    )


def _make_samples_section(shards: ShardSet, places: list[tuple[str, int]]) -> Section:
    stored = [shards.read(*place) for place in choose_evenly(places, SHOWN)]
    labels = [
        label for label, _ in Counter(label for sample, _ in stored for label, _ in list_boxes(sample)).most_common()
    ]
    legend = draw_box_key([(str(i), label) for i, label in enumerate(labels)]) if labels else None
    cards: list[Html] = [make_sample_card(sample, files, labels, asked=False) for sample, files in stored]
    about = "A few samples at equal distances. `medvlm data show` shows more, with their questions."
    return make_section("Samples", "samples", legend, tag("div", *cards, class_="gallery"), about=about)
