"""What a stage can start from outside of its run: the weights are those, and nothing is missing or left over."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm.cli import main
from medvlm.commands.export import export
from medvlm.commands.lineage import describe_lineage
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.export.proof import parity
from medvlm.recipe.load import load
from medvlm.train import checkpoint
from tests.export.conftest import unproven
from tests.tiny_run import INSTRUCT, LANGUAGE, PAIR, TOWER, recipe, trained, weights, written

SHORT = {"steps": 2, "save_every": 0}
TUNE = {**INSTRUCT, **SHORT, "lora": {"rank": 2, "alpha": 4}}
WHOLE = {**{k: v for k, v in TUNE.items() if k != "lora"}, "trains": ["connectors", "language"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starts")


@pytest.fixture(scope="module")
def other(folder: Path) -> RunFolder:
    """Another run: a language model that is trained whole, its tower in pairs, then adapters."""
    stages = [{**WHOLE, "name": "whole"}, {**PAIR, **SHORT}, {**TUNE, "name": "adapted"}]
    return trained(written(folder / "other", recipe(name="other", seed=3, stages=stages)), folder / "runs")


def start(folder: Path, name: str, origin: Any, stage: dict[str, Any] = WHOLE, *overrides: str) -> RunFolder:
    """Of a run whose only stage starts from there."""
    path = written(folder / name, recipe(name=name, stages=[{**stage, "from": origin}]))
    return trained(path, folder / "runs", *overrides)


def began(run: RunFolder) -> dict[str, str]:
    record: dict[str, Any] = json.loads((run.stage("instruct") / "stage.json").read_text())
    return dict(record["from"])


def is_of(run: RunFolder, stage: str, expected: dict[str, torch.Tensor], module: str) -> bool:
    """Whether a frozen module has exactly these weights."""
    found = weights(run, stage)
    names = [name for name in found if name.startswith(f"{module}.") and ".lora_" not in name]
    assert names
    return all(torch.equal(found[name], expected[name.replace(".base_layer.", ".")]) for name in names)


def test_a_stage_starts_from_a_stage_of_another_run_and_what_that_came_from(folder: Path, other: RunFolder) -> None:
    """A dual encoder has no language model: it is that of the stage before."""
    run = start(folder, "from-run", f"{other.root}:pair", TUNE)
    pair, whole = (
        f"other:{stage}/step-2@{checkpoint.digest(other.stage(stage) / 'step-2')}" for stage in ("pair", "whole")
    )
    assert began(run) == {"encoders.film": pair, "connectors.film": whole, "language": whole}
    assert is_of(run, "instruct", weights(other, "pair"), "encoders.film")
    assert is_of(run, "instruct", weights(other, "whole"), "language")
    told = "\n".join(describe_lineage(str(run.root)).lines)
    assert f"language from {whole}" in told and "gone" not in told


def test_adapters_come_along_from_another_run(folder: Path, other: RunFolder) -> None:
    """`trains: [lora]` without saying which: they are those of the stage that it starts from."""
    stage = {k: v for k, v in TUNE.items() if k != "lora"}
    run = start(folder, "from-adapted", f"{other.root}:adapted", {**stage, "trains": ["lora"]})
    found, before = weights(run, "instruct"), weights(other, "adapted")
    assert found.keys() == before.keys() and any(".lora_" in name for name in found)
    assert is_of(run, "instruct", {n.replace(".base_layer.", "."): t for n, t in before.items()}, "language")


def test_each_module_has_its_own_origin(folder: Path, other: RunFolder) -> None:
    run = start(folder, "per-module", {"encoders.film": f"{other.root}:pair", "language": str(exported(other))}, TUNE)
    assert began(run).keys() == {"encoders.film", "language"}, "the connector begins with its seed"
    assert began(run)["encoders.film"].startswith("other:pair/step-2@") and began(run)["language"].startswith("model@")
    assert is_of(run, "instruct", weights(other, "pair"), "encoders.film")
    assert is_of(run, "instruct", weights(other, "whole"), "language")


def exported(run: RunFolder) -> Path:
    """The model that its second stage left, in our own format."""
    to = run.root.parent.parent / "model"
    if not to.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parity, "prove", unproven)
            export(run, to, ["custom"], "whole")
    return to


def test_an_exported_folder_gives_all_that_it_holds(folder: Path, other: RunFolder) -> None:
    run = start(folder, "from-export", str(exported(other)), TUNE)
    assert began(run).keys() == {"encoders.film", "connectors.film", "language"}
    assert len(set(began(run).values())) == 1 and began(run)["language"].startswith("model@")
    for module in ("encoders.film", "language"):
        assert is_of(run, "instruct", weights(other, "whole"), module)


# --- names of others --------------------------------------------------------------------------------------------


def stock_language(to: Path, tied: bool) -> dict[str, torch.Tensor]:
    """A language model as transformers saves it, of the size that the recipe builds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {k: v for k, v in LANGUAGE.items() if k != "model_type"}
    config = AutoConfig.for_model(
        "qwen2", vocab_size=512, tie_word_embeddings=tied, pad_token_id=0, bos_token_id=1, eos_token_id=2, **rest
    )
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(to)
    return load_file(to / "model.safetensors")


