"""Sources that are packed on the way: with the secret of their salt file, apart from those without."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.core.errors import DataError
from medvlm.data.source import find_group
from medvlm.recipe.load import load
from medvlm.recipe.sources import open_sources
from tests.io.served import http
from tests.tiny_run import CARD, INSTRUCT, recipe, trace, trained, written


def test_a_source_is_packed_with_the_secret_of_its_salt_file(tmp_path):
    (tmp_path / "salt").touch(0o600)
    (tmp_path / "salt").write_text("5f0c93ab71e8d264")
    path = written(tmp_path, recipe())
    plain, secret = (
        open_sources(load(path, overrides), tmp_path / "runs", say=lambda _: None)["films"]
        for overrides in ([], [f"data.films.salt_file={tmp_path / 'salt'}"])
    )
    assert plain.receipt["salt_id"] == "" and len(secret.receipt["salt_id"]) == 16
    keys = [
        {source.view("train").read(i)[0].key for i in range(len(source.view("train")))} for source in (plain, secret)
    ]
    assert len(keys[0]) == len(keys[1]) > 0 and not keys[0] & keys[1], (
        "the same films in the same splits, under other names"
    )
    assert "5f0c93ab71e8d264" not in repr(secret.describe())
    assert len(list((tmp_path / "runs/shards").glob("[!.]*"))) == 2


READER = {
    "kind": "webdataset",
    "media": {"film": ["jpg"]},
    "questions": [{"text": "Is there a nodule?", "answer": "cls", "choices": ["no", "yes"]}],
}
FOREIGN = {
    **CARD,
    "name": "theirs",
    "access": "open",
    "phi": {"status": "deidentified"},
    "splits": {"by": "image", "ratios": {"train": 1.0}},
    "reader": READER,
}


CHOOSE = {**INSTRUCT, "tasks": ["choice"]}


def foreign_tar(path: Path, n: int, lacking: int = 0) -> None:
    with tarfile.open(path, "w") as tar:
        for i in range(n):
            out = io.BytesIO()
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40), np.uint8)).save(out, "JPEG")
            for name, data in [
                (f"{i}.jpg", out.getvalue()),
                *([(f"{i}.cls", b"%d" % (i % 2))] if i >= lacking else []),
            ]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def test_a_stage_trains_on_tars_of_others_behind_http_as_on_the_disk(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a-0.tar", 20)
    losses = []
    with http(tmp_path) as server:
        for name, where in (("near", str(tmp_path / "a-{0..0}.tar")), ("far", f"{server.url}/a-{{0..0}}.tar")):
            stage = {**INSTRUCT, "tasks": ["choice"], "steps": 2}
            path = written(
                tmp_path / name,
                recipe(name=name, data={"films": {"card": "card.yaml", "shards": where}}, stages=[stage]),
                FOREIGN,
            )
            losses.append(trace(trained(path, tmp_path / "runs"), "instruct"))
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_what_is_wrong_with_tars_of_others_is_said_before_training(tmp_path: Path) -> None:
    foreign_tar(tmp_path / "a.tar", 30, lacking=1)

    def opened(card: dict[str, Any]) -> list[str]:
        said: list[str] = []
        open_sources(
            load(
                written(
                    tmp_path,
                    recipe(data={"films": {"card": "card.yaml", "shards": str(tmp_path / "a.tar")}}, stages=[CHOOSE]),
                    card,
                )
            ),
            tmp_path / "runs",
            said.append,
        )
        return said

    with pytest.raises(
        DataError,
        match=r"data\.films: 1 of 30 samples lack a member \(1 cls\); the limit is 1% \(reader\.max_incomplete\)",
    ):
        opened(FOREIGN)
    allowed = {**FOREIGN, "reader": {**READER, "max_incomplete": 0.05}}
    assert opened(allowed) == ["films: 1 of 30 samples lack a member and are left out (1 cls)"]
    with pytest.raises(DataError, match=r"phi\.status: unknown.*pack the data"):
        opened({**allowed, "phi": {"status": "unknown"}})
    with pytest.raises(DataError, match="salt"):
        opened({**allowed, "access": "credentialed"})


def test_the_same_tars_packed_have_the_same_samples(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    foreign_tar(tmp_path / "raw" / "a.tar", 12)
    sources = [
        open_sources(
            load(written(tmp_path, recipe(data={"films": {"card": "card.yaml", **where}}, stages=[CHOOSE]), FOREIGN)),
            tmp_path / "runs",
            lambda _: None,
        )["films"].view("train")
        for where in ({"root": str(tmp_path / "raw")}, {"shards": str(tmp_path / "raw" / "a.tar")})
    ]
    packed, direct = (
        {(s.key, s.questions, s.media[0].size) for s in (view.read(i)[0] for i in range(len(view)))} for view in sources
    )
    assert packed == direct and len(packed) == 12


def test_held_out_groups_are_in_no_split_and_are_evaluated_on_by_themselves(tmp_path: Path) -> None:
    """The groups of a packed phantom are its findings."""
    data = {"films": {"card": "card.yaml", "hold_out": {"by": "concept", "share": 0.3}}}
    source = open_sources(load(written(tmp_path, recipe(data=data))), tmp_path / "runs", lambda _: None)["films"]
    views = {split: source.view(split) for split in ("train", "val", "test", "held_out")}
    findings = {
        split: {find_group(view.entry(i), "concept") for i in range(len(view))} for split, view in views.items()
    }
    assert (
        findings["held_out"]
        and findings["train"]
        and not findings["held_out"] & (findings["train"] | findings["val"] | findings["test"])
    )
    whole = sum(source.shards.count(split) for split in source.shards.splits)
    assert sum(map(len, views.values())) == whole
    assert source.describe()["hold_out"]["share"] == 0.3


def test_a_control_without_related_samples_is_tested_on_the_same_ones(tmp_path: Path) -> None:
    sizes = {}
    for related in (True, False):
        combination = {"media": "film", "concept": find_concept(tmp_path)}
        data = {"films": {"card": "card.yaml", "hold_out": {"combination": combination, "related": related}}}
        source = open_sources(load(written(tmp_path, recipe(data=data))), tmp_path / "runs", lambda _: None)["films"]
        sizes[related] = {split: source.locate_samples(split) for split in ("train", "val", "test", "held_out")}
    assert sizes[True]["held_out"] == sizes[False]["held_out"] and sizes[True]["test"] == sizes[False]["test"]
    assert sizes[True]["held_out"] and sizes[True]["train"] and not sizes[False]["train"]  # all of them are films


def find_concept(folder: Path) -> str:
    data = {"films": {"card": "card.yaml"}}
    source = open_sources(load(written(folder, recipe(data=data))), folder / "runs", lambda _: None)["films"]
    return find_group(source.view("train").entry(0), "concept")
