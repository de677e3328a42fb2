"""Decodes stored bytes for training: the same values as io/images, with the fastest decoder."""

from __future__ import annotations

import numpy as np

from medvlm.core.errors import DataError
from medvlm.io import images
from medvlm.io.codestream import find_jpeg_frame


def decode(data: bytes, member: str) -> np.ndarray:
    """The same as io.images.decode(). A plain JPEG is decoded by torchvision, which gives the same bits as Pillow (both
    use libjpeg-turbo with the same transform) in two thirds of the time, and without holding the GIL."""
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
    """Whether it is one grey or colour image of an allowed size. io/images handles everything else, or raises the right
    error."""
    frame = find_jpeg_frame(data)
    if (
        frame is None
        or frame.form != "JPEG"
        or frame.samples not in (1, 3)
        or not 0 < frame.height * frame.width <= images.MAX_PIXELS
    ):
        return False
    return b"MPF\0" not in data[: frame.at]  # a file with two images has an MPF segment before the pixels of the first
