"""Sample: a study as stored in a shard. Batch: the input of a model.

Axes: B rows, T tokens, N images, C channels, D H W depth, height, width. Boxes are (x1, y1, x2, y2) with the origin at
the upper left corner of the upper left pixel: one of a whole image of 128 x 96 (width x height) is (0, 0, 128, 96).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Self, TypedDict

from medvlm.core.config import component, is_available
from medvlm.core.errors import DataError
from medvlm.core.mask_prompts import MaskPrompts
from medvlm.core.stored import require_fields, require_type
from medvlm.core.text import MEDIUM

if TYPE_CHECKING:
    import numpy as np
    import torch

Box = tuple[float, float, float, float]
Unit = Literal["display", "HU", "raw"]
Affine = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Medium:
    """One image or volume of a sample.

    kind: its name in the card (`film`, `volume`, `smear`), which selects the encoder.
    member: the file's name within the sample, e.g. `0.png`: `KEY.0.png` in the tar.
    size: stored pixels, (height, width) or (depth, height, width).
    spacing_mm: the same axes as `size`; None if unknown.
    unit: `display` (0..max is black..white), `HU`, or `raw`.
    affine: volumes only: 3 x 4, from the indices (d, h, w, 1) of a voxel's centre to mm in RAS (x to the patient's
    right, y to the front, z to the head, as in NIfTI); None if unknown.
    """

    kind: str
    member: str
    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    unit: Unit = "display"
    modality: str = ""
    affine: Affine | None = None


@dataclass(frozen=True)
class Decoded:
    """The contents of the files of one medium, before it is stored.

    pixels: [H, W], [H, W, 3], [D, H, W] or, for video frames, [D, H, W, 3]; uint8, uint16, int16 or float32, finite.
    spacing_mm, affine, unit, modality: as in Medium, from the files.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    unit: Unit = "display"
    modality: str = ""
    affine: Affine | None = None


_FLAT = "choices, count, boxes, label"
"""Fields that the record of every truth had in the first format. Fields that a task does not use are empty."""


@dataclass(frozen=True)
class Truth:
    """The right answer to a question, in a form that can be scored. Each task (medvlm/tasks/KIND.py) has a subclass.

    answer: what a language model should write; "" if the task derives it from its other fields.
    """

    answer: str = ""

    @property
    def task(self) -> str:
        """The kind: the name of the task's file, or the full module name for a plug-in (`mylab.tasks.angle`)."""
        return type(self).__module__.removeprefix("medvlm.tasks.")

    @property
    def members(self) -> tuple[str, ...]:
        """Members of the sample that belong to the truth: masks."""
        return ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What a tokenizer should know."""
        return (self.answer,)

    def rename(self, members: Mapping[str, str]) -> Self:
        """The truth with its members renamed. Packing gives members new names."""
        return self

    def to_json(self) -> dict[str, Any]:
        return {"task": self.task, **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Also reads the flat records of old shards. Raises DataError for a field that the task does not have,
        TypeError if one is missing."""
        own = {f.name for f in fields(cls)}
        require_fields(record, cls, ".truth")
        for name, value in record.items():
            if (
                name not in own
                and name != "task"
                and (name not in _FLAT.split(", ") or value not in (None, "", [], ()))
            ):
                raise DataError(f"a truth of task {record['task']!r} has no field {name!r} (it has {', '.join(own)})")
        return cls(**{name: _freeze(value) for name, value in record.items() if name in own})


@dataclass(frozen=True)
class UnknownTruth(Truth):
    """A truth of a task that is not installed. It is kept as stored, so that stages that do not ask its question can
    use the rest of the sample. Code that needs the task raises DataError (see core/tasks.find_task)."""

    record: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def task(self) -> str:
        return str(self.record["task"])

    def to_json(self) -> dict[str, Any]:
        return self.record


class TruthRecord(TypedDict):
    """What the record of every truth has. Its task says what else."""

    task: str
    answer: NotRequired[str]


def make_truth(task: str, answer: str = "", **own: Any) -> Truth:
    """task: a kind of medvlm/tasks, or a module of a plug-in. own: the fields of the task."""
    truth: Truth = component("tasks", task).Truth(answer=answer, **own)
    return truth


def truth_from_json(record: dict[str, Any]) -> Truth:
    """Raises DataError or TypeError for a record that does not fit its task."""
    require_type(record, TruthRecord, ".truth")
    task = record["task"]
    if not is_available("tasks", task):
        return UnknownTruth(str(record.get("answer", "")), record)
    truth: Truth = component("tasks", task).Truth.from_json(record)
    return truth


