"""The statistics of a data set on one page: what is in it, how its splits differ, and whether an audit has passed
it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm.archive.audit.receipt import AUDIT, audits_of
from medvlm.core.config import is_available
from medvlm.core.sample import Sample, Truth
from medvlm.core.tasks import find_task
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.histogram import histogram
from medvlm.report.images import box_key
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, facts, section, write_page
from medvlm.report.provenance import audit_words
from medvlm.report.reading import in_order
from medvlm.report.sample_card import marked, sample_card
from medvlm.report.spread import READ, answers_section, counts_section, spread
from medvlm.report.stats_media import media_sections

DECODED = 300
"""Number of samples whose pixels are read."""
SHOWN = 12


def write_stats(where: Path | str, out: Path) -> Path:
    """Writes one self-contained page about a folder of shards (or a tar, or a pattern of tars) and returns its path.

    Counts come from the index and cover everything; the rest is of samples at equal distances, as the page says.
    Raises DataError for shards that cannot be read.
    """
    import numpy as np

    shards = open_shards(where)
    splits = in_order(shards.splits)
    places = [(s, i) for s in splits for i in range(shards.count(s))]
    samples = [shards.read(*place)[0] for place in spread(places, READ)]
    decoded = [shards.read(*place) for place in spread(places, DECODED)]
    said, said_decoded = _describe_count(len(samples), len(places)), _describe_count(len(decoded), len(places))
    images = sum(len(sample.media) for sample in samples)
    head: list[Child] = [
        tag(
            "p",
            f"{numbers.whole(len(places))} samples in {len(splits)} {'split' if len(splits) == 1 else 'splits'},"
            " counted and measured.",
            class_="lead",
        ),
        facts(
            [
                ("samples", numbers.whole(len(places))),
                ("splits", ", ".join(splits)),
                ("media a sample", numbers.value(images / len(samples))),
                ("questions a sample", numbers.value(float(np.mean([len(s.questions) for s in samples])))),
                ("fingerprint", tag("code", shards.fingerprint[:16])),
            ]
        ),
    ]
    sections = [
        counts_section(shards, splits),
        _audit(shards, Path(where)),
        *media_sections(samples, decoded, splits, said, said_decoded),
        answers_section(samples, len(places)),
        _texts(samples, splits, said),
        _pictures(shards, places),
    ]
    sources = sorted({sample.source for sample in samples})
    return write_page(out, title=", ".join(sources), eyebrow="statistics of a data set", head=head, sections=sections)


def _describe_count(some: int, total: int) -> str:
    return (
        f"all {numbers.whole(total)} samples"
        if some == total
        else f"{numbers.whole(some)} of {numbers.whole(total)} samples, at equal distances"
    )


def _audit(shards: ShardSet, where: Path) -> Section:
    folder = where if where.is_dir() else where.parent
    audit = audits_of({"here": shards.fingerprint}, [folder / AUDIT]).get("here", {})
    remedy = (
        None
        if audit
        else tag(
            "p",
            "Whether a patient or an image is on two sides is not known: ",
            tag("code", "medvlm data audit SHARDS"),
            " tells.",
        )
    )
    return section("Audit", "audit", remedy or audit_words(audit))


def _is_free_text(truth: Truth) -> bool:
    return is_available("tasks", truth.task) and find_task(truth.task).FREE_TEXT


def _texts(samples: Sequence[Sample], splits: Sequence[str], said: str) -> Section | None:
    import numpy as np

    texts = {
        "questions": lambda s: [q.text for q in s.questions],
        "free answers": lambda s: [q.truth.answer for q in s.questions if _is_free_text(q.truth)],
        "reports": lambda s: [s.report] if s.report else [],
    }
    figures = []
    for name, of in texts.items():
        lengths = {
            split: np.array([len(t.split()) for s in samples if s.split == split for t in of(s)]) for split in splits
        }
        figures.append(histogram(name, lengths, "words"))
    if not any(figures):
        return None
    return section(
        "Texts", "texts", tag("div", *figures, class_="curves"), about=f"How many words a text has, of {said}."
    )


def _pictures(shards: ShardSet, places: list[tuple[str, int]]) -> Section:
    stored = [shards.read(*place) for place in spread(places, SHOWN)]
    labels = [label for label, _ in Counter(label for sample, _ in stored for label, _ in marked(sample)).most_common()]
    legend = box_key([(str(i), label) for i, label in enumerate(labels)]) if labels else None
    cards: list[Html] = [sample_card(sample, files, labels, asked=False) for sample, files in stored]
    about = "A few samples at equal distances; medvlm data show has more, with their questions."
    return section("Samples", "samples", legend, tag("div", *cards, class_="gallery"), about=about)
