"""The recipe and the data card that `medvlm init` writes for a table of images and texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm.archive.finders._columns import MAX_TEMPLATES
from medvlm.archive.tables.answer_choices import describe_answers
from medvlm.core.card import Splits
from medvlm.core.config import kinds
from medvlm.core.errors import RecipeError, list_some
from medvlm.recipe.known import Known

SOURCE = "table"
"""Name of the data source in the recipe."""
EPOCHS, BATCH = 3, 16
PAIRED = ("clip", "siglip", "siglip2")
"""Model types of two towers, which learn from pairs of images and captions. A model that answers is asked for them."""


@dataclass(frozen=True)
class TableColumns:
    """Names of the table's columns; "" if there is none. Either question and answer, or captions. Raises RecipeError
    for other columns."""

    image: str
    question: str = ""
    answer: str = ""
    captions: str = ""
    patient: str = ""

    def __post_init__(self) -> None:
        if not self.image:
            raise RecipeError("init: give --image the name of the column with the files of the images")
        if bool(self.captions) == bool(self.question or self.answer) or bool(self.question) != bool(self.answer):
            raise RecipeError("init: give --question and --answer, or --captions, each with the name of a column")


@dataclass(frozen=True)
class TableRow:
    """place: `line 7`."""

    place: str
    image: str
    question: str
    answer: str
    patient: str


def make_recipe(name: str, found: Known, kind: str, columns: TableColumns, train: int) -> dict[str, Any]:
    """train: number of samples to train on. Raises RecipeError for a model that cannot be trained on these columns."""
    family = found.config.get("model_type")
    if columns.captions and family in PAIRED:
        return make_pairing(name, found, kind, train)
    if family in kinds("families"):
        return make_tuning(name, found, train)
    families = list_some([*PAIRED, *kinds("families")] if columns.captions else kinds("families"))
    hint = "" if columns.captions or family not in PAIRED else "; to train a CLIP or SigLIP model, use --captions"
    raise RecipeError(f"{found.model}: unsupported model_type {family!r} (expected one of {families}){hint}")


def make_tuning(name: str, found: Known, train: int, source: str = SOURCE) -> dict[str, Any]:
    """A recipe for LoRA on the language model of a pretrained vision-language model."""
    steps = _count_steps(train, BATCH)
    return {
        "name": name,
        "seed": 0,
        "model": {"pretrained": found.folder or found.model},
        "data": {},
        "stages": [
            {
                "name": "instruct",
                "kind": "supervised",
                "mix": {source: 1},
                "trains": ["lora"],
                "lora": {"rank": 16, "alpha": 32},
                "batch": BATCH,
                "accumulate": 4,
                "steps": steps,
                "optim": {"lr": 1.0e-4},
                "validate": {"every": max(1, steps // 6), "samples": 200},
                "keep": "best",
            }
        ],
        "engine": {"precision": "bf16-mixed", "recompute": ["language"]},
        "evaluate": {"on": [f"{source}:test"]},
        "export": {"target": "stock"},
    }


def make_pairing(name: str, found: Known, kind: str, train: int, source: str = SOURCE) -> dict[str, Any]:
    """A recipe for contrastive training of both towers of a CLIP or SigLIP model."""
    family = str(found.config.get("model_type"))
    if kind != "image":
        raise RecipeError(f"{found.model}: a {family!r} takes pictures, and the table has media of kind {kind!r}")
    where, batch = found.folder or found.model, 64
    length = found.text.get("max_position_embeddings", 77 if family == "clip" else 64)
    steps = _count_steps(train, batch)
    return {
        "name": name,
        "seed": 0,
        "model": {"encoders": {kind: {"kind": "transformers", "model": where}}},
        "data": {},
        "stages": [
            {
                "name": "pair",
                "kind": "contrastive",
                "mix": {source: 1},
                "trains": ["encoders", "text", "heads"],
                "text": {"kind": "transformers", "model": where, "max_tokens": length, "overlong": "cut"},
                "loss": {"kind": "clip" if family == "clip" else "siglip"},
                **({"width": found.config.get("projection_dim", 512)} if family == "clip" else {"width": None}),
                "alike": "text",
                "batch": batch,
                "steps": steps,
                "optim": {"lr": 1.0e-5},
                "validate": {"every": max(1, steps // 6), "samples": 500},
                "keep": "best",
            }
        ],
        "engine": {"precision": "bf16-mixed"},
        "evaluate": {"on": [f"{source}:test"]},
        "export": {"target": "stock"},
    }


def _count_steps(train: int, batch: int) -> int:
    return max(20, math.ceil(EPOCHS * train / batch))


def make_card(
    name: str, file: str, kind: str, columns: TableColumns, rows: list[TableRow], splits: Splits
) -> dict[str, Any]:
    reader: dict[str, Any] = {"kind": "table", "file": file, "media": [{"file": f"{{{columns.image}}}", "kind": kind}]}
    if columns.patient:
        reader["patient"] = f"{{{columns.patient}}}"
    if columns.captions:
        reader["report"] = f"{{{columns.captions}}}"
        reader["questions"] = [{"text": "Write the report.", "answer": f"{{{columns.captions}}}", "task": "report"}]
    else:
        question = {"text": f"{{{columns.question}}}", "answer": f"{{{columns.answer}}}"}
        if 1 < len({row.question for row in rows}) <= MAX_TEMPLATES:
            question["template"] = f"{{{columns.question}}}"
        reader["questions"] = [question | describe_answers([(row.question, row.answer) for row in rows])]
    what = f"Images with {'captions' if columns.captions else 'questions and answers'}."
    return fill_card(name, what, reader, [kind], columns.patient, splits)


def fill_card(
    name: str, what: str, reader: Mapping[str, Any], media: Sequence[str], patient: str, splits: Splits
) -> dict[str, Any]:
    """A card that says `Not stated yet` wherever only its owner can say something. patient: what identifies one."""
    return {
        "name": name,
        "title": name,
        "summary": f"{what} Describe here what they are, where they come from and who wrote the texts.",
        "licence": {"id": "custom", "commercial": False, "redistribute": False},
        "access": "credentialed",
        "terms": (
            "Not stated yet. Until you state terms, the data and models trained on them are assumed to be for your own"
            " use only."
        ),
        "phi": {
            "status": "unknown",
            "note": (
                "Not stated yet. State who de-identified the images and texts, and how. Packing refuses files in which"
                " it finds identifying data."
            ),
        },
        "patient_key": patient,
        "media": list(media),
        "limits": "Not stated yet." if patient else "Not stated yet. Patients are unknown.",
        "splits": splits.model_dump(mode="json", exclude={"folds"}),
        "reader": dict(reader),
    }
