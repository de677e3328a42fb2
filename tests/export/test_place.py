"""What an export writes, replaces and leaves alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.export.run import export

from .conftest import recipe_of, trained_of, unproven


@pytest.fixture
def export_to(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(parity, "prove", unproven)
    return lambda out: export(run, out, trained_of(recipe_of({}, {})), "stock").folder


def see(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): p.read_text() if p.is_file() else ""
        for p in folder.rglob("*")
        if "out/" not in f"{p}/"
    }


NEIGHBOURS = ("out.old", "out.part", "out.failed", ".out.part", "out.old-1", "out.bak")


@pytest.mark.parametrize("times", [1, 2])
def test_an_export_touches_nothing_beside_its_folder(tmp_path: Path, export_to: Any, times: int) -> None:
    for name in NEIGHBOURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "backup").write_text(name)
    before = see(tmp_path)
    for _ in range(times):
        export_to(tmp_path / "out")
    assert see(tmp_path) == before and (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(
    "reason",
    [
        parity.ParityError("too far", {}),
        pytest.param(RuntimeError("a fault"), marks=pytest.mark.slow),
        KeyboardInterrupt(),
    ],
)
def test_a_failed_export_leaves_an_earlier_one_and_what_others_keep(
    tmp_path: Path, export_to: Any, monkeypatch: pytest.MonkeyPatch, reason: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise reason

    export_to(tmp_path / "out")
    (tmp_path / "out.failed").mkdir()
    (tmp_path / "out.failed" / "mine").write_text("mine")
    before = (tmp_path / "out" / "medvlm" / "parity.json").read_bytes()
    monkeypatch.setattr(parity, "prove", fail)
    with pytest.raises(type(reason)):
        export_to(tmp_path / "out")
    assert (tmp_path / "out.failed" / "mine").read_text() == "mine"
    assert (tmp_path / "out" / "medvlm" / "parity.json").read_bytes() == before
    kept = ["out.failed-2"] if isinstance(reason, parity.ParityError) else []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.failed", *kept]


@pytest.mark.parametrize("name", ["notes.txt", "medvlm/mine.json", "patients/1.json"])
def test_an_earlier_export_is_not_replaced_when_it_holds_what_others_put_there(
    tmp_path: Path, export_to: Any, name: str
) -> None:
    mine = export_to(tmp_path / "out") / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(RecipeError, match=f"holds {name}, which no export wrote"):
        export_to(tmp_path / "out")
    assert mine.read_text() == "mine"


def test_a_link_and_the_current_folder_are_places_too(
    tmp_path: Path, export_to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far", target_is_directory=True)
    export_to(tmp_path / "link")
    assert os.readlink(tmp_path / "link") == "far" and (tmp_path / "far" / "config.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_to(Path())
    assert (tmp_path / "here" / "config.json").is_file()
