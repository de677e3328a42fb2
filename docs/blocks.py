"""Runs the code blocks of README.md and of docs/, and says which it did not run, and why: `make check-all`, or of some
pages, `python docs/blocks.py starts.md serving.md`.

The blocks of a page run in their order, in a folder of its own that holds what the page takes for granted (_places.py):
commands in bash; Python in a process of its own; YAML is validated, a part of a recipe or card inside of a small whole
one (_fragments.py). The lines of a block of text stand in what the commands before it print, one after the other, up to
numbers; a line `...` stands for any lines. An error of medvlm passes only if that text shows it. Comments in front of a
block change that:

<!-- needs: WHAT -->           it is not run
<!-- needs: WHAT, for WORD --> its lines that have this word are not run
<!-- checked by: TEST -->      it is not run here but there
<!-- file: NAME -->            it is written to that file first
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from _fragments import check_yaml  # noqa: E402
from _places import Lacking, make_place  # noqa: E402

BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n+)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"<!-- (needs|checked by|file): (.*?) -->")
SERVES = "medvlm serve "
PORT = 8000
WAIT_S = 1800


@dataclass(frozen=True)
class Block:
    """notes: kind -> what the comments in front of it say."""

    line: int
    language: str
    text: str
    notes: dict[str, list[str]]


@dataclass
class Page:
    """What runs in the folder of a page. printed: by the last commands; servers: what they left running."""

    folder: Path
    printed: str = ""
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_servers()

    def check(self, block: Block, after: Block | None = None) -> str:
        """What was checked. after: the next block of the page. Raises AssertionError, or what validating raises."""
        if block.language == "yaml":
            return check_yaml(block.text, self.folder)
        if block.language == "text":
            return self._compare(block.text)
        left_out = [note.rpartition(", for ")[2] for note in block.notes.get("needs", ())]
        if block.language == "python":
            path = self.folder / "block.py"
            path.write_text(block.text)
            self._run([sys.executable, path.name])
            return "Python"
        lines = [line for line in join_lines(block.text) if not any(word in line for word in left_out)]
        shows_error = after is not None and after.language == "text" and "medvlm: " in after.text
        for is_server, group in itertools.groupby(lines, lambda line: line.startswith(SERVES)):
            if is_server:
                for line in group:
                    self._serve(line)
            else:
                self._run(["bash", "-euo", "pipefail", "-c", "\n".join(group)], shows_error)
        return f"{len(lines)} commands"

    def _compare(self, shown: str) -> str:
        """Raises AssertionError if these lines were not printed in this order, one after the other but at `...`."""
        printed = hide_numbers(self.printed.replace(f"{self.folder}/", ""))
        at = 0
        for number, part in enumerate(re.split(r"^ *\.\.\.\n", shown, flags=re.MULTILINE)):
            wanted = hide_numbers(part)
            found = next((n for n in range(at, len(printed) + 1) if printed[n : n + len(wanted)] == wanted), None)
            assert found is not None, f"part {number + 1} of the text is not printed:\n{part}\nprinted:\n{self.printed}"
            at = found + len(wanted)
        return "what is printed"

    def _run(self, words: Sequence[str], shows_error: bool = False) -> None:
        pipe, null, joined = subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self._environment(),
            stdin=null,
            stdout=pipe,
            stderr=joined,
            text=True,
            timeout=WAIT_S,
        )
        self.printed = done.stdout
        is_refusal = shows_error and done.returncode == 2 and "\nmedvlm: " in f"\n{done.stdout}"
        assert done.returncode == 0 or is_refusal, f"exit code {done.returncode}:\n{self.printed[-3000:]}"

    def _serve(self, line: str) -> None:
        """Runs until the next one starts, or the page ends."""
        self._stop_servers()
        assert not is_answered(), f"another program has port {PORT}"
        with (self.folder / "server.log").open("wb") as log:
            words = ["bash", "-c", f"exec {line}"]
            self.servers.append(
                subprocess.Popen(words, cwd=self.folder, env=self._environment(), stdout=log, stderr=log)
            )
        for _ in range(WAIT_S):
            assert self.servers[-1].poll() is None, f"the server ended:\n{(self.folder / 'server.log').read_text()}"
            if is_answered():
                return
            time.sleep(1)
        raise AssertionError("the server does not answer")

    def _stop_servers(self) -> None:
        while self.servers:
            server = self.servers.pop()
            server.terminate()
            server.wait(60)

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{self.folder}"}
        return {**os.environ, **own, "PYTHONWARNINGS": "ignore"}


def is_answered() -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", PORT)) == 0


def join_lines(text: str) -> Iterator[str]:
    """Commands, without what stands in brackets for more of the same, and with folders of the page for those of a
    machine."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r" \[[^\[\]]*(?:\.\.\.|--)[^\[\]]*\]| \.\.\.(?=\s|$)", "", line)
        if line.strip():
            yield re.sub(r"(?<![\w.])/data/", "data/", line)


