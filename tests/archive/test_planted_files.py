"""Identifiers in the tags of TIFF files, slides and videos, and in pictures beside the slide: none is in what packing
writes or says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import tifffile

from medvlm.archive.packing.pack import pack
from medvlm.core.card import Card
from medvlm.core.errors import DataError
from medvlm.io.dicom.image import NAMED, load_file
from medvlm.io.images import decode
from medvlm.io.opening import open_shards
from tests.archive.test_planted import traces
from tests.io.phi.clean_files import make_clean, write

RNG = np.random.default_rng(0)
LABEL = (13, 37, 71)
"""The colour of label and macro images, which show names and bar codes."""
SLIDE = RNG.integers(140, 256, (128, 192, 3), dtype=np.uint8)

TAGS = {
    "ImageDescription": 270,
    "Make": 271,
    "Model": 272,
    "DocumentName": 269,
    "PageName": 285,
    "Software": 305,
    "DateTime": 306,
    "Artist": 315,
    "HostComputer": 316,
    "XMP": 700,
    "Copyright": 33432,
    "IPTC": 33723,
    "ImageID": 32781,
    "UniqueCameraModel": 50708,
    "a private tag": 65000,
    "a private tag of bytes": 65001,
}
"""Of TIFF 6.0, its supplements, and those that anybody may use."""
_BYTES = ("XMP", "IPTC", "a private tag of bytes")
_VIDEO = (
    "title",
    "artist",
    "comment",
    "copyright",
    "description",
    "album",
    "genre",
    "synopsis",
    "lyrics",
    "encoder",
    "location",
    "date",
)


def word(i: int) -> str:
    return f"ZQFILE{i:03d}" if i % 2 else f"Zqdoe{i:03d}^Zqmary"


def tag(name: str, value: str) -> tuple[int, str, int, Any, bool]:
    if name in _BYTES:
        return TAGS[name], "B", len(value), value.encode(), True
    return TAGS[name], "s", 0, value, True


def tiff(path: Path, words: list[str]) -> None:
    """One word in each tag, one in those of a thumbnail, one behind the end."""
    with tifffile.TiffWriter(path) as out:
        out.write(
            RNG.integers(0, 256, (24, 32), dtype=np.uint8),
            photometric="minisblack",
            metadata=None,
            software="",
            extratags=[tag(n, w) for n, w in zip(TAGS, words, strict=False)],
        )
        out.write(
            np.zeros((8, 8), np.uint8), photometric="minisblack", metadata=None, subfiletype=1, description=words[-2]
        )
    with path.open("ab") as file:
        file.write(words[-1].encode())


def slide(path: Path, words: list[str]) -> None:
    """As Aperio writes them: what was scanned, when and by whom in one description; a label and a macro image
    behind."""
    named = "|".join(
        f"{name} = {w}"
        for name, w in zip(("Filename", "User", "Date", "Barcode", "ScanScope ID", "Title"), words, strict=False)
    )
    label = np.full((40, 60, 3), LABEL, np.uint8)
    with tifffile.TiffWriter(path) as out:
        out.write(
            SLIDE,
            photometric="rgb",
            tile=(64, 64),
            metadata=None,
            description=f"Aperio Image Library v12\n192x128|MPP = 0.5|{named}",
            datetime="1937:05:13 12:13:14",
        )
        for name, w in (("label", words[-2]), ("macro", words[-1])):
            out.write(
                label,
                photometric="rgb",
                metadata=None,
                subfiletype=1 if name == "label" else 9,
                description=f"Aperio Image Library v12\n{name} 60x40|{w}",
            )


def ome(path: Path, words: list[str]) -> None:
    """OME-XML with an experimenter and a description, and tags of the slide's own levels."""
    metadata = {
        "axes": "YXS",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
        "Description": words[0],
        "Name": words[1],
        "AcquisitionDate": "1937-05-14T12:13:14",
    }
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(SLIDE, photometric="rgb", tile=(64, 64), subifds=1, metadata=metadata)
        out.write(
            SLIDE[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1, extratags=[(315, "s", 0, words[2], True)]
        )


def video(path: Path, words: list[str]) -> None:
    """In the container, and in the stream."""
    options = {"movflags": "use_metadata_tags"} if path.suffix in (".mov", ".mp4") else {}
    with av.open(str(path), "w", options=options) as out:
        out.metadata.update(dict(zip(_VIDEO, words, strict=False)))
        out.metadata["zq_patient"] = words[-2]
        stream: Any = out.add_stream("mpeg4" if path.suffix != ".mkv" else "ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p" if path.suffix != ".mkv" else "bgr0"
        stream.metadata.update({"title": words[-1], "handler_name": words[-1]})
        for _ in range(5):
            out.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8), format="rgb24")
                )
            )
        out.mux(stream.encode())


