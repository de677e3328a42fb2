"""Identifiers planted wherever archives hold them: each is refused or left behind, and no byte of it is in what packing
writes or says.

Read by `python -m medvlm data pack`, as users run it: image files, tables and texts. Headers of DICOM and NIfTI files
pass the same gate before their pixels are used.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import pytest
import yaml
from PIL import Image, PngImagePlugin
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvlm.archive.packing.pack import pack as pack_archive
from medvlm.archive.readers.dicom_tree import Config, read
from medvlm.cli import main
from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.io.images import encode_png
from medvlm.io.phi.header import add_gate, check
from medvlm.io.strip import PNG_CHUNKS
from tests.io.phi.clean_files import make_clean, nest, write

ROOT = Path(__file__).parents[2]
CARD = {
    "name": "planted",
    "title": "Planted",
    "summary": "Made for a test.",
    "access": "credentialed",
    "media": ["film"],
    "licence": {"id": "custom", "commercial": False},
    "phi": {"status": "deidentified", "note": "as they say"},
    "splits": {"ratios": {"train": 0.5, "test": 0.5}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "media": [{"file": "{image}", "kind": "film", "modality": "{modality}"}],
        "patient": "{who}",
        "report": "{note}",
        "concept": "{concept}",
        "groups": {"site": "{site}"},
        "questions": [{"text": "{question}", "answer": "{answer}", "template": "{template}"}],
    },
}
SALT = "zqsalt-7f3a9c51d2e8b604"


@dataclass(frozen=True)
class Plant:
    """value: what must be nowhere. row: columns of the table. image: bytes of the file, made from plain pixels.
    finding: what the quarantine file says of it; "" where the value is left behind and the sample is packed."""

    where: str
    value: str
    row: dict[str, str] | None = None
    image: Callable[[bytes], bytes] | None = None
    finding: str = ""


def in_text(column: str, sentence: str, value: str, finding: str) -> Plant:
    return Plant(f"{column}: {finding}", value, {column: sentence.format(value)}, None, finding)


THEIRS = "identifier of the archive"
TEXTS = [
    in_text("note", "Write to {}.", "zq.doe@zqclinic.example", "e-mail address"),
    in_text("note", "Call {} for results.", "(709) 555-7131", "telephone number"),
    in_text("note", "Pager {}.", "70955512", "telephone number"),
    in_text("note", "MRN: {}", "ZQ713702", "record number"),
    in_text("note", "Accession no. {}, chest.", "71-ZQ-3703", "record number"),
    in_text("note", "SSN {}.", "713-70-4321", "social security number"),
    in_text("note", "Number {} on the film.", "713704713704", "long number"),
    in_text("note", "Compared with 2 studies of {}.", "1937-05-13", "date with a day"),
    in_text("note", "Comparison {}.", "5/14/1937", "date with a day"),
    in_text("note", "Seen on {}.", "May 15th, 1937", "date with a day"),
    in_text("note", "DOB: {}", "16.05.1937", "date of birth"),
    in_text("note", "Discussed with Dr. {}.", "Zqabernathy", "name after a title"),
    in_text("note", "{}, MD", "Zqjane Q. Zqfoster", "name after a title"),
    in_text("note", "Patient name: {}", "Zqdoe, Zqjohn", "name after a label"),
    in_text("note", "Electronically signed by {}", "Zqmiller", "name after a label"),
    in_text("note", "Header {} copied.", "ZQSMITH^ZQJANE", "name with a caret"),
    in_text("note", "Lives at {}.", "713 Zqelm Street", "postal address"),
    in_text("note", "A {} man.", "97-year-old", "age above 89"),
    in_text("note", "Study {}.", "1.2.840.7137.1.2.3.4", "UID"),
    Plant(
        "note: the patient's number",
        "PZQ-00171",
        {"note": "Film of PZQ-00171 again.", "who": "PZQ-00171"},
        None,
        "identifier of the archive",
    ),
    Plant(
        "note: the file's name",
        "zqfile-0018",
        {"note": "See zqfile-0018.", "image": "zqfile-0018.png"},
        None,
        "identifier of the archive",
    ),
    *(
        Plant(f"{column}: the patient's number", value, {column: value, "who": value}, None, THEIRS)
        for column, value in {
            "answer": "PZQ-00172",
            "concept": "PZQ-00173",
            "site": "PZQ-00174",
            "template": "PZQ-00175",
            "modality": "PZQ-00176",
        }.items()
    ),
    Plant("answer: a name", "Zqkowalski", {"answer": "It is Zqkowalski.", "who": "Zqkowalski"}, None, THEIRS),
    Plant("note: part of a name", "Zqwojcik", {"note": "Film of Zqwojcik.", "who": "Zqwojcik, Zqanna"}, None, THEIRS),
    Plant("note: the file's letters", "Zqnowak", {"note": "A film of Zqnowak.", "image": "Zqnowak.png"}, None, THEIRS),
    Plant(
        "note: other blanks", "ZQ 713 7190437", {"note": "Film of ZQ 713 7190437.", "who": "ZQ7137190437"}, None, THEIRS
    ),
    in_text("note", "[**{}**]", "Dr. Zqsmith, 617-555-1234", "brackets that hold no placeholder"),
    in_text("note", "Seen at {}.", "1937-03-05T10:33:00", "date with a day"),
    in_text("note", "Firmado por {}", "Zqgarcia", "name after a label"),
    in_text("note", "Host {}.", "10.71.37.3", "web or network address"),
    in_text("question", "Who is {}?", "Dr. Zqlambert", "name after a title"),
    in_text("question", "Is it that of {}?", "17 May 1937", "date with a day"),
    in_text("answer", "{}", "ZQBROWN^ZQTIM", "name with a caret"),
    in_text("answer", "mrn {}", "713705ZQ", "record number"),
    in_text("template", "q {}", "zq@zqhome.example", "e-mail address"),
    in_text("concept", "Name: {}", "Zqgreen", "name after a label"),
    in_text("modality", "{}", "ZQCARTER^ZQAMY", "name with a caret"),
    in_text("site", "{}", "ZQWARD^ZQANN", "name with a caret"),
]


# --- image files --------------------------------------------------------------------------------------


def jpeg(**settings: Any) -> Callable[[bytes], bytes]:
    return lambda pixels: saved(pixels, "JPEG", **settings)


def png(**settings: Any) -> Callable[[bytes], bytes]:
    return lambda pixels: saved(pixels, "PNG", **settings)


def saved(pixels: bytes, form: str, **settings: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(24, 32)).save(out, form, **settings)
    return out.getvalue()


def exif(tag: int, value: Any, group: int | None = None) -> Image.Exif:
    made = Image.Exif()
    if group is None:
        made[tag] = value
    else:
        made.get_ifd(group)[tag] = value
    return made


def text_chunk(kind: Literal["text", "ztext", "itext"], value: str) -> PngImagePlugin.PngInfo:
    made = PngImagePlugin.PngInfo()
    if kind == "itext":
        made.add_itxt("Patient", value, zip=True)
    else:
        made.add_text("Patient", value, zip=kind == "ztext")
    return made


def segment(code: int, body: bytes) -> Callable[[bytes], bytes]:
    """A JPEG with one segment more, behind its first."""

    def made(pixels: bytes) -> bytes:
        data = saved(pixels, "JPEG")
        return data[:2] + b"\xff" + bytes([code]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]

    return made


def chunk(name: bytes, body: bytes) -> Callable[[bytes], bytes]:
    """A PNG with one chunk more, before its end."""

    def made(pixels: bytes) -> bytes:
        data = saved(pixels, "PNG")
        return (
            data[:-12]
            + len(body).to_bytes(4, "big")
            + name
            + body
            + zlib.crc32(name + body).to_bytes(4, "big")
            + data[-12:]
        )

    return made


def followed(make: Callable[[bytes], bytes], tail: bytes) -> Callable[[bytes], bytes]:
    return lambda pixels: make(pixels) + tail


def npy(pixels: bytes, secret: bytes) -> bytes:
    """Format 1.0 of NumPy: its header is a text, padded with what a program likes."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (24, 32), }" + b" " * 8 + b"#" + secret
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header + pixels