def hide_numbers(text: str) -> list[str]:
    """Lines, without numbers, hashes and the width of columns."""
    plain = re.sub(r"\b[0-9a-f]{12,16}\b|\bnone\b|[\N{MINUS SIGN}+-]?[\d,.]*\d(?:e-?\d+)?", "0", text)
    return [" ".join(line.split()) for line in plain.splitlines() if line.strip()]


def read_blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in BLOCK.finditer(text):
        notes: dict[str, list[str]] = {}
        for kind, what in NOTE.findall(found[1]):
            notes.setdefault(kind, []).append(what)
        yield Block(text[: found.start(2)].count("\n") + 1, found[2], found[3], notes)


def find_reason(block: Block) -> str | None:
    """Why a block is not run, or None."""
    if "checked by" in block.notes:
        return f"checked by {block.notes['checked by'][0]}"
    whole = [note for note in block.notes.get("needs", ()) if ", for " not in note]
    return f"needs {whole[0]}" if whole else None


def check_page(page: Path, folder: Path) -> tuple[list[str], list[str]]:
    """(what is wrong, what was not run)"""
    wrong, left = [], []
    try:
        place = make_place(page.name, folder)
    except Lacking as what:
        return [], [f"{page.name}: needs {what}"]
    except Exception as error:
        print(f"{page.name}: FAILED: its folder could not be made: {error}", flush=True)
        return [page.name], []
    blocks = list(read_blocks(page))
    for block in blocks:
        for name in block.notes.get("file", ()):
            (place / name).write_text(block.text)
    here = Path.cwd()
    os.chdir(place)
    sys.path.insert(0, str(place))  # of plug-ins
    try:
        with Page(place) as running:
            for block, after in zip(blocks, [*blocks[1:], None], strict=True):
                where, began = f"{page.name}:{block.line}", time.monotonic()
                if reason := find_reason(block):
                    left.append(f"{where}: {reason}")
                    continue
                left += [f"{where}: needs {note}" for note in block.notes.get("needs", ())]
                try:
                    print(f"{where}: {running.check(block, after)}, {time.monotonic() - began:.0f} s", flush=True)
                except Exception as error:
                    print(f"{where}: FAILED: {error}", flush=True)
                    wrong.append(where)
    finally:
        os.chdir(here)
        sys.path.remove(str(place))
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            del sys.modules[name]
    return wrong, left


def main(names: Sequence[str]) -> int:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    chosen = [page for page in pages if not names or page.name in names]
    wrong, left = [], []
    with tempfile.TemporaryDirectory(prefix="medvlm-blocks-") as folder:
        for page in chosen:
            found = check_page(page, Path(folder).resolve())
            wrong += found[0]
            left += found[1]
    print("\nnot run:", *left, sep="\n  ")
    print(f"\n{len(wrong)} blocks failed{': ' if wrong else ''}{', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
