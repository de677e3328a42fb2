"""Reads the header of a NIfTI file: where the voxels are in the file, and where they are in the patient.

nibabel parses the header. Whatever it would silently accept, repair or guess is refused here. Nothing else of the
header is passed on, and no error shows a value that could be text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from pydantic import field_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Affine

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_VOXELS = 1 << 28
"""Limit for one volume: 1024 slices of 512 x 512, which is 1 GiB as float32."""
MAX_SLAB_BYTES = 1 << 28
"""Limit for one slice as stored; volumes are read slice by slice."""
MAX_STORED_BYTES = 4 << 30
"""Limit for all volumes of a file together, decompressed."""
MAX_OFFSET = 1 << 24
"""Limit for the position of the voxels in the file; the header and its extensions come before them."""
SHEAR = 0.01
"""Axes that are not orthogonal make a volume smaller than the product of its spacings; a file where it is smaller by
more than this share is refused."""
SPACING_DIFFERS = 0.01
"""Allowed relative difference between sform and pixdim: both are rounded to float32."""

_CANONICAL = ("S", "P", "L")
_MM_OF = {"m": 1000.0, "mm": 1.0, "um": 0.001}
_UNIT_CODES = {1: "m", 2: "mm", 3: "um"}


class NiftiOptions(Config):
    """Settings of a card for NIfTI files, for what the files themselves leave open."""

    volume: int | None = None
    """Index of the volume to read from a 4D file, from 0. By default 4D files are refused."""
    nan: float | None = None
    """Value that replaces NaN and infinite voxels. By default files with such voxels are refused."""
    length: Literal["mm", "m", "um", "unknown"] | None = None
    """Unit of the spacing for files that do not give one (xyzt_units is 0, which nibabel writes by default). With
    `unknown` they are read without spacing and affine. By default they are refused."""
    orientation: str = ""
    """Directions of the axes for files that do not give them (sform_code and qform_code are 0), e.g. LAS: first axis to
    the left, second to the front, third to the head. By default such files are refused."""
    hu: Literal["check", "as_is"] = "check"
    """For media with `unit: HU`: `check` refuses values that no CT has, `as_is` accepts them."""

    @field_validator("orientation")
    @classmethod
    def _names_three_axes(cls, orientation: str) -> str:
        if orientation and not (
            len(orientation) == 3 and all(set(pair) & set(orientation) for pair in ("LR", "AP", "IS"))
        ):
            raise ValueError(f"orientation is {orientation!r}; expected one letter of each of LR, AP and IS, e.g. RAS")
        return orientation


@dataclass(frozen=True)
class Layout:
    """Where the voxels are in the file and in space.

    shape: (x, y, z) as stored, x fastest. turn: for each stored axis its axis in the result and its direction (1 or
    -1), as in nibabel's orientations. offset: bytes before the first volume. skip: bytes from there to the chosen
    volume. rest: bytes after it.
    """

    shape: tuple[int, int, int]
    stored: np.dtype
    slope: float
    intercept: float
    turn: np.ndarray
    offset: int
    skip: int
    rest: int
    spacing_mm: tuple[float, ...] | None
    affine: Affine | None

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.stored.itemsize


def read_header(file: IO[bytes]) -> tuple[Nifti1Header, bool]:
    """The header, and whether the voxels are in another file. Raises DataError for any other kind of file."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = file.read(540)
    for kind, magic in ((Nifti1Header, block[344:348]), (Nifti2Header, block[4:12])):
        if magic[:4] in (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0") and kind.may_contain_header(block):
            return kind(block[: kind.sizeof_hdr], check=False), magic[:2] == b"ni"
    if not block:
        raise DataError("an empty file")
    if block.lstrip()[:1] == b"<":
        raise DataError("a web page or XML file, not NIfTI; download the file itself")
    if {block[:4], block[:4][::-1]} & {(348).to_bytes(4, "little")}:
        raise DataError(
            "an Analyze file, which does not record left and right; convert it to NIfTI with the right orientation"
        )
    raise DataError("not a NIfTI file, or cut within its header")


def layout_of(header: Nifti1Header, is_pair: bool, options: NiftiOptions) -> Layout:
    stored = _read_stored_type(header)
    shape, volumes = _read_shape(header, options)
    bytes_each, offset = math.prod(shape) * stored.itemsize, float(header["vox_offset"])
    if (
        math.prod(shape) > MAX_VOXELS
        or bytes_each * volumes > MAX_STORED_BYTES
        or shape[0] * shape[1] * stored.itemsize > MAX_SLAB_BYTES
    ):
        raise DataError(
            f"its header gives {_format_shape(shape)} voxels{f' and {volumes} volumes' if volumes > 1 else ''}; at most"
            f" {MAX_VOXELS:,} voxels are read"
        )
    if not (0 if is_pair else header.sizeof_hdr) <= offset <= MAX_OFFSET or offset != int(offset):
        raise DataError("its vox_offset is impossible")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):  # 0 means no scaling in the standard; some programs write NaN
        slope, intercept = 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise DataError("its scl_slope or scl_inter is not finite")
    turn, spacing_mm, affine = _read_place(header, shape, options)
    before = (options.volume or 0) * bytes_each
    return Layout(
        shape,
        stored,
        slope,
        intercept,
        turn,
        int(offset),
        before,
        (volumes - 1) * bytes_each - before,
        spacing_mm,
        affine,
    )


