"""Who may import whom, by reading the source: imports inside functions and under TYPE_CHECKING count too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "medvlm"

PARTS = ("encoders", "connectors", "decoders", "texts", "backbones", "families", "released")
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "io": {"core"},
    "metrics": {"core"},
    # A measure of a task is a statistic over items.
    "tasks": {"metrics", "core"},
    "knowledge": {"core"},
    # A box in a call is read as in an answer.
    "tools": {"knowledge", "io", "tasks", "core"},
    # An answer is read for a reward as its task reads it.
    "rewards": {"tasks", "core"},
    "scoring": {"core"},
    "objectives": {"core"},
    "models": {"core"},
    "rollouts": {"tools", "models", "data", "io", "tasks", "core"},
    "train": {"core"},
    # Slices of a volume through a 2D network: an encoder may build on another one.
    **{part: {part, "core"} for part in PARTS},
    "archive": {"io", "tasks", "core"},
    "data": {"io", "tasks", "core"},
    # A recipe's sources are packed and opened, and its settings are those of the data path.
    "recipe": {"archive", "data", "models", "train", "io", "tasks", "core"},
    "compositions": {"recipe", "data", "models", "train", "tools", "knowledge", "io", "tasks", "core"},
}
BELOW_STAGES = {
    "compositions",
    "recipe",
    "data",
    "models",
    "objectives",
    "rewards",
    "rollouts",
    "tools",
    "knowledge",
    "metrics",
    "train",
    "io",
    "tasks",
    "core",
}
MAY_IMPORT |= dict.fromkeys(("stages", "evaluate", "export"), BELOW_STAGES)
BELOW_REPORT = {*MAY_IMPORT}
MAY_IMPORT |= dict.fromkeys(("preflight", "report"), BELOW_REPORT)
MAY_IMPORT["commands"] = {*MAY_IMPORT}
ENTRANCES = {"cli.py", "api.py", "__main__.py", "__init__.py"}
"""What stands beside the folders: it imports the commands, and nothing imports it."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything of ours that a module imports, in whatever place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides which layer it reaches"
            # `from medvlm import tasks` imports a folder as much as `import medvlm.tasks` does.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "medvlm")


def folder_of(name: str) -> str:
    """medvlm.train.loop.run -> train; a module beside the folders, and the package itself, have none."""
    second = name.split(".")[1] if "." in name else ""
    return second if (PACKAGE / second).is_dir() else ""


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_its_folder(path: Path) -> None:
    if path.parent == PACKAGE:
        assert path.name in ENTRANCES, (
            f"medvlm/{path.name}: only {', '.join(sorted(ENTRANCES))} stand beside the folders"
        )
        return
    own = path.relative_to(PACKAGE).parts[0]
    assert own in MAY_IMPORT, f"medvlm/{own} is new: say in tests/test_layers.py what it may import"
    for line, name in imports(path):
        if name in ("medvlm", "medvlm.__version__"):
            continue
        assert folder_of(name) in {own, *MAY_IMPORT[own]}, f"{path}:{line}: {own} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_imports_a_part_but_by_its_kind(path: Path) -> None:
    """The rule that makes a new encoder one file: whatever names one in an import would have to be edited for the
    next."""
    own = path.relative_to(PACKAGE).parts[0]
    slots = {*PARTS, "compositions"}
    named = [
        f"{path}:{line}: {name}"
        for line, name in imports(path)
        if folder_of(name) in slots - {own} and not name.split(".")[2].startswith("_")
    ]
    assert not named, "\n".join(named)


def test_no_module_imports_itself_in_a_circle() -> None:
    names = {
        ".".join(("medvlm", *p.relative_to(PACKAGE).with_suffix("").parts)): p
        for p in modules()
        if p.name != "__init__.py"
    }
    after = {
        name: {found for _, full in imports(path) if (found := _module(full, names)) and found != name}
        for name, path in names.items()
    }
    while free := {name for name, needs in after.items() if not needs & after.keys()}:
        after = {name: needs for name, needs in after.items() if name not in free}
    assert not after, f"these modules import each other in a circle: {sorted(after)}"


def _module(full: str, names: dict[str, Path]) -> str:
    """The module of an imported name: medvlm.core.run.RunFolder -> medvlm.core.run."""
    return next((name for name in (full, full.rpartition(".")[0]) if name in names), "")


def test_a_package_file_holds_one_docstring() -> None:
    """A re-exporting __init__ is what every import-time circle runs through."""
    for path in PACKAGE.rglob("__init__.py"):
        docstring, *rest = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant), (
            f"{path}: expected a docstring"
        )
        assert "\n" not in str(docstring.value.value), f"{path}: expected one line"
        allowed = ["__version__"] if path.parent == PACKAGE else []
        assert [ast.unparse(node.targets[0]) for node in rest if isinstance(node, ast.Assign)] == allowed
        assert len(rest) == len(allowed), f"{path}: holds more than its docstring"
