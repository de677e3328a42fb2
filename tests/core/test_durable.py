"""A file that a verb writes replaces only one of its own kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvlm.cli import EXIT_USER, main
from medvlm.core.durable import require_local, require_place
from medvlm.core.errors import RecipeError

PAGE = b"<!doctype html>"


@pytest.mark.parametrize("held", [b"name: my recipe\n", b"\x89PNG\r\n", b"<!doctype xml>", b"<"])
def test_a_file_of_another_kind_is_not_lost(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(held)
    with pytest.raises(RecipeError, match="x: is a file of another kind, which would be lost; name another one"):
        require_place(tmp_path / "x", PAGE)
    assert (tmp_path / "x").read_bytes() == held


@pytest.mark.parametrize("held", [None, b"", PAGE + b"<html></html>"])
def test_an_earlier_page_is_replaced(held: bytes | None, tmp_path: Path) -> None:
    if held is not None:
        (tmp_path / "x.html").write_bytes(held)
    require_place(tmp_path / "x.html", PAGE)


@pytest.mark.parametrize("place", ["s3://bucket/x.html", "gs://a/b", "hub:/x", "https://a.b/x.html"])
def test_an_address_is_no_place_for_a_file(place: str) -> None:
    with pytest.raises(RecipeError, match="is an address; name a place on this machine"):
        require_place(Path(place), PAGE)


@pytest.mark.parametrize("place", ["\udcff", "a/\udce9t\udce9/b.html", "\ud800/x"])
def test_a_path_that_is_not_utf8_is_no_place_for_files(place: str) -> None:
    with pytest.raises(RecipeError, match="its name is not UTF-8"):
        require_local(Path(place))


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--model", "x", "--csv", "x.csv", "--image", "a", "--captions", "b", "--to"),
        ("export", "run", "--to"),
        ("consolidate", "run", "--to"),
        ("data", "audit", "shards", "--to"),
        ("data", "show", "shards", "--to"),
        ("data", "stats", "shards", "--to"),
        ("demo", "--runs"),
    ],
)
@pytest.mark.parametrize("place", ["none://x", "hub:/x", "a/\udcff"])
def test_a_verb_writes_to_no_other_place(
    words: tuple[str, ...], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, place]) == EXIT_USER and not list(tmp_path.iterdir())
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("place", [".", "", "..", "/"])
def test_a_folder_is_no_place_for_a_file(place: str) -> None:
    with pytest.raises(RecipeError, match="is a folder; name a file to write to"):
        require_place(Path(place), PAGE)
