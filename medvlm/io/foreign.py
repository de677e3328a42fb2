"""Foreign tars: WebDataset tars that medvlm did not pack. A card declares what their members are.

Nothing is ever unpickled; only images, volumes and text are decoded. A member that the card does not name is refused,
unless the card ignores it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Protocol

from medvlm.core.cell_values import is_nothing
from medvlm.core.cell_values import strip as strip_text
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.tasks import read_truth
from medvlm.io import images, strip
from medvlm.io.codestream import find_jpeg_frame
from medvlm.io.members import Members, QuestionMembers
from medvlm.io.nifti import decode_nifti
from medvlm.io.shard_index import Facts, count_tasks
from medvlm.io.tar import Member

_KNOWN = """
    bin bmp class cls csv dcm dicom gif gz html jp2 jpeg jpg json jsonl key label labels mask md mp4 nii npy npz nrrd
    pdf pickle pkl png pt pth pyc pyd safetensors seg tar tif tiff tsv txt webp xml yaml yml zip
"""
_KNOWN_SUFFIXES = frozenset(_KNOWN.split())
_NUMBERS = re.compile(r"\d+(?:\.\d+)+\.[^.]+$")
"""The rest of a UID or of a version number."""
_DOTS = "a key ends at the first dot of a file's name, so use other characters in it (1-2-840.png, not 1.2.840.png)"


class Names(Protocol):
    """Turns names in a foreign tar into medvlm's keys, patients and splits. identity: a hash of the settings that
    affect the result."""

    @property
    def identity(self) -> str: ...

    def key(self, text: str) -> str: ...

    def patient(self, text: str) -> str: ...

    def split(self, key: str, patient: str) -> str: ...


@dataclass(frozen=True)
class MemberReader:
    """Reads the members of samples as a card declares them."""

    members: Members
    _kinds: dict[str, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def kind_of(self, member: str) -> str | None:
        """The kind of medium of a member; None for text and for ignored members."""
        if member not in self._kinds:  # cached, because the samples of a data set have the same few members
            kinds = (
                kind for kind, patterns in self.members.media.items() if any(fnmatchcase(member, p) for p in patterns)
            )
            self._kinds[member] = next(kinds, None)
        return self._kinds[member]

    def is_text(self, member: str) -> bool:
        return any(member == place.partition(":")[0] for place in self.members.places)

    def find_missing(self, group: list[Member], where: str) -> str:
        """The first declared member that a sample lacks, "" if it has all. Raises DataError for a member that is not
        declared."""
        names = [m.name for m in group]
        for name in names:
            if any(fnmatchcase(name, p) for p in self.members.ignore):
                continue
            is_known = self.kind_of(name) is not None or self.is_text(name)
            if is_known and _NUMBERS.match(name):
                # With *.png, all files 1.2.840.NUMBER.png would be images of one sample, whose key is 1.
                raise DataError(f"{where}: the name of a file has several dots and numbers; {_DOTS}")
            if not is_known:
                suffix = name.rpartition(".")[2]
                is_dotted = name != suffix and (self.kind_of(suffix) is not None or self.is_text(suffix))
                raise DataError(
                    f"{where}: its card does not declare the member {_show(name)}; name it in reader.media or"
                    f" reader.report, or in reader.ignore{f'; {_DOTS}' if is_dotted else ''}"
                )
        texts = [place.partition(":")[0] for place in self.members.places]
        return (
            "an image" if not any(map(self.kind_of, names)) else next((text for text in texts if text not in names), "")
        )

    def read_texts(self, files: Mapping[str, bytes], where: str) -> SampleTexts:
        """The texts of a sample. Raises DataError for one that cannot be read."""
        parsed: dict[str, Any] = {}

        def read(place: str) -> str:
            return _read_text(place, files, parsed, where) if place else ""

        m = self.members
        questions = tuple(
            _build_question(ask, ask.text or read(ask.text_from), read(ask.answer), where) for ask in m.questions
        )
        groups = {name: value for name, place in m.groups.items() if (value := read(place))}
        return SampleTexts(read(m.report), read(m.concept), read(m.patient), questions, groups)


@dataclass(frozen=True)
class ForeignForm(MemberReader):
    """The Form of foreign tars that are used for training without packing. source: the source name of the samples."""

    names: Names = field(kw_only=True)
    source: str = field(kw_only=True)

    @property
    def identity(self) -> str:
        settings = {"members": self.members.model_dump(mode="json"), "names": self.names.identity}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def facts(self, group: list[Member], where: str) -> Facts | str:
        if lacks := self.find_missing(group, where):
            return lacks
        texts = self.read_texts({m.name: m.text for m in group if m.text is not None}, where)
        kinds = tuple(
            dict.fromkeys(kind for name in sort_members(tuple(m.name for m in group)) if (kind := self.kind_of(name)))
        )
        groups = {**texts.groups, "concept": texts.concept} if texts.concept else texts.groups
        split = self.names.split(group[0].key, texts.patient)
        return Facts(
            self.names.key(group[0].key),
            split,
            kinds,
            bool(texts.report),
            count_tasks(texts.questions),
            groups,
        )

    def sample(self, key: str, split: str, files: dict[str, bytes], where: str) -> tuple[Sample, dict[str, Any]]:
        texts = self.read_texts(files, where)
        media, decoded = [], dict[str, Any]()
        for name in sort_members(tuple(files)):
            if kind := self.kind_of(name):
                medium, decoded[name] = self._read_medium(kind, name, files[name], where)
                media.append(medium)
        patient = self.names.patient(texts.patient) if texts.patient else ""
        return (
            Sample(
                key,
                self.source,
                split,
                tuple(media),
                texts.report,
                texts.concept,
                texts.questions,
                patient,
                texts.groups,
            ),
            decoded,
        )

    def _read_medium(self, kind: str, name: str, data: bytes, where: str) -> tuple[Medium, Any]:
        """The medium, and its bytes; or its pixels if the bytes cannot be used as they are: .npy, NIfTI, and images
        that EXIF turns."""
        m, shown = self.members, _show(name).strip("'")
        try:
            suffix = images.suffix_of(data)
            if suffix == "npy":
                array = images.decode(data, shown)
                return (
                    Medium(
                        kind,
                        name,
                        array.shape[:-1] if array.ndim > 2 and array.shape[-1] == 3 else array.shape,
                        m.spacing_mm,
                        m.unit,
                    ),
                    array,
                )
            if not suffix:
                volume = decode_nifti(data, m.nifti, m.unit)
                return (
                    Medium(kind, name, volume.pixels.shape, volume.spacing_mm, m.unit, "", volume.affine),
                    volume.pixels,
                )
            if suffix not in ("png", "jpg"):
                pixels = strip.turn_upright(images.decode(data, name), strip.read_orientation(data))
                return Medium(kind, name, pixels.shape[:2], m.spacing_mm, m.unit), pixels
            frame = find_jpeg_frame(data)
            if frame is None and suffix == "jpg":
                raise DataError("a damaged JPEG: no size in its header")
            turn = 1 if frame and b"Exif" not in data[: frame.at] else strip.read_orientation(data)
            if turn != 1:
                pixels = strip.turn_upright(images.decode(data, shown), turn)
                return Medium(kind, name, pixels.shape[:2], m.spacing_mm, m.unit), pixels
            return (
                Medium(
                    kind, name, (frame.height, frame.width) if frame else _read_png_size(data), m.spacing_mm, m.unit
                ),
                data,
            )
        except DataError as reason:
            raise DataError(f"{where}: {shown}: {reason}") from None


@dataclass(frozen=True)
class SampleTexts:
    """The texts of a sample as in Sample, except `patient`, which is the raw text of the member."""

    report: str
    concept: str
    patient: str
    questions: tuple[Question, ...]
    groups: dict[str, str]


def _build_question(ask: QuestionMembers, text: str, answer: str, where: str) -> Question:
    template = hashlib.blake2b((ask.text or ask.text_from).encode(), digest_size=4).hexdigest()
    if not ask.choices:
        truth = read_truth(ask.task, answer)
        if truth is None:
            raise DataError(
                f"{where}: the answer in {ask.answer!r} cannot be read as its task; check reader.questions.task"
            )
        return Question(text, truth, template)
    if answer not in ask.choices:
        if not (answer.isdecimal() and int(answer) < len(ask.choices)):
            raise DataError(
                f"{where}: the answer in {ask.answer!r} is neither one of {', '.join(ask.choices)} nor a number from 0"
                f" to {len(ask.choices) - 1}"
            )
        answer = ask.choices[int(answer)]
    return Question(text, make_truth("choice", answer, choices=ask.choices), template)


def _read_text(place: str, files: Mapping[str, bytes], parsed: dict[str, Any], where: str) -> str:
    """The text of a member, or of a field of a JSON member. parsed: a cache of the JSON members."""
    member, _, path = place.partition(":")
    try:
        if not path:
            return _clean(files[member].decode())
        value = parsed[member] if member in parsed else parsed.setdefault(member, json.loads(files[member]))
        for step in path.split("."):
            value = value[int(step)] if isinstance(value, list) else value.get(step)
    except (ValueError, RecursionError, AttributeError, IndexError) as reason:
        raise DataError(f"{where}: {place!r} cannot be read ({type(reason).__name__})") from None
    if not isinstance(value, str | int | float | None):
        raise DataError(f"{where}: {place!r} is a {type(value).__name__}; expected text or a number")
    return "" if value is None else str(int(value)) if isinstance(value, bool) else _clean(str(value))


def _clean(text: str) -> str:
    """Without marks around it; "" for a word that programs write for nothing, such as nan."""
    text = strip_text(text)
    return "" if is_nothing(text) else text


def _show(member: str) -> str:
    """What a message may say of a member: only a suffix that is that of a known kind, since a name may identify a
    patient."""
    stem, _, suffix = member.rpartition(".")
    if suffix.lower() not in _KNOWN_SUFFIXES:
        return "whose name is not shown"
    return repr(f"*.{suffix}" if stem else suffix)


def _read_png_size(data: bytes) -> tuple[int, int]:
    """(height, width) from the header of a PNG."""
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


@lru_cache(maxsize=1024)  # the samples of a data set have the same few members
def sort_members(names: tuple[str, ...]) -> tuple[str, ...]:
    """Member names in natural order: 2.png before 10.png."""
    return tuple(
        sorted(names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    )
