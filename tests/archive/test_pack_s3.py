"""Packing to a bucket of a server of this machine, and kill -9 in the middle of what is sent there; slow, so `make
test-all` runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from hashlib import sha256

import pytest

from medvlm.archive.packing.target import UNFINISHED
from medvlm.io.opening import open_shards
from medvlm.io.places import open_filesystem
from medvlm.io.shards import RECEIPT
from tests.archive.test_pack import archive, card, contents
from tests.io import served

pytestmark = pytest.mark.slow

PACK = """
import sys
from pathlib import Path
from medvlm.archive.packing import pack as packing
from medvlm.core.card import load_card
packing.COMMIT_SECONDS, packing.SHARD_BYTES = 0.0, 12 << 10
packing.pack(load_card(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], workers=1)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    with served.s3("shards") as found:
        yield found


def there(name: str) -> dict[str, str]:
    files, _ = open_filesystem("s3://shards")
    files.invalidate_cache()
    return {path.rpartition("/")[2]: sha256(files.cat_file(path)).hexdigest() for path in files.find(f"shards/{name}")}


def test_whenever_it_is_killed_while_it_sends_the_next_run_gives_the_bytes_of_a_folder(server, tmp_path):
    raw, made = archive(tmp_path / "raw", 40), tmp_path / "card.yaml"
    made.write_text(card().model_dump_json(by_alias=True))
    (tmp_path / "here").mkdir()

    def packing(out: str, line: served.Line | None = None) -> subprocess.Popen[bytes]:
        env = {**os.environ, "AWS_MAX_ATTEMPTS": "1", **({"AWS_ENDPOINT_URL": line.url} if line else {})}
        return subprocess.Popen([sys.executable, "-c", PACK, str(made), str(raw), out], cwd=tmp_path / "here", env=env)

    assert packing(str(tmp_path / "out")).wait() == 0
    whole = served.Line(server, float("inf"), lambda: None)
    assert packing("s3://shards/whole", whole).wait() == 0
    assert there("whole") == contents(tmp_path / "out") and len(there("whole")) > 8
    with_s3 = open_shards("s3://shards/whole")
    assert with_s3.fingerprint == open_shards(tmp_path / "out").fingerprint

    for share in (0.15, 0.5, 0.85, 0.98):
        name, process = f"killed-{share}", list[subprocess.Popen[bytes]]()
        line = served.Line(server, whole.sent * share, partial(lambda process: process[0].kill(), process))
        process.append(packing(f"s3://shards/{name}", line))
        assert process[0].wait() == -signal.SIGKILL, "it was done before"
        line.close()
        found = there(name)
        assert RECEIPT not in found and UNFINISHED in found, "what was killed must not look whole"
        assert packing(f"s3://shards/{name}").wait() == 0
        assert there(name) == contents(tmp_path / "out")
