"""Runs the code blocks of README.md and of docs/, and says which it did not run, and why: `make check-all`, or of some
pages, `python docs/blocks.py starts.md serving.md`.

The blocks of a page run in their order, in a folder of its own in which the folders of the checkout are seen: commands
in bash; Python in a process of its own; YAML is validated (_fragments.py). A block of text is all that the commands
before it print, up to numbers; lines that differ only in numbers count once where they follow each other, and a line
`...` stands for any lines. An error of medvlm passes only if that text shows it. Comments change that:

<!-- first: COMMAND -->        anywhere on the page: what the page takes for granted, run before its first block
<!-- needs: WHAT -->           in front of a block: it is not run
<!-- needs: WHAT, for WORD --> its lines that have this word are not run
<!-- checked by: TEST -->      it is not run here but there
<!-- file: NAME -->            it is written to that file before its page is run
<!-- is: WHAT -->              of YAML that is no recipe or sections of one: `card`, `cases`, or others of _fragments.py
<!-- add: WORDS, for WORD -->  its lines that have this word get these words, such as fewer steps
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from _fragments import check_yaml  # noqa: E402

BLOCK = re.compile(r"((?:^<!--[^\n]*-->\n+)*)^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"<!-- (needs|checked by|file|is|add): (.*?) -->")
FIRST = re.compile(r"^<!-- first: (.*?) -->$", re.MULTILINE)
OF_LIBRARY = re.compile(r"^\[\d{4}-\d\d-\d\d [\d:,]+\] \[(?:INFO|WARNING)\] .*\n", re.MULTILINE)
"""A line of the log of another library."""
LACKING = 3
"""Exit code of a command of `first` that lacks something of this machine; it prints what."""
SEEN = ("recipes", "data_cards", "launch", "benchmarks", "docs", "tests")
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
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> Page:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_servers()

    def check(self, block: Block, after: Block | None = None) -> str:
        """What was checked. after: the next block of the page. Raises AssertionError, or what validating raises."""
        if block.language == "yaml":
            return check_yaml(block.text, self.folder, *block.notes.get("is", ()))
        if block.language == "text":
            return self._compare(block.text)
        if block.language == "python":
            path = self.folder / "block.py"
            path.write_text(block.text)
            self.run([sys.executable, path.name])
            return "Python"
        lines = list(choose_lines(block))
        shows_error = after is not None and after.language == "text" and "medvlm: " in after.text
        for is_server, group in itertools.groupby(lines, lambda line: line.startswith(SERVES)):
            if is_server:
                for line in group:
                    self._serve(line)
            else:
                self.run(["bash", "-euo", "pipefail", "-c", "\n".join(group)], {2} if shows_error else set())
        return f"{len(lines)} commands"

    def _compare(self, shown: str) -> str:
        """Raises AssertionError if this is not what was printed, or if more was."""
        printed = hide_numbers(self.printed.replace(f"{self.folder}/", ""))
        parts = [hide_numbers(part) for part in re.split(r"^ *\.\.\.\n", shown, flags=re.MULTILINE)]
        at, last = 0, len(parts) - 1
        for number, part in enumerate(parts):
            starts = range(at, len(printed) - len(part) + 1) if number else [0]
            if number == last and number:
                starts = [len(printed) - len(part)]
            found = next((n for n in starts if n >= at and printed[n : n + len(part)] == part), None)
            assert found is not None, f"part {number + 1} of the text is not printed there; printed:\n{self.printed}"
            at = found + len(part)
        assert at == len(printed), f"more is printed than the text shows; printed:\n{self.printed}"
        return "what is printed"

    def run(self, words: Sequence[str], refusals: Set[int] = frozenset()) -> int:
        """The exit code: 0, or one of `refusals` with a message of medvlm or of a script. Raises AssertionError for
        another one. What a command leaves running is killed, also where it takes too long."""
        process = self._start(words, subprocess.PIPE)
        try:
            self.printed, _ = process.communicate(timeout=WAIT_S)
        finally:
            kill(process)
        self.printed = OF_LIBRARY.sub("", self.printed)
        code = process.returncode
        is_refusal = code in refusals and (code == LACKING or "\nmedvlm: " in f"\n{self.printed}")
        assert code == 0 or is_refusal, f"exit code {code}:\n{self.printed[-3000:]}"
        return code

    def _serve(self, line: str) -> None:
        """Runs until the next one starts, or the page ends."""
        self._stop_servers()
        assert not is_answered(), f"another program has port {PORT}"
        with (self.folder / "server.log").open("w") as log:
            self.servers.append(self._start(["bash", "-c", f"exec {line}"], log))
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
            try:
                server.wait(60)
            finally:
                kill(server)

    def _start(self, words: Sequence[str], to: IO[str] | int) -> subprocess.Popen[str]:
        """A process that leads a group, with what it starts."""
        null, joined, own = subprocess.DEVNULL, subprocess.STDOUT, self._environment()
        return subprocess.Popen(
            words, cwd=self.folder, env=own, stdin=null, stdout=to, stderr=joined, text=True, start_new_session=True
        )

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"PATH": path, "HOME": str(self.folder), "HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{ROOT}:{self.folder}"}
        return {**os.environ, **own, "PYTHONWARNINGS": "ignore"}


def kill(leader: subprocess.Popen[str]) -> None:
    """Ends the group of a process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def is_answered() -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", PORT)) == 0


