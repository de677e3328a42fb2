"""Measures the structure of the code: files that a new part touches, lengths, import order, depth of the call stack.

    python benchmarks/house.py [CHECKOUT] [--list] [--no-run]

Reads the source of a checkout (by default this one) and prints one JSON line:

    files_for       for a new task, stage, composition and decoder: its own file, and every other file that names a
                    kind of that slot. A file names a kind if a string equal to it is in a comparison, a match, a key of
                    a dictionary, a Literal or a collection, or if the file imports the kind's module. Words with
                    another meaning in a file do not count (OTHER_MEANING of tests/test_kinds.py).
                    None: there is no such slot
    top_level       modules of the package outside of its folders
    against_order   imports between folders that the order of tests/test_layers.py does not allow, also in functions
    long_functions  functions of more than 60 lines, except those in TABLES
    long_files      files of the package with more than 320 lines
    long_lines      lines of more than 120 characters, including tests and benchmarks
    frames          functions of the package from `main` to the loss of a stage, inclusive: trains a recipe of one step
                    and reads the stack when its loss is called
    tests_per_line  lines of tests per line of the package
    seconds         time of `medvlm --help` and `medvlm validate` of that recipe, medians of three

--list prints every place first. --no-run skips what has to be run.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINE, FILE, FUNCTION = 120, 320, 60
TABLES = {"medvlm/commands/arguments.py: make_parser"}

SLOTS = {"task": "tasks", "stage": "stages", "composition": "compositions", "decoder": "decoders"}
BEFORE = {"task": ("choice", "open", "count", "boxes", "report"), "composition": ("vlm", "dual", "native")}
"""Kinds of slots that had no folder in older releases."""

TESTS = Path(__file__).parent.parent / "tests"
OTHER_MEANING: dict[tuple[str, str], str] = runpy.run_path(str(TESTS / "test_kinds.py"))["OTHER_MEANING"]
"""(file, word) -> the meaning of the word in that file."""
ORDER: dict[str, set[str]] = runpy.run_path(str(TESTS / "test_layers.py"))["MAY_IMPORT"]
"""Folder -> other folders that it may import: the order that the tests of this checkout enforce."""
HOMES = {
    "answers": "tasks",
    **dict.fromkeys(("recipe", "sections", "rules", "shapes", "summary", "sources"), "recipe"),
    **dict.fromkeys(("training", "starts", "evaluation", "exporting", "auditing", "chatting", "embedding"), "commands"),
    **dict.fromkeys(("own_files", "init", "first_recipe", "demo", "lineage"), "commands"),
}
"""Folder or module of an older release -> its place in this order."""


@dataclass
class Places:
    """Findings by measure, each as `file:line: text`."""

    of: dict[str, list[str]] = field(default_factory=dict)

    def add(self, measure: str, place: str) -> None:
        self.of.setdefault(measure, []).append(place)

    def count(self, measure: str) -> int:
        return len(self.of.get(measure, []))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--no-run", action="store_true")
    args = parser.parse_args()
    found, places = measure(args.checkout.resolve())
    if args.list:
        for name, each in places.of.items():
            print(f"{name} ({len(each)})", *each, sep="\n    ")
    if not args.no_run:
        found |= run(args.checkout.resolve())
    print(json.dumps(found))


def measure(root: Path) -> tuple[dict[str, Any], Places]:
    places = Places()
    package = {path.relative_to(root): ast.parse(path.read_text("utf-8")) for path in list_sources(root, "medvlm")}
    files_for = {name: count_files(root, name, package, places) for name in SLOTS}
    for path in package:
        if len(path.parts) == 2 and path.stem != "__init__":
            places.add("top_level", path.as_posix())
        if count_lines(root / path) > FILE:
            places.add("long_files", f"{path}: {count_lines(root / path)}")
        for line, name in find_imports(package[path]):
            if not is_allowed(path, name):
                places.add("against_order", f"{path}:{line}: {name}")
        for name, lines in list_functions(package[path]):
            if lines > FUNCTION and f"{path}: {name}" not in TABLES:
                places.add("long_functions", f"{path}: {name}: {lines}")
    for path in list_sources(root, "medvlm", "tests", "benchmarks"):
        for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
            if len(text) > LINE:
                places.add("long_lines", f"{path.relative_to(root)}:{number}")
    tested, tests = (sum(map(count_lines, list_sources(root, folder))) for folder in ("medvlm", "tests"))
    counts = ("top_level", "against_order", "long_functions", "long_files", "long_lines")
    return {
        "files_for": files_for,
        **{name: places.count(name) for name in counts},
        "tests_per_line": round(tests / tested, 2),
    }, places


def list_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, number of lines) of every function, including nested ones."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.end_lineno - node.lineno + 1


def list_sources(root: Path, *folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def count_lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


# --- who names a kind ---------------------------------------------------------------------------------------


def count_files(root: Path, slot: str, package: dict[Path, ast.Module], places: Places) -> int | None:
    folder = root / "medvlm" / SLOTS[slot]
    kinds = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")} or set(BEFORE.get(slot, ()))
    if not kinds:
        return None
    for path, tree in package.items():
        if path.parts[1] == SLOTS[slot]:
            continue
        # A kind of another slot may have the same name as the file itself: connectors/linear.py.
        named = {(line, kind) for line, kind in find_strings(tree) if kind in kinds and kind != path.stem}
        named |= {
            (line, kind)
            for line, name in find_imports(tree)
            for kind in kinds
            if name == f"medvlm.{SLOTS[slot]}.{kind}" or name.startswith(f"medvlm.{SLOTS[slot]}.{kind}.")
        }
        named = {
            (line, kind) for line, kind in named if (path.relative_to("medvlm").as_posix(), kind) not in OTHER_MEANING
        }
        if named:
            words = ", ".join(f"{kind} ({line})" for line, kind in sorted(named))
            places.add(f"files for a {slot}", f"{path}: {words}")
    return places.count(f"files for a {slot}") + 1


def find_strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, string) for strings in decisions: in a comparison, a match, a key, a Literal or a collection."""
    nodes = list(ast.walk(tree))
    # A, B = "a", "b" is two assignments, not a collection.
    unpacked = [n.value for n in nodes if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple)]
    for node in nodes:
        candidates: list[ast.expr | None] = []
        if isinstance(node, ast.Compare):
            candidates = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            candidates = [node.value]
        elif isinstance(node, ast.Dict):
            candidates = [*node.keys]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set) and node not in unpacked:
            candidates = [*node.elts]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
            candidates = [node.slice]
        for each in candidates:
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                yield each.lineno, each.value


