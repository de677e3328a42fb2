"""Which texts a stage reads of a sample: drawn anew each time, by the seed and the position of the sample."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.core.terminology import Terminology
from medvlm.data.order import draw, draw_below
from medvlm.data.source import SourceView
from medvlm.tasks._sections import HISTORY, read_sections

LOOKED_AT = 64
Part = Literal["report", "section", "sentence"]


class Labels(Config):
    """Texts that are written from the labels of a sample, in place of its report (FLAIR, arXiv 2308.07898, section 3;
    UniCL, arXiv 2204.03610). Samples with the same label match each other."""

    of: str
    """Template of the questions whose labels are written. Samples without one are read as usual."""
    sentences: tuple[str, ...] = Field(("{label}",), min_length=1)
    """One of them is drawn, e.g. "A fundus photograph of {label}."."""
    dictionary: Terminology | None = None
    """Descriptions that may stand in place of a label."""
    described: float = Field(0.5, gt=0, le=1)
    """The share of texts with a description, of labels that have one."""

    @field_validator("sentences")
    @classmethod
    def _have_a_place(cls, sentences: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [sentence for sentence in sentences if "{label}" not in sentence]:
            raise ValueError(f"{wrong[0]!r} has no place for the label; write {{label}} where it belongs")
        return sentences


class Captions(Config):
    """The settings of a stage about its texts."""

    reads: Part | dict[Part, Annotated[float, Field(gt=0)]] = "report"
    """`section`: a random section of the report. `sentence`: a random sentence, drawn anew each time (ConVIRT, arXiv
    2010.00747, section 2.2). Several with their shares: {report: 1, section: 1} (Merlin, arXiv 2406.06512)."""
    headings: tuple[str, ...] = ()
    """Names of sections, as they stand before a colon in reports: [liver, kidneys]. By default findings and
    impression."""
    reads_alike: bool = False
    """All samples of a step read the same part, and the section of the same heading, so that organs are not told apart
    by their names. Samples without that section are read whole."""
    captions: int = Field(1, gt=0)
    """Texts of a sample in a step, different ones if it has as many. Images are compared with the first texts of all
    samples, then with the second ones, and so on; the loss is the mean."""
    labels: Labels | None = None


@dataclass(frozen=True)
class Drawn:
    """A text, and the label that it is written from, "" for a text of the report."""

    text: str
    label: str = ""


def draw_texts(config: Captions, sample: Sample, batch: int, *key: int | str) -> list[Drawn]:
    """As many as `captions`. batch: samples of a step. key: seed, stage and, at last, position. Raises DataError for a
    sample with neither a label nor a report."""
    *stage, position = key
    if config.labels and (known := list_labels(sample, config.labels.of)):
        return [_write_label(config.labels, known, *key, number) for number in range(config.captions)]
    if not sample.report:
        raise DataError("has no report, and no label to write a text from; leave it out, or name its question")
    common = (*stage, "step", int(position) // batch) if config.reads_alike else (*stage, "part", position, sample.key)
    found: list[Drawn] = []
    left: dict[str, list[str]] = {}
    for number in range(config.captions):
        again = (number,) if number else ()
        part = _draw_part(config.reads, *common, *again)
        if not left.get(part):
            left[part] = _split(config, part, sample.report, *common)
        place = draw_below(len(left[part]), *stage, part, position, sample.key, *again) if len(left[part]) > 1 else 0
        found.append(Drawn(left[part].pop(place)))
    return found


def list_labels(sample: Sample, template: str) -> list[str]:
    """The names of what a sample shows, by its questions of this template."""
    return [name for q in sample.questions if q.template == template for name in _name_labels(q.truth)]


def explain_no_labels(config: Labels, views: Mapping[str, SourceView]) -> str:
    """Says that none of the first samples has a label to write, as after a typing error; "" if one has."""
    for view in views.values():
        if any(list_labels(view.read(place)[0], config.of) for place in range(min(len(view), LOOKED_AT))):
            return ""
    return (
        f"none of the first {LOOKED_AT} samples of {', '.join(views)} shows anything by a question of template"
        f" {config.of!r} (labels.of), so their reports are read"
    )


def _name_labels(truth: Any) -> Iterator[str]:
    classes, labels = getattr(truth, "classes", None), getattr(truth, "labels", None)
    if classes is None or labels is None:
        yield truth.answer
    else:
        yield from (name for name, is_shown in zip(classes, labels, strict=True) if is_shown)


def _write_label(config: Labels, known: list[str], *key: int | str) -> Drawn:
    rng = draw(*key[:2], "label", *key[2:])
    label = known[int(rng.integers(len(known)))]
    sentence = config.sentences[int(rng.integers(len(config.sentences)))]
    described = config.dictionary.entries.get(label, ()) if config.dictionary else ()
    if described and rng.random() < config.described:
        label_text = described[int(rng.integers(len(described)))]
    else:
        label_text = label
    return Drawn(sentence.replace("{label}", label_text), label)


def _draw_part(reads: str | Mapping[Any, float], *key: int | str) -> str:
    if isinstance(reads, str):
        return reads
    place = float(draw(*key, "kind").random()) * sum(reads.values())
    for part, share in reads.items():
        place -= share
        if place < 0:
            return str(part)
    return str(part)


def _split(config: Captions, part: str, report: str, *key: int | str) -> list[str]:
    if part == "sentence":
        return split_sentences(report)
    if part != "section":
        return [report]
    if not config.headings:
        found = read_sections(report)
        return [text for name, text in found.items() if name != HISTORY] or [report]
    sections = split_sections(report, config.headings)
    if config.reads_alike:
        heading = config.headings[draw_below(len(config.headings), *key, "heading")]
        return [sections.get(heading, report)]
    return list(sections.values()) or [report]


def split_sections(report: str, headings: tuple[str, ...]) -> dict[str, str]:
    """Heading -> its section, with the heading. A heading stands at the beginning of a line or sentence, before a
    colon; a section ends at the next one. Headings that the report does not have are left out."""
    names = "|".join(re.escape(name) for name in sorted(headings, key=len, reverse=True))
    found = list(re.finditer(rf"(?:^|(?<=[.:;!?])\s|\n)\s*(?P<name>{names})\s*:", report, re.IGNORECASE))
    ends = [match.start() for match in found[1:]] + [len(report)] * bool(found)
    texts = {
        match["name"].casefold(): report[match.start("name") : end].strip()
        for match, end in zip(found, ends, strict=True)
    }
    return {name: texts[name.casefold()] for name in headings if name.casefold() in texts}


def split_sentences(report: str) -> list[str]:
    """Splits a report at . ! ? before white space, and at empty lines. Parts without a letter are dropped; if none is
    left, the whole report is returned."""
    found = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n\s*\n", report)]
    return [part for part in found if re.search(r"[^\W\d_]", part)] or [report]
