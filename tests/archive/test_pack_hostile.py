"""Samples that break the process that decodes them: one line each, and the rest is packed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvlm.archive.packing import decoders
from medvlm.archive.packing.decoders import Limits
from medvlm.archive.packing.pack import PackReceipt, pack
from medvlm.core.card import Card, load_card
from medvlm.core.config import permit
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium
from medvlm.io.images import decode, encode_png
from tests.archive.hostile_reader import SECRET
from tests.archive.test_pack import CARD, all_samples, contents, noise

LIMITS = Limits(memory_bytes=600 << 20, seconds=60)
IMPATIENT = Limits(memory_bytes=600 << 20, seconds=5)

ENDLESS = ("never_ends", "never_wakes", "answers_for_itself")

BROKEN = {
    "eats_memory": "needs more than 600 MiB of memory to decode",
    "asks_for_everything": "needs more than 600 MiB of memory to decode",
    "is_killed": "its decoder was killed by SIGKILL",
    "crashes": "its decoder was killed by SIGSEGV",
    "leaves": "its decoder ended (exit code 1)",
    "leaves_at_once": "its decoder ended (exit code 3)",
    "closes_everything": "its decoder ended (exit code 1)",
    "raises": "cannot be decoded (KeyError in hostile_reader.py:",
    "refuses": "0: refused, and this is why",
    "recurses": "cannot be decoded (RecursionError in hostile_reader.py:",
    "is_none": "cannot be decoded (AttributeError in stored.py:",
    "holds_nan": "its image: has values that are not finite",
    "holds_objects": "its image: pixels of type object",
    "holds_doubles": "its image: pixels of type float64",
    "other_size": "annotated for 9 x 8 pixels, but its image has 5 x 4",
    "reader says no": "the reader says no",
}
"""What a sample does, and how its line in the quarantine file begins."""


START = decoders.start
"""As the packer starts its decoders. Tests elsewhere fork them, see tests/warm_decoders.py."""


@pytest.fixture(autouse=True)
def decoders_of_the_packer(monkeypatch):
    monkeypatch.setattr(decoders, "start", START)


def card(*cases: str, **settings: object) -> Card:
    reader = {"kind": "tests.archive.hostile_reader", "cases": cases, **settings}
    permit(["tests"])
    return Card.model_validate({**CARD, "access": "generated", "reader": reader}, context={"plugins": ["tests"]})


def quarantine(path: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["where"]: line["reason"] for line in lines}


def children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def pack_around(
    cases: list[str], out: Path, workers: int, limits: Limits = LIMITS, **settings: object
) -> tuple[PackReceipt, dict[str, str]]:
    """Each case between two good samples; reasons by case."""
    every = [each for i, case in enumerate(cases) for each in (f"good {i}", case)]
    receipt = pack(card(*every, **settings), None, out, max_bad=0.99, workers=workers, limits=limits)
    reasons = quarantine(out / "quarantine.jsonl")
    return receipt, {
        case: reasons[f"case {2 * i + 1}"] for i, case in enumerate(cases) if f"case {2 * i + 1}" in reasons
    }


def test_every_broken_sample_has_one_line_and_the_rest_is_packed(tmp_path, capfd):
    """Nothing it says is shown, and nobody is left behind."""
    before = children()
    receipt, reasons = pack_around(list(BROKEN), tmp_path / "out", workers=2)
    assert children() == before
    assert receipt.quarantined == len(reasons) == len(BROKEN) and sum(receipt.samples.values()) == len(BROKEN)
    for case, reason in BROKEN.items():
        assert reasons[case].startswith(reason), (case, reasons[case])
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert SECRET.encode() not in written and SECRET not in "".join(capfd.readouterr())


def test_a_sample_that_never_ends_is_ended(tmp_path):
    """Both decoders at once, by force; and one that writes nonsense into the packer's ear before."""
    before = children()
    receipt, reasons = pack_around(list(ENDLESS), tmp_path / "out", workers=2, limits=IMPATIENT)
    slow = "took more than 5 s to decode; reduce or split it"
    assert (
        list(reasons.values()) == [slow, slow, "its decoder was killed by SIGKILL"]
        and sum(receipt.samples.values()) == 3
    )
    assert children() == before


@pytest.mark.slow
def test_an_answer_that_stops_in_its_middle_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(decoders, "STALL_SECONDS", 1)
    receipt, reasons = pack_around(["mumbles"], tmp_path / "out", workers=1)
    assert reasons == {"mumbles": "its decoder was killed by SIGKILL"} and sum(receipt.samples.values()) == 1


