"""Signals to real processes of every verb that runs long, at moments from its start to its end; slow.

A process that is asked to end does so with 75 and one line, or with 130 and one line, or is ended by the signal; or it
was done already. What it had begun is untouched or goes on: the same command ends as if nothing had happened.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.broken_inputs import VERBS, copy_world, make_world
from tests.tiny_run import environment

pytestmark = pytest.mark.slow

WORDS = {
    "train": ("train", "recipe.yaml", "--runs", "runs"),
    "evaluate": VERBS["evaluate"].words,
    "export": VERBS["export"].words,
    "report": VERBS["report"].words,
    "embed": VERBS["embed"].words,
    "predict": VERBS["predict"].words,
    "rl_check": VERBS["rl_check"].words,
    "rl_helps": VERBS["rl_helps"].words,
    "evidence": VERBS["evidence"].words,
    "verify": VERBS["verify"].words,
    "pack": VERBS["pack"].words,
    "audit": VERBS["audit"].words,
    "chat": VERBS["chat"].words,
    "dry_run": VERBS["dry_run"].words,
}
WRITES = {
    "train": "runs/first",
    "evaluate": "runs/first/evaluate",
    "export": "out",
    "report": "runs/first/report.html",
    "embed": "film.parquet",
    "predict": "film.parquet",
    "rl_check": "runs/first/rl-check",
    "rl_helps": "runs/first/rl-helps/result.json",
    "evidence": "out/evidence.json",
    "verify": "",
    "pack": "packed",
    "audit": "shards/audit.json",
    "chat": "",
    "dry_run": "",
}
"""What is there once a verb is done."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SHARES = (0.02, 0.3, 0.5, 0.7, 0.85, 0.95)
"""When the signals come, as shares of the time that the verb takes."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("signals") / "world")


def start(words: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medvlm", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def wait(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=300)
    return process.returncode, said


@pytest.mark.parametrize("verb", WORDS)
def test_a_verb_that_is_asked_to_end_does_and_goes_on(verb: str, world: Path, tmp_path: Path) -> None:
    words = WORDS[verb]
    whole = copy_world(world, tmp_path / "whole", VERBS[verb])
    began = time.monotonic()
    assert wait(start(words, whole))[0] == 0
    seconds = time.monotonic() - began
    for at, (share, number) in enumerate(zip(SHARES, SIGNALS, strict=True)):
        folder = copy_world(world, tmp_path / str(at), VERBS[verb])
        process = start(words, folder)
        time.sleep(share * seconds)
        process.send_signal(number)
        code, said = wait(process)
        where = f"{verb}, {number.name} after {share * seconds:.1f} s of {seconds:.1f}: {code}\n{said}"
        assert code in (0, 75, 130, -number), where
        assert code == 0 or share < 0.1 or "Traceback" not in said, where
        assert not (code in (75, 130) and share > 0.1) or said.strip().splitlines()[-1].startswith("medvlm: "), where
        again = wait(start(words, folder))
        assert again[0] == 0, f"{where}\nthen {again}"
        assert not WRITES[verb] or (folder / WRITES[verb]).exists()
        left = [path.name for path in folder.rglob("*") if ".part" in path.name or path.name == ".lease"]
        assert not left, f"{where}\nleft: {left}"
