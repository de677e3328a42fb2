"""Reads NIfTI files as volumes: values after slope and intercept, a fixed order of axes, and an affine to the patient.

Axes: D towards the head, H towards the back, W towards the patient's left. An axial slice [H, W] is oriented as a
radiologist views it, and as io/dicom returns the usual axial scan. Axes are only permuted and flipped, never
interpolated: an oblique volume stays oblique, and its affine records that. x, y, z are the stored axes, x fastest.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded, Unit
from medvlm.io.file_kinds import describe_file
from medvlm.io.nifti_header import Layout, NiftiOptions, layout_of, read_header

_open_gzip: Callable[..., Any] = gzip.open
_DAMAGED: tuple[type[Exception], ...] = (EOFError, zlib.error)
try:  # same bytes and checks, twice as fast; part of medvlm[nifti]
    from isal import igzip, isal_zlib
except ModuleNotFoundError:
    pass
else:
    _open_gzip = igzip.open
    _DAMAGED = (*_DAMAGED, isal_zlib.error)  # type: ignore[arg-type]

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz")
Gate = Callable[["Nifti1Header"], None]
"""Checks a nibabel header before any voxel is read; raises DataError for one that must not be used. Must be
picklable."""
_MAGIC = rb"\x1f\x8b|\x5c\x01\0\0|\0\0\x01\x5c|\x1c\x02\0\0|\0\0\x02\x1c"
"""How gzip and NIfTI begin: with the size of the header, 348 or 540, in either byte order."""
MAX_EXACT = 1 << 24
"""float32 represents every whole number up to this one."""
_CHUNK = 1 << 20


def load_nifti(
    path: Path, options: NiftiOptions = NiftiOptions(), unit: Unit = "raw", gate: Gate | None = None
) -> Decoded:
    """A volume [D, H, W]: int16 (or uint8 or uint16, as stored) if that is exact, else float32.

    path: .nii, .nii.gz, or either file of a .hdr/.img pair. unit: the unit of its values according to the card. Raises
    DataError for a file that is damaged, larger than its header says, too large, or ambiguous in orientation, spacing
    or values; and whatever `gate` raises."""
    with _convert_errors():
        return _load(
            lambda: _find_header_file(path).open("rb"), lambda: _find_data_file(path).open("rb"), options, unit, gate
        )


def load_header(path: Path) -> Nifti1Header:
    """The header of a .nii, .nii.gz or .hdr, as nibabel reads it. Raises DataError as load_nifti() does."""
    with _convert_errors(), _open_inflated(_find_header_file(path).open("rb")) as (file, _):
        return read_header(file)[0]


def decode_nifti(
    data: bytes, options: NiftiOptions = NiftiOptions(), unit: Unit = "raw", gate: Gate | None = None
) -> Decoded:
    """As load_nifti(), from the bytes of a .nii or .nii.gz."""
    if not re.match(_MAGIC, data[:352], re.DOTALL):
        raise DataError(f"neither a picture nor NIfTI, but {describe_file(data)}")

    def refuse() -> IO[bytes]:
        raise DataError("its header says that the voxels are in another file; expected .nii or .nii.gz")

    with _convert_errors():
        return _load(lambda: io.BytesIO(data), refuse, options, unit, gate)


def _load(
    header_file: Callable[[], IO[bytes]],
    data_file: Callable[[], IO[bytes]],
    options: NiftiOptions,
    unit: Unit,
    gate: Gate | None,
) -> Decoded:
    try:
        import nibabel  # noqa: F401
    except ModuleNotFoundError:
        raise DataError("reading NIfTI needs nibabel; pip install 'medvlm[nifti]'") from None
    with _open_inflated(header_file()) as (file, size):
        header, is_pair = read_header(file)
        if gate is not None:
            gate(header)
        layout = layout_of(header, is_pair, options)
        if not is_pair:
            values_DHW = _read_voxels(file, size, layout, options)
    if is_pair:
        with _open_inflated(data_file()) as (file, size):
            values_DHW = _read_voxels(file, size, layout, options)
    if unit == "HU" and options.hu == "check":
        _check_hu(values_DHW)
    return Decoded(values_DHW, layout.spacing_mm, unit, "", layout.affine)


@contextmanager
def _convert_errors() -> Iterator[None]:
    """Turns the exceptions that reading can raise into DataErrors."""
    try:
        yield
    except OSError as reason:  # BadGzipFile is one
        what = "its gzip stream is damaged" if isinstance(reason, gzip.BadGzipFile) else "its file cannot be read"
        raise DataError(f"{what} ({type(reason).__name__})") from None
    except _DAMAGED:
        raise DataError("its gzip stream is cut or damaged; copy the file again") from None
    except MemoryError:
        raise DataError("it needs more memory than is available") from None


# --- the voxels -----------------------------------------------------------------------------------------


def _read_voxels(file: IO[bytes], size: int | None, layout: Layout, options: NiftiOptions) -> np.ndarray:
    """The voxels [D, H, W]. size: bytes of the file, None if it is compressed."""
    end = layout.offset + layout.skip + layout.num_bytes + layout.rest
    if size is not None and size < end:
        raise DataError(f"it ends after {size} of the {end} bytes that its header says; copy it again")
    file.seek(layout.offset + layout.skip)
    values_DHW = _read_at_once(file, layout) if _is_kept_as_stored(layout) else _read_by_slice(file, layout, options)
    file.seek(end)
    if file.read(_CHUNK).strip(b"\0") or file.read(1):  # reading to the end also verifies the gzip checksum
        raise DataError("it holds more bytes than its header says")
    return values_DHW


def _is_kept_as_stored(layout: Layout) -> bool:
    """Whether the stored voxels are returned without any conversion."""
    return (layout.slope, layout.intercept) == (1, 0) and layout.stored in (np.uint8, np.uint16, np.int16)


def _read_at_once(file: IO[bytes], layout: Layout) -> np.ndarray:
    """Reads the whole volume into the returned array and permutes the axes as a view: twice as fast as copying slice by
    slice."""
    x, y, z = layout.shape
    stored = np.empty(x * y * z, layout.stored)
    into: Any = memoryview(stored.view(np.uint8))  # type: ignore[arg-type]
    at = 0
    while at < len(into):
        read = file.readinto(into[at:])  # type: ignore[attr-defined]
        if not read:
            raise _cut_error(at // (x * y * layout.stored.itemsize), layout)
        at += read
    steps = tuple(slice(None, None, int(step)) for step in layout.turn[:, 1])
    return stored.reshape(layout.shape, order="F")[steps].transpose(np.argsort(layout.turn[:, 0]))


def _read_by_slice(file: IO[bytes], layout: Layout, options: NiftiOptions) -> np.ndarray:
    """Reads and converts one slice at a time, so that a wide stored type needs its memory for one slice only."""
    volume = _NiftiVolume(layout)
    x, y, z = layout.shape
    for k in range(z):
        data = file.read(x * y * layout.stored.itemsize)
        if len(data) < x * y * layout.stored.itemsize:
            raise _cut_error(k, layout)
        volume.put(k, _rescale(np.frombuffer(data, layout.stored).reshape((x, y), order="F"), layout, options))
    return volume.values_DHW


def _cut_error(k: int, layout: Layout) -> DataError:
    return DataError(f"it ends within slice {k + 1} of the {layout.shape[2]} that its header says; copy it again")


def _rescale(slice_XY: np.ndarray, layout: Layout, options: NiftiOptions) -> np.ndarray:
    """A slice after slope and intercept, with non-finite values replaced. Without either, its stored type; else
    float64."""
    is_known = np.isfinite(slice_XY) if slice_XY.dtype.kind == "f" else np.True_
    if not is_known.all() and options.nan is None:
        raise DataError("it holds NaN or infinite voxels; choose a value to replace them, e.g. nifti: {nan: 0}")
    if (layout.slope, layout.intercept) != (1, 0):
        slice_XY = slice_XY.astype(np.float64) * layout.slope + layout.intercept
    return slice_XY if is_known.all() else np.where(is_known, slice_XY, np.float64(options.nan or 0))


class _NiftiVolume:
    """Collects stored slices into [D, H, W].

    uint8 and uint16 keep their type. Other integers become int16, or float32 as soon as a value does not fit. All other
    values become float32."""

    def __init__(self, layout: Layout) -> None:
        self._turn, self._shape = layout.turn, layout.shape
        is_whole = (
            layout.stored.kind in "iu"
            and layout.slope == int(layout.slope)
            and layout.intercept == int(layout.intercept)
        )
        is_plain = (layout.slope, layout.intercept) == (1, 0) and layout.stored.newbyteorder("=") in (
            np.uint8,
            np.uint16,
        )
        kind: Any = layout.stored.newbyteorder("=") if is_plain else np.int16 if is_whole else np.float32
        self.values_DHW: np.ndarray = np.zeros([layout.shape[i] for i in np.argsort(layout.turn[:, 0])], kind)
        self._is_whole = is_whole

    def put(self, k: int, slice_XY: np.ndarray) -> None:
        kind = self.values_DHW.dtype
        if kind == np.int16 and (slice_XY.min() < -32768 or slice_XY.max() > 32767):
            self.values_DHW = self.values_DHW.astype(np.float32)
        if self._is_whole and kind != np.uint16 and max(-float(slice_XY.min()), float(slice_XY.max())) > MAX_EXACT:
            raise DataError(f"it holds whole numbers beyond {MAX_EXACT:,}, which would be rounded")
        with np.errstate(over="ignore"):
            self._as_stored()[:, :, k] = slice_XY
        if self.values_DHW.dtype == np.float32 and not np.isfinite(self._as_stored()[:, :, k]).all():
            raise DataError("it holds values beyond the range of float32")

    def _as_stored(self) -> np.ndarray:
        """A view of the volume with the axes in the order and direction of the file."""
        seen = self.values_DHW.transpose(self._turn[:, 0].astype(int))
        return seen[tuple(slice(None, None, int(step)) for step in self._turn[:, 1])]


def _check_hu(values_DHW: np.ndarray) -> None:
    """Raises DataError for values that no CT has. Clips values below air to AIR_HU in place, as io/dicom does."""
    from medvlm.io.dicom.values import AIR_HU, check_hu

    try:
        check_hu(values_DHW)
    except DataError as reason:
        raise DataError(
            f"{str(reason).partition(';')[0]}; correct the unit in the card, or accept the values with nifti: {{hu:"
            " as_is}"
        ) from None
    np.maximum(values_DHW, AIR_HU, out=values_DHW)


# --- files ----------------------------------------------------------------------------------------------


def _find_header_file(path: Path) -> Path:
    return _find_other_file(path, ".img", ".hdr")


def _find_data_file(path: Path) -> Path:
    found = _find_other_file(path, ".hdr", ".img")
    if found == path and not path.name.lower().endswith((".img", ".img.gz")):
        raise DataError(
            "its header says that the voxels are in another file, but its name does not end in .hdr or .img"
        )
    return found


def _find_other_file(path: Path, suffix: str, other: str) -> Path:
    """The other file of a pair, compressed or not: name.hdr for name.img. `path` itself if its suffix is not `suffix`.
    Raises DataError if the other file is missing."""
    lower = path.name.lower()
    for end in (suffix, suffix + ".gz"):
        if lower.endswith(end):
            stem = path.name[: -len(end)]
            for name in (stem + other, stem + other + ".gz"):
                if path.with_name(name).is_file():
                    return path.with_name(name)
            raise DataError(f"the {other} file of a .hdr/.img pair is missing")
    return path


@contextmanager
def _open_inflated(file: IO[bytes]) -> Iterator[tuple[IO[bytes], int | None]]:
    """The decompressed file and its size in bytes; the size is None for gzip, where it is only known at the end. Gzip
    is detected from the content, not from the name."""
    with file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        size = file.seek(0, 2)
        file.seek(0)
        if not is_gzip:
            yield file, size
            return
        with _open_gzip(file) as inflated:
            yield inflated, None
