"""Measures the speed of packing, compared with bare decoding of the same files.

    python benchmarks/pack.py --data /data/openly-licensed [--repeats 3]

Packs the PNG and JPEG files of real data sets under --data (default: $MEDVLM_DATA), repeated until there are --files of
them, and generated films, with 1 and 2 decoding processes. It compares with processes that only read the files and
decode their pixels. Packing also strips metadata, hashes, checks, assigns splits, writes, indexes and syncs. For each
number of workers:

    of_decode    throughput, divided by that of one plain decoding process times the number of workers
    of_decoders  throughput, divided by that of as many processes as workers, which decode at the same time and with the
                 memory settings of packing's decoders (the cores of a machine share its memory)
    of_cpu       CPU time of such decoding, divided by that of packing, over all processes. It holds on a busy machine
                 too, and is close to of_decoders if there are no more cores than workers

The start of the decoders, about half a second for any data set, is reported separately (`start_s`). All numbers are
medians over the repeats. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from medvlm.archive.packing.decoders import ENVIRONMENT, Decoders, Limits
from medvlm.archive.packing.pack import pack
from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.io.images import decode, encode_png

REAL = ("bccd", "vqa_rad", "cxr_hannover")
WORKERS = (1, 2)
DECODING = """
import sys, time
from pathlib import Path
from medvlm.io.images import decode
paths = [Path(line) for line in Path(sys.argv[1]).read_text().splitlines()]
decode(paths[0].read_bytes(), "a file")
print(flush=True)
input()  # all start at the same time
wall, cpu = time.perf_counter(), time.process_time()
for path in paths:
    decode(path.read_bytes(), "a file")
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("MEDVLM_DATA"),
        help="folder of the real data sets; without it, only generated films are packed",
    )
    parser.add_argument("--files", type=int, default=1000, help="number of files of each real data set")
    parser.add_argument("--films", type=int, default=150, help="number of generated films")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    results = {}
    for name in (*(name for name in REAL if args.data and (args.data / name).is_dir()), "made"):
        with tempfile.TemporaryDirectory() as folder:
            files = make_films(Path(folder), args.films) if name == "made" else list_pictures(args.data / name)
            card, root = make_archive(
                name, files, max(args.files, len(files)) if name != "made" else len(files), Path(folder) / "archive"
            )
            results[name] = measure(card, root, Path(folder), args.repeats)
    print(
        json.dumps(
            {
                "benchmark": "pack",
                "processors": len(os.sched_getaffinity(0)),
                "load": round(os.getloadavg()[0], 1),
                "repeats": args.repeats,
                "sets": results,
            }
        )
    )