def word(i: int) -> str:
    return f"ZQEBONY{i:02d}"


IMAGES = [
    Plant("EXIF ImageDescription", word(0), image=jpeg(exif=exif(0x010E, word(0)))),
    Plant("EXIF Artist", word(1), image=jpeg(exif=exif(0x013B, word(1)))),
    Plant("EXIF UserComment", word(2), image=jpeg(exif=exif(0x9286, word(2).encode(), 0x8769))),
    Plant("EXIF MakerNote", word(3), image=jpeg(exif=exif(0x927C, word(3).encode(), 0x8769))),
    Plant("EXIF body serial number", word(4), image=jpeg(exif=exif(0xA431, word(4), 0x8769))),
    Plant("EXIF GPS area", word(5), image=jpeg(exif=exif(0x001C, word(5).encode(), 0x8825))),
    Plant("EXIF of a PNG", word(6), image=png(exif=exif(0x010E, word(6)))),
    Plant("XMP", word(7), image=jpeg(xmp=f"<x:xmpmeta><dc:creator>{word(7)}</dc:creator></x:xmpmeta>".encode())),
    Plant(
        "IPTC",
        word(8),
        image=segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x12\x1c\x02\x50\0\x09" + word(8).encode()),
    ),
    Plant("JPEG comment", word(9), image=jpeg(comment=word(9))),
    Plant("ICC description", word(10), image=jpeg(icc_profile=b"acsp" + word(10).encode() * 9)),
    Plant("JFIF thumbnail", word(11), image=segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\1\3" + word(11).encode())),
    Plant("JFXX thumbnail", word(12), image=segment(0xE0, b"JFXX\0\x13\1\3" + word(12).encode())),
    Plant("application segment", word(13), image=segment(0xE9, word(13).encode())),
    Plant("behind the end of a JPEG", word(14), image=followed(jpeg(), word(14).encode())),
    Plant("tEXt", word(15), image=png(pnginfo=text_chunk("text", word(15)))),
    Plant("zTXt", word(16), image=png(pnginfo=text_chunk("ztext", word(16)))),
    Plant("iTXt", word(17), image=png(pnginfo=text_chunk("itext", word(17)))),
    Plant("ICC profile of a PNG", word(18), image=png(icc_profile=word(18).encode() * 5)),
    Plant("private chunk", word(19), image=chunk(b"zqTx", word(19).encode())),
    Plant("suggested palette", word(20), image=chunk(b"sPLT", word(20).encode() + b"\0\x08")),
    Plant("behind the end of a PNG", word(21), image=followed(png(), word(21).encode())),
    Plant("header of an array", word(22), image=lambda pixels: npy(pixels, word(22).encode())),
    Plant(
        "text instead of an image",
        word(23),
        image=lambda _: f"Patient {word(23)}".encode(),
        finding="not a PNG, JPEG or .npy",
    ),
    Plant("file name", "zqfile-kowalski", {"image": "zqfile-kowalski.png"}),
    Plant("folder name", "zqfolder-nowak", {"image": "zqfolder-nowak/a.png"}),
    Plant(
        "name of a file that is not there",
        "zqmissing-wojcik",
        {"image": "zqmissing-wojcik.png"},
        finding="its file is not there",
    ),
    Plant(
        "path out of the root",
        "zqoutside-lewandowski",
        {"image": "../zqoutside-lewandowski.png"},
        finding="leads out of the root",
    ),
    Plant("patient column", "ZQPAT-KAMINSKI", {"who": "ZQPAT-KAMINSKI"}),
    Plant("column that the card does not name", "Zqdoe^Zqunread 1937-05-18", {"unread": "Zqdoe^Zqunread 1937-05-18"}),
]

PLANTS = TEXTS + IMAGES


def archive(root: Path) -> None:
    rows = []
    for i in range(3 * len(PLANTS)):  # two harmless samples to each
        row = {
            "image": f"film{i}.png",
            "who": f"person {i}",
            "note": f"Film {i}. Clear.",
            "question": "Is it clear?",
            "answer": "yes",
            "template": "clear",
            "concept": "normal",
            "modality": "X-ray",
            "site": "north",
            "unread": "",
        }
        pixels, data = np.random.default_rng(i).integers(0, 256, (24, 32), dtype=np.uint8).tobytes(), None
        if i < len(PLANTS):
            row |= PLANTS[i].row or {}
            make = PLANTS[i].image
            data = make(pixels) if make else None
        rows.append(row)
        path = root / row["image"]
        if ".." not in row["image"] and "missing" not in row["image"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data if data is not None else encode_png(np.frombuffer(pixels, np.uint8).reshape(24, 32)))
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def pack(folder: Path, *options: str, in_process: bool = True) -> tuple[int, bytes]:
    """Exit code, and all that was said and written into the folder `out` and beside it."""
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    (folder / "salt").touch(0o600)
    (folder / "salt").write_text(SALT + "\n")
    arguments = [
        "data",
        "pack",
        str(folder / "card.yaml"),
        "--root",
        str(folder / "raw"),
        "--out",
        str(folder / "out/shards"),
        *options,
    ]
    if in_process:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            code, said = main(arguments), (out.getvalue() + err.getvalue()).encode()
    else:
        done = subprocess.run(
            [sys.executable, "-m", "medvlm", *arguments],
            capture_output=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        code, said = done.returncode, done.stdout + done.stderr
    return code, said + b"".join(path.read_bytes() for path in sorted((folder / "out").rglob("*")) if path.is_file())


def traces(value: str, where: bytes) -> list[str]:
    """The forms in which the value, or the longest word of it, is among the bytes."""
    found = []
    for text in {value, max(re.findall(r"[^\s,^@]+", value), key=len)}:
        forms = {
            "utf-8": text.encode(),
            "utf-16-le": text.encode("utf-16-le"),
            "utf-16-be": text.encode("utf-16-be"),
            "hex": text.encode().hex().encode(),
            "base64": base64.b64encode(text.encode())[: len(text) // 3 * 4],
            "spaced hex": text.encode()[:8].hex(" ").encode(),
        }
        found += [name for name, data in forms.items() if data.lower() in where.lower()]
    return found


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    (folder / "raw").mkdir()
    archive(folder / "raw")
    code, output = pack(folder, "--max-bad", "0.5", "--salt-file", str(folder / "salt"), in_process=False)
    assert code == 0, output[:2000]
    return folder, output


def test_there_are_enough_of_them_and_all_differ():
    assert len(PLANTS) >= 55 and len(PLANTS) + len(DICOM) + len(NIFTI) >= 100
    values = [plant.value for plant in PLANTS]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.where)
def test_what_was_planted_is_in_the_archive_and_nowhere_else(packed, plant):
    folder, output = packed
    raw = b"".join(
        path.read_bytes() + path.name.encode() + path.parent.name.encode()
        for path in (folder / "raw").rglob("*")
        if path.is_file()
    )
    assert plant.where in ("zTXt", "iTXt", "ICC profile of a PNG") or plant.value.encode() in raw, (
        "it was never planted"
    )
    assert traces(plant.value, output) == []


def test_each_text_is_quarantined_with_its_kind_and_the_rest_is_packed(packed):
    folder, _ = packed
    lines = (folder / "out/shards/quarantine.jsonl").read_text().splitlines()
    said = {line: int(re.search(r"line (\d+) of table.csv", line)[1]) - 2 for line in lines}  # type: ignore[index]
    refused = {i: line for line, i in said.items()}
    assert sorted(refused) == [i for i, plant in enumerate(PLANTS) if plant.finding]
    for i, line in refused.items():
        assert PLANTS[i].finding in line, PLANTS[i].where


def test_stored_images_hold_their_pixels_and_nothing_else(packed):
    """Compressed chunks and segments could hide from a search: there are none."""
    folder, _ = packed
    kinds = set()
    for tar in (folder / "out/shards").glob("*.tar"):
        with tarfile.open(tar) as members:
            for member in members:
                data = members.extractfile(member).read()  # type: ignore[union-attr]
                kinds.add(member.name.rpartition(".")[2])
                if member.name.endswith("png"):
                    assert set(chunks(data)) <= PNG_CHUNKS
                if member.name.endswith("jpg"):
                    assert not set(segments(data)) & ({*range(0xE1, 0xF0), 0xFE} - {0xEE})
    assert kinds == {"png", "jpg", "npy", "json"}


def chunks(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at < len(data):
        found.append(data[at + 4 : at + 8])
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return found


def segments(data: bytes) -> list[int]:
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def test_the_secret_salt_is_nowhere_and_decides_names_but_no_split(packed, tmp_path):
    folder, output = packed
    assert traces(SALT, output) == [] and b"zqsalt" not in output
    receipt = yaml.safe_load((folder / "out/shards/packed.json").read_text())
    assert re.fullmatch("[0-9a-f]{16}", receipt["salt_id"])
    (tmp_path / "raw").symlink_to(folder / "raw")
    (tmp_path / "other").touch(0o600)
    (tmp_path / "other").write_text("zqother-5f0c93ab71e8d264")
    code, _ = pack(tmp_path, "--max-bad", "0.5", "--salt-file", str(tmp_path / "other"))
    other = yaml.safe_load((tmp_path / "out/shards/packed.json").read_text())
    assert (
        code == 0
        and other["salt_id"] != receipt["salt_id"]
        and other["samples"] == receipt["samples"]
        and other["patients"] == receipt["patients"]
    )
    names = [
        set(re.findall(r'"key": ?"([0-9a-f]{16})"', (place / "out/shards/quarantine.jsonl").read_text()))
        for place in (folder, tmp_path)
    ]
    assert names[0] and not names[0] & names[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "must be hashed with a salt that is not in the card: give --salt-file"),
        (("--salt-file", "nowhere"), "this salt file cannot be read"),
        (("--salt-file", "short"), "can be guessed"),
        (("--salt-file", "salt"), "are bad, at most 1.00% are accepted"),
    ],
)
def test_a_refusal_of_everything_says_nothing_either(packed, tmp_path, options, says):
    folder, _ = packed
    (tmp_path / "raw").symlink_to(folder / "raw")
    (tmp_path / "short").touch(0o600)
    (tmp_path / "short").write_text("zqshortsalt")
    code, output = pack(tmp_path, *(str(tmp_path / each) if each != "--salt-file" else each for each in options))
    assert code == 2 and says in output.decode()
    assert (
        [plant.where for plant in PLANTS if traces(plant.value, output)] == []
        and b"zqshort" not in output
        and not (tmp_path / "out/shards").exists()
    )


@pytest.mark.parametrize(
    "table",
    [
        "Zqdoe,Zqjane,1937-05-13,M\nZqroe,Zqjohn,1937-05-14,M\n",
        "Zqdoe,Zqjane,M,M\n",
        'image,who\n"Zqdoe.png,Zqjane\n',
        "Zqdoe",
    ],
)
def test_a_table_without_its_first_line_shows_no_patient(tmp_path, table):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/table.csv").write_text(table)
    code, output = pack(tmp_path, "--salt-file", str(tmp_path / "salt"))
    assert code == 2 and b"table.csv" in output
    assert not re.search(rb"zq(doe|roe|jane|john)|1937", output, re.I)


# --- headers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InHeader:
    """finding: what the refusal says; "" where the file is read and the value left behind."""

    where: str
    value: str
    plant: Callable[[Dataset, str], None]
    finding: str = ""


def at(keyword: str, value: str, depth: int = 0, finding: str = "") -> InHeader:
    def plant(dataset: Dataset, value: str) -> None:
        item = Dataset()
        setattr(item, keyword, value)
        dataset.update(nest(item, depth))

    return InHeader(f"{keyword} at depth {depth}", value, plant, finding or f"{keyword} (")


def element(group: int, number: int, vr: str, value: str, finding: str) -> InHeader:
    def plant(dataset: Dataset, value: str) -> None:
        if group % 2:
            dataset.add_new((group, number >> 8), "LO", "ZQVENDOR")
        dataset.add_new((group, number), vr, value.encode() if vr in ("OB", "UN") else value)

    return InHeader(f"({group:04X},{number:04X})", value, plant, finding)


def preamble(dataset: Dataset, value: str) -> None:
    dataset.preamble = value.encode().ljust(128, b"\0")


def code_meaning(dataset: Dataset, value: str) -> None:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "1", value
    dataset.ViewCodeSequence = Sequence([item])


DICOM = [
    at("PatientName", "Zqdoe^Zqanna"),
    at("PatientName", "Zqdoe^Zqbert", 1),
    at("PatientName", "Zqdoe^Zqcarl", 5),
    at("PatientID", "ZQ71370"),
    at("PatientID", "ZQ71371", 3),
    at("PatientBirthDate", "19370501"),
    at("PatientBirthDate", "19370502", 2),
    at("PatientAddress", "713 Zqelm Street"),
    at("PatientAge", "097Y"),
    at("OtherPatientNames", "Zqdoe^Zqdora"),
    at("PatientMotherBirthName", "Zqroe^Zqemma"),
    at("PatientTelephoneNumbers", "709-555-7132"),
    at("MedicalRecordLocator", "ZQ71372"),
    at("MilitaryRank", "Zqgeneral"),
    at("ReferringPhysicianName", "Zqroe^Zqfred"),
    at("OperatorsName", "Zqroe^Zqgina", 1),
    at("PerformingPhysicianName", "Zqroe^Zqhans"),
    at("PersonName", "Zqroe^Zqines", 2),
    at("AccessionNumber", "ZQ71373"),
    at("StudyID", "ZQ71374"),
    at("StudyDate", "19370503"),
    at("AcquisitionDateTime", "19370504121314", 1),
    at("SeriesDate", "19370505"),
    at("InstitutionName", "Zqclinic"),
    at("InstitutionAddress", "714 Zqoak Street"),
    at("StationName", "ZQSTATION"),
    at("DeviceSerialNumber", "ZQ71375"),
    at("StudyDescription", "Chest of Zqanna"),
    at("SeriesDescription", "Zqseries", 2),
    at("ProtocolName", "Zqprotocol"),
    at("ImageComments", "Zqcomment"),
    at("PatientComments", "Zqpatientcomment"),
    at("RequestedProcedureDescription", "Zqprocedure", 4),
    at("AdditionalPatientHistory", "Zqhistory"),
    at("TextComments", "Zqtextcomment"),
    at("EvaluatorName", "Zqroe^Zqjack"),
    at("DateOfGainCalibration", "19370506"),
    at("MetaboliteMapDescription", "Zqmetabolite", 1),
    at("PatientSex", "ZQSEX"),
    at("BurnedInAnnotation", "YES"),
    at("PatientIdentityRemoved", "ZQNO"),
    element(0x0029, 0x1010, "OB", "Zqcsaheader", "private attributes of group 0029"),
    element(0x0019, 0x10A0, "UN", "Zqprivate", "private attributes of group 0019"),
    element(0x6000, 0x4000, "LT", "Zqoverlay", "(6000,4000)"),
    element(0x0008, 0xFFF0, "LO", "Zqunknown", "(0008,FFF0)"),
    element(0xFFFC, 0xFFFC, "OB", "Zqpadding", "(FFFC,FFFC)"),
    InHeader("preamble", "Zqpreamble", preamble),
    InHeader("meaning of a code", "Zqmeaning", code_meaning),
    at("Manufacturer", "Zqmaker", 0, "-"),
    at("SoftwareVersions", "Zqsoft", 0, "-"),
    at("StudyInstanceUID", "1.2.7137.1", 0, "-"),
    at("BodyPartExamined", "ZQDOEZQANNA", 0, "-"),
    at("ViewPosition", "ZQANNA", 0, "-"),
    at("DeidentificationMethod", "Zqmethod", 0, "-"),
]


TREE = Config.model_validate(
    {
        "kind": "dicom_tree",
        "media": [{"kind": "film", "modality": ["CR"]}],
        "report": "{BodyPartExamined} {ViewPosition}",
    }
)


@pytest.mark.parametrize("plant", DICOM, ids=lambda plant: plant.where)
def test_what_a_dicom_header_holds_is_refused_or_left_behind(tmp_path, plant, capfd, caplog):
    spoilt = make_clean(Modality="CR", SOPClassUID="1.2.840.10008.5.1.4.1.1.1")
    plant.plant(spoilt, plant.value)
    path = write(spoilt, tmp_path / f"{plant.value.split()[0]}.dcm")
    assert plant.value.encode() in path.read_bytes(), "it was never planted"
    (raw,) = (item for item in read(TREE, tmp_path) if isinstance(item, RawSample))
    (load,) = raw.files.values()
    refused, told = "", [raw.sample.report, raw.where]
    try:
        told.append(repr(add_gate(load, ())()))
    except DataError as reason:
        refused = str(reason)
    expected = plant.finding.strip("-")
    assert expected in refused if expected else refused == ""
    assert (
        plant.value == "YES"
        or traces(plant.value, "".join([refused, *told, *capfd.readouterr(), caplog.text]).encode()) == []
    )


NIFTI = [
    ("descrip", "Zqdoe^Zqanna"),
    ("aux_file", "Zqdoe.txt"),
    ("db_name", "ZQ71376"),
    ("intent_name", "Zqdoe"),
    ("data_type", "Zqdoe"),
    ("extension", "Zqdoe^Zqbert"),
]


@pytest.mark.parametrize(("field", "value"), NIFTI)
def test_what_a_nifti_header_holds_is_refused(tmp_path, field, value):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
    if field == "extension":
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", value.encode()))
    else:
        image.header[field] = value
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match=field) as refused:
        check(nibabel.load(tmp_path / "a.nii").header)
    assert traces(value, str(refused.value).encode()) == []


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_packing_asks_the_gate_and_the_card_may_answer_it(tmp_path, kind):
    (root := tmp_path / "root").mkdir()
    if kind == "dicom":
        spoilt = make_clean(Modality="CR", SOPClassUID="1.2.840.10008.5.1.4.1.1.1", InstitutionName="Zqclinic")
        write(spoilt, root / "a.dcm")
        reader, word, found = (
            {"kind": "dicom_tree", "media": [{"kind": "film", "modality": ["CR"]}]},
            "institution",
            "InstitutionName",
        )
    else:
        image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4))
        image.header["descrip"] = "Zqdoe"
        image.header.set_xyzt_units("mm")
        nibabel.save(image, root / "a.nii")
        reader, word, found = {"kind": "folder", "images": r".*\.nii", "medium": "film"}, "descriptions", "descrip"
    about = {
        "name": "a",
        "title": "a",
        "summary": "Made.",
        "licence": {"id": "MIT", "commercial": True},
        "access": "open",
        "media": ["film"],
        "splits": {"by": "image"},
        "reader": reader,
    }
    closed, opened = (
        Card.model_validate({**about, "phi": {"status": "none", "note": "made", "checked": checked}})
        for checked in ((), (word,))
    )
    with pytest.raises(DataError, match=f"1 of 1 samples are bad.* its header may identify a person: {found}"):
        pack_archive(closed, root, tmp_path / "none", workers=1)
    receipt = pack_archive(opened, root, tmp_path / "shards", workers=1)
    assert (sum(receipt.samples.values()), receipt.quarantined) == (1, 0)
    assert not any(b"Zq" in path.read_bytes() for path in (tmp_path / "shards").iterdir())
