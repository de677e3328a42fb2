"""Kinds of answers, with the rewards that a recipe would combine for them: right answers, honest wrong ones (of the
form that is asked for, about something else), and attempts to be paid without knowing the answer.

Of each task and each reward there are at least three of all three, near-copies counted once (test_cheating.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from medvlm.core.contracts import Case
from medvlm.core.sample import Truth, make_truth
from medvlm.rewards._compose import Composer


@dataclass(frozen=True)
class Kind:
    """right: each earns all that there is. wrong: less. cheats: no more than any of `wrong`."""

    rewards: dict[str, Any]
    about: Truth | Case
    right: list[str]
    wrong: list[str]
    cheats: list[str]

    @property
    def task(self) -> str:
        return (self.about.truth if isinstance(self.about, Case) else self.about).task

    def score(self, text: str) -> float:
        return Composer(self.rewards).score(text, self.about)[0]


SIDE = make_truth("choice", "left", choices=("left", "right", "both"))
LOBE = make_truth("open", "right upper lobe")
ONE = make_truth("boxes", boxes=((400, 400, 500, 500),))
TWO = make_truth("boxes", boxes=((100, 100, 200, 200), (600, 500, 700, 650)))
ANY_BOX = make_truth("boxes", boxes=((100, 100, 200, 200), (600, 500, 700, 650)), any_of=True)
NO_BOX = make_truth("boxes")
FOUR = make_truth("count", count=4)
ZERO = make_truth("count", count=0)
PLACED: dict[str, Any] = {"extent": (1000.0, 1000.0), "codec": "thousandths", "label": "polyp"}
POINTS = make_truth("points", "[100, 100], [600, 500]", points=((100, 100), (600, 500)), **PLACED)
NO_POINT = make_truth("points", "none", **PLACED)
LENGTH = make_truth("measure", values=(40.0,), label="nodule")
AXES = make_truth("measure", values=(40.0, 20.0), label="lesion")
ANGLE = make_truth("measure", values=(30.0,), of="angle", label="spine")
ENTRIES = tuple((name, (), ()) for name in ("cardiomegaly", "edema", "effusion", "pneumothorax"))
FINDINGS = make_truth(
    "findings", findings=("cardiomegaly", "effusion"), entries=ENTRIES, nothing=("no finding", "normal")
)
NO_FINDING = make_truth("findings", entries=ENTRIES, nothing=("no finding", "normal"))
KNOWN = tuple((name, ()) for name in ("effusion", "edema", "opacity"))
CHANGED = make_truth("change", changes=(("effusion", "worsened"), ("edema", "resolved")), entries=KNOWN)
SICK = make_truth(
    "report",
    "Findings: There is a left pleural effusion. Impression: The heart is enlarged.",
    findings="english_chest_radiograph",
)
STEPS = Case(
    SIDE,
    {
        "finding": "There is a dense opacity in the left lower lobe.",
        "meaning": "The opacity with air bronchograms suggests pneumonia.",
    },
)
FILMS = make_truth(
    "indexed_boxes",
    "image 1: [100, 100, 200, 200]; image 3: [500, 500, 700, 600]",
    boxes=((100, 100, 200, 200), (500, 500, 700, 600)),
    numbers=(1, 3),
    label="nodule",
    codec="thousandths",
    extents=((1000.0, 1000.0),) * 3,
)
SLICES = make_truth("indexed_boxes", boxes=((400, 400, 500, 500),), numbers=(14,), of="slice", within=2)
CHAIN = (
    "This is a frontal chest radiograph.",
    "There is a dense opacity in the right lower lobe.",
    "The opacity with air bronchograms suggests pneumonia.",
)
REASONED = make_truth("stepwise", steps=CHAIN, final="pneumonia", choices=("pneumonia", "effusion", "tumor"))
GRID = ", ".join(f"[{x}, {y}, {x + 100}, {y + 100}]" for x in range(0, 1000, 100) for y in range(0, 1000, 100))
DOTS = ", ".join(f"[{x}, {y}]" for x in range(0, 1000, 50) for y in range(0, 1000, 50))
MEDMO = {"giou": 0.9, "format": 0.1}
THOUGHT = {"gate": {"weight": 1, "when": {"tags": 1}, "pay": {"inside": {"weight": 1, "pay": {"choice": 1}}}}}
REPORT = {
    "report_findings": 2,
    "gate": {
        "weight": 1,
        "when": {"length": {"weight": 1, "least": 8, "most": 60}},
        "pay": {"product": {"weight": 1, "of": {"structure": 1, "report_findings": 1}}},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}},
    "required": ["count"],
    "additionalProperties": False,
}
SIDED = {
    "type": "object",
    "properties": {"number": {"type": "integer"}, "side": {"enum": ["left", "right"]}},
    "required": ["number", "side"],
    "additionalProperties": False,
}

KINDS = {
    "a choice": Kind(
        {"choice": 0.9, "format": 0.1},
        SIDE,
        ["left", "left\n", " left"],
        ["right", "both"],
        ["left or right", "one side: left, right", "", "the side", "left " * 50],
    ),
    "a choice in words": Kind(
        {"choice": 1},
        SIDE,
        ["left", "The opacity is on the left.", "Answer: left"],
        ["right", "It is on the right.", "Both sides: both"],
        ["left, right, both", "not right, so either left or both", "left? right? both?", "I cannot tell", "leftright"],
    ),
    "a choice in tags": Kind(
        THOUGHT,
        SIDE,
        [
            "<think>The opacity is there.</think><answer>left</answer>",
            "<think>Bronchograms beside the heart are seen.</think>\n<answer>left</answer>",
            "<think>It lies where the image is marked L.</think><answer>The left one</answer>",
        ],
        [
            "<think>The opacity is there.</think><answer>right</answer>",
            "<think>There seem to be bronchograms everywhere.</think><answer>both</answer>",
            "<think>It lies where the image is marked R.</think><answer>The right one</answer>",
        ],
        [
            "<think>left</think><answer>left</answer><answer>right</answer>",
            "<think>left right</think><answer>left or right</answer>",
            "left",
            "<answer>left</answer>",
            "<think></think><answer>left</answer>",
        ],
    ),
    "a choice because of the image": Kind(
        {"product": {"weight": 1, "of": {"choice": 1, "grounded": 1}}},
        Case(SIDE, image_gain=math.inf),
        ["left", "on the left side", "The lesion is in the left lung."],
        ["right", "on both sides", "The lesion is in the right lung."],
        ["left or right", " ", "left right both", "neither left nor right"],
    ),
    "a choice that the image says nothing about": Kind(
        {"product": {"weight": 1, "of": {"choice": 1, "grounded": 1}}},
        Case(SIDE, image_gain=-0.1),
        [],
        ["right", "on both sides", "The lesion is in the right lung."],
        ["left", "It is usually on the left side.", "Left, as in most patients."],
    ),
    "a short answer": Kind(
        {"open": 1},
        LOBE,
        ["right upper lobe", "The RIGHT upper lobe.", "Right-upper lobe"],
        ["left upper lobe", "lingula", "the base of the right lung"],
        [
            "right upper lobe or left upper lobe",
            "right upper lobe " * 20,
            "",
            "lobe",
            "upper right left lower middle lobe",
        ],
    ),
    "a short answer with a number": Kind(
        {"open": 1},
        make_truth("open", "3 cm"),
        ["3 cm", "Three cm.", "3.0 cm"],
        ["4 cm", "3 mm", "30 cm"],
        ["3 cm or 4 cm", "1 2 3 4 cm", "more than 3 cm", "not 3 cm", "cm"],
    ),
    "a box, by IoU": Kind(
        {"boxes": 1},
        ONE,
        [
            "[400, 400, 500, 500]",
            '[{"bbox_2d": [400, 400, 500, 500], "label": "cell"}]',
            "It is at (400, 400, 500, 500).",
        ],
        ["[450, 400, 550, 500]", "[400, 380, 480, 540]", "[430, 430, 560, 560]"],
        ["[0, 0, 1000, 1000]", GRID, "[500, 500, 400, 400]", "none", "[1, 1, 2, 2]"],
    ),
    "two boxes, by IoU": Kind(
        {"boxes": 1},
        TWO,
        [
            "[100, 100, 200, 200], [600, 500, 700, 650]",
            "[600, 500, 700, 650], [100, 100, 200, 200]",
            '[{"bbox_2d": [100, 100, 200, 200]}, {"bbox_2d": [600, 500, 700, 650]}]',
        ],
        [
            "[120, 100, 220, 200], [600, 560, 700, 700]",
            "[100, 100, 200, 200]",
            "[640, 500, 720, 650], [90, 140, 180, 260]",
        ],
        ["[0, 0, 1000, 1000], [0, 0, 1000, 1000]", GRID, "none", "[100, 100, 200", "there are two"],
    ),
    "a box, by GIoU": Kind(
        MEDMO,
        ONE,
        ["[400, 400, 500, 500]", "[400,400,500,500]", "[400, 400,\n500, 500]"],
        ["[450, 400, 550, 500]", "[700, 400, 800, 500]", "[320, 610, 410, 700]"],
        ["[0, 0, 1000, 1000]", GRID, "[500, 500, 400, 400]", "none", "[1, 1, 2, 2]"],
    ),
    "a box, by CIoU": Kind(
        {"ciou": 1},
        ONE,
        ["[400, 400, 500, 500]", "(400, 400), (500, 500)", "x1=400, y1=400, x2=500, y2=500"],
        ["[450, 400, 550, 500]", "[700, 400, 800, 500]", "[320, 610, 410, 700]"],
        ["[0, 0, 1000, 1000]", GRID, "[350, 350, 2000, 2000]", "none", "box"],
    ),
    "one box of several": Kind(
        {"boxes": 0.5, "giou": 0.5},
        ANY_BOX,
        ["[100, 100, 200, 200]", "[600, 500, 700, 650]", "(600, 500), (700, 650)"],
        ["[150, 100, 250, 200]", "[640, 500, 740, 650]", "[320, 610, 410, 700]"],
        ["[0, 0, 1000, 1000]", GRID, "[100, 100, 700, 650]", "none", "[700, 650, 600, 500]"],
    ),
    "no box": Kind(
        {"giou": 1},
        NO_BOX,
        ["none", "[]", "There are no cells."],
        ["[400, 400, 500, 500]", "[10, 20, 90, 70]", "(640, 80), (700, 200)"],
        ["none, [400, 400, 500, 500]", GRID, "", "[500, 500, 400, 400]"],
    ),
    "a count": Kind(
        {"count": 0.9, "format": 0.1},
        FOUR,
        ["4", " 4", "4\n"],
        ["9", "12", "100"],
        ["4 or 9", "1 2 3 4 5 6 7 8 9", "3-5", "", "more than three", "several"],
    ),
    "a count of nothing": Kind(
        {"count": 1},
        ZERO,
        ["0", "none", "There are no cells."],
        ["1", "three", "There are 12 of them."],
        ["0 or 1", "0 1 2 3", "none or one", "", "no more than 5"],
    ),
    "a count in JSON": Kind(
        {"gate": {"weight": 1, "when": {"json_schema": {"weight": 1, "schema": SCHEMA}}, "pay": {"count": 1}}},
        FOUR,
        ['{"count": 4}', '{ "count" : 4 }', '{\n\t"count": 4\n}'],
        ['{"count": 9}', '{ "count": 8 }', '{"count": 120}'],
        [
            '{"count": 4} {"count": 5}',
            '{"count": 4, "or": 5}',
            '{"count": 4, "count": 9}',
            "1 2 3 4 5",
            '{"count": "4"}',
        ],
    ),
    "JSON": Kind(
        {"json_schema": {"weight": 1, "schema": SIDED}},
        SIDE,
        ['{"number": 4, "side": "left"}', '{"side": "right", "number": 0}', '{ "number": 17,\n "side": "right" }'],
        ['{"number": 4}', '{"side": "left"}', '{"number": "four", "side": "up"}', "left"],
        [
            '{"number": 4, "side": "left"} {"number": 5, "side": "right"}',
            "{}",
            "[]",
            '{"number": 4, "side": "left", "or": 1}',
        ],
    ),
    "points": Kind(
        {"points": 1},
        POINTS,
        [
            "[100, 100], [600, 500]",
            "(600, 500) and (100, 100)",
            '[{"point_2d": [100, 100], "label": "polyp"}, {"point_2d": [600, 500], "label": "polyp"}]',
        ],
        ["[105, 100], [600, 504]", "[600, 500]", "[98, 103], [300, 300]"],
        [DOTS, "none", "[50, 50, 150, 150], [550, 450, 650, 550]", "[100, 100] or not", "[100, 100], [600,"],
    ),
    "no point": Kind(
        {"points": 0.9, "format": 0.1},
        NO_POINT,
        ["none", " none", "none\n"],
        ["[100, 100]", "[640, 90], [12, 400]", "[500, 501]"],
        [DOTS, "", "nothing or [100, 100]", "some"],
    ),
    "a length": Kind(
        {"measure": 0.9, "format": 0.1},
        LENGTH,
        ["40.0 mm", "40 mm", "40.00 mm"],
        ["20.5 mm", "66 mm", "71.3 mm"],
        ["20 mm or 40 mm", "10 mm, 20 mm, 30 mm, 40 mm", "at least 1 mm", "30-50 mm", "", "40 kg", "large"],
    ),
    "two axes": Kind(
        {"measure": 1},
        AXES,
        ["40.0 x 20.0 mm", "4.0 cm by 2.0 cm", "It measures 40 mm × 20 mm."],
        ["30 x 30 mm", "45.5 mm x 8 mm", "2 cm by 1 cm"],
        ["40 mm", "40 x 20 x 10 mm", "10 to 50 mm", "40 mm or 20 mm", "x mm"],
    ),
    "an angle": Kind(
        {"measure": 1},
        ANGLE,
        ["30 degrees", "30.0°", "The angle is 30 deg."],
        ["20 degrees", "44.5°", "The angle is 35 deg."],
        ["30 mm", "15 to 45 degrees", "less than 90 degrees", "10° 20° 30° 40°", "acute"],
    ),
    "a set of findings": Kind(
        {"findings": 0.9, "format": 0.1},
        FINDINGS,
        ["cardiomegaly; effusion", "effusion; cardiomegaly", " cardiomegaly; effusion"],
        ["pneumothorax", "edema", "no finding"],
        [
            "no finding; cardiomegaly",
            "normal, but cardiomegaly; effusion",
            "",
            "cardiomegaly " * 500,
            "no cardiomegaly; no effusion",
            "findings",
        ],
    ),
    "no finding": Kind(
        {"findings": 1},
        NO_FINDING,
        ["no finding", "Normal.", "There is no effusion and no pneumothorax."],
        ["edema", "cardiomegaly; effusion", "A pneumothorax is seen."],
        ["no finding; edema", "", "normal or edema", "?", "cardiomegaly; edema; effusion; pneumothorax"],
    ),
    "an order": Kind(
        {"order": 0.9, "format": 0.1},
        make_truth("order", items=("B", "A", "C")),
        ["B, A, C", " B, A, C"],
        ["C, A, B", "A, C, B", "C, B, A"],
        ["B, A", "A, B, C, A, B, C", "", "not B, A, C", "first one, then another"],
    ),
    "an order in words": Kind(
        {"order": 1},
        make_truth("order", items=("baseline", "one month", "one year")),
        [
            "baseline > one month > one year",
            "First the baseline; then one month; then one year.",
            "baseline, one month, one year",
        ],
        ["one year, one month, baseline", "one year > baseline > one month", "one month, one year, baseline"],
        [
            "baseline",
            "baseline, one month, one year or one year, one month, baseline",
            "in order of time",
            "baseline " * 40,
        ],
    ),
    "a change": Kind(
        {"change": 0.9, "format": 0.1},
        CHANGED,
        ["effusion: worsened; edema: resolved", "edema: resolved; effusion: worsened"],
        ["effusion: improved", "no change", "opacity: new"],
        [
            "effusion: worsened; effusion: improved; edema: resolved",
            "effusion worsened or improved",
            "",
            "worsened; resolved; new",
            "effusion, edema, opacity: worsened stable improved",
        ],
    ),
    "a change in words": Kind(
        {"change": 1},
        CHANGED,
        ["The effusion has increased, and the edema is no longer seen."],
        ["The effusion is smaller, and the edema is unchanged.", "There is a new opacity.", "Nothing new: no change."],
        ["The effusion has not worsened.", "The effusion may have worsened, or improved.", "There are changes."],
    ),
    "a report, by words": Kind(
        {"report": 1},
        make_truth("report", "The lungs are clear. No pleural effusion."),
        [
            "The lungs are clear. No pleural effusion.",
            "the lungs are clear, no pleural effusion",
            "THE LUNGS ARE CLEAR!\nNO PLEURAL EFFUSION!",
        ],
        [
            "The lungs are hyperinflated. A fracture.",
            "The lungs are not clear, and there is an effusion on the left.",
            "No pneumothorax is seen, and the heart is enlarged.",
        ],
        ["the " * 60, "", "effusion " * 70, "lungs", "report"],
    ),
    "a report": Kind(
        REPORT,
        SICK,
        [
            "Findings: There is a left pleural effusion. Impression: The heart is enlarged, as before.",
            "Findings: A small effusion is seen on the left side. Impression: Cardiomegaly, which is unchanged today.",
            "FINDINGS:\nLeft-sided pleural effusion, with blunting.\nIMPRESSION:\nThe cardiac silhouette is enlarged.",
        ],
        [
            "Findings: The lungs are clear, without an effusion. Impression: The heart is of normal size.",
            "Findings: There is a large pneumothorax on the right. Impression: A chest tube may be needed soon.",
            "Findings: Consolidation of the right lower lobe is seen. Impression: This is most likely a pneumonia.",
        ],
        [
            "Findings:\nImpression:",
            "",
            "effusion " * 30,
            "Findings: clear clear clear clear clear\nImpression: clear clear clear clear clear",
            "Findings: the patient is in bed as usual. Impression: the patient is in bed as usual.",
        ],
    ),
    "boxes on several images": Kind(
        {"indexed_boxes": 0.9, "format": 0.1},
        FILMS,
        [
            "image 1: [100, 100, 200, 200]; image 3: [500, 500, 700, 600]",
            "image 1: [100,100,200,200];\nimage 3: [500,500,700,600]",
        ],
        [
            "image 1: [150, 100, 250, 200]; image 2: [500, 500, 700, 600]",
            "image 3: [500, 500, 700, 600]",
            "image 2: [100, 100, 200, 200]; image 1: [110, 100, 200, 220]",
        ],
        [
            "; ".join(f"image {n}: [0, 0, 1000, 1000]" for n in range(1, 9)),
            "[100, 100, 200, 200], [500, 500, 700, 600]",
            "image 1, image 2, image 3",
            "not in image 1: [100, 100, 200, 200]",
            "",
        ],
    ),
    "boxes on slices": Kind(
        {"indexed_boxes": 1},
        SLICES,
        [
            "slice 14: [400, 400, 500, 500]",
            "It is on slice #14 at (400, 400, 500, 500).",
            "Frame 14 [400, 400, 500, 500]",
        ],
        ["slice 15: [400, 400, 500, 500]", "slice 14: [450, 400, 550, 500]", "slice 13: [400, 380, 480, 540]"],
        [
            "; ".join(f"slice {n}: [400, 400, 500, 500]" for n in range(1, 41)),
            "slice 14: [0, 0, 1000, 1000]",
            "slices 1 to 40",
            "[400, 400, 500, 500]",
            "slice 14: none",
        ],
    ),
    "steps and an answer": Kind(
        {"stepwise": 1},
        REASONED,
        [
            "\n".join([*CHAIN, "Answer: pneumonia"]),
            "<think>Frontal radiograph, chest. Dense opacity, right lower lobe. Pneumonia: opacity, bronchograms of"
            " air.</think><answer>pneumonia</answer>",
            "I see a radiograph of the chest, frontal view. Its right lower lobe has an opacity, which is dense. An"
            " opacity that holds bronchograms with air means pneumonia. So the answer is (pneumonia).",
        ],
        [
            "\n".join([*CHAIN, "Answer: tumor"]),
            "A frontal chest radiograph.\nA blunted left angle.\nAnswer: effusion",
            "This is a frontal radiograph of the chest. A mass lies in the left apex. The answer is tumor.",
        ],
        [
            " ".join(CHAIN),
            "Answer: pneumonia",
            "\n".join([*CHAIN, "Answer: pneumonia", "Answer: tumor"]),
            "\n".join([*CHAIN, "Answer: pneumonia, effusion or tumor"]),
            "Step 1. Step 2. Step 3.\nAnswer:",
            "left right upper lower lobe opacity nodule mass effusion.\nAnswer: unknown",
        ],
    ),
    "a choice after a look": Kind(
        {"choice": 1, "calls": 0.2},
        Case(SIDE, calls=1),
        ["left", "It is on the left side.", "Answer: left"],
        ["right", "It is on the right side.", "on both sides"],
        ["left or right", "", "mark [400, 400, 500, 500]", "I have looked closely.", "left right both"],
    ),
    "a choice without a look": Kind(
        {"choice": 1, "calls": 0.2},
        Case(SIDE, calls=0),
        [],
        ["right", "It is on the right side.", "on both sides"],
        ["mark [400, 400, 500, 500]", "zoom, and then zoom again", "left or right"],
    ),
    "steps with numbers": Kind(
        {"tagged_steps": {"weight": 1, "pays": "numbers"}},
        Case(LENGTH, {"ends": "(0.1, 0.2), (0.5, 0.2)", "length": "40.0 mm"}),
        [
            "<step-1-answer>(0.1, 0.2), (0.5, 0.2)</step-1-answer><step-2-answer>40.0 mm</step-2-answer>",
            "<think>I look. <step-1-answer>from (0.5, 0.2) to (0.1, 0.2)</step-1-answer> So: <step-2-answer>40"
            "</step-2-answer></think><answer>40 mm</answer>",
            "First <step-1-answer> (0.10, 0.20), (0.50, 0.20) </step-1-answer>, then"
            " <step-2-answer> about 40.00 mm </step-2-answer>.",
        ],
        [
            "<step-1-answer>(0.4, 0.6), (0.9, 0.1)</step-1-answer><step-2-answer>12.0 mm</step-2-answer>",
            "<think><step-1-answer>(0.9, 0.9), (0.8, 0.1)</step-1-answer> <step-2-answer>66</step-2-answer></think>",
            "Ends: <step-1-answer>(0.3, 0.9), (0.7, 0.9)</step-1-answer> <step-2-answer>9.5 mm</step-2-answer>",
        ],
        [
            "<step-1-answer>(0.1, 0.2), (0.5, 0.2), (0.9, 0.9), (0.3, 0.3)</step-1-answer>",
            "<step-1-answer></step-1-answer><step-2-answer></step-2-answer>",
            "(0.1, 0.2), (0.5, 0.2): 40.0 mm",
            "<step-2-answer>40 or 50 or 60 mm</step-2-answer>",
            "<answer>40 mm</answer><step-1-answer>(0.1, 0.2), (0.5, 0.2)</step-1-answer>",
        ],
    ),
    "a structured report": Kind(
        {"headings": {"weight": 1, "headings": ["Lungs", "Heart", "Impression"], "least_words": 3}},
        SICK,
        [
            "Lungs: There is a left effusion.\nHeart: It is enlarged.\nImpression: Congestive heart failure.",
            "Lungs:\nThey are clear and well expanded.\nHeart:\nOf normal size.\nImpression:\nA normal chest today.",
            "LUNGS: no opacity is seen\nHEART: a normal silhouette\nIMPRESSION: no acute disease",
        ],
        [
            "Lungs: There is a left effusion.\nThe heart is enlarged, which points to heart failure.",
            "Heart: The silhouette is enlarged.\nOtherwise nothing of note, lungs included.",
            "Everything is as it was before.\nImpression: There is no acute disease.",
        ],
        [
            "Lungs:\nHeart:\nImpression:",
            "Lungs: see\nHeart: see\nImpression: see",
            "Lungs: Heart: Impression:",
            "lungs heart impression " * 20,
            "",
        ],
    ),
    "steps": Kind(
        {"process": 1},
        STEPS,
        [
            "A dense opacity in the left lower lobe. The opacity with air bronchograms suggests pneumonia. Left.",
            "There is a dense opacity in the left lower lobe. An opacity with air bronchograms suggests pneumonia.",
            "1. dense opacity, left lower lobe.\n2. opacity with air bronchograms: pneumonia.\nAnswer: left.",
        ],
        [
            "There is a fracture of the third rib. Left.",
            "The heart is enlarged. Both.",
            "Clear lungs and sharp angles. Right.",
        ],
        ["", "opacity opacity opacity", "finding. meaning.", "There is no dense opacity in the left lower lobe. Left."],
    ),
}