def choose_lines(block: Block) -> Iterator[str]:
    """The commands of a block that are run, with what its comments add."""
    left_out = [word for _, word in split_notes(block, "needs")]
    added = split_notes(block, "add")
    for line in join_lines(block.text):
        if not any(word in line for word in left_out):
            more = [words for words, word in added if word in line]
            yield " ".join([line.partition("  #")[0], *more]) if more else line


def split_notes(block: Block, kind: str) -> list[tuple[str, str]]:
    """(what, for which word) of the notes of a kind that name a word."""
    parts = [note.rpartition(", for ") for note in block.notes.get(kind, ())]
    return [(what, word) for what, said, word in parts if said]


def join_lines(text: str) -> Iterator[str]:
    """Commands, without what stands in brackets for more of the same, and with folders of the page for those of a
    machine."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r" \[[^\[\]]*(?:\.\.\.|--)[^\[\]]*\]| \.\.\.(?=\s|$)", "", line)
        if line.strip():
            yield re.sub(r"(?<![\w.])/data/", "data/", line)


def hide_numbers(text: str) -> list[str]:
    """Lines, without numbers, hashes, widths of columns, and what a line of progress says beside its step. Those that
    are then alike and follow each other count once."""
    plain = re.sub(r"\b[0-9a-f]{12,16}\b|\bnone\b|[\N{MINUS SIGN}+-]?[\d,.]*\d(?:e-?\d+)?", "0", text)
    lines = [" ".join(line.split()) for line in plain.splitlines() if line.strip()]
    return [
        line for line, _ in itertools.groupby(re.sub(r"^(stage 0/0 \S+ step 0/0) .*", r"\1", line) for line in lines)
    ]


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
    blocks = list(read_blocks(page))
    folder.mkdir()
    for name in SEEN:
        (folder / name).symlink_to(ROOT / name)
    here = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # of plug-ins
    try:
        with Page(folder) as running:
            for command in FIRST.findall(page.read_text("utf-8")):
                if running.run(["bash", "-euo", "pipefail", "-c", command], {LACKING}):
                    return [], [f"{page.name}: needs {running.printed.strip()}"]
            for block in blocks:
                for name in block.notes.get("file", ()):
                    (folder / name).write_text(block.text)
            for block, after in zip(blocks, [*blocks[1:], None], strict=True):
                where, began = f"{page.name}:{block.line}", time.monotonic()
                if reason := find_reason(block):
                    left.append(f"{where}: {reason}")
                    continue
                left += [f"{where}: needs {what} for {word}" for what, word in split_notes(block, "needs")]
                try:
                    print(f"{where}: {running.check(block, after)}, {time.monotonic() - began:.0f} s", flush=True)
                except Exception as error:
                    print(f"{where}: FAILED: {error}", flush=True)
                    wrong.append(where)
    except AssertionError as error:
        print(f"{page.name}: FAILED: what it takes for granted could not be made: {error}", flush=True)
        wrong.append(page.name)
    finally:
        os.chdir(here)
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
            del sys.modules[name]
    return wrong, left


def main(names: Sequence[str]) -> int:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    chosen = [page for page in pages if not names or page.name in names]
    wrong, left = [], []
    with tempfile.TemporaryDirectory(prefix="medvlm-blocks-") as folder:
        for page in chosen:
            found = check_page(page, Path(folder).resolve() / page.stem)
            wrong += found[0]
            left += found[1]
    print("\nnot run:", *left, sep="\n  ")
    print(f"\n{len(wrong)} blocks failed{': ' if wrong else ''}{', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is ended on the way out
    sys.exit(main(sys.argv[1:]))
