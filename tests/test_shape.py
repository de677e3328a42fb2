"""How long lines, files and functions may be: what fits on a screen, in one sitting, and in the head."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINE, FILE, FUNCTION = 120, 320, 60
TABLES = {"medvlm/commands/arguments.py: make_parser", "medvlm/commands/data_arguments.py: add_data_verbs"}
"""A list of arguments, one after the other, which nobody reads from top to bottom."""


def sources() -> list[Path]:
    return sorted(path for folder in ("medvlm", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def long_functions() -> Iterator[tuple[str, int]]:
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION:
                    yield f"{name_of(path)}: {node.name}", lines


def test_no_line_is_longer_than_the_formatter_makes_them() -> None:
    long = [
        f"{name_of(path)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > LINE
    ]
    assert not long, f"{len(long)} lines of more than {LINE} characters: {', '.join(long[:10])}"


def test_no_file_of_the_package_is_longer_than_one_sitting() -> None:
    lengths = {name_of(p): len(p.read_text("utf-8").splitlines()) for p in sources() if ROOT / "medvlm" in p.parents}
    long = {name: lines for name, lines in lengths.items() if lines > FILE}
    assert not long, f"split what has more than {FILE} lines: {long}"


def test_no_function_is_longer_than_a_screen() -> None:
    found = dict(long_functions())
    long = {name: lines for name, lines in found.items() if name not in TABLES}
    assert not long, f"split what has more than {FUNCTION} lines: {long}"
    assert found.keys() >= TABLES, f"short enough, take them out of the list: {sorted(TABLES - found.keys())}"
