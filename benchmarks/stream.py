"""Measures the speed of the data stream, compared with bare decoding of the same files, and with webdataset's defaults
on the same tar files.

    python benchmarks/stream.py [--rounds 5] [--workers 1 2] [--formats jpg png nii]

Makes tar files in webdataset's layout from a seed: 8-bit JPEG and 16-bit PNG of 512 x 512, NIfTI.gz of 128 x 128 x 128.
Each round processes the same tar files in three ways: decoding only, from memory, with the same number of threads;
medvlm's stream (index, ranges, checksums, keyed order, threads); and webdataset as its users write it (Pillow or
nibabel in the worker processes of a DataLoader, no shuffling). A rate is measured from the first to the last batch, so
that start-up does not count. The medians of the ratios of a round are reported, with their range.

`first`: seconds until the first sample of a training run that begins at 0, 50 and 95 % of an epoch of 1,000 shards,
including opening them. For comparison, also that of webdataset, which has to read everything before that position.
`control`: the stream with every sample decoded twice. It must miss the aims that the stream reaches.
Prints one JSON line; `passed` says for each aim whether it was reached.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
import webdataset as wds
from PIL import Image

from medvlm.core.card import Card
from medvlm.data.order import RANDOM
from medvlm.data.pixels import decode
from medvlm.data.source import SourceView
from medvlm.data.stream import Item, Stream, StreamPart, make_loader
from medvlm.io.cache import Cache
from medvlm.io.nifti import decode_nifti
from medvlm.io.nifti_header import NiftiOptions
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet
from medvlm.recipe.sources import choose_form

SUFFIX = {"jpg": "jpg", "png": "png", "nii": "nii.gz"}
COUNT = {"jpg": 480, "png": 128, "nii": 32}
BATCH = {"jpg": 16, "png": 8, "nii": 2}
TARS = 4
AIMS: dict[str, Any] = {"of_decode": 0.9, "over_webdataset": {"jpg": 1.4, "nii": 2.0}, "first_within": 1.5}
OPTIONS = NiftiOptions(length="mm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--formats", nargs="+", choices=list(SUFFIX), default=list(SUFFIX))
    parser.add_argument("--shards", type=int, default=1000, help="shards of the epoch for `first`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        formats = {
            kind: {f"workers_{n}": measure(kind, Path(folder), n, args.rounds) for n in args.workers}
            for kind in args.formats
        }
        first = time_first_samples(Path(folder) / "many", args.shards, args.rounds)
    result = {
        "benchmark": "stream",
        "processors": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "rounds": args.rounds,
        "webdataset_version": wds.__version__,
        "formats": formats,
        "first": first,
        "passed": check_aims(formats, first),
    }
    print(json.dumps(result))


def check_aims(formats: dict[str, Any], first: dict[str, Any]) -> dict[str, bool]:
    found = {}
    for kind, by_workers in formats.items():
        for workers, row in by_workers.items():
            found[f"{kind} {workers} of_decode"] = row["of_decode"]["median"] >= AIMS["of_decode"]
            if kind in AIMS["over_webdataset"]:
                enough = row["over_webdataset"]["median"] >= AIMS["over_webdataset"][kind]
                found[f"{kind} {workers} over_webdataset"] = enough
            found[f"{kind} {workers} control fails"] = row["control_of_decode"]["median"] < AIMS["of_decode"]
    return {**found, "first": first["slowest_over_fastest"] <= AIMS["first_within"]}


# --- throughput -------------------------------------------------------------------------------------------


def measure(kind: str, folder: Path, workers: int, rounds: int) -> dict[str, Any]:
    tars = make_tars(kind, folder / kind)
    blobs = [data for tar in tars for name, data in read_members(tar) if name.endswith(SUFFIX[kind])]
    shards = open_made(kind, folder / kind)
    rates: dict[str, list[float]] = {}
    for _ in range(rounds + 1):
        for name, rate in (
            ("decode", rate_decoding(kind, blobs, workers)), ("stream", rate_stream(kind, shards, workers)),
            ("webdataset", rate_webdataset(kind, tars, workers)), ("control", rate_stream(kind, shards, workers,
            times=2)), ):  # fmt: skip
            rates.setdefault(name, []).append(rate)
    rates = {
        name: values[1:] for name, values in rates.items()
    }  # the first round warms up: page cache, imports, memory
    return {
        "samples": len(blobs),
        "kb": round(sum(map(len, blobs)) / len(blobs) / 1e3),
        "per_s": {name: round(median(values), 1) for name, values in rates.items()},
        "of_decode": summarise_ratios(rates["stream"], rates["decode"]),
        "over_webdataset": summarise_ratios(rates["stream"], rates["webdataset"]),
        "control_of_decode": summarise_ratios(rates["control"], rates["decode"]),
    }


def summarise_ratios(ours: list[float], others: list[float]) -> dict[str, float]:
    found = [a / b for a, b in zip(ours, others, strict=True)]
    return {"median": round(median(found), 3), "low": round(min(found), 3), "high": round(max(found), 3)}


def decode_pixels(kind: str, data: Any) -> np.ndarray:
    if isinstance(data, np.ndarray):
        return data
    return decode_nifti(data, OPTIONS).pixels if kind == "nii" else decode(data, "a film")


def rate_decoding(kind: str, blobs: list[bytes], workers: int) -> float:
    def decode_all(part: list[bytes]) -> None:
        for data in part:
            decode_pixels(kind, data)

    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        list(pool.map(decode_all, [blobs[n::workers] for n in range(workers)]))
        return len(blobs) / (time.perf_counter() - began)


def rate_stream(kind: str, shards: ShardSet, workers: int, times: int = 1) -> float:
    view = SourceView(shards, ("train",))
    stream = Stream({"all": StreamPart("all", view, 1.0, order=RANDOM)}, 7, stage="benchmark")

    def prepare(item: Item) -> np.ndarray:
        for _ in range(times - 1):
            stream.parts["all"].view.read_at(item.place.split, item.place.index)
            [decode_pixels(kind, data) for data in item.files.values()]
        (pixels,) = [decode_pixels(kind, data) for data in item.files.values()]
        return pixels

    batches: Any = make_loader(stream, 0, BATCH[kind], 0, 1, prepare, workers, quarantine=lambda *line: None)
    try:
        return compute_rate(islice(batches, len(view) // BATCH[kind] + 1), BATCH[kind])
    finally:
        batches.close()


def rate_webdataset(kind: str, tars: list[Path], workers: int) -> float:
    data = wds.WebDataset(
        [str(tar) for tar in tars], shardshuffle=False, empty_check=False, workersplitter=wds.split_by_worker
    )
    data = data.to_tuple(SUFFIX[kind], "txt").map_tuple(
        _decode_by_nibabel if kind == "nii" else partial(_decode_by_pillow, kind), _return_unchanged
    )
    return compute_rate(
        iter(
            torch.utils.data.DataLoader(
                data.batched(BATCH[kind], collation_fn=list), batch_size=None, num_workers=workers
            )
        ),
        BATCH[kind],
    )


def _decode_by_pillow(kind: str, data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    return np.asarray(image.convert("RGB") if kind == "jpg" else image)


def _decode_by_nibabel(data: bytes) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)  # type: ignore[attr-defined]


def _return_unchanged(data: bytes) -> bytes:
    return data


def compute_rate(batches: Iterator[Any], size: int) -> float:
    """Samples per second from the first to the last batch."""
    next(batches)
    began, count = time.perf_counter(), 0
    for _ in batches:
        count += size
    return count / (time.perf_counter() - began)


# --- the first sample -------------------------------------------------------------------------------------


def time_first_samples(folder: Path, shards: int, rounds: int) -> dict[str, Any]:
    folder.mkdir()
    rng, each = np.random.default_rng(1), 8
    for number in range(shards):
        write(folder / f"{number:06d}.tar", [(f"{number:06d}{i}", "png", make_png16(rng, 64)) for i in range(each)])
    ours, theirs = dict[float, list[float]](), dict[float, list[float]]()
    open_made("png", folder)  # makes the indexes
    for _ in range(rounds):
        for share in (0.0, 0.5, 0.95):
            start = int(share * shards * each) // 8 * 8
            ours.setdefault(share, []).append(time_call(partial(read_first_of_ours, folder, start)))
            theirs.setdefault(share, []).append(time_call(partial(read_first_of_webdataset, folder, start)))
    found = {share: median(times) for share, times in ours.items()}
    return {
        "shards": shards, "seconds": {f"{share:.0%}": round(value, 4) for share, value in found.items()},
        "webdataset_seconds": {f"{share:.0%}": round(median(times), 4) for share, times in theirs.items()},
        "slowest_over_fastest": round(max(found.values()) / min(found.values()), 2),
    }  # fmt: skip


def read_first_of_ours(folder: Path, start: int) -> None:
    view = SourceView(open_made("png", folder), ("train",))
    stream = Stream({"all": StreamPart("all", view, 1.0)}, 7, stage="benchmark")
    batches: Any = make_loader(
        stream, start, 8, 0, 1, lambda item: decode_pixels("png", item.files["png"]), 0, quarantine=lambda *line: None
    )
    assert next(batches)[0] == start


def read_first_of_webdataset(folder: Path, start: int) -> None:
    data = wds.WebDataset([str(tar) for tar in sorted(folder.glob("*.tar"))], shardshuffle=False, empty_check=False)
    for _ in islice(data.to_tuple("png").map_tuple(partial(_decode_by_pillow, "png")), start, start + 8):
        pass


def time_call(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


# --- data -------------------------------------------------------------------------------------------------


def make_tars(kind: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        folder.mkdir()
        rng, count = np.random.default_rng(0), COUNT[kind] // TARS
        make = {"jpg": make_jpeg, "png": make_png16, "nii": make_nifti}[kind]
        for tar in range(TARS):
            write(folder / f"{tar:06d}.tar", [(f"{tar:03d}{i:05d}", SUFFIX[kind], make(rng)) for i in range(count)])
    return sorted(folder.glob("*.tar"))


def write(path: Path, files: list[tuple[str, str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for key, suffix, data in files:
            for name, content in ((f"{key}.{suffix}", data), (f"{key}.txt", b"made")):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def read_members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for info in tar:
            file = tar.extractfile(info)
            assert file is not None
            yield info.name, file.read()


def open_made(kind: str, folder: Path) -> ShardSet:
    medium = "volume" if kind == "nii" else "film"
    card = Card.model_validate(
        {
            "name": "made",
            "title": "Made",
            "summary": "For a benchmark.",
            "access": "generated",
            "media": [medium],
            "phi": {"status": "synthetic"},
            "licence": {"id": "CC0-1.0", "commercial": True},
            "splits": {"by": "image", "ratios": {"train": 1.0}},
            "reader": {
                "kind": "webdataset",
                "media": {medium: [SUFFIX[kind]]},
                "report": "txt",
                "unit": "raw",
                "nifti": {"length": "mm"},
            },
        }
    )
    return open_shards(folder, Cache(folder.parent / "cache", 1 << 30), choose_form(card))


def make_picture(rng: np.random.Generator, px: int) -> np.ndarray:
    """Smooth shapes and noise of 12 grey levels, about 0 to 255."""
    y, x = np.mgrid[:px, :px].astype(np.float32) / px
    return 60 + 50 * np.sin(3 * x + 6 * rng.random()) * np.cos(4 * y + 6 * rng.random()) + rng.normal(0, 12, (px, px))


def make_jpeg(rng: np.random.Generator, px: int = 512) -> bytes:
    out, grey = io.BytesIO(), make_picture(rng, px).clip(0, 255).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(out, "JPEG", quality=90)
    return out.getvalue()


def make_png16(rng: np.random.Generator, px: int = 512) -> bytes:
    out = io.BytesIO()
    Image.fromarray((make_picture(rng, px) * 200).clip(0, 65535).astype(np.uint16)).save(out, "PNG", compress_level=4)
    return out.getvalue()


def make_nifti(rng: np.random.Generator, n: int = 128) -> bytes:
    z = np.linspace(0, 6, n, dtype=np.float32)
    smooth = 400 * np.sin(z)[:, None, None] * np.cos(z)[None, :, None] * np.sin(z + rng.random())[None, None, :]
    values = (smooth + rng.normal(0, 20, (n, n, n)).astype(np.float32)).astype(np.int16)
    return gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes(), 1)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
