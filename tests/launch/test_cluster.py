"""What docs/cluster.md promises to who runs a cluster."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import INSTRUCT, PAIR, environment, recipe, written

pytestmark = pytest.mark.slow

GUARDED = """
import os, socket, sys
def guard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print(f"outbound: {event} {args[1:] if event != 'socket.getaddrinfo' else args}", file=sys.stderr, flush=True)
        os._exit(99)
sys.addaudithook(guard)
os.umask(0o027)
from medvlm import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with umask 027 whose first attempt to reach anything would have ended it. The hub is not forbidden, there
    is just no reason to ask it."""
    folder = tmp_path_factory.mktemp("cluster")
    path = written(
        folder / "recipe",
        recipe(name="tiny", stages=[{**PAIR, "steps": 1, "save_every": 0}, {**INSTRUCT, "steps": 1, "save_every": 0}]),
    )
    online = {name: value for name, value in environment().items() if name != "HF_HUB_OFFLINE"}
    ended = subprocess.run(
        [sys.executable, "-c", GUARDED, "train", str(path), "--runs", str(folder / "runs")],
        env=online,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder / "runs"


def test_a_run_reaches_nobody_and_a_group_can_read_all_of_it(trained: Path) -> None:
    modes = {path.relative_to(trained): stat.S_IMODE(os.lstat(path).st_mode) for path in trained.rglob("*")}
    assert (
        len(modes) > 20
        and any(path.suffix == ".safetensors" for path in modes)
        and any(path.suffix == ".tar" for path in modes)
    )
    unlike = {
        str(path): oct(mode) for path, mode in modes.items() if mode != (0o750 if (trained / path).is_dir() else 0o640)
    }
    assert unlike == {}
