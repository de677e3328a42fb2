"""Reads the header of one file: which series it belongs to, where each frame is, and what speaks against using it.

Coordinates are DICOM's own: mm, LPS (x to the patient's left, y to the back, z to the head).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import LongHeader, codes, number, numbers, read_header, silence_pydicom, text, whole
from medvlm.io.dicom.groups import Groups
from medvlm.io.dicom.units import NUCLEAR, read_units
from medvlm.io.dicom.view import read_view

if TYPE_CHECKING:
    from pydicom import Dataset

Concern = Literal["derived", "localizer", "secondary_capture", "for_processing", "cine", "mosaic"]

CONCERNS: dict[Concern, str] = {
    "derived": "computed from other images (ImageType DERIVED or SECONDARY), such as a reformation or a projection",
    "localizer": "a localizer (scout)",
    "secondary_capture": "a secondary capture: a picture of a screen or of a film",
    "for_processing": "raw detector values (PresentationIntentType FOR PROCESSING), not meant for viewing",
    "cine": "several frames in one file without a position for each, such as an ultrasound clip",
    "mosaic": (
        "a mosaic: the slices of a volume side by side in one image; split it, e.g. with dcm2niix, and read the NIfTI"
    ),
}
"""Reasons why an image is not used unless the card accepts it. A mosaic is never accepted, because the positions of its
slices are in private attributes."""

Accepted = Literal[
    "derived", "localizer", "secondary_capture", "for_processing", "cine", "tilt", "gap", "hu", "no_uids"
]
"""What a card can accept: concerns of an image; tilted and uneven volumes; CT whose values do not look like HU; files
without the UIDs that group them."""

MEASURED = ("CT", "MR", "PT", "NM")
"""Modalities whose values are a quantity: never windowed or inverted after the rescale."""
SLICED = ("CT", "MR", "PT")
"""Modalities whose images are slices of a volume."""
SHOWN = ("CR", "DX", "MG", "IO", "PX", "RF", "XA", "US", "ES", "XC", "OP", "GM", "DG", "TG", "OT", "SC")
"""Modalities whose values are shades or colours for a screen."""


def _split_terms(words: str) -> frozenset[str]:
    return frozenset(words.split())


_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"

_VARYING: tuple[tuple[str, str], ...] = (
    ("", "AcquisitionNumber"),
    ("", "EchoNumbers"),
    ("", "EchoTime"),
    ("", "TemporalPositionIdentifier"),
    ("", "DiffusionBValue"),
    ("", "DiffusionGradientOrientation"),
    ("", "InversionTime"),
    ("", "TriggerTime"),
    ("", "ConvolutionKernel"),
    ("", "AcquisitionTime"),
    ("FrameContentSequence", "StackID"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
)
"""(functional group, attribute) whose values may differ between two images at the same position; "" is the top level of
a single image. PS3.3 C.7.6.16.2.2, C.8.13.5."""


ATTRIBUTES: dict[str, frozenset[str]] = {
    "Modality": frozenset((*MEASURED, *SHOWN)),
    "BodyPartExamined": _split_terms(
        "ABDOMEN ABDOMENPELVIS ANKLE ARM BRAIN BREAST CHEST CHESTABDOMEN CHESTABDPELVIS CLAVICLE CSPINE ELBOW EXTREMITY"
        " EYE FEMUR FINGER FOOT FOREARM HAND HEAD HEADNECK HEART HIP HUMERUS JAW KIDNEY KNEE LEG LIVER LSPINE LUNG NECK"
        " PANCREAS PELVIS PROSTATE RIB SHOULDER SKULL SPINE SSPINE STERNUM TIBIA TOE TSPINE UTERUS WHOLEBODY WRIST"
    ),
    "ViewPosition": frozenset(),  # see view.py
    "Laterality": _split_terms("L R"),
    "ImageLaterality": _split_terms("L R B U"),
    "PatientPosition": _split_terms("HFP HFS HFDR HFDL FFDR FFDL FFP FFS"),
    "PatientSex": _split_terms("M F O"),
}
"""Attributes that texts may use, with the accepted terms. Any other value counts as missing, so that no free text gets
into a sample (PS3.3 C.7.3.1, C.7.1.1, C.8.11.3; PS3.16 Annex L)."""

_KEYWORDS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "AccessionNumber",
    "PatientID",
    "ImageType",
    "PresentationIntentType",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "SamplesPerPixel",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SliceThickness",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ViewCodeSequence",
    "Units",
    "SUVType",
    *ATTRIBUTES,
    *(name for _, name in _VARYING),
)

MAX_FRAMES = 20_000
LIGHT_FRAMES = 1_000
"""Each frame takes half a millisecond."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One image of a file.

    position: of the centre of its first pixel; None, like orientation, if it has no position in the patient.
    orientation: unit vectors along its rows and along its columns. spacing: mm between rows, and between columns.
    varying: (name, value) of attributes that may differ between images at the same position.
    """

    number: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    varying: tuple[tuple[str, str], ...]
    concerns: frozenset[Concern]


@dataclass(frozen=True, slots=True)
class Header:
    """study, series, instance, accession, patient: as written in the file; for grouping and hashing, never to be shown.
    order: the instance number, 0 if there is none. attributes: those of ATTRIBUTES with an accepted term. units: of
    nuclear medicine, what its values are, e.g. BQML, GML (SUV by body weight), GML/LBM, CNTS; else ""."""

    path: Path
    study: str
    series: str
    instance: str
    accession: str
    patient: str
    frame_of_reference: str
    order: int
    modality: str
    size: tuple[int, int]
    attributes: tuple[tuple[str, str], ...]
    frames: tuple[Frame, ...]
    units: str = ""


class NotAnImage(DataError):
    """A DICOM object that is not an image (report, plan, segmentation ...). Not an error in an archive."""


def read_image_header(path: Path, light: bool = False) -> Header:
    """The header of an image file. Raises NotDicom, NotAnImage, and DataError for a header that is damaged or
    impossible; with `light`, LongHeader for one that may take longer than a second."""
    with silence_pydicom():
        dataset = read_header(path, _KEYWORDS, light)
        modality = modality_of(dataset)
        if light and count_frames(dataset) > LIGHT_FRAMES:
            raise LongHeader("a long header")
        return Header(
            path,
            text(dataset, "StudyInstanceUID"),
            text(dataset, "SeriesInstanceUID"),
            text(dataset, "SOPInstanceUID"),
            text(dataset, "AccessionNumber"),
            text(dataset, "PatientID"),
            text(dataset, "FrameOfReferenceUID"),
            int(number(dataset, "InstanceNumber") or 0),
            modality,
            (whole(dataset, "Rows", 1), whole(dataset, "Columns", 1)),
            tuple(_read_attributes(dataset)),
            tuple(_read_frames(dataset, modality)),
            read_units(dataset) if modality in NUCLEAR else "",
        )


def _read_attributes(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for name, terms in ATTRIBUTES.items():
        found = read_view(dataset) if name == "ViewPosition" else text(dataset, name).upper()
        if found and (name == "ViewPosition" or found in terms):
            yield name, found


def count_frames(dataset: Dataset) -> int:
    count = number(dataset, "NumberOfFrames")
    if count is not None and (count != int(count) or not 1 <= count <= MAX_FRAMES):
        raise DataError(f"its NumberOfFrames is out of range; expected 1 to {MAX_FRAMES}")
    return int(count or 1)


def modality_of(dataset: Dataset) -> str:
    """One of MEASURED or SHOWN; OT for a secondary capture without a modality. Raises NotAnImage for objects without an
    image."""
    sop_class, modality = text(dataset, "SOPClassUID"), text(dataset, "Modality").upper()
    if text(dataset.file_meta, "MediaStorageSOPClassUID") == _MEDIA_DIRECTORY:
        raise NotAnImage("a DICOMDIR, not an image")
    if sop_class.startswith(_WHOLE_SLIDE):
        raise NotAnImage("a tiled slide; read it as a whole slide")
    if number(dataset, "Rows") is None:
        if not sop_class or "Image Storage" in _class_name_of(sop_class):
            raise DataError(f"it has no Rows{'' if sop_class else ' and no SOPClassUID'}: it is truncated or damaged")
        raise NotAnImage("not an image: it has no Rows")
    if not modality and sop_class.startswith(_SECONDARY_CAPTURE):
        return "OT"
    if modality not in (*MEASURED, *SHOWN):
        raise NotAnImage(f"not an image for viewing: its Modality is not one of {', '.join((*MEASURED, *SHOWN))}")
    return modality


def _class_name_of(sop_class: str) -> str:
    from pydicom.uid import UID

    return UID(sop_class).name


def _read_frames(dataset: Dataset, modality: str) -> Iterator[Frame]:
    count = count_frames(dataset)
    groups = Groups(dataset, count)
    if groups.is_enhanced or count == 1:
        yield from (_read_frame(dataset, groups, index, modality) for index in range(count))
    else:  # a multi-frame file without functional groups has one header for all frames
        first = replace(_read_frame(dataset, groups, 0, modality), position=None)
        yield from (replace(first, number=index, concerns=first.concerns | {"cine"}) for index in range(count))


def _read_frame(dataset: Dataset, groups: Groups, index: int, modality: str) -> Frame:
    place, plane, measures = (
        groups.group(index, name)
        for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    )
    kind = _read_frame_type(dataset, groups, index, modality)
    position = numbers(place, "ImagePositionPatient", 3) if place is not None else None
    concerns = _find_concerns(dataset, modality, kind)
    if groups.is_enhanced and count_frames(dataset) > 1 and (position is None or modality not in SLICED):
        concerns.add("cine")
    return Frame(
        index,
        position,
        numbers(plane, "ImageOrientationPatient", 6) if plane is not None else None,
        numbers(measures, "PixelSpacing", 2) if measures is not None else None,
        tuple(_read_varying(groups, index, kind)),
        frozenset(concerns),
    )


def _read_varying(groups: Groups, index: int, kind: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    yield "ImageType", "\\".join(kind)
    for sequence, name in _VARYING:
        # In an enhanced object, the top level is the same for all frames, so only its groups are read.
        if (
            bool(sequence) == groups.is_enhanced
            and (group := groups.group(index, sequence)) is not None
            and (value := text(group, name))
        ):
            yield name, value


def _read_frame_type(dataset: Dataset, groups: Groups, index: int, modality: str) -> tuple[str, ...]:
    group = (
        groups.group(index, {"PT": "PETFrameTypeSequence"}.get(modality, f"{modality}ImageFrameTypeSequence"))
        if groups.is_enhanced
        else None
    )
    return codes(group, "FrameType") if group is not None else codes(dataset, "ImageType")


def _find_concerns(dataset: Dataset, modality: str, kind: tuple[str, ...]) -> set[Concern]:
    """kind: the ImageType. DERIVED only counts for slices: radiographs and photographs are usually DERIVED, because
    they are processed for display."""
    found: set[Concern] = set()
    if modality in SLICED and (kind[:1] == ("DERIVED",) or kind[1:2] == ("SECONDARY",)):
        found.add("derived")
    if {"LOCALIZER", "SCOUT"} & set(kind):
        found.add("localizer")
    if "MOSAIC" in kind:
        found.add("mosaic")
    if text(dataset, "SOPClassUID").startswith(_SECONDARY_CAPTURE):
        found.add("secondary_capture")
    if text(dataset, "PresentationIntentType").upper() == "FOR PROCESSING":
        found.add("for_processing")
    return found


assert set(get_args(Concern)) == set(CONCERNS)
