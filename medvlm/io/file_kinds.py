"""What a file is that cannot be read, and what to do with it, in words. By its first bytes alone."""

from __future__ import annotations

import re

_TABLE: tuple[tuple[bytes, str], ...] = (
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "a TIFF: name it .tif or .tiff"),
    (rb".{128}DICM", "a DICOM file: name it .dcm, or read the folder with dicom_tree"),
    (rb"\x5c\x01\0\0|\0\0\x01\x5c|.{344}n[+i]1\0", "a NIfTI volume: name it .nii"),
    (rb"\x1f\x8b", "compressed with gzip: name it .nii.gz if it is a NIfTI volume, else unpack it"),
    (rb"%PDF", "a PDF: save its pages as PNG"),
    (rb".{4}ftyp(?:heic|heix|heif|mif1|msf1)", "a HEIC photograph: convert it to PNG or JPEG"),
    (rb".{4}ftypavi[fs]", "an AVIF: convert it to PNG"),
    (rb".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video: name it by its format, e.g. .mp4, and set `video`"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL: convert it to PNG"),
    (rb"8BPS", "a Photoshop file: save it as PNG"),
    (rb"NRRD", "an NRRD volume: convert it to NIfTI"),
    (rb"ObjectType\s*=|NDims\s*=", "the header of a MetaImage: convert the volume to NIfTI"),
    (rb"\x89HDF\r\n", "an HDF5 file: write its images as .npy or PNG"),
    (rb"PK\x03\x04", "a ZIP archive (.zip, .npz, .docx ...): unpack it"),
    (rb"7z\xbc\xaf|Rar!", "an archive (7z or RAR): unpack it"),
    (rb"P[1-7]\s", "a PNM (.pbm, .pgm, .ppm): convert it to PNG"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself: run git lfs pull"),
    (rb"/annex/|\.\./.*annex/objects", "a pointer of git-annex, not the file itself: run git annex get"),
    (rb"\s*<\?xml|\s*<svg", "XML or SVG, which is text: render it as PNG"),
    (rb"\s*<(?:!DOCTYPE|html)", "a web page, perhaps an error of a download: download it again"),
    (rb"\s*[{\[]", "JSON or another text"),
)


def describe_file(data: bytes) -> str:
    """`a TIFF: name it .tif or .tiff`. Never shows what stands in it."""
    if not data:
        return "an empty file: copy it again"
    head = data[:512]
    for pattern, what in _TABLE:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return what
    if not head.strip(b"\0"):
        return "a file of zeros, which was not copied completely: copy it again"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head):
        return "a text"
    return "of an unknown kind; pictures may be PNG, JPEG, WebP, BMP, GIF or JPEG 2000"
