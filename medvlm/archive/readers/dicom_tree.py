"""A tree of DICOM files, or a DICOMDIR: studies with the volumes, radiographs and pictures that the card asks for.

Files are grouped by their headers alone. Pixels are decoded later, by the callables in RawSample.files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from medvlm.archive.mask_labels import MEMBER
from medvlm.archive.media_file import PetUnits
from medvlm.archive.readers._structures import Structures, ask_for_regions, take_structures
from medvlm.archive.tables.columns import Row, columns_in, fill
from medvlm.archive.tables.questions import TableQuestion, list_offers, list_tasks_of, make_question
from medvlm.archive.tables.report_table import Reports, ReportTable
from medvlm.core.config import Config as Base
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError, did_you_mean, list_some
from medvlm.core.sample import Medium, Question, Sample
from medvlm.io.dicom.dataset import NotDicom
from medvlm.io.dicom.header import (
    ATTRIBUTES,
    CONCERNS,
    MEASURED,
    SHOWN,
    SLICED,
    Accepted,
    Header,
    NotAnImage,
)
from medvlm.io.dicom.image import load_cine, load_image, load_stack
from medvlm.io.dicom.scan import scan
from medvlm.io.dicom.stack import Stack, build_stacks
from medvlm.io.dicom.structures import StructureSet
from medvlm.io.dicom.units import NUCLEAR, is_known_unit

IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "AccessionNumber")
"""Identify patients and reports. They are stored only as keyed hashes."""


class DicomMedium(Base):
    kind: str
    """What the card's `media` calls it."""
    modality: tuple[str, ...] = Field(min_length=1)
    """Codes such as CT, MR, PT (volumes), CR, DX, MG (radiographs), US. Images of other modalities are left out."""

    units: PetUnits = ()
    """Of PET: which Units (0054,1001) are wanted, e.g. [BQML] or [GML] (SUV by body weight; other types are GML/LBM,
    GML/BSA ...); others are left out. Without it, images of several units are refused, and so are counts (CNTS), which
    mean another quantity in each examination."""

    @field_validator("modality")
    @classmethod
    def _is_known(cls, modality: tuple[str, ...]) -> tuple[str, ...]:
        known = (*MEASURED, *SHOWN)
        for each in modality:
            if each not in known:
                raise ValueError(
                    f"unknown modality {each!r}{did_you_mean(each, known)}; expected some of {list_some(known)}"
                )
        return modality