def _freeze(value: Any) -> Any:
    """Converts lists, of JSON, to tuples."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Question:
    """template: groups questions that ask the same thing (`side`, `count:RBC`). The majority baseline is per
    template. steps: what leads to the answer, in order: name of a step (`modality`) -> its text; {} if unknown. turn:
    number in a dialogue, from 1, see core/turns.py; 0 for a question by itself. system: the instruction above it, or
    above the dialogue that it begins. weight: of its answer in a loss; 0 keeps it out.
    around: text that a model is to write before and after the answer; before: the turns before it. Both are set by what
    asks it, and never stored."""

    text: str
    truth: Truth
    template: str
    steps: dict[str, str] = field(default_factory=dict, hash=False)
    turn: int = 0
    system: str = ""
    weight: float = 1.0
    around: tuple[str, str] = ("", "")
    before: tuple[Question, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """What a tokenizer should know."""
        return (
            self.text.replace(MEDIUM, " "),
            *self.truth.texts,
            *self.steps.values(),
            *([self.system] if self.system else []),
        )

    def to_json(self) -> QuestionRecord:
        """Fields that most questions lack are left out where they say nothing."""
        record: QuestionRecord = {"text": self.text, "truth": self.truth.to_json(), "template": self.template}
        if self.steps:
            record["steps"] = self.steps
        if self.turn:
            record["turn"] = self.turn
        if self.system:
            record["system"] = self.system
        if self.weight != 1:
            record["weight"] = self.weight
        return record


class MediumRecord(TypedDict):
    """A Medium in JSON. size: from 1 to 4 axes."""

    kind: str
    member: str
    size: list[int]
    spacing_mm: NotRequired[list[float] | None]
    unit: NotRequired[Unit]
    modality: NotRequired[str]
    affine: NotRequired[Affine | None]


class QuestionRecord(TypedDict):
    text: str
    truth: dict[str, Any]
    template: str
    steps: NotRequired[dict[str, str]]
    turn: NotRequired[int]
    system: NotRequired[str]
    weight: NotRequired[float]


class SampleRecord(TypedDict):
    """A Sample in JSON."""

    key: str
    source: str
    split: str
    media: NotRequired[list[MediumRecord]]
    report: NotRequired[str]
    concept: NotRequired[str]
    questions: NotRequired[list[QuestionRecord]]
    patient: NotRequired[str]
    groups: NotRequired[dict[str, str]]


@dataclass(frozen=True)
class Sample:
    """One study: media, the text that came with it, and questions with their truths.

    key, patient: keyed hashes, never file names or identifiers. patient is "" if the archive has none. report: the text
    that came with the images; "" where there is none. concept: equal for samples with the same findings, so that
    contrastive training recognizes duplicates; "" if unknown. groups: other groups of the sample, e.g. {site: b,
    scanner: mobile}, by which sources can be balanced or samples held out. Never a patient."""

    key: str
    source: str
    split: str
    media: tuple[Medium, ...] = ()
    report: str = ""
    concept: str = ""
    questions: tuple[Question, ...] = ()
    patient: str = ""
    groups: dict[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        record = {**asdict(replace(self, questions=())), "questions": [q.to_json() for q in self.questions]}
        return record if self.groups else {name: value for name, value in record.items() if name != "groups"}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Sample:
        """Raises KeyError, TypeError or ValueError for a field that is missing, unknown, or of another type."""
        require_type(record, SampleRecord)
        media = tuple(
            Medium(
                **{
                    **m,
                    "size": tuple(m["size"]),
                    "spacing_mm": tuple(m["spacing_mm"]) if m.get("spacing_mm") else None,
                    "affine": tuple(tuple(row) for row in m["affine"]) if m.get("affine") else None,
                }
            )
            for m in record.get("media", ())
        )
        questions = tuple(_read_question(q) for q in record.get("questions", ()))
        return Sample(**{**record, "media": media, "questions": questions})


def _read_question(record: QuestionRecord) -> Question:
    if record.get("weight", 1) < 0:
        raise ValueError("the weight of an answer is negative")
    stored = {name: value for name, value in record.items() if name in QuestionRecord.__annotations__}
    return Question(**{**stored, "truth": truth_from_json(record["truth"])})  # type: ignore[arg-type]


@dataclass
class Batch:
    """One micro-batch of one rank, as a language model reads it.

    ids_BT: token ids. positions_BT: position of each token within its document. docs_BT: which document a token
    belongs to within its row, -1 for padding. branches_BT: 0 for the shared prefix of a document, k >= 1 for its k-th
    continuation; a token sees the earlier tokens of its own document that are in the prefix or in its own branch (so
    several answers share one prompt, and several samples one row). targets_L: the trained ids, row by row. from_L: for
    each, the flat index (row * T + column) of the token whose hidden state predicts it, the previous token in its
    branch or prefix. answers_L: the index of its answer within the batch. media: encoder name -> pixels, float32 [N,
    C, H, W] or [N, C, D, H, W]. feature_rows: int64 [number of image placeholders in ids_BT, row-major]: which image
    token to insert, of those of all encoders in the order of `media`. weights_L: of each trained token in the loss;
    None if all weigh the same. keys: of the samples, for messages. sources: of each answer, for logs per source.
    drawn: decoder -> what answers draw with it.
    """

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    docs_BT: torch.Tensor
    branches_BT: torch.Tensor
    targets_L: torch.Tensor
    from_L: torch.Tensor
    answers_L: torch.Tensor
    feature_rows: torch.Tensor
    media: dict[str, torch.Tensor] = field(default_factory=dict)
    weights_L: torch.Tensor | None = None
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    drawn: dict[str, MaskPrompts] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) for k, v in vars(self).items() if hasattr(v, "to")}
        media = {k: v.to(device) for k, v in self.media.items()}
        return replace(self, **moved, media=media, drawn={k: v.to(device) for k, v in self.drawn.items()})