@pytest.mark.parametrize("tied", [False, True])
def test_a_language_model_of_transformers_fits_by_its_own_names(tied: bool, folder: Path) -> None:
    """Where embeddings are tied, the file holds them once."""
    stored = stock_language(folder / f"stock-{tied}", tied)
    assert ("lm_head.weight" in stored) != tied
    overrides = [f"model.language.config.tie_word_embeddings={str(tied).lower()}"]
    sized = tokens_of(folder)
    assert sized == 512, "the recipe's vocabulary is filled"
    run = start(folder, f"from-stock-{tied}", {"language": str(folder / f"stock-{tied}")}, TUNE, *overrides)
    assert is_of(run, "instruct", {f"language.{n}": t for n, t in _with_head(stored).items()}, "language")
    assert set(began(run)) == {"language"}


def _with_head(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"lm_head.weight": stored["model.embed_tokens.weight"], **stored}


def tokens_of(folder: Path) -> int:
    from transformers import AutoTokenizer

    run = RunFolder(folder / "runs" / "other")
    return len(AutoTokenizer.from_pretrained(run.tokenizer))


def test_a_tower_is_found_in_a_model_that_holds_another_one(folder: Path) -> None:
    """SigLIP's text tower has layers of the same names."""
    from transformers import AutoConfig, AutoModel

    small = {k: v for k, v in TOWER["config"].items() if k != "model_type"}  # type: ignore[attr-defined]
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 50,
    }
    torch.manual_seed(2)
    config = AutoConfig.for_model("siglip", vision_config=small, text_config=text)
    AutoModel.from_config(config).save_pretrained(folder / "siglip")
    stored = load_file(folder / "siglip" / "model.safetensors")
    run = start(folder, "from-siglip", {"encoders.film": str(folder / "siglip")}, TUNE)
    expected = {name.replace("vision_model.", "encoders.film.tower."): tensor for name, tensor in stored.items()}
    assert is_of(run, "instruct", expected, "encoders.film") and any(name.startswith("text_model.") for name in stored)


def test_a_hub_id_is_read_from_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock_language(folder / "stock-hub", False)
    cached = folder / "hub" / "models--somebody--tiny-qwen"
    snapshot = cached / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copyfile(folder / "stock-hub" / "model.safetensors", snapshot / "model.safetensors")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    run = start(folder, "from-hub", {"language": "somebody/tiny-qwen"}, TUNE)
    assert began(run)["language"].startswith("somebody/tiny-qwen@")
    with pytest.raises(CheckpointError, match=r"somebody/other: cannot be downloaded \(.*check the id, log in with"):
        start(folder, "from-nowhere", {"language": "somebody/other"}, TUNE)