def _read_stored_type(header: Nifti1Header) -> np.dtype:
    from nibabel.spatialimages import HeaderDataError

    try:
        stored = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise DataError("its data type is unknown") from None
    if stored.kind not in "iuf" or stored.itemsize > 8:
        what = {"c": "complex numbers", "V": "colours (RGB)"}.get(stored.kind, "of an unsupported type")
        raise DataError(f"its voxels are {what}; expected integers or floating-point numbers of at most 64 bits")
    if int(header["bitpix"]) not in (0, 8 * stored.itemsize):
        raise DataError("its datatype and its bitpix contradict each other")
    return stored


def _read_shape(header: Nifti1Header, options: NiftiOptions) -> tuple[tuple[int, int, int], int]:
    """(x, y, z) and the number of volumes. Raises DataError for several volumes, unless one is chosen."""
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1:
        raise DataError("its dimensions are impossible")
    sides = dims[1 : dims[0] + 1] + [1] * (3 - dims[0])
    more = [n for n in sides[3:] if n > 1]
    if len(more) > 1:
        raise DataError(f"it has {3 + len(more)} dimensions; expected 3, or 4 with a chosen volume")
    volumes = more[0] if more else 1
    if volumes > 1 and options.volume is None:
        raise DataError(f"it holds {volumes} volumes (4D); choose one with nifti: {{volume: 0}}, or split it")
    if not 0 <= (options.volume or 0) < volumes:
        raise DataError(f"volume {options.volume} is chosen, but it has {volumes} (counted from 0)")
    return (sides[0], sides[1], sides[2]), volumes


# --- position in space ----------------------------------------------------------------------------------


def _read_place(
    header: Nifti1Header, shape: tuple[int, int, int], options: NiftiOptions
) -> tuple[np.ndarray, tuple[float, ...] | None, Affine | None]:
    """How the stored axes become [D, H, W] (see Layout.turn), and the spacing and affine of the result."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    stored = _read_affine(header)
    if stored is None and not options.orientation:
        raise DataError(
            "its header does not give an orientation (sform_code and qform_code are 0); if you know it, set e.g."
            " nifti: {orientation: LAS}"
        )
    found = axcodes2ornt(tuple(options.orientation)) if stored is None else io_orientation(stored)
    turn = ornt_transform(found, axcodes2ornt(_CANONICAL))
    mm = _mm_per_unit(header, options)
    if mm is None:
        return turn, None, None
    if stored is None:  # without an origin only the spacing is known
        sides = _read_pixdim(header)
        if min(sides) <= 0:
            raise DataError("its spacing (pixdim) is not positive")
        return turn, tuple(float(sides[i]) * mm for i in np.argsort(turn[:, 0])), None
    affine = (stored @ inv_ornt_aff(turn, shape))[:3] * mm + 0.0  # no -0.0
    spacing = tuple(float(x) for x in np.linalg.norm(affine[:, :3], axis=0))
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    return turn, spacing, rows


def _read_affine(header: Nifti1Header) -> np.ndarray | None:
    """The 4 x 4 affine from stored indices (x, y, z, 1) to RAS: the sform, else the qform, else None.

    Raises DataError if one is impossible, or if sform, qform and pixdim contradict each other: tools differ in which of
    them they use.
    """
    from nibabel.orientations import aff2axcodes
    from nibabel.spatialimages import HeaderDataError

    forms = []
    try:
        forms = [
            form
            for form, code in ((header.get_sform(), header["sform_code"]), (_read_qform(header), header["qform_code"]))
            if int(code) > 0
        ]
    except (HeaderDataError, ValueError):
        raise DataError("its qform is impossible (quaternion or pixdim)") from None
    for form in forms:
        sides = np.linalg.norm(form[:3, :3], axis=0)
        if (
            not np.isfinite(form).all()
            or min(sides) <= 0
            or abs(np.linalg.det(form[:3, :3])) < (1 - SHEAR) * math.prod(sides)
        ):
            raise DataError("its sform or qform is impossible: an axis has no length, or the axes are not orthogonal")
    if len(forms) == 2 and aff2axcodes(forms[0]) != aff2axcodes(forms[1]):
        raise DataError("its sform and its qform give different orientations; correct the one that is wrong")
    if not forms:
        return None
    sides, pixdim = np.linalg.norm(forms[0][:3, :3], axis=0), _read_pixdim(header)
    if any(p > 0 and abs(s - p) > SPACING_DIFFERS * p for s, p in zip(sides, pixdim, strict=True)):
        raise DataError("its sform and its pixdim give different spacings; correct the one that is wrong")
    return forms[0]


def _read_qform(header: Nifti1Header) -> np.ndarray:
    """The qform, with a qfac of 0 read as 1 as the standard requires; the identity if there is none."""
    if int(header["qform_code"]) <= 0:
        return np.eye(4)
    if float(header["pixdim"][0]) == 0:
        header["pixdim"][0] = 1
    form: np.ndarray = header.get_qform()
    return form


def _read_pixdim(header: Nifti1Header) -> list[float]:
    found = [float(x) for x in header["pixdim"][1:4]]
    if not all(map(math.isfinite, found)):
        raise DataError("its spacing (pixdim) is not finite")
    return found


def _mm_per_unit(header: Nifti1Header, options: NiftiOptions) -> float | None:
    """Millimetres per unit of length; None if the card declares it `unknown`."""
    code = int(header["xyzt_units"]) & 7
    if code and code not in _UNIT_CODES:
        raise DataError("its unit of length (xyzt_units) is not m, mm or um")
    unit = _UNIT_CODES.get(code) or options.length
    if unit is None:
        raise DataError(
            "its header does not give the unit of its spacing (xyzt_units is 0); set nifti: {length: mm}, or length:"
            " unknown to read it without spacing"
        )
    return _MM_OF.get(unit)


def _format_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
