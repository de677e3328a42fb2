"""Stored bytes to pixels where a stage trains: as io/images, by the fastest decoder that gives the same values."""

from __future__ import annotations

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io import images
from medvlm.io.codestream import codestream_header, frame_at


def decode(data: bytes, member: str) -> np.ndarray:
    """As io.images.decode(). A plain JPEG goes through torchvision: bit for bit Pillow's pixels (both are libjpeg-turbo with the same
    transform) in two thirds of the time, and without holding the interpreter's lock."""
    if not (data.startswith(images.JPEG_MAGIC) and _is_plain(data)):
        return images.decode(data, member)
    import torch
    from torchvision.io import decode_jpeg

    try:
        pixels_CHW = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError as reason:
        raise DataError(f"{member}: a damaged JPEG ({type(reason).__name__})") from None
    return pixels_CHW[0].numpy() if len(pixels_CHW) == 1 else pixels_CHW.permute(1, 2, 0).numpy()


def _is_plain(data: bytes) -> bool:
    """Grey or colour, one image, of a size that may be decoded; what else there is io/images refuses with its reasons."""
    form, height, width, samples = codestream_header(data) or ("", 0, 0, 0)
    # Two images in one file say so in a segment before the first one's pixels.
    return form == "JPEG" and samples in (1, 3) and 0 < height * width <= images.MAX_PIXELS and b"MPF\0" not in data[: frame_at(data)]
