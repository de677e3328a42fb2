"""What becomes of a process whose output nobody reads any more."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvlm.core.output import Output

ROOT = Path(__file__).parent.parent.parent
WRITES = """
import sys, time
from medvlm.core.output import survive_readers
with survive_readers(goes_on={goes_on}):
    for number in range(2000):
        print("step", number, "x" * 100, flush={flush}, file=sys.{stream})
    open("end", "w").close()
"""


def run_without_reader(command: list[str], folder: Path, reads: int, errors: int = subprocess.PIPE) -> tuple[int, str]:
    """The exit code and what stands on the other stream, after a reader that closes the pipe after some bytes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout
    process.stdout.read(reads)
    process.stdout.close()
    said = process.stderr.read() if process.stderr else ""
    return process.wait(), said


@pytest.mark.parametrize("reads", [0, 300])
@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_work_goes_on_without_a_reader(tmp_path: Path, reads: int, flush: bool, stream: str) -> None:
    code = WRITES.format(goes_on=True, flush=flush, stream=stream)
    errors = subprocess.STDOUT if stream == "stderr" else subprocess.PIPE
    assert run_without_reader([sys.executable, "-c", code], tmp_path, reads, errors) == (0, "")
    assert (tmp_path / "end").exists()


@pytest.mark.parametrize("flush", [True, False])
def test_output_that_is_the_result_ends_with_its_reader(tmp_path: Path, flush: bool) -> None:
    code = WRITES.format(goes_on=False, flush=flush, stream="stdout")
    assert run_without_reader([sys.executable, "-c", code], tmp_path, 10) == (0, "")
    assert not (tmp_path / "end").exists()


@pytest.mark.parametrize(
    ("words", "reads"),
    [(["schema", "card"], 20), (["--help"], 0), (["train", "--help"], 20), (["validate", "phantom"], 0)],
)
def test_commands_end_quietly_when_head_has_enough(words: list[str], reads: int, tmp_path: Path) -> None:
    assert run_without_reader([sys.executable, "-m", "medvlm", *words], tmp_path, reads) == (0, "")


def test_an_error_is_still_one_when_nobody_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medvlm", "validate", "nothing-like-it"]
    assert run_without_reader(command, tmp_path, 0, subprocess.STDOUT)[0] == 2


def test_a_foreign_broken_pipe_is_no_end_of_the_output(tmp_path: Path) -> None:
    code = """
from medvlm.core.output import survive_readers
with survive_readers(goes_on=False):
    raise BrokenPipeError("a server")
"""
    status, said = run_without_reader([sys.executable, "-c", code], tmp_path, 0)
    assert status == 1 and "a server" in said


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("utf-8", "a/\udcff.html is written", b"a/\\udcff.html is written"),
        ("ascii", "\u2265 3 mm, \u5de6", b"\\u2265 3 mm, \\u5de6"),
        ("latin-1", "\xe9 \u2265", b"\xe9 \\u2265"),
        ("utf-8", "\u5de6", "\u5de6".encode()),
    ],
)
def test_characters_that_a_stream_lacks_are_written_as_escapes(encoding: str, text: str, written: bytes) -> None:
    held = io.BytesIO()
    output = Output(io.TextIOWrapper(held, encoding=encoding), goes_on=True)
    print(text, end="", file=output)  # type: ignore[call-overload]
    output.flush()
    assert held.getvalue() == written
