"""kill -9 at random moments of packing with several decoders; slow, so `make test-all` runs it."""

from __future__ import annotations

import io
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.archive.test_pack import archive, card, contents

pytestmark = pytest.mark.slow

FILMS, POINTS = 200, 10

PACK = """
import sys
from pathlib import Path
from medvlm.archive.packing import pack as packing
from medvlm.core.card import load_card
packing.COMMIT_SECONDS, packing.SHARD_BYTES = 0.05, 256 << 10
packing.pack(load_card(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), workers=int(sys.argv[4]), max_bad=0.1)
"""


def film(i: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (160, 160, 3), dtype=np.uint8)).save(
        out, "JPEG", quality=90
    )
    return out.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 films of some 20 kB, every twenty-fifth of them cut."""
    return archive(
        tmp_path_factory.mktemp("raw"), 0, **{f"film-{i}": film(i)[: None if i % 25 else -99] for i in range(FILMS)}
    )


@pytest.fixture(scope="module")
def made_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("card") / "card.yaml"
    questions = [{"text": "Which part?", "answer": "{part}"}]  # the names of the films stand for patients
    path.write_text(card(reader={"questions": questions}).model_dump_json(by_alias=True))
    return path


@pytest.fixture(scope="module")
def whole(raw: Path, made_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    packing(made_card, raw, out, 1).wait()
    assert len(list(out.glob("*.tar"))) > 8
    return out


def packing(made_card: Path, raw: Path, out: Path, workers: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PACK, str(made_card), str(raw), str(out), str(workers)])


def killed(process: subprocess.Popen[bytes], out: Path, committed: int, later_s: float) -> bool:
    """Kills it some time after its journal has grown to so many bytes; whether it still ran."""
    journal = out.parent / f".{out.name}.journal"
    while process.poll() is None and not (journal.exists() and journal.stat().st_size >= committed):
        time.sleep(0.001)
    time.sleep(later_s)
    process.kill()
    return process.wait() == -signal.SIGKILL


def test_whenever_packing_is_killed_the_shards_are_the_same(
    raw: Path, made_card: Path, whole: Path, tmp_path: Path
) -> None:
    """Ten moments, spread over the whole of it, each gone on from; some 70 bytes of journal are a sample."""
    draw, hits = random.Random(7), 0
    for point in range(POINTS):
        out = tmp_path / str(point) / "out"
        out.parent.mkdir()
        hits += killed(
            packing(made_card, raw, out, draw.choice((1, 2, 3))),
            out,
            int((point + draw.random()) / POINTS * FILMS * 70),
            draw.uniform(0, 0.06),
        )
        assert packing(made_card, raw, out, draw.choice((1, 2, 3))).wait() == 0
        assert contents(out) == contents(whole)
        assert [path.name for path in out.parent.iterdir() if path != out] == [".out.lock"]
    assert hits >= POINTS - 2, f"only {hits} of {POINTS} were killed before they were done"


def test_packing_that_is_killed_every_moment_ends_and_its_shards_are_the_same(
    raw: Path, made_card: Path, whole: Path, tmp_path: Path
) -> None:
    draw, kills, out = random.Random(8), 0, tmp_path / "out"
    journal = tmp_path / ".out.journal"
    while killed(
        packing(made_card, raw, out, 2),
        out,
        (journal.stat().st_size if journal.exists() else 0) + 2000,
        draw.uniform(0, 0.05),
    ):
        kills += 1
        assert kills < 100
    assert kills >= 5 and contents(out) == contents(whole)
