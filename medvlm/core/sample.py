"""Sample: one study as a shard holds it. Batch: what a model is called with.

Axes: B rows, T tokens, N images, C channels, D H W depth, height, width.
Boxes are (x1, y1, x2, y2) with the origin at the upper left corner of the upper left pixel and x to the
right: a box that covers the whole of a 128 x 96 (width x height) image is (0, 0, 128, 96).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import torch

Task = Literal["choice", "open", "count", "boxes", "report"]
Box = tuple[float, float, float, float]
Unit = Literal["display", "HU", "raw"]
Affine = tuple[tuple[float, float, float, float], ...]

BOXES_SLOT = "{boxes}"
"""Where an answer holds this text, the boxes are written in the coordinates of what the model sees."""


@dataclass(frozen=True)
class Medium:
    """One image or volume of a sample.

    kind: what the card calls it (`film`, `volume`, `smear`): the encoder that serves it is chosen by this.
    member: the file's name within the sample, e.g. `0.png`: `KEY.0.png` in the tar.
    size: stored pixels, (height, width) or (depth, height, width).
    spacing_mm: the same axes as `size`; None where the archive does not say.
    unit: `display` (0..max is black..white), `HU`, or `raw`.
    affine: volumes only: 3 x 4, from the indices (d, h, w, 1) of a voxel's centre to mm in RAS (x to the patient's
    right, y to the front, z to the head, as NIfTI has them); None where the archive does not say.
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
    """What the files of one medium hold, before it is stored.

    pixels: [H, W], [H, W, 3], [D, H, W] or, for video frames, [D, H, W, 3]; uint8, uint16, int16 or float32, finite.
    spacing_mm, affine, unit, modality: as in Medium, whatever the files say.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    unit: Unit = "display"
    modality: str = ""
    affine: Affine | None = None


@dataclass(frozen=True)
class Truth:
    """What the right answer is, in a form that can be scored.

    task `choice`: `answer` is one of `choices`. `open`: free short text. `count`: `count` objects called
    `label`. `boxes`: `boxes` of `label` on medium 0 in stored pixels. `report`: free long text.
    A `count` may carry the boxes of what is counted, so that it can follow a crop.
    """

    task: Task
    answer: str
    choices: tuple[str, ...] = ()
    count: int | None = None
    boxes: tuple[Box, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Question:
    """`template` groups the questions that ask the same thing (`side`, `count:RBC`): the majority baseline is per
    template."""

    text: str
    truth: Truth
    template: str


@dataclass(frozen=True)
class Sample:
    """One study: media, the text that came with it, and questions with their truths.

    key, patient: keyed hashes, never a file name or an identifier. patient is "" where the archive has none.
    report: the text that came with the images; "" where there is none.
    concept: equal for two samples whose findings are the same, so that contrastive training knows duplicates; "" =
    unknown. groups: what else it belongs to, e.g. {site: b, scanner: mobile}: sources are balanced by them, and groups
    held out. Never a patient."""

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
        record = asdict(self)
        return record if self.groups else {name: value for name, value in record.items() if name != "groups"}

    @staticmethod
    def from_json(record: dict[str, Any]) -> Sample:
        """Raises KeyError or TypeError when a field is missing or unknown."""
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
        questions = tuple(
            Question(q["text"], truth_from_json(q["truth"]), q["template"]) for q in record.get("questions", ())
        )
        return Sample(**{**record, "media": media, "questions": questions})


def truth_from_json(record: dict[str, Any]) -> Truth:
    boxes = tuple((b[0], b[1], b[2], b[3]) for b in record.get("boxes", ()))
    return Truth(**{**record, "choices": tuple(record.get("choices", ())), "boxes": boxes})


@dataclass
class Batch:
    """One micro-batch of one rank, as a language model reads it.

    ids_BT: token ids. positions_BT: position of each token within its document. docs_BT: which document a
    token belongs to within its row, -1 for padding. branches_BT: 0 for the shared prefix of a document,
    k >= 1 for its k-th continuation; a token sees the earlier tokens of its own document that are in the
    prefix or in its own branch (so several answers share one prompt, and several samples one row).
    targets_L: the ids that are trained, row by row; from_L: for each, the flat index (row * T + place) of the
    token whose hidden state predicts it: the one before it in its own branch or prefix. answers_L: the number of
    the answer it belongs to, 0, 1, ... within the batch.
    media: encoder name -> pixels, float32 [N, C, H, W] or [N, C, D, H, W].
    feature_rows: int64 [number of image placeholders in ids_BT, row-major]: which image token goes there, in
    the image tokens of all encoders stacked in the order of `media`.
    keys: the samples in it, for messages. sources: that of each answer, for the accounts.
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
    keys: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) for k, v in vars(self).items() if hasattr(v, "to")}
        return replace(self, **moved, media={k: v.to(device) for k, v in self.media.items()})
