"""The gallery of a data set: stored samples with their boxes, and the distribution of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.images import draw_box_key
from medvlm.report.markup import Child, tag
from medvlm.report.page import make_facts, make_section, write_page
from medvlm.report.reading import sort_splits
from medvlm.report.sample_card import list_boxes, make_sample_card
from medvlm.report.spread import READ, choose_evenly, make_answers_section, make_counts_section


def write_gallery(shards: ShardSet, out: Path, split: str | None, count: int = 48) -> Path:
    """Writes a self-contained page with `count` samples of a split (None: of all splits) and returns its path.

    Samples are evenly spaced, so that the page is the same each time and covers every part. Raises DataError for a
    split that does not exist, and for a damaged shard.
    """
    splits = (split,) if split else sort_splits(shards.splits)
    places = [(s, i) for s in splits for i in range(shards.count(s))]
    gallery = [shards.read(*place) for place in choose_evenly(places, count)]
    samples = [shards.read(*place)[0] for place in choose_evenly(places, READ)]
    # The most common label gets the simplest line style, because a picture may have many of its boxes.
    labels = [
        label for label, _ in Counter(label for sample, _ in gallery for label, _ in list_boxes(sample)).most_common()
    ]
    about = (
        f"{len(gallery)} of {numbers.format_whole(len(places))} samples at equal distances, as they are stored."
        " Boxes are in stored pixels."
    )
    cards = tag("div", *(make_sample_card(sample, files, labels) for sample, files in gallery), class_="gallery")
    legend = draw_box_key([(str(i), label) for i, label in enumerate(labels)]) if labels else None
    sections = [
        make_counts_section(shards, splits),
        make_answers_section(samples, len(places)),
        make_section("Samples", "samples", legend, cards, about=about),
    ]
    sources = sorted({sample.source for sample in samples}) or ["no samples"]
    head: list[Child] = [
        tag("p", _make_lead(len(places), splits), class_="lead"),
        make_facts(
            [
                ("samples", numbers.format_whole(len(places))),
                ("splits", ", ".join(splits)),
                ("fingerprint", tag("code", shards.fingerprint[:16])),
            ]
        ),
    ]
    return write_page(out, title=", ".join(sources), eyebrow="data set", head=head, sections=sections)


def _make_lead(total: int, splits: Sequence[str]) -> str:
    where = f"split {splits[0]}" if len(splits) == 1 else f"{len(splits)} splits"
    return f"{numbers.format_whole(total)} samples in {where}: images, questions and expected answers."
