"""Small sets of shards with planted faults, made from a seed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from medvlm.archive.packing.deal import hash_name
from medvlm.core.card import Card
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import decode, encode_npy, encode_png, suffix_of
from medvlm.io.shards import ShardWriter

HEIGHT, WIDTH = 120, 160
SECRET = "JANE-DOE-1961"


@dataclass
class Row:
    """One sample. image: its number, or the bytes of a file. patient: as the archive has it, "" for none."""

    split: str
    patient: str = ""
    image: int | bytes | None = None
    asks: tuple[str, ...] = ()
    report: str = ""
    more: list[bytes] = field(default_factory=list)


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Broad and narrow shades, another for each number: uint8 [H, W]."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.normal(0, 1, (6, 8)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = Image.fromarray(draw.normal(0, 1, (24, 32)).astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return (120 + 40 * np.asarray(coarse) + 15 * np.asarray(fine)).clip(0, 255).astype(np.uint8)


def png(number: int) -> bytes:
    return encode_png(picture(number))


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def card(name: str, **settings: Any) -> Card:
    reader = {"kind": "table", "file": "t.csv", "media": [{"file": "{f}", "kind": "film"}]}
    given: dict[str, Any] = {
        "name": name,
        "title": name,
        "summary": "Made.",
        "access": "open",
        "media": ["film"],
        "licence": {"id": "MIT", "commercial": True},
        "phi": {"status": "none"},
        "splits": {"salt": "one"},
        "reader": reader,
    }
    return Card.model_validate({**given, **settings})


def shards(folder: Path, rows: Iterable[Row], about: Card | None = None, name: str = "") -> Path:
    """name: of the samples' source, where there is no card."""
    source, salt = (about.name, about.splits.salt) if about else (name, "none")
    ordered = sorted(enumerate(rows), key=lambda item: item[1].split)
    for split in sorted({row.split for _, row in ordered}):
        with ShardWriter(folder, split) as writer:
            for number, row in ordered:
                if row.split == split:
                    writer.write(*_sample(number, row, source, salt))
    if about:
        (folder / "card.yaml").write_text(yaml.safe_dump(about.model_dump(mode="json", by_alias=True)))
    return folder


def volume(number: int) -> bytes:
    """[D, H, W] int16."""
    return encode_npy(np.stack([picture(number * 100 + i // 3, 24, 24) for i in range(12)]).astype(np.int16))


def _sample(number: int, row: Row, source: str, salt: str) -> tuple[Sample, dict[str, bytes]]:
    files: dict[str, bytes] = {}
    media = []
    given = [] if row.image is None else [row.image if isinstance(row.image, bytes) else png(row.image)]
    for i, data in enumerate([*given, *row.more]):
        pixels, suffix = decode(data, "x"), suffix_of(data)
        media.append(Medium("film", f"{i}.{suffix}", pixels.shape if suffix == "npy" else pixels.shape[:2]))
        files[f"{i}.{suffix}"] = data
    questions = tuple(Question(text, make_truth("choice", "yes", choices=("yes", "no")), "q") for text in row.asks)
    patient = hash_name(row.patient, salt, "patient") if row.patient else ""
    return (
        Sample(
            hash_name(f"{source}/{number}", salt, "key"),
            source,
            row.split,
            tuple(media),
            row.report,
            "",
            questions,
            patient,
        ),
        files,
    )
