"""What pyproject.toml declares is what is imported, and what is declared without an import says who needs it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
DECLARED = tomllib.loads(PROJECT)["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "pydantic_core": "pydantic",
    "yaml": "pyyaml",
}
"""Module -> who brings it, where it is not called like its module."""


def names_in(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", each)[0] for each in requirements}


def imported_by(folder: str) -> set[str]:
    """The distributions whose modules are imported anywhere in a folder, inside functions too."""
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.append(node.module)
            found |= {name.split(".")[0] for name in names}
    beside = {path.stem for path in (ROOT / folder).rglob("*.py")} if folder != "medvlm" else set()
    own = beside | {"medvlm", "tests"}
    return {DISTRIBUTIONS.get(name, name) for name in found - sys.stdlib_module_names - own}


CORE = names_in(DECLARED["dependencies"])
EXTRAS = {name: names_in(extra) for name, extra in DECLARED["optional-dependencies"].items()}
OPTIONAL = set[str]().union(*(names for extra, names in EXTRAS.items() if extra != "test")) - CORE


def test_everything_that_is_imported_is_declared() -> None:
    assert imported_by("medvlm") - CORE - OPTIONAL == set(), "add it to `dependencies` or to an extra"


def test_what_is_declared_and_not_imported_says_who_needs_it() -> None:
    unused = (CORE | OPTIONAL) - imported_by("medvlm")
    unsaid = {name for name in unused if not re.search(rf'"{re.escape(name)}[^"]*"[],]*\s+# \w', PROJECT)}
    assert not unsaid, f"drop {sorted(unsaid)}, or say beside each who needs it"


def test_nothing_stands_among_the_dependencies_and_in_an_extra() -> None:
    assert {extra: sorted(names & CORE) for extra, names in EXTRAS.items() if names & CORE} == {}


def test_the_extra_for_tests_holds_all_others_that_they_can_use() -> None:
    """All but what needs a GPU."""
    (held,) = re.findall(r'"medvlm\[([\w,]+)\]"', PROJECT)
    assert set(held.split(",")) == EXTRAS.keys() - {"test", "quantized"}
    stranger = {"mylab"}  # the package of tests/plugins
    assert imported_by("tests") | imported_by("benchmarks") <= CORE | OPTIONAL | EXTRAS["test"] | stranger
