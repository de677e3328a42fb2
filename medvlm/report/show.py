"""The gallery of a data set: samples as they are stored, with their boxes, and the distribution of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.images import box_key
from medvlm.report.markup import Child, tag
from medvlm.report.page import facts, section, write_page
from medvlm.report.reading import in_order
from medvlm.report.sample_card import marked, sample_card
from medvlm.report.spread import READ, answers_section, counts_section, spread


def write_gallery(shards: ShardSet, out: Path, split: str | None, count: int = 48) -> Path:
    """Writes one self-contained page of `count` samples of a split (None: of all) and returns its path.

    Samples are evenly spaced, so that the page is the same each time and covers every part.
    Raises DataError for a split that does not exist, and for a damaged shard.
    """
    splits = (split,) if split else in_order(shards.splits)
    places = [(s, i) for s in splits for i in range(shards.count(s))]
    gallery = [shards.read(*place) for place in spread(places, count)]
    samples = [shards.read(*place)[0] for place in spread(places, READ)]
    # The most common label gets the simplest line style: one picture may have many of its boxes.
    labels = [
        label for label, _ in Counter(label for sample, _ in gallery for label, _ in marked(sample)).most_common()
    ]
    about = (
        f"{len(gallery)} of {numbers.whole(len(places))} samples at equal distances, as they are stored. Boxes are in"
        " stored pixels."
    )
    cards = tag("div", *(sample_card(sample, files, labels) for sample, files in gallery), class_="gallery")
    legend = box_key([(str(i), label) for i, label in enumerate(labels)]) if labels else None
    sections = [
        counts_section(shards, splits),
        answers_section(samples, len(places)),
        section("Samples", "samples", legend, cards, about=about),
    ]
    sources = sorted({sample.source for sample in samples}) or ["no samples"]
    head: list[Child] = [
        tag("p", _lead(len(places), splits), class_="lead"),
        facts(
            [
                ("samples", numbers.whole(len(places))),
                ("splits", ", ".join(splits)),
                ("fingerprint", tag("code", shards.fingerprint[:16])),
            ]
        ),
    ]
    return write_page(out, title=", ".join(sources), eyebrow="data set", head=head, sections=sections)


def _lead(total: int, splits: Sequence[str]) -> str:
    where = f"split {splits[0]}" if len(splits) == 1 else f"{len(splits)} splits"
    return f"{numbers.whole(total)} samples in {where}: what a model will be shown, asked and expected to answer."