class Config(Base):
    kind: Literal["dicom_tree"]
    under: str = "."
    """Folder to search recursively, or a DICOMDIR, relative to the root."""
    media: tuple[DicomMedium, ...] = Field(min_length=1)
    sample: Literal["study", "medium"] = "study"
    """`study`: all media of an examination are one sample. `medium`: each volume, radiograph or picture is a sample."""
    patient: str = "{PatientID}"
    """Template of PatientID, StudyInstanceUID and AccessionNumber; empty where the archive has no patients."""
    reports: ReportTable | None = None
    report: str = ""
    """Template of the columns of `reports`, and of attributes with known terms: Modality, BodyPartExamined,
    ViewPosition, Laterality, ImageLaterality, PatientPosition, PatientSex."""
    questions: tuple[TableQuestion, ...] = ()
    """Questions about the columns of `reports`, and about these attributes."""
    rename: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Column of `reports` -> value in the table -> value to use."""
    mask: Structures | None = Field(None, exclude_if=lambda mask: mask is None)
    """Keeps masks of volumes from structure sets (RTSTRUCT) in the archive, and asks for them."""
    accept: tuple[Accepted, ...] = ()
    """What would be left out or refused without being listed here: derived, localizer, secondary_capture,
    for_processing, cine (frames over time), tilt (kept, with a sheared affine), gap (filled in between neighbours), hu
    (CT whose values do not look like HU), no_uids (files whose UIDs were removed: a folder is a series)."""

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        twice = [m for m, n in Counter(m for medium in self.media for m in medium.modality).items() if n > 1]
        if twice:
            raise ValueError(f"{twice[0]} belongs to two media; expected each modality once")
        if self.reports and not self.report and not self.questions:
            raise ValueError(
                "has `reports` but no `report` that says which of their columns is the text, e.g. report: '{findings}"
                " {impression}', and no `questions` about them"
            )
        return self


def list_content(config: Config) -> Content:
    media = frozenset(medium.kind for medium in config.media)
    answered = list_offers(config.questions)
    if answered is not None and config.mask:
        answered[config.mask.template] = Offer("mask", tuple(config.mask.regions))
    return Content(
        list_tasks_of(config.questions) | name_asked(mask=config.mask),
        media,
        has_reports=bool(config.report),
        answered=answered,
        splits=frozenset(),
    )


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """Studies in the order of their first files' names. Raises DataError for a missing archive and for reports without
    the columns."""
    assert root is not None, "a tree of files has a root"
    reports = _reports(config, root)
    found = _Found()
    for number, (path, header) in enumerate(scan(root / config.under), 1):
        name, where = path.relative_to(root), f"file {number} under {config.under}"
        if isinstance(header, NotDicom):
            found.left_out["not a DICOM file"] += not config.reports or path != root / config.reports.file
        elif isinstance(header, DataError) and not path.exists():
            found.left_out["named by the DICOMDIR, but not there"] += 1
        elif isinstance(header, NotAnImage):
            if isinstance(taken := config.mask and take_structures(path, found.structures), DataError):
                yield BadSample(name.as_posix(), str(taken), where)
            elif not taken:
                found.left_out[str(header)] += 1
        elif isinstance(header, DataError):
            yield BadSample(name.as_posix(), str(header), where)
        elif header.study and header.series:
            _take(found, header, config)
        elif "no_uids" in config.accept:
            folder = name.parent.as_posix()
            _take(found, replace(header, study=folder, series=folder, instance=name.name), config)
        else:
            reason = (
                "no StudyInstanceUID or SeriesInstanceUID: what it belongs to is unknown; accept: [no_uids] to take"
                " each folder as a series"
            )
            yield BadSample(name.as_posix(), reason, where)
    _check_units(found, config)
    for number, (study, headers) in enumerate(found.studies.items(), 1):
        yield from _study(config, study, headers, reports, found, f"study {number} of {len(found.studies)}")
    yield from (LeftOut(reason, n) for reason, n in sorted(found.left_out.items()) if n)


@dataclass
class _Found:
    """studies: study -> those of its images that the card asks for. left_out: counts by reason."""

    studies: dict[str, list[Header]] = field(default_factory=dict)
    structures: list[StructureSet] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Part:
    """A medium that is not yet in a sample. key: unique within the archive. headers: of its files. stack: of a
    volume."""

    key: str
    kind: str
    load: Any
    headers: list[Header]
    stack: Stack | None = None


def _take(found: _Found, header: Header, config: Config) -> None:
    """Adds the frames that the card accepts."""
    if not any(header.modality in medium.modality for medium in config.media):
        found.left_out[f"of modality {header.modality}, which the card does not name"] += 1
        return
    wanted = next(medium.units for medium in config.media if header.modality in medium.modality)
    if wanted and header.modality in NUCLEAR and header.units not in wanted:
        found.left_out["in units that the card does not name (reader.media.units)"] += 1
        return
    unwanted = {frame.number: sorted(frame.concerns - set(config.accept)) for frame in header.frames}
    found.left_out.update({CONCERNS[concerns[0]] for concerns in unwanted.values() if concerns})
    if frames := tuple(frame for frame in header.frames if not unwanted[frame.number]):
        found.studies.setdefault(header.study, []).append(replace(header, frames=frames))


def _check_units(found: _Found, config: Config) -> None:
    """Raises DataError for values of several quantities in one medium."""
    for medium in config.media:
        headers = [h for each in found.studies.values() for h in each if h.modality in medium.modality]
        units = Counter(header.units for header in headers if header.modality in NUCLEAR)
        if medium.units or not units or (len(units) == 1 and "CNTS" not in units):
            continue
        known = Counter[str]()
        for name, n in units.items():  # a header may hold any text
            known[name if is_known_unit(name) else "not known"] += n
        told = ", ".join(f"{name}: {n}" for name, n in sorted(known.items()))
        raise DataError(
            f"{medium.kind}: images in several units, or in counts (Units: {told} files), whose values cannot be"
            " compared; choose by reader.media.units, e.g. units: [BQML]"
        )


def _study(
    config: Config, study: str, headers: list[Header], reports: Reports, found: _Found, where: str
) -> Iterator[RawSample | BadSample]:
    series: dict[str, list[Header]] = {}
    for header in headers:
        series.setdefault(header.series, []).append(header)
    parts: list[_Part] = []
    for number, each in enumerate(series.values(), 1):
        place = f"{where}, series {number} of {len(series)}"
        for part in _parts(config, each, found.left_out):
            if isinstance(part, BadSample):
                yield BadSample(part.key, part.reason, place)
            else:
                parts.append(part)
    for group in [parts] if config.sample == "study" and parts else [[part] for part in parts]:
        try:
            yield _sample(config, study if config.sample == "study" else group[0].key, group, reports, found, where)
        except DataError as reason:
            yield BadSample(group[0].key, str(reason), where)


def _parts(config: Config, headers: list[Header], left_out: Counter[str]) -> Iterator[_Part | BadSample]:
    """The media of one series."""
    accept, sliced = frozenset(config.accept), []
    for header in headers:
        if header.modality in SLICED and "cine" not in header.frames[0].concerns:
            sliced.append(header)
            continue
        load = load_cine if "cine" in header.frames[0].concerns else load_image
        yield _Part(
            f"{header.series}/{header.instance}", _kind(config, header), partial(load, header.path, accept), [header]
        )
    of_path = {header.path: header for header in sliced}
    for number, stack in enumerate(build_stacks(sliced, accept)):
        key = f"{sliced[0].series}/{number}"
        if isinstance(stack, DataError):
            yield BadSample(key, str(stack))
            continue
        if stack.copies:
            left_out["a second copy of a slice"] += len(stack.copies)
        made_of = [of_path[path] for path in dict.fromkeys(path for path, _ in stack.slices)]
        yield _Part(key, _kind(config, made_of[0]), partial(load_stack, stack, accept), made_of, stack)


def _kind(config: Config, header: Header) -> str:
    return next(medium.kind for medium in config.media if header.modality in medium.modality)


def _sample(config: Config, key: str, parts: list[_Part], reports: Reports, found: _Found, where: str) -> RawSample:
    """Raises DataError if the images of one sample belong to several patients."""
    left_out = found.left_out
    headers = [header for part in parts for header in part.headers]
    patients = {fill(config.patient, _identifiers(header)) for header in headers}
    if len(patients) > 1:
        raise DataError(f"its {len(headers)} images belong to {len(patients)} patients (or some to none); expected one")
    rows = [reports.find(_identifiers(header)) for header in headers]
    if not any(row is not None for row in rows):
        left_out["report: the table has none for the sample"] += 1
    for name in dict.fromkeys(column for column in columns_in(config.report) if column in ATTRIBUTES):
        if lacking := sum(not _terms(header)[name] for header in headers):
            left_out[f"report: {name} is missing in an image, or no known term"] += lacking
    lines = dict.fromkeys(
        fill(config.report, {**reports.empty, **_terms(header), **(row or {})})
        for header, row in zip(headers, rows, strict=True)
    )
    media = tuple(Medium(part.kind, str(i), (), modality=part.headers[0].modality) for i, part in enumerate(parts))
    asked = _ask(config, key, [{**reports.empty, **_terms(h), **(r or {})} for h, r in zip(headers, rows, strict=True)])
    text = "\n".join(line for line in lines if line)
    sample = Sample(key, "", "", media, text, questions=asked, patient=patients.pop())
    identifiers = {each for header in headers for each in _identifiers(header).values()}
    files = {str(i): part.load for i, part in enumerate(parts)}
    if config.mask and (stack := parts[0].stack):
        marked = ask_for_regions(config.mask, found.structures, stack, parts[0].headers, key, left_out)
        if marked:
            files[MEMBER], sample = marked[1], replace(sample, questions=(*asked, marked[0]))
    return RawSample(sample, files, where, identifiers=tuple(sorted(identifiers)))


def _ask(config: Config, key: str, rows: list[Row]) -> tuple[Question, ...]:
    """The questions about each different row of a sample."""
    rows = [{name: config.rename.get(name, {}).get(text, text) for name, text in row.items()} for row in rows]
    made = [make_question(asked, row, key) for row in rows for asked in config.questions]
    return tuple(dict.fromkeys(question for question in made if question))


def _identifiers(header: Header) -> dict[str, str]:
    return dict(zip(IDENTIFIERS, (header.patient, header.study, header.series, header.accession), strict=True))


def _terms(header: Header) -> dict[str, str]:
    return {**dict.fromkeys(ATTRIBUTES, ""), **dict(header.attributes)}


def _reports(config: Config, root: Path) -> Reports:
    """Raises DataError for templates with unknown names."""
    if unknown := sorted(set(columns_in(config.patient)) - set(IDENTIFIERS)):
        raise DataError(
            f"reader.patient: {unknown[0]!r} cannot find patients; expected some of {', '.join(IDENTIFIERS)}"
        )
    named = {*columns_in(config.report), *(name for asked in config.questions for name in asked.columns)}
    columns = named - set(ATTRIBUTES)
    if config.reports:
        return config.reports.load(root, columns)
    if columns:
        name = sorted(columns)[0]
        raise DataError(
            f"reader: {name!r} is not an attribute that texts may use{did_you_mean(name, ATTRIBUTES)}; expected"
            f" some of {', '.join(ATTRIBUTES)}"
        )
    return Reports()
