"""The report and the questions of a phantom, in several wordings that reveal nothing about the answer.

The first sentence of a report is about the finding, the second about the clips. It always states side, zone, kind, size
and number of clips in the words of the answers, so that every question can be answered from the report alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from medvlm.archive.phantom.finding import KINDS, MAX_CLIPS, SHARE_NORMAL, SIDES, SIZES_MM, ZONES, Finding, draw_finding
from medvlm.core.sample import Box, Question, Truth, make_truth
from medvlm.core.text import PIXEL_MM

T = TypeVar("T")

FINDING = (
    "There is a {size} {kind} in the {side} {zone} zone.",
    "A {size} {kind} is seen in the {zone} zone of the {side} lung.",
    "{side} {zone} zone: {size} {kind}.",
    "The {side} lung shows a {size} {kind} in its {zone} zone.",
    "In the {zone} zone of the {side} lung there is a {kind}, {size} in size.",
    "{size} {kind}, {side} lung, {zone} zone.",
    "The {side} {zone} zone contains a {kind} of {size} size.",
    "The lungs are clear except for a {size} {kind} on the {side} in the {zone} zone.",
)
NORMAL = (
    "No focal finding.",
    "There is no focal finding.",
    "No focal finding is seen in either lung.",
    "The lungs are clear.",
    "Both lungs are clear, without a focal finding.",
    "Clear lungs, no focal finding.",
)
CLIPS = (
    ("{n} surgical clip is seen.", "{n} surgical clips are seen."),
    ("There is {n} surgical clip.", "There are {n} surgical clips."),
    ("{n} surgical clip projects over the lungs.", "{n} surgical clips project over the lungs."),
    ("Note is made of {n} surgical clip.", "Note is made of {n} surgical clips."),
)
NUMBERS = ("no", "one", "two", "three", "four", "five")
assert len(NUMBERS) == MAX_CLIPS + 1

ASK = {
    "side": (
        "Which lung is affected?",
        "On which side is the finding?",
        "Is the finding in the left or the right lung?",
        "Name the side of the finding.",
    ),
    "zone": (
        "Which zone is affected?",
        "In which zone is the finding?",
        "Is the finding in the upper, middle or lower zone?",
        "Name the zone of the finding.",
    ),
    "kind": (
        "What is the finding?",
        "What kind of finding is there?",
        "Which abnormality does the {image} show?",
        "Name the abnormality.",
    ),
    "size": (
        "How large is the finding?",
        "What size is the finding?",
        "Is the finding small, medium or large?",
        "Name the size of the finding.",
    ),
    "presence": (
        "Is there a {kind}?",
        "Does the {image} show a {kind}?",
        "Is a {kind} present?",
        "Can a {kind} be seen?",
    ),
    "count:clip": (
        "How many surgical clips are there?",
        "How many clips does the {image} show?",
        "Count the surgical clips.",
        "What is the number of clips?",
    ),
    "boxes:finding": (
        "Where is the finding?",
        "Mark the finding.",
        "Locate the abnormality.",
        "Draw a box around the finding.",
    ),
    "report": ("Describe the {image}.", "What does the {image} show?", "Write a report.", "Report on this {image}."),
}
"""Template -> wordings. `{image}` is `film` or `scan`."""

ASK_ON_REQUEST = {
    "length": (
        "How long is the finding in mm? A pixel is {pixel_mm}.",
        "Measure the longest extent of the finding. A pixel of the {image} is {pixel_mm}.",
        "What is the size of the finding in mm, with pixels of {pixel_mm}?",
        "Pixels are {pixel_mm}. Give the longest extent of the abnormality.",
    ),
    "points:clip": (
        "Point at the surgical clips.",
        "Where are the clips?",
        "Give the position of each clip.",
        "Mark each surgical clip with a point.",
    ),
}
"""The same of questions that a card asks for. PIXEL_MM stays."""

ASK_PRESENT = 0.5 / (1 - SHARE_NORMAL)
"""Fraction of the abnormal studies whose presence question names the kind they show; the others name one of the other
three. For a normal study it names any kind, and the answer is no. So (1 - SHARE_NORMAL) * ASK_PRESENT = 1/2 of the
answers are yes, for each kind."""


def write_report(rng: np.random.Generator, finding: Finding | None, num_clips: int) -> str:
    """Two sentences: the finding, then the clips; their wordings are drawn independently."""
    found = _one_of(rng, NORMAL) if finding is None else _one_of(rng, FINDING).format(**vars(finding))
    one, many = CLIPS[rng.integers(len(CLIPS))]
    clips = (one if num_clips == 1 else many).format(n=NUMBERS[num_clips])
    return f"{_capital(found)} {_capital(clips)}"


def ask(
    rng: np.random.Generator,
    image: str,
    finding: Finding | None,
    report: str,
    num_clips: int,
    finding_box: Box | None = None,
    clip_boxes: tuple[Box, ...] = (),
) -> Iterator[Question]:
    """Every question about one study, each in one wording. A normal study only has the questions about presence, clips
    and report, since `which side?` has no answer there. finding_box, clip_boxes: in stored pixels; none for a
    volume."""

    def question(template: str, truth: Truth, kind: str = "") -> Question:
        return Question(_one_of(rng, ASK[template]).format(image=image, kind=kind), truth, template)

    if finding is not None:
        yield question("side", make_truth("choice", finding.side, choices=SIDES))
        yield question("zone", make_truth("choice", finding.zone, choices=ZONES))
        yield question("kind", make_truth("choice", finding.kind, choices=KINDS))
        yield question("size", make_truth("choice", finding.size, choices=tuple(SIZES_MM)))
    kind = _draw_kind(rng, finding)
    yield question(
        "presence",
        make_truth("choice", "yes" if finding is not None and kind == finding.kind else "no", choices=("yes", "no")),
        kind,
    )
    yield question("count:clip", make_truth("count", count=num_clips, boxes=clip_boxes, label="clip"))
    if finding_box is not None:
        yield question("boxes:finding", make_truth("boxes", boxes=(finding_box,), label="finding"))
    yield question("report", make_truth("report", report))


def ask_pair(rng: np.random.Generator, image: str, finding: Finding | None) -> Question:
    """Two descriptions of one wording: the better one says what the study shows, the other one is wrong about side,
    zone or kind. Of a normal study, the other one names a finding. Each value is equally often right and wrong."""
    wording = _one_of(rng, FINDING)
    if finding is None:
        other = draw_finding(rng)
        while other is None:
            other = draw_finding(rng)
        better = _one_of(rng, NORMAL)
    else:
        name, values = _one_of(rng, [("side", SIDES), ("zone", ZONES), ("kind", KINDS)])
        changed: Any = {name: _one_of(rng, [v for v in values if v != vars(finding)[name]])}
        other = replace(finding, **changed)
        better = wording.format(**vars(finding))
    worse = wording.format(**vars(other))
    text = _one_of(rng, ASK["report"]).format(image=image)
    return Question(text, make_truth("preference", _capital(better), rejected=_capital(worse)), "pair")


def ask_length(rng: np.random.Generator, image: str, finding: Finding) -> Question:
    """How long the finding is, to the tenth of a millimetre."""
    text = _one_of(rng, ASK_ON_REQUEST["length"]).format(image=image, pixel_mm=PIXEL_MM)
    return Question(text, make_truth("measure", values=(round(finding.size_mm, 1),), label="finding"), "length")


def ask_points(rng: np.random.Generator, image: str, clip_boxes: Sequence[Box]) -> Question:
    """Where the clips are, from left to right: the centres of their boxes."""
    centres = tuple(sorted(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in clip_boxes))
    truth = make_truth("points", points=centres, label="clip")
    return Question(_one_of(rng, ASK_ON_REQUEST["points:clip"]).format(image=image), truth, "points:clip")


def _draw_kind(rng: np.random.Generator, finding: Finding | None) -> str:
    if finding is None:
        return _one_of(rng, KINDS)
    if rng.random() < ASK_PRESENT:
        return finding.kind
    return _one_of(rng, [k for k in KINDS if k != finding.kind])


def _one_of(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