def measure(card: Card, root: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Alternates decoding and packing, so that other load on the machine affects all of them."""
    rounds: dict[str, list[float]] = {}
    files = [path for raw in read_samples(card, root) for path in raw.files.values()]
    (folder / "files").write_text("\n".join(map(str, files)))
    for i in range(repeats):
        rounds.setdefault("decode", []).append(time_decoding(folder / "files", 1, {})[0])
        for n in WORKERS:
            decoding, decoding_cpu = time_decoding(folder / "files", n, ENVIRONMENT)
            start, start_cpu = time_call(partial(start_decoders, card, root, n))
            target = folder / f"{card.name}-{n}-{i}"
            packing, packing_cpu = time_call(partial(pack, card, root, target, workers=n, max_bad=0.2))
            found = {
                "decoders": decoding,
                "start": start,
                "pack": packing - start,
                "of_cpu": decoding_cpu / (packing_cpu - start_cpu),
            }
            for what, value in found.items():
                rounds.setdefault(f"{what}_{n}", []).append(value)
    size = sum(path.stat().st_size for path in files)
    result: dict[str, Any] = {
        "files": len(files),
        "mb": round(size / 1e6, 1),
        "decode_per_s": round(len(files) / median(rounds["decode"]), 1),
    }
    for n in WORKERS:
        pack_s = rounds[f"pack_{n}"]
        result[f"workers_{n}"] = {
            "per_s": round(len(files) / median(rounds[f"pack_{n}"]), 1),
            "decoders_per_s": round(n * len(files) / median(rounds[f"decoders_{n}"]), 1),
            "start_s": round(median(rounds[f"start_{n}"]), 2),
            "of_decode": round(_median_ratio(rounds["decode"], pack_s) / n, 2),
            "of_decoders": round(_median_ratio(rounds[f"decoders_{n}"], pack_s) / n, 2),
            "of_cpu": round(median(rounds[f"of_cpu_{n}"]), 2),
        }
    return result


def time_decoding(files: Path, num: int, settings: dict[str, str]) -> tuple[float, float]:
    """Mean seconds in which each of `num` concurrent processes decodes all files, and mean CPU seconds per process."""
    env = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-c", DECODING, str(files)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for _ in range(num)
    ]
    for child in children:
        assert child.stdout and child.stdout.readline() == "\n", "a process that decodes did not start"
    for child in children:
        assert child.stdin
        child.stdin.write("\n")
        child.stdin.flush()
    found = [tuple(map(float, child.communicate()[0].split())) for child in children]
    return sum(wall for wall, _ in found) / num, sum(cpu for _, cpu in found) / num


def read_samples(card: Card, root: Path) -> Iterator[RawSample]:
    reader = component("archive.readers", card.reader.kind)
    return (item for item in reader.read(card.reader, root) if isinstance(item, RawSample))


def _median_ratio(above: list[float], below: list[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))


def start_decoders(card: Card, root: Path, workers: int) -> None:
    """Starts the decoders and sends one sample through each."""
    with Decoders(card, workers, Limits()) as decoders:
        for _ in decoders.outcomes(islice(read_samples(card, root), workers)):
            pass


def time_call(do: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process and of its children that ended."""
    before, before_cpu = time.perf_counter(), _cpu_s()
    do()
    return time.perf_counter() - before, _cpu_s() - before_cpu


def _cpu_s() -> float:
    """CPU seconds of this process and of its children that ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def list_pictures(folder: Path) -> list[Path]:
    """The PNG and JPEG files that can be decoded, sorted by name."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (".png", ".jpg", ".jpeg") and can_decode(path)
    ]


def can_decode(path: Path) -> bool:
    try:
        decode(path.read_bytes(), "a file")
    except DataError:
        return False
    return True


def make_films(folder: Path, count: int) -> list[Path]:
    """1024 x 1024 pixels, 16 bits, with smooth shapes and noise, as PNG."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:1024, :1024] / 1024
    for i in range(count):
        smooth = 30000 * (1 + np.sin(6 * x * (i % 7 + 1)) * np.cos(5 * y)) / 2
        (folder / f"{i}.png").write_bytes(encode_png((smooth + rng.normal(0, 40, x.shape) + 500).astype(np.uint16)))
    return sorted(folder.glob("*.png"))


def make_archive(name: str, files: list[Path], count: int, root: Path) -> tuple[Card, Path]:
    """A table of links to the files, which are repeated until there are `count`."""
    root.mkdir()
    for i in range(count):
        (root / f"{i}").symlink_to(files[i % len(files)].resolve())
    (root / "table.csv").write_text("file\n" + "".join(f"{i}\n" for i in range(count)))
    card = {
        "name": name, "title": name, "summary": "For a benchmark.", "access": "open", "media": ["film"],
        "licence": {"id": "CC0-1.0", "commercial": True}, "phi": {"status": "synthetic"}, "splits": {"by": "image"},
        "reader": {"kind": "table", "file": "table.csv", "media": [{"file": "{file}", "kind": "film"}]},
    }  # fmt: skip
    return Card.model_validate(card), root


if __name__ == "__main__":
    main()
