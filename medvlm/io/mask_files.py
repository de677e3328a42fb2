"""Writes masks for viewers and other programs: NIfTI on the grid of its image, or PNG. A file appears once it is
complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.errors import DataError
from medvlm.core.sample import Affine
from medvlm.io.images import encode_png

NIFTI = (".nii", ".nii.gz")


def write_png_mask(mask_HW: np.ndarray, to: Path) -> None:
    """Labels uint8 [H, W], as the stored grey levels: 0 for none, 1 for the first class."""
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    part.write_bytes(encode_png(mask_HW))
    part.replace(to)


def write_nifti_mask(mask: np.ndarray, affine: Affine, to: Path, like: Path | None = None) -> None:
    """Labels uint8 [D, H, W], or bool [K, D, H, W] as the fourth axis.

    affine: of the image, as in Medium. like: the NIfTI file of the image; then axes, size and affine are exactly its
    own. Raises DataError if nibabel is not installed."""
    try:
        import nibabel
    except ModuleNotFoundError:
        raise DataError("writing NIfTI needs nibabel; pip install 'medvlm[nifti]'") from None
    from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

    last = mask if mask.ndim == 3 else np.moveaxis(mask, 0, -1)
    matrix = np.vstack([np.array(affine), [0, 0, 0, 1]])
    if like is None:
        image = nibabel.Nifti1Image(last.astype(np.uint8), matrix)
        image.header.set_xyzt_units("mm")
    else:
        own: Any = nibabel.load(like)
        turn = ornt_transform(io_orientation(matrix), io_orientation(own.affine))
        turned = apply_orientation(last.astype(np.uint8), turn)
        if turned.shape[:3] != own.shape[:3]:
            raise DataError(f"{like}: has {own.shape[:3]} voxels, and its mask {turned.shape[:3]}")
        header = own.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        image = nibabel.Nifti1Image(turned, None, header)
    suffix = ".nii.gz" if to.name.endswith(".gz") else ".nii"
    part = to.with_name(f"{to.name}.{os.getpid()}.part{suffix}")
    try:
        nibabel.save(image, part)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
