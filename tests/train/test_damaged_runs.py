"""A damaged, replaced or missing file of a run costs one message, and no second run folder is made."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.compositions._folder import open_folder
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder, read_record
from medvlm.core.weights import open_dialogue_tokenizer
from medvlm.data.dialogue import Dialogue
from medvlm.recipe.load import load_run
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
from medvlm.train.hold import hold
from medvlm.train.lease import Lease
from medvlm.train.log import Log
from tests.fixtures.unpack import unpack


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def run(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "runs" / "first", tmp_path / "first"))


@pytest.fixture
def vlm(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "vlm", tmp_path / "vlm"))


PLACES: list[tuple[str, str]] = [
    ("", "not JSON"),
    ("[]", "it is a list, expected keys and values"),
    ('["shards"]', "it is a list, expected keys and values"),
    ("null", "it is nothing, expected keys and values"),
    ('{"tiny": "shards"}', "tiny is text, expected keys and values"),
    ('{"tiny": {"shards": ["a"]}}', "tiny.shards is a list, expected text"),
    ('{"tiny": {"root": 3}}', "tiny.root is a number, expected text"),
]


@pytest.mark.parametrize(("text", "why"), PLACES)
def test_places_of_data_that_cannot_be_read_are_said(text: str, why: str, run: Path) -> None:
    (run / "places.json").write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_run(run)
    assert str(refused.value).startswith(f"first/places.json is damaged ({why}); it says where the data of the run are")


def test_places_set_nothing_but_places(run: Path) -> None:
    (run / "places.json").write_text(json.dumps({"tiny": {"shards": "x", "fold": "3", "card": "y.yaml"}}))
    recipe = load_run(run).recipe
    assert recipe.data["tiny"].shards == "x" and recipe.data["tiny"].fold is None


def test_a_folder_in_their_place_is_said(run: Path) -> None:
    (run / "places.json").unlink()
    (run / "places.json").mkdir()
    with pytest.raises(RecipeError, match=r"first/places\.json is damaged \(it cannot be read: Is a directory\)"):
        load_run(run)


@pytest.mark.parametrize(
    "change",
    [{"take": 3}, {"take": "step-1/.."}, {"parameters": []}, {"from": None}, {"trains": {"a": True}}, {"identity": 1}],
)
def test_the_record_of_a_stage_has_the_right_types(change: dict[str, Any], run: Path) -> None:
    path = run / "pair" / "stage.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"pair/stage\.json is damaged \((take|parameters|from|trains|identity)"):
        read_record(run / "pair")


# --- lease --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["[1]", "null", '"x"', "3", "{}", '{"id": 1, "pid": "../self", "began": ""}', "\xff"])
def test_what_is_no_lease_holds_no_run(left: str, tmp_path: Path) -> None:
    (tmp_path / ".lease").write_text(left, encoding="latin-1")
    with Lease(tmp_path) as mine:
        mine.check()


def test_a_folder_in_place_of_a_lease_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / ".lease").mkdir()
    (tmp_path / ".lease" / "mine").write_text("x")
    with (
        pytest.raises(CheckpointError, match=r"\.lease: is a folder, not the lease of a run; remove it"),
        Lease(tmp_path),
    ):
        pass
    assert (tmp_path / ".lease" / "mine").read_text() == "x"


# --- moved while it was trained -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced by a file", "moved, and an empty folder made"])
def test_a_run_whose_folder_is_gone_is_not_begun_anew(how: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "tiny")
    with pytest.raises(CheckpointError, match=r"was moved or deleted|has lost the run"):  # noqa: SIM117
        with hold(run, Engine(EngineConfig(device="cpu", workers=0))) as check_lease:
            checkpoint.save(run.stage("pair"), 1, {"model": {"a": torch.ones(2)}}, {}, 0, may_save=check_lease)
            if how == "deleted":
                shutil.rmtree(run.root)
            else:
                run.root.rename(tmp_path / "elsewhere")
            if "file" in how:
                run.root.write_text("x")
            if "empty" in how:
                run.root.mkdir()
            checkpoint.save(run.stage("pair"), 2, {"model": {"a": torch.ones(2)}}, {}, 0, may_save=check_lease)
    assert not run.stage("pair").exists()
    assert how != "moved" or not run.root.exists()
    if how != "deleted":
        assert checkpoint.list_saved_steps(tmp_path / "elsewhere" / "pair") == [1]


@pytest.mark.parametrize("what", ["a file", "a link", "a folder with files"])
def test_what_stands_in_the_place_of_a_save_is_removed(what: str, tmp_path: Path) -> None:
    stage, kept = tmp_path / "pair", tmp_path / "kept"
    stage.mkdir()
    kept.mkdir()
    part = stage / "step-3.part"
    if what == "a file":
        part.write_text("x")
    elif what == "a link":
        part.symlink_to(kept)
    else:
        part.mkdir()
        (part / "x").write_text("x")
    assert checkpoint.find_newest_good(stage) is None and not part.exists() and kept.is_dir()
    part.write_text("x")
    saved = checkpoint.save(stage, 3, {"model": {"a": torch.ones(2)}}, {}, 0)
    assert checkpoint.find_newest_good(stage) == saved


# --- metrics --------------------------------------------------------------------------------------------

GOOD_LINE = b'{"stage": "pair", "step": 1, "loss": 1.0}'


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"[1]", b"3", b"null", b"{}", b'{"stage": "pair"}', b"[" * 100_000, b""])
def test_a_damaged_line_of_the_log_is_dropped(bad: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    later = GOOD_LINE.replace(b"1,", b"9,", 1)
    path.write_bytes(b"\n".join([GOOD_LINE, bad, later, b'{"stage": "pa']))
    Log(path, True, []).forget_after("pair", 5)
    assert path.read_bytes() == GOOD_LINE + b"\n"


# --- models ---------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self) -> Any:
        return exit, (1,)


WEIGHTS = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "a pickle": lambda data: pickle.dumps(Harm()),
    "a header of terabytes": lambda data: (1 << 42).to_bytes(8, "little") + data[8:],
    "no JSON": lambda data: data[:8] + b"?" + data[9:],
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_that_cannot_be_read_are_said(kind: str, vlm: Path) -> None:
    path = vlm / "weights.safetensors"
    path.write_bytes(WEIGHTS[kind](path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"vlm/weights\.safetensors cannot be read .*; copy the folder again"):
        open_folder(vlm)


@pytest.mark.parametrize("text", ["[]", "null", "3", "{", '{"makes": 3}', '{"makes": "vlm", "plugins": 3}'])
def test_a_manifest_that_is_none_is_said(text: str, vlm: Path) -> None:
    (vlm / "model.json").write_text(text)
    with pytest.raises((CheckpointError, RecipeError)):
        open_folder(vlm)


@pytest.mark.parametrize("token", ["", "<no token>", "two words"])
def test_an_image_token_that_is_none_is_said(token: str, vlm: Path) -> None:
    manifest = json.loads((vlm / "model.json").read_text())
    (vlm / "model.json").write_text(json.dumps({**manifest, "image_token": token}))
    with pytest.raises(CheckpointError, match="image_token is no token of the tokenizer"):
        open_folder(vlm)


TEMPLATES = {
    "raises": "{{ raise_exception('no') }}",
    "is no Jinja": "{% if %}",
    "divides by zero": "{{ 1 / 0 }}",
    "reaches for what is not there": "{{ messages[7].x.y }}",
    "reaches for the system": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "counts too far": "{% for i in range(10000000) %}{{ i }}{% endfor %}",
}


@pytest.fixture
def tokenizer(vlm: Path) -> Iterator[Any]:
    yield open_dialogue_tokenizer(vlm / "tokenizer")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_chat_template_that_fails_is_said(kind: str, tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATES[kind]
    with pytest.raises(
        RecipeError, match=r"the chat template of the model failed \(\w+: .*give the recipe a `template`"
    ):
        Dialogue(tokenizer, tokenizer.image_token).turn("Where?", [], None)


@pytest.mark.parametrize(("file", "lost"), [("chat_template.jinja", "chat template"), ("tokenizer_config.json", "")])
def test_a_tokenizer_that_lacks_something_is_said(file: str, lost: str, vlm: Path) -> None:
    path = vlm / "tokenizer" / file
    path.unlink()
    if not lost:
        path.write_text("{}")
    with pytest.raises(CheckpointError, match=rf"its tokenizer has no {lost}"):
        open_dialogue_tokenizer(vlm / "tokenizer")