FILES = {
    "zqname.tif": (tiff, len(TAGS) + 2),
    "a.svs": (slide, 8),
    "b.svs": (ome, 3),
    "a.mp4": (video, 14),
    "a.mov": (video, 14),
    "a.mkv": (video, 14),
    "a.avi": (video, 14),
}
COLUMNS = {".tif": ("tiff",), ".svs": ("whole", "tiles")}
"""Which columns name a file of the kind; `video` for the others."""


def words_of(name: str) -> list[str]:
    first = 20 * list(FILES).index(name)
    return [word(i) for i in range(first, first + FILES[name][1])]


CARD = {
    "name": "planted",
    "title": "Planted",
    "summary": "Made for a test.",
    "access": "open",
    "media": ["it"],
    "licence": {"id": "MIT", "commercial": True},
    "phi": {"status": "none", "note": "made"},
    "splits": {"by": "image", "ratios": {"train": 1.0}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "key": "{n}",
        "report": "Film {n}.",
        "media": [
            {"file": "{tiff}", "kind": "it"},
            {"file": "{whole}", "kind": "it", "slide": {"mpp": 1}},
            {"file": "{tiles}", "kind": "it", "slide": {"mpp": 0.5, "tile_px": 64, "tissue": 0}},
            {"file": "{video}", "kind": "it", "video": {"frames": 2}},
        ],
    },
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The folder of the shards and the archive, and all that was said and written. Each file is there once whole and
    once cut in half."""
    root = tmp_path_factory.mktemp("planted")
    with (root / "table.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["n", "tiff", "whole", "tiles", "video"])
        for n, (name, (make, _)) in enumerate(FILES.items()):
            make(root / name, words_of(name))
            data = (root / name).read_bytes()
            (root / f"cut-{name}").write_bytes(data[: len(data) // 2])
            for each in (name, f"cut-{name}"):
                used = COLUMNS.get(Path(name).suffix, ("video",))
                rows.writerow(
                    [
                        f"{n}{each[:3]}",
                        *(each if column in used else "" for column in ("tiff", "whole", "tiles", "video")),
                    ]
                )
    said: list[str] = []
    pack(Card.model_validate(CARD), root, root / "out" / "shards", progress=said.append, max_bad=0.6, workers=1)
    return root, "".join(said).encode() + b"".join(
        path.read_bytes() for path in sorted((root / "out").rglob("*")) if path.is_file()
    )


def test_files_are_packed_and_cut_ones_refused(packed):
    root, _ = packed
    lines = [json.loads(line) for line in (root / "out/shards/quarantine.jsonl").read_text().splitlines()]
    assert {line["where"] for line in lines} <= {f"line {2 * i + 3} of table.csv" for i in range(len(FILES))} and len(
        lines
    ) >= len(FILES) - 2
    shards = open_shards(root / "out/shards")
    assert shards.count("train") == 2 * len(FILES) - len(lines)


@pytest.mark.parametrize("name", FILES)
def test_no_tag_is_in_what_packing_writes_or_says(packed, name):
    root, output = packed
    raw = (root / name).read_bytes()
    planted = [w for w in words_of(name) if w.encode() in raw]
    assert len(planted) >= min(3, len(words_of(name))), "containers drop what they have no place for, but not all"
    assert (
        [w for w in words_of(name) if traces(w, output)] == []
        and not traces("zqname", output)
        and not traces("1937", output)
    )


def test_label_and_macro_images_are_in_no_medium(packed):
    shards = open_shards(packed[0] / "out/shards")
    seen = 0
    for sample, files in (shards.read("train", i) for i in range(shards.count("train"))):
        for medium in sample.media:
            pixels = decode(files[medium.member], "x")
            seen += pixels.ndim == 3 and pixels.shape[:2] in ((64, 96), (64, 64))
            assert pixels.shape[:2] != (40, 60) and not (pixels.ndim == 3 and (pixels == LABEL).all(-1).any())
    assert seen >= 10, "two slides, each whole and in six tiles"


def test_a_video_within_dicom_is_refused_and_its_tags_stay_unsaid(tmp_path):
    video(tmp_path / "v.mp4", words_of("a.mp4"))
    made = make_clean(
        Modality="ES", SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.1.1", BurnedInAnnotation="NO", NumberOfFrames=5
    )
    path = write(made, tmp_path / "v.dcm")
    import pydicom
    from pydicom.encaps import encapsulate

    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    dataset.PixelData = encapsulate([(tmp_path / "v.mp4").read_bytes()])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(DataError, match="compress") as refused:
        load_file(path, NAMED | {"cine"})
    assert [w for w in words_of("a.mp4") if traces(w, str(refused.value).encode())] == []
