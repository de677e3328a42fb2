"""The site of docs/: it is built without a warning, its reference has every key, and its messages and pictures are
real."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm import api

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def load(name: str) -> Any:
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_is_built_without_a_warning(tmp_path: Path) -> None:
    """--strict: of links, anchors, and pages that the navigation lacks, too."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # about the end of mkdocs in 2027
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    page = (tmp_path / "site/reference-recipe.html").read_text()
    assert "<code>rank</code>" in page and "<table>" in page
    assert not re.findall(r'(?:src|href)="https?://(?!squidfunk)[^"]*\.(?:js|css|woff2?)"', page), "works offline"
    extending = (tmp_path / "site/extending.html").read_text()
    (source,) = set(re.findall(r'href="(source-[^"]*angle[^"]*)"', extending))
    assert "angle" in (tmp_path / "site" / source).read_text()


@pytest.mark.parametrize("what", ["recipe", "card"])
def test_the_reference_has_every_key(what: Any) -> None:
    text = load("_site").write_reference(what)
    keys = set(list_keys(api.schema(what)))
    assert len(keys) > 40 and {key for key in keys if f"| `{key}` |" not in text} == set()


def list_keys(part: Any) -> Any:
    if isinstance(part, dict):
        yield from part.get("properties", {})
        for value in part.values():
            yield from list_keys(value)
    if isinstance(part, list):
        for each in part:
            yield from list_keys(each)


def read_messages() -> list[str]:
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 20
    return rows


@pytest.fixture(scope="module")
def said() -> str:
    """All texts of the program, with … in place of values."""
    found = []
    for path in sorted((ROOT / "medvlm").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


@pytest.mark.parametrize("message", read_messages())
def test_a_message_that_is_explained_is_one_of_ours(message: str, said: str) -> None:
    missing = [part for part in message.split("…") if part.strip() and part.strip() not in said]
    assert not missing


def test_every_picture_is_made_by_the_script() -> None:
    pictures = load("pictures")
    assert {path.name for path in DOCS.glob("*.png")} == pictures.PICTURES.keys()
    assert all((DOCS / name).stat().st_size <= pictures.MOST_BYTES for name in pictures.PICTURES)


def test_the_drawings_are_those_of_the_script() -> None:
    drawings = load("drawings")
    assert {path.name for path in DOCS.glob("*.svg")} == drawings.PICTURES.keys()
    for name, parts in drawings.PICTURES.items():
        assert (DOCS / name).read_text() == drawings.draw(parts), f"run python docs/drawings.py: {name}"


def test_the_page_of_what_is_supported_has_every_kind_and_real_tests() -> None:
    site = load("_site")
    text = site.write_support()
    for slot, tests in site.SLOTS.items():
        folder = ROOT / "medvlm" / slot.replace(".", "/")
        kinds = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
        assert kinds and [kind for kind in kinds if f"| `{kind}` |" not in text] == []
        assert [test for test in tests.split(", ") if not (ROOT / test).exists()] == []


def test_the_navigation_has_every_page() -> None:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    named = re.findall(r"\w[\w-]*\.md", str(yaml.safe_load(text)["nav"]))
    assert {page.name for page in DOCS.glob("*.md")} <= set(named)


def test_every_block_of_a_page_is_one_that_can_be_checked_and_what_is_named_exists(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`make check-all` runs them."""
    monkeypatch.syspath_prepend(str(DOCS))
    blocks: Any = importlib.import_module("blocks")
    found = {page: list(blocks.read_blocks(page)) for page in (ROOT / "README.md", *DOCS.glob("*.md"))}
    for page, own in found.items():
        assert len(own) == page.read_text().count("\n```") / 2, f"{page.name}: a block is not found"
        assert {block.language for block in own} <= {"", "yaml", "python", "text"}, page.name
        assert [t for block in own for t in block.notes.get("checked by", ()) if not (ROOT / t).exists()] == []
    first, *_ = found[ROOT / "README.md"]
    assert blocks.find_reason(first) == "checked by .ci/run"
    lines = list(
        blocks.join_lines("medvlm train a.yaml [stages.x.steps=5 ...]\n\nmedvlm compare /data/a \\\n  b ...\n")
    )
    assert [line.split() for line in lines] == [["medvlm", "train", "a.yaml"], ["medvlm", "compare", "data/a", "b"]]
    assert blocks.hide_numbers("loss  0.5 [0.1, 0.2] at 0123456789ab\nloss 0 [1, 2] at 1") == ["loss 0 [0, 0] at 0"]
    steps = (
        "stage 1/1 a  step 1/9  loss 1\nstage 1/1 a  step 9/9  loss 1  validation 2 (best)\nstage 1/1 a (heads): 3\n"
    )
    assert blocks.hide_numbers(steps) == ["stage 0/0 a step 0/0", "stage 0/0 a (heads): 0"]
    note = {"add": ["steps=3, for train"], "needs": ["a GPU, for fast"]}
    shorter = blocks.choose_lines(
        blocks.Block(1, "", "medvlm train a.yaml  # slow\nmedvlm fast\nmedvlm report a\n", note)
    )
    assert list(shorter) == ["medvlm train a.yaml steps=3", "medvlm report a"]


def test_a_block_of_text_is_all_that_the_commands_before_it_print(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    blocks: Any = importlib.import_module("blocks")

    def shows(text: str) -> bool:
        try:
            return bool(page.check(blocks.Block(2, "text", text, {})))
        except AssertionError:
            return False

    with blocks.Page(tmp_path.resolve()) as page:
        refused = blocks.Block(1, "", "echo medvlm: $PWD/a is not there >&2\nexit 2\n", {})
        shown = blocks.Block(2, "text", "medvlm: a is not there\n", {})
        assert page.check(refused, shown) and page.check(shown)
        with pytest.raises(AssertionError, match="exit code 2"):
            page.check(refused)
        assert page.check(blocks.Block(1, "", "echo b; cat\necho c 1 >&2; echo c 2; echo d\n", {}))
        for text in ("b\nc 3\nd\n", "b\n...\nd\n", "...\n", "b\n...\n", "...\nc 1\n...\n"):
            assert shows(text), text
        for text in ("b\nc 3\n", "c 3\nd\n", "b\nd\n", "b\n...\nc 1\n", "...\nb\n", "d\n...\n", "", "b\nc 3\nd\ne\n"):
            assert not shows(text), text


def test_what_takes_too_long_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    blocks: Any = importlib.import_module("blocks")
    monkeypatch.setattr(blocks, "WAIT_S", 1)
    with blocks.Page(tmp_path.resolve()) as page:
        with pytest.raises(subprocess.TimeoutExpired):
            page.run(["bash", "-c", "sleep 60 & echo $! > child; wait"])
        child = Path("/proc", (tmp_path / "child").read_text().strip(), "stat")
        for _ in range(200):  # a process that was killed is there until it runs once more
            if not child.exists() or child.read_text().split()[2] == "Z":
                return
            time.sleep(0.1)
        raise AssertionError("the process is still there")
