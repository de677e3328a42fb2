"""What a card says of the members of foreign tars: settings of io/foreign.py."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from medvlm.core.config import Config
from medvlm.core.sample import Unit
from medvlm.core.tasks import CardTask, Choices
from medvlm.io.nifti_header import NiftiOptions

_PICKLES = ("pkl", "pickle", "pyd", "pth", "pt", "joblib")


class QuestionMembers(Config):
    """One question of every sample, and where its text and answer are."""

    text: str = ""
    """The question itself. Give either `text` or `text_from`."""
    text_from: str = ""
    """The member that holds the question, written as in Members.report."""
    answer: str
    """The member that holds the answer. With `choices` it may also hold the index of a choice, from 0."""
    choices: Choices = ()
    """The possible answers. Without them, the answer is read as `task` says."""
    task: CardTask = "open"
    """The task by name or with its settings, e.g. count, or {kind: count, label: nodule}."""

    @model_validator(mode="after")
    def _one_text(self) -> QuestionMembers:
        if bool(self.text) == bool(self.text_from):
            raise ValueError("expected either `text` (the question) or `text_from` (the member that holds it)")
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out `task` if it is the default. Cached indexes are found by a hash of these settings, so those made
        before `task` existed stay valid."""
        plain: dict[str, Any] = handler(self)
        if self.task == type(self).model_fields["task"].default:
            plain.pop("task", None)
        return plain


class Members(Config):
    """What the members of a sample are. A member is named without the sample's key: `jpg` for KEY.jpg, `0.png` for
    KEY.0.png."""

    media: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Kind of medium -> its members, where * matches anything: {film: [jpg, png, "*.png"]}. The format is detected from
    the content: JPEG, PNG, WebP, BMP, GIF, JPEG 2000, .npy, .nii or .nii.gz."""
    unit: Unit = "display"
    """The unit of the stored intensities."""
    spacing_mm: tuple[float, ...] | None = None
    """Spacing of images, (height, width). NIfTI files have their own."""
    nifti: NiftiOptions = NiftiOptions()
    report: str = ""
    """The member with the report: `txt`, or a field of a JSON member: `json:caption`, `json:meta.findings`."""
    questions: tuple[QuestionMembers, ...] = ()
    concept: str = ""
    """The member that names the finding; samples with the same finding have the same value."""
    patient: str = ""
    """The member that identifies the patient."""
    groups: dict[str, str] = {}
    """Name of a group, for balancing or holding out samples -> the member that holds its value: {site:
    "json:hospital"}."""
    ignore: tuple[str, ...] = ()
    """Members that are not read; * matches anything. A member that is named nowhere in the card is refused."""
    max_incomplete: float = Field(0.01, ge=0, le=1)
    """Share of the samples that may lack a named member. They are left out and counted; if there are more, the data set
    is refused."""

    @model_validator(mode="after")
    def _no_pickles(self) -> Members:
        for place in (p for patterns in self.media.values() for p in patterns):
            if place.rpartition(".")[2] in _PICKLES:
                raise ValueError(
                    f"media: {place!r} is a pickle, and unpickling runs arbitrary code; expected jpg, png, npy, nii or"
                    " nii.gz"
                )
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """All members, or fields of members, that hold text."""
        asked = (place for ask in self.questions for place in (ask.text_from, ask.answer))
        return tuple(
            dict.fromkeys(filter(None, (self.report, self.concept, self.patient, *self.groups.values(), *asked)))
        )