# --- who imports whom ---------------------------------------------------------------------------------------


def find_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import from medvlm, at any place in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (
            (node.lineno, name) for name in names if name.startswith("medvlm.") and name != "medvlm.__version__"
        )


def is_allowed(path: Path, name: str) -> bool:
    own, other = find_home(path.with_suffix("").parts[1]), find_home(name.split(".")[1])
    return own in ("cli", "api", "__main__", "__init__", other) or other in ORDER[own]


def find_home(room: str) -> str:
    return HOMES.get(room, room)


# --- what has to be run -------------------------------------------------------------------------------------

CARD = """\
name: tiny
title: Tiny phantom
summary: Generated for a measurement.
licence: {id: CC0-1.0, commercial: true}
access: generated
phi: {status: synthetic}
patient_key: patient
media: [film]
reader: {kind: phantom, films: 60, film_px: 96}
"""
RECIPE = """\
name: tiny
model:
  encoders:
    film:
      kind: transformers
      config: {model_type: siglip_vision_model, hidden_size: 16, intermediate_size: 32, num_attention_heads: 2,
               num_hidden_layers: 1, image_size: 32, patch_size: 16}
      connector: {kind: mlp}
  language:
    kind: causal
    vocabulary: 512
    config: {model_type: qwen2, hidden_size: 16, intermediate_size: 32, num_attention_heads: 2, num_hidden_layers: 1,
             num_key_value_heads: 1, max_position_embeddings: 512}
data: {films: {card: card.yaml}}
stages:
  - {name: instruct, kind: supervised, mix: {films: 1}, trains: [connectors, language], tasks: [choice], steps: 1,
     batch: 2}
engine: {device: cpu, workers: 1}
"""
STACK = """
import os, sys
from pathlib import Path

def stop(frame, event, argument):
    is_loss = event == "call" and frame.f_code.co_name in ("loss", "compute_loss")  # its name in 0.1, and now
    if is_loss and "/medvlm/stages/" in frame.f_code.co_filename:
        names = []
        while frame:
            if "/medvlm/" in frame.f_code.co_filename:
                names.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")
            frame = frame.f_back
        names.reverse()
        print("STACK", *names[names.index("cli.main"):], flush=True)
        os._exit(0)

from medvlm.cli import main
sys.setprofile(stop)
main(["train", "recipe.yaml", "--runs", "runs"])
"""


def run(root: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "card.yaml").write_text(CARD)
        (folder / "recipe.yaml").write_text(RECIPE)

        def call(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
            return done.stdout

        def seconds(*command: str) -> float:
            times = []
            for _ in range(3):
                began = time.perf_counter()
                call("-m", "medvlm", *command)
                times.append(time.perf_counter() - began)
            return round(statistics.median(times), 2)

        frames = call("-c", STACK).rpartition("STACK ")[2].split()
        taken = {"help": seconds("--help"), "validate": seconds("validate", "recipe.yaml")}
    return {"frames": len(frames), "stack": frames, "seconds": taken}


if __name__ == "__main__":
    main()
