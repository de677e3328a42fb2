"""Sources that are packed on the way: with the secret of their salt file, apart from those without."""

from __future__ import annotations

from medvlm.recipe import load
from medvlm.sources import open_sources
from tests.tiny_run import recipe, written


def test_a_source_is_packed_with_the_secret_of_its_salt_file(tmp_path):
    (tmp_path / "salt").write_text("0123456789abcdef")
    path = written(tmp_path, recipe())
    plain, secret = (open_sources(load(path, overrides), tmp_path / "runs", say=lambda _: None)["films"] for overrides in ([], [f"data.films.salt_file={tmp_path / 'salt'}"]))
    assert plain.receipt["salt_id"] == "" and len(secret.receipt["salt_id"]) == 16
    keys = [{source.view("train").read(i)[0].key for i in range(len(source.view("train")))} for source in (plain, secret)]
    assert len(keys[0]) == len(keys[1]) > 0 and not keys[0] & keys[1], "the same films in the same splits, under other names"
    assert "0123456789abcdef" not in repr(secret.describe())
    assert len(list((tmp_path / "runs/shards").glob("[!.]*"))) == 2