# --- what does not fit ------------------------------------------------------------------------------------------


def changed(folder: Path, name: str, change: Any) -> Path:
    """The stock language model with other tensors."""
    stored = stock_language(folder / name, False)
    change(stored)
    save_file(stored, folder / name / "model.safetensors", {"format": "pt"})
    return folder / name


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("lacks", lambda t: t.pop("model.norm.weight"), r"lacks: language.model.norm.weight is missing \(1 keys\)"),
        (
            "more",
            lambda t: t.update({"model.extra.weight": torch.zeros(1)}),
            r"more: language.model.extra.weight has no place in this model \(1 keys\)",
        ),
        (
            "wide",
            lambda t: t.update({"model.norm.weight": torch.zeros(17)}),
            r"wide: language.model.norm.weight is \(17,\), this model needs \(16,\)",
        ),
        (
            "strange",
            lambda t: [t.clear(), t.update({"x.weight": torch.zeros(1)})],
            r"stages.instruct.from.language: strange@[0-9a-f]{16} has no weights of language",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, change: Any, why: str, folder: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        start(folder, f"from-{name}", {"language": str(changed(folder, name, change))}, TUNE)


def test_a_file_that_is_none_is_refused(folder: Path) -> None:
    (folder / "broken").mkdir()
    (folder / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"broken: model.safetensors cannot be read"):
        start(folder, "from-broken", {"language": str(folder / "broken")}, TUNE)


def test_a_changed_origin_changes_the_stage(folder: Path, other: RunFolder) -> None:
    stock_language(folder / "moving", False)
    start(folder, "from-moving", {"language": str(folder / "moving")}, TUNE)
    start(folder, "from-moving", {"language": str(folder / "moving")}, TUNE)  # reused
    changed(folder, "moving", lambda t: t["model.norm.weight"].add_(1))
    with pytest.raises(CheckpointError, match="stage instruct is finished, but its settings, data or starting weights"):
        start(folder, "from-moving", {"language": str(folder / "moving")}, TUNE)


# --- said before anything is read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("pairs", r"from: 'pairs' is no stage; expected an earlier stage \(there is none\), a stage of another run"),
        ("instruct", r"from: 'instruct' is this stage itself or a later one"),
        ({"languages": "./x"}, r"from.languages: 'languages' is not a part of a supervised stage"),
        ({"language": "https://a.org/x"}, r"from.language: 'https://a.org/x' is no stage"),
    ],
)
def test_what_from_cannot_mean_is_refused(origin: Any, why: str, folder: Path) -> None:
    with pytest.raises(RecipeError, match=why):
        load(written(folder / "refused", recipe(stages=[{**TUNE, "from": origin}])))


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("{runs}/nowhere:pair", r"from: .*nowhere is not a run folder \(it has no recipe.resolved.yaml\)"),
        ("{runs}/other:tune", r"from: .*other has no finished stage tune \(it has adapted, pair, whole\)"),
        ("{runs}/other", r"from: .*other is a run folder; name one of its stages: .*other:STAGE"),
        ("./nowhere", r"from: there is no folder ./nowhere, and it is not a hub id \(OWNER/NAME\)"),
        ("{runs}", r"from: .*runs has no .safetensors"),
    ],
)
def test_what_is_not_there_is_said_when_a_recipe_is_checked_and_refused_when_it_is_trained(
    origin: str, why: str, folder: Path, other: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe may be checked on another machine than it is trained on."""
    origin = origin.format(runs=folder / "runs")
    path = written(folder / "absent", recipe(name="absent", stages=[{**TUNE, "from": origin}]))
    assert main(["validate", str(path)]) == 0
    assert re.search(why, capsys.readouterr().out)
    with pytest.raises(RecipeError, match=why):
        trained(path, folder / "runs")
