"""Recipes, cards, commands and messages in README.md and docs/ are valid for the current code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from medvlm.cli import main
from medvlm.commands.arguments import make_parser
from medvlm.core.card import load_card
from medvlm.core.errors import RecipeError
from medvlm.recipe.load import load, validate
from tests.own_folders import make_questions

ROOT = Path(__file__).parent.parent
RUNS = Path("runs")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


(RECIPE,) = blocks(ROOT / "README.md", "yaml")
CARD = next(block for block in blocks(ROOT / "docs/data.md", "yaml") if block.startswith("name: "))


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 120


def test_its_recipe_is_valid(tmp_path: Path) -> None:
    (tmp_path / "films.yaml").write_text(RECIPE)
    assert "a valid recipe (films, " in validate(tmp_path / "films.yaml")[0]


def test_its_error_message_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = [block for block in blocks(ROOT / "README.md", "") if block.startswith("recipe.yaml:")]
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("rank:", "rnak:"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=rf"^{re.escape(shown.strip())}$"):
        validate("recipe.yaml")


def test_its_commands_for_own_data_follow_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that train and later ones are checked by `make check-all`."""
    (block,) = [block for block in blocks(ROOT / "README.md", "") if block.startswith("medvlm init --data FOLDER")]
    init, train, *later = [line.split("  #")[0].split() for line in block.splitlines()]
    make_questions(tmp_path / "FOLDER")
    monkeypatch.chdir(tmp_path)
    assert main(init[1:]) == 0 and validate(train[2])
    run, model = RUNS / load(train[2]).recipe.name, later[-2][-1]
    assert [line[1:3] for line in later[:3]] == [[verb, str(run)] for verb in ("evaluate", "report", "export")]
    assert later[-1] == ["medvlm", "serve", model]


def test_the_card_of_the_data_page_is_valid(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(CARD)
    assert load_card(tmp_path / "ours.yaml").media == ("film",)


def commands() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "") for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.startswith("medvlm ")]


@pytest.mark.parametrize("command", commands())
def test_its_commands_are_understood(command: str) -> None:
    words = shlex.split(command.replace("[", "").replace(" ...]", ""))
    args, rest = make_parser().parse_known_args(words[1:])
    assert all("=" in word for word in rest), rest
    assert args.verb


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_its_links_and_files_are_there(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / target for target in re.findall(r"\]\(([^)#:]+)\)", text)]
    named = [ROOT / name for name in re.findall(r"`((?:recipes|medvlm|docs|launch|benchmarks)/[\w./]+)`", text)]
    missing = [str(path) for path in (*linked, *named) if not path.exists()]
    assert not missing
