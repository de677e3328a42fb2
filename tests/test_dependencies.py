"""What pyproject.toml declares is what is imported, and what is declared without an import says who needs it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
DECLARED = tomllib.loads(PROJECT)["project"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Module -> who brings it, where it is not called like its module."""


def names_in(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", each)[0] for each in requirements}


@cache
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


HOSTS = {"lmms_eval"}
"""Packages that import medvlm as their plug-in, and so are there. As extras, their pins would bind everybody."""


def test_everything_that_is_imported_is_declared() -> None:
    assert imported_by("medvlm") - CORE - OPTIONAL == HOSTS, "add it to `dependencies` or to an extra"


def test_what_is_declared_and_not_imported_says_who_needs_it() -> None:
    unused = (CORE | OPTIONAL) - imported_by("medvlm")
    unsaid = {name for name in unused if not re.search(rf'"{re.escape(name)}[^"]*"[],]*\s+# \w', PROJECT)}
    assert not unsaid, f"drop {sorted(unsaid)}, or say beside each who needs it"


def test_nothing_stands_among_the_dependencies_and_in_an_extra() -> None:
    assert {extra: sorted(names & CORE) for extra, names in EXTRAS.items() if names & CORE} == {}


def test_the_extra_for_tests_holds_all_others_that_they_can_use() -> None:
    (held,) = re.findall(r'"medvlm\[([\w,-]+)\]"', PROJECT)
    assert set(held.split(",")) == EXTRAS.keys() - {"test"}
    strangers = {"mylab", "common", "tinyvlm"}  # the package of tests/plugins; scripts that --peers names
    assert imported_by("tests") | imported_by("benchmarks") <= CORE | OPTIONAL | EXTRAS["test"] | strangers | HOSTS


def test_the_licence_is_declared_and_its_text_is_whole() -> None:
    assert DECLARED["license"] == "Apache-2.0" and DECLARED["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10)), "it has nine sections"
    assert "END OF TERMS AND CONDITIONS" in text


def test_extras_have_the_names_under_which_every_pip_finds_them() -> None:
    """Metadata hold the normalised name (PEP 685); an older pip does not find another spelling of it."""
    assert [name for name in EXTRAS if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []


@pytest.mark.parametrize("folder", ["medvlm", "docs", "tests", "launch", "README.md"])
def test_every_extra_that_a_text_names_exists(folder: str) -> None:
    place = ROOT / folder
    files = [place] if place.is_file() else [f for kind in ("py", "md", "sh") for f in place.rglob(f"*.{kind}")]
    named = {
        extra
        for file in files
        for extras in re.findall(r"medvlm\[([a-z_,-]+)\]", file.read_text("utf-8"))
        for extra in extras.split(",")
    }
    assert named <= EXTRAS.keys()
