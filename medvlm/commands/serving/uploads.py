"""Files in a request, as data URLs: pictures, .npy, NIfTI and DICOM. They are read in memory.

What a file is follows from its content, because its media type may be wrong. As in `medvlm chat`, pixels and geometry
are read, and nothing else of a header reaches the model.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from medvlm.commands.files import OwnMedium, join_slices
from medvlm.commands.serving.refusal import Refusal, refuse_size
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded
from medvlm.io.images import peek_size, suffix_of
from medvlm.io.in_memory import lend_path
from medvlm.io.nifti import decode_nifti

DATA_URL = re.compile(r"data:[\w.+/-]*(?:;[\w=.+-]+){0,8};base64,", re.IGNORECASE)
"""Few parameters: each that is read takes 100 bytes of memory, and a request has room for 30 million."""


class Room:
    """The pixels that the files of one request may still have."""

    def __init__(self, pixels: int):
        self.most = self._left = pixels

    def take(self, count: int) -> None:
        """Raises Refusal if there is no room for so many."""
        self._left -= count
        if self._left < 0:
            raise refuse_size(f"the images of this request have more than {self.most:,} pixels together")

    def take_header(self, header: Any) -> None:
        """The pixels of a header of nibabel or pydicom."""
        if hasattr(header, "get_data_shape"):
            self.take(math.prod(max(int(n), 1) for n in header.get_data_shape()))
            return
        from medvlm.io.dicom.dataset import whole
        from medvlm.io.dicom.header import count_frames

        self.take(count_frames(header) * whole(header, "Rows", 1) * whole(header, "Columns", 1))


def decode_url(url: str, name: str) -> bytes:
    """The bytes of a data URL. Raises Refusal, whose message has nothing of the URL."""
    start = DATA_URL.match(url)
    if start is None:
        raise Refusal(
            400, f"{name}: this server fetches nothing; send the file itself as data:image/png;base64,...", where=name
        )
    try:
        return base64.b64decode(url[start.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"{name}: its base64 is damaged or cut", where=name) from None


@contextmanager
def lend_media(files: Mapping[str, bytes], room: Room) -> Iterator[list[OwnMedium | None]]:
    """The medium of each file, to be read within the context; None for the slices of a DICOM volume after its first
    one. files: name in messages -> its bytes."""
    from medvlm.io.dicom.header import read_image_header

    with ExitStack() as stack:
        found: list[OwnMedium | None] = []
        headers, places = [], list[Path]()
        for name, data in files.items():
            if data[128:132] != b"DICM":
                found.append(OwnMedium(name, _open_picture(data, room) if suffix_of(data) else _open_nifti(data, room)))
                places.append(Path())
                continue
            try:
                places.append(stack.enter_context(lend_path(data)))
                headers.append(read_image_header(places[-1]))
            except DataError as reason:
                raise DataError(f"{name}: {reason}") from None
            except ModuleNotFoundError:
                raise DataError(f"{name}: this server cannot read DICOM; install 'medvlm[dicom]'") from None
            found.append(None)
        images = join_slices(headers) if headers else {}
        for number, (name, place) in enumerate(zip(files, places, strict=True)):
            if place in images:
                found[number] = OwnMedium(name, _bound(images[place](), room))
        yield found


def _open_picture(data: bytes, room: Room) -> Callable[[], Any]:
    def load() -> bytes:
        height, width = peek_size(io.BytesIO(data))
        room.take(height * width or len(data))  # a .npy has at least a byte for each value
        return data

    return load


def _open_nifti(data: bytes, room: Room) -> Callable[[], Any]:
    def read(gate: Callable[[Any], None]) -> Decoded:
        return decode_nifti(data, gate=gate)

    return lambda: _bound(read, room)()


def _bound(read: Callable[..., Decoded], room: Room) -> Callable[[], Any]:
    """What loads a file with a header, with room for its pixels. read: takes a `gate`, which checks the header."""

    def load(gate: Callable[[Any], None] | None = None) -> Decoded:
        def check(header: Any) -> None:
            room.take_header(header)
            if gate is not None:
                gate(header)

        return read(gate=check)

    return lambda: load