@pytest.mark.slow
def test_a_sample_that_is_made_in_the_decoder_may_break_it_too(tmp_path):
    cases = ["eats_memory", "is_killed", "no_such_case"]
    receipt, reasons = pack_around(cases, tmp_path / "out", workers=1, deferred=True)
    assert sum(receipt.samples.values()) == 3
    assert [reasons[case] for case in cases[:2]] == [
        "needs more than 600 MiB of memory to decode; reduce or split it",
        "its decoder was killed by SIGKILL",
    ]
    assert reasons["no_such_case"].startswith("cannot be decoded (KeyError in hostile_reader.py:")


def test_what_decoders_print_is_swallowed(tmp_path, capfd):
    pack(card("talks"), None, tmp_path / "out", workers=1)
    assert SECRET not in "".join(capfd.readouterr())


def test_files_that_are_no_files_are_bad(tmp_path):
    """A pipe that nobody writes to, a folder, a device without end, a file that is gone, one that would lead out of the
    shard."""
    os.mkfifo(tmp_path / "pipe")
    film = tmp_path / "film.png"
    film.write_bytes(encode_png(noise(1)))
    cases = [
        f"path {tmp_path / 'pipe'}",
        f"path {tmp_path}",
        "path /dev/zero",
        f"path {tmp_path / 'gone.png'}",
        f"traversal {film}",
        f"path {film}",
    ]
    receipt = pack(card(*cases), None, tmp_path / "out", max_bad=0.99, workers=1)
    reasons = quarantine(tmp_path / "out" / "quarantine.jsonl")
    no_file = "its image: its path is not a regular file"
    gone, outside = (
        "its image: its file cannot be read (FileNotFoundError)",
        "the name of a medium must consist of letters and digits, such as 0 or 0.png",
    )
    assert list(reasons.values()) == [no_file, no_file, no_file, gone, outside]
    assert sum(receipt.samples.values()) == 1


def test_above_the_ceiling_the_list_is_kept_and_nobody_left_behind(tmp_path):
    before = children()
    with pytest.raises(DataError, match=r"2 of 4 samples are bad, at most 25.00% are accepted"):
        pack(card("good 1", "raises", "is_killed", "good 2"), None, tmp_path / "out", max_bad=0.25, workers=2)
    assert children() == before and len(quarantine(tmp_path / "out.quarantine.jsonl")) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.lock", "out.quarantine.jsonl"]


def test_what_a_callable_says_of_its_pixels_is_in_the_sample(tmp_path):
    made = card("good 3", "large 1 0")
    pack(made.model_copy(update={"media": ("film",)}), None, tmp_path / "out", workers=1)
    media = {
        sample.report: (sample.media[0], decode(files[sample.media[0].member], "x"))
        for sample, files in all_samples(tmp_path / "out")
    }
    film, pixels = media["Case 0: good 3."]
    assert film == Medium("film", "0.png", (4, 5), (0.5, 0.25), "display", "DX") and (pixels == 3).all()
    volume, voxels = media["Case 1: large 1 0."]
    assert volume == Medium("film", "0.npy", (1, 512, 1024), (1.0, 1.0, 1.0), "HU", "CT")
    assert voxels.dtype == np.int16 and voxels.shape == (1, 512, 1024)


@pytest.mark.slow
def test_with_any_number_of_decoders_the_bytes_are_the_same(tmp_path):
    for workers in (1, 3):
        pack_around(list(BROKEN), tmp_path / str(workers), workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


@pytest.mark.slow
def test_a_slow_sample_holds_nobody_up_and_comes_in_its_place(tmp_path):
    """One takes 2 s while the other decoder goes on; it is written first all the same."""
    cases = ["slow 2", *(f"good {i}" for i in range(40))]
    pack(card(*cases), None, tmp_path / "two", workers=2)
    pack(card(*cases), None, tmp_path / "one", workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


PEAK = """
import json, resource, sys
from pathlib import Path
from medvlm.archive.packing import decoders
from medvlm.archive.packing.pack import pack
from medvlm.core.config import permit
from medvlm.core.card import load_card
decoders.MAX_HELD_BYTES = 8 << 20
pack(load_card(Path(sys.argv[1]), plugins=["tests"]), None, Path(sys.argv[2]), workers=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.slow
def test_the_packers_memory_does_not_grow_with_the_archive(tmp_path):
    """16 and 320 MiB of volumes behind a sample that keeps the others waiting."""
    peaks = []
    for count in (8, 160):
        small = tmp_path / f"card-{count}.yaml"
        small.write_text(
            json.dumps(
                card("slow 1", *(f"large 2 {i}" for i in range(count)), deferred=True).model_dump(
                    mode="json", by_alias=True
                )
            )
        )
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(small), str(tmp_path / f"out-{count}")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert load_card(small, plugins=["tests"]).reader.cases[0] == "slow 1"
    assert peaks[1] - peaks[0] < 40, peaks


def test_no_decoder_was_larger_than_it_may_be():
    """Over all children of this process so far, whose limit was at most 2 GiB of address space."""
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 <= 2 << 30
