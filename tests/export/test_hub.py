"""Uploads of an export to the hub: which files, public or private, and what forbids it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medvlm.cli import EXIT_USER, main
from medvlm.core.card import Card
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.export.hub import find_restrictions, prepare
from medvlm.export.proof import parity
from medvlm.export.run import export

from .conftest import recipe_of, trained_of, unproven
from .fake_hub import Hub, serving

TOKEN = "hf_" + "a1B2" * 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, run: RunFolder) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "prove", unproven)
        return export(run, tmp_path_factory.mktemp("hub") / "out", trained_of(recipe_of({}, {})), "stock").folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def medvlm(hub: Hub, *words: object) -> subprocess.CompletedProcess[str]:
    """Runs the command line with the fake hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": TOKEN,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.run(
        [sys.executable, "-m", "medvlm", *map(str, words)], env=environment, capture_output=True, text=True, timeout=120
    )


def test_nothing_is_sent_unless_asked_and_then_privately(folder: Path) -> None:
    with serving() as hub:
        done = medvlm(hub, "export", folder, "--to", "hub:lab/films", "--yes")
        assert done.returncode == 0, done.stderr
        sent = hub.repos["lab/films"]
        assert sent["private"] is True and hub.tokens == {f"Bearer {TOKEN}"}
        files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert sent["files"] == files and f"{len(files)} files" in done.stdout
        assert f"sent: {hub.url}/lab/films/commit/" in done.stdout

        hub.repos["lab/open"] = {"private": False, "files": {}}
        refused = medvlm(hub, "export", folder, "--to", "hub:lab/open", "--yes")
        assert (
            refused.returncode == EXIT_USER
            and "exists and is public" in refused.stderr
            and not hub.repos["lab/open"]["files"]
        )


@pytest.mark.slow
def test_a_public_upload_makes_a_public_repository_and_opens_no_private_one(folder: Path) -> None:
    with serving() as hub:
        done = medvlm(hub, "export", folder, "--to", "hub:lab/new", "--public", "--yes")
        assert done.returncode == 0, done.stderr
        assert hub.repos["lab/new"]["private"] is False and hub.repos["lab/new"]["files"]

        hub.repos["lab/closed"] = {"private": True, "files": {}}
        refused = medvlm(hub, "export", folder, "--to", "hub:lab/closed", "--public", "--yes")
        assert refused.returncode == EXIT_USER and "exists and is private" in refused.stderr
        assert not hub.repos["lab/closed"]["files"]


def test_the_listing_asks_nobody(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--to", "hub:lab/films"]) == 0
    said = capsys.readouterr().out
    assert "hub:lab/films, private" in said and "  model.safetensors  " in said and "nothing was sent" in said


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("optimizer.pt", b"", "optimizer.pt: was not written by the export"),
        ("notes.pkl", b"", "notes.pkl: was not written by the export"),
        (".env", b"TOKEN=1", ".env: was not written by the export"),
        ("film.png", b"", "film.png: was not written by the export"),
        ("extra.json", b'{"from": "/home/anna/films/1.png"}', "extra.json: contains a path of a machine (/home/anna)"),
        ("patients.json", b"{}", "patients.json: was not written by the export"),
        ("answers.yaml", b"a: 1", "answers.yaml: was not written by the export"),
        ("medvlm/cards/other.yaml", b"a: 1", "medvlm/cards/other.yaml: was not written by the export"),
        ("modeling.py", b"", "modeling.py: was not written by the export"),
        ("medvlm/parity.json", b"\xff", "medvlm/parity.json: was changed or removed after the parity proof"),
        ("medvlm/export.json", b"{", "medvlm/export.json: was changed or removed after the parity proof"),
        ("medvlm/files.json", b"[", "medvlm/files.json: cannot be read as the list of exported files"),
        ("README.md", f"use {TOKEN}".encode(), "README.md: contains what looks like an access token"),
        ("config.json", b"{}", "config.json: was changed or removed after the parity proof"),
    ],
)
def test_what_somebody_put_there_is_not_sent(copy: Path, name: str, content: bytes, reason: str) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(RecipeError) as refused:
        prepare(copy, "lab/films", is_public=False)
    assert reason in str(refused.value) and TOKEN not in str(refused.value)


@pytest.mark.parametrize("name", ["vocab.txt", "more.json", "config.json", "README.md", "medvlm/files.json", "cards"])
def test_a_link_is_not_sent_wherever_it_leads(copy: Path, tmp_path: Path, name: str) -> None:
    (elsewhere := tmp_path / "elsewhere").write_bytes((copy / name).read_bytes() if (copy / name).exists() else b"x")
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(tmp_path if name == "cards" else elsewhere)
    with pytest.raises(RecipeError, match=f"{name}: was not written by the export; remove it"):
        prepare(copy, "lab/films", is_public=False)


def test_what_is_written_into_the_header_of_weights_is_seen(copy: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, copy / "more.safetensors", metadata={"made": "/scratch/anna/run"})
    with pytest.raises(RecipeError, match=r"more\.safetensors: contains a path of a machine \(/scratch/anna\)"):
        prepare(copy, "lab/films", is_public=False)


def test_a_folder_without_a_proof_is_not_sent(copy: Path, tmp_path: Path) -> None:
    proof = copy / "medvlm" / "parity.json"
    proof.write_text(json.dumps({**json.loads(proof.read_text()), "passed": False}))
    with pytest.raises(RecipeError, match="its parity proof failed"):
        prepare(copy, "lab/films", is_public=False)
    (tmp_path / "other").mkdir()
    with pytest.raises(RecipeError, match="not an export of medvlm"):
        prepare(tmp_path / "other", "lab/films", is_public=False)
    with pytest.raises(RecipeError, match="expected hub:ORG/NAME"):
        prepare(copy, "films", is_public=False)


def test_terms_of_the_data_decide_who_may_have_the_model(
    tmp_path: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "prove", unproven)
    trained = trained_of(recipe_of({}, {}))

    def sent(**changes: object) -> str:
        card = Card.model_validate({**trained.cards["films"].model_dump(by_alias=True), **changes})
        made = export(
            run,
            tmp_path / "out",
            replace(trained_of(recipe_of({}, {})), cards={**trained.cards, "films": card}),
            "stock",
        ).folder
        try:
            prepare(made, "lab/films", is_public=False)
        except RecipeError as refused:
            return str(refused)
        return "sent"

    assert sent() == "sent"
    assert (
        "cxr_cohen: models trained on it must not be passed on to others: access is credentialed; if its terms allow"
        in sent(access="credentialed")
    )
    assert sent(access="credentialed", models="private") == "sent"


def test_a_card_forbids_the_public_or_everybody() -> None:
    films = trained_of(recipe_of({}, {})).cards["films"]
    kept = films.model_copy(update={"licence": films.licence.model_copy(update={"redistribute": False})})
    assert (
        find_restrictions([films], True) == []
        and find_restrictions([films.model_copy(update={"models": "private"})], False) == []
    )
    assert find_restrictions([kept], False) == [
        "cxr_cohen: models trained on it must not be passed on to others: its licence does not allow passing on "
        "the data; if its terms allow passing on models, say so in the card (models: private or public)"
    ]
    assert find_restrictions([films.model_copy(update={"models": "private"})], True) == [
        "cxr_cohen: models trained on it must not be passed on to everybody: its card says so"
    ]
