"""Runs the cells of a notebook in this process: `python -m tests.notebook docs/python.ipynb` writes their outputs into
it."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run_cells(cells: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """(number of a cell of code, what it prints and, as in a notebook, its last expression)."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        end = tree.body[-1] if tree.body else None
        last = end.value if isinstance(end, ast.Expr) else None
        if last is not None:
            tree.body.pop()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, f"cell {number}", "exec"), names)
            value = None if last is None else eval(compile(ast.Expression(last), f"cell {number}", "eval"), names)
            if value is not None:
                print(repr(value))
        yield number, printed.getvalue()


def main(path: Path) -> None:
    notebook = json.loads(path.read_text())
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, text in run_cells(notebook["cells"]):
                output = {"name": "stdout", "output_type": "stream", "text": text.splitlines(True)}
                notebook["cells"][number]["outputs"] = [output] if text else []
        finally:
            os.chdir(here)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
