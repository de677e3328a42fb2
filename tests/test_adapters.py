"""Adapters with names are kept apart on one base; models are merged as the mean of their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medvlm.commands.export import export
from medvlm.commands.lineage import describe_lineage
from medvlm.compositions._open import open_model
from medvlm.compositions._stock import StockAnswering
from medvlm.core.errors import CheckpointError, RecipeError, ShapeError
from medvlm.core.lora_config import Lora
from medvlm.core.run import RunFolder
from medvlm.core.stage_config import Merge
from medvlm.export.proof import parity
from medvlm.models import lora
from medvlm.models.lora import drop_adapters
from medvlm.recipe.load import load
from tests.export.conftest import prove_here
from tests.tiny_run import INSTRUCT, PAIR, recipe, trained, weights, written

SHORT = {**{k: v for k, v in INSTRUCT.items() if k != "lora"}, "steps": 2, "save_every": 0}
ALIGN = {**SHORT, "name": "align", "trains": ["connectors", "language"]}
ADAPT = {**SHORT, "trains": ["lora"], "optim": {"lr": 0.1}}
REPORTS = {**ADAPT, "name": "reports", "trains": ["lora.reports"], "lora": {"name": "reports", "rank": 2}}
COUNTS = {**ADAPT, "name": "counts", "trains": ["lora.counts"], "lora": {"name": "counts", "rank": 3}}
MORE = {**ADAPT, "name": "more", "trains": ["lora.reports"], "steps": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A base, an adapter, another one, and the first one trained further."""
    folder = tmp_path_factory.mktemp("named")
    return trained(written(folder, recipe(name="named", stages=[ALIGN, REPORTS, COUNTS, MORE])), folder / "runs")


def adapters_of(run: RunFolder, stage: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights(run, stage).items() if ".lora_" in name}


def began(run: RunFolder, stage: str) -> dict[str, str]:
    record: dict[str, dict[str, str]] = json.loads((run.stage(stage) / "stage.json").read_text())
    return {module: origin.partition("/")[0] for module, origin in record["from"].items()}


# --- names --------------------------------------------------------------------------------------------------------


def test_the_base_is_the_same_under_every_adapter(run: RunFolder) -> None:
    base = weights(run, "align")
    for stage in ("reports", "counts", "more"):
        found = drop_adapters(weights(run, stage))
        assert found.keys() == base.keys() and all(torch.equal(found[name], base[name]) for name in base), stage


@pytest.mark.slow
def test_another_adapter_begins_without_the_first_one(run: RunFolder) -> None:
    assert {t.shape[0] for n, t in adapters_of(run, "counts").items() if ".lora_A" in n} == {3}
    alone = trained(
        written(run.root.parent.parent / "alone", recipe(name="alone", stages=[ALIGN, COUNTS])), run.root.parent
    )
    found, expected = adapters_of(run, "counts"), adapters_of(alone, "counts")
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in expected)


def test_an_adapter_is_trained_further_from_where_its_own_stage_left_it(run: RunFolder) -> None:
    assert began(run, "more") == {
        "encoders.film": "counts",
        "connectors.film": "counts",
        "language": "counts",
        "lora": "reports",
    }
    before, after = adapters_of(run, "reports"), adapters_of(run, "more")
    moved = max((after[n] - before[n]).abs().max().item() for n in before)
    assert before.keys() == after.keys() and 0 < moved < 0.2, "one step of 0.1 at most"
    assert "lora from reports/step-2@" in "\n".join(describe_lineage(str(run.root)).lines)


def test_an_adapter_is_opened_by_its_name(run: RunFolder) -> None:
    for name, stage in (("lora.counts", "counts"), ("lora.reports", "more")):
        (opened,) = open_model(run.root, name)
        assert opened.identity["stage"] == stage  # type: ignore[index]
    with pytest.raises(
        CheckpointError, match=r"named: no finished stage has an adapter 'count' \(it has counts, reports\)"
    ):
        open_model(run.root, "lora.count")


@pytest.mark.slow
def test_one_folder_has_the_adapters_of_a_run_on_one_base(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is loaded, chosen and compared by peft; the folder of each can be asked."""
    monkeypatch.setattr(parity, "prove", prove_here)
    (receipt,) = export(run, tmp_path / "all", ["adapter"])
    sibling = receipt.parity["adapters"]["counts"]
    assert sibling["passed"] and sibling["adapter_effect"] > 0.01 and sibling["max_abs_logit_diff"] <= 1e-4
    assert {p.parent.name for p in receipt.folder.rglob("adapter_model.safetensors")} == {"all", "counts"}
    assert len(list(receipt.folder.rglob("model.safetensors"))) == 1
    assert "Further adapters on the same base are in subfolders: `counts`" in (receipt.folder / "README.md").read_text()
    for name in ("", "counts"):
        assert isinstance(open_model(receipt.folder / name)[0], StockAnswering)
    (alone,) = export(run, tmp_path / "alone", ["adapter"], "lora.counts")
    assert "adapters" not in alone.parity and not (alone.folder / "reports").exists()
    stored = load_file(alone.folder / "adapter_model.safetensors")
    assert all(
        torch.equal(t, stored[n]) for n, t in load_file(tmp_path / "all/counts/adapter_model.safetensors").items()
    )


@pytest.mark.slow
def test_adapters_on_different_bases_do_not_share_a_folder(run: RunFolder, tmp_path: Path) -> None:
    counts = {**COUNTS, "trains": ["lora.counts", "connectors"], "steps": 1}
    other = trained(written(tmp_path, recipe(name="apart", stages=[ALIGN, {**REPORTS, "steps": 1}, counts])), tmp_path)
    with pytest.raises(
        ShapeError, match=r"the adapter 'reports' was trained on another base \(connectors.film.\S+ differs\)"
    ):
        export(other, tmp_path / "out", ["adapter"])


def refuse(folder: Path, *stages: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as refused:
        load(written(folder, recipe(stages=[ALIGN, *stages])))
    return str(refused.value)


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        (
            [{**REPORTS, "trains": ["lora.report"]}],
            "stages.reports.trains.0: 'lora.report': the adapter of this stage is 'reports'",
        ),
        (
            [{**COUNTS, "lora": {"rank": 2}}],
            "'lora.counts': lora.name gives the adapter no name; a stage trains one adapter",
        ),
        ([MORE], "stages.more.trains: no stage before this one has an adapter 'reports'; add lora: {name: reports}"),
        (
            [REPORTS, {**MORE, "lora": {"name": "reports", "rank": 8}}],
            "stages.more.lora: the adapter 'reports' of an earlier stage has other settings; leave out `lora`",
        ),
        (
            [REPORTS, {**ADAPT, "name": "plain", "lora": {"rank": 2}}],
            "stages.plain.lora: the stage starts from a model with the adapter 'reports', which is kept apart",
        ),
        ([{**REPORTS, "lora": {"name": "a.b"}}], "name is 'a.b': expected letters, digits, - and _"),
        ([{**REPORTS, "lora": {"name": "reports", "start": "pissa"}}], "start: pissa takes weights out of the base"),
        ([{**REPORTS, "lora": {"name": "reports", "tokens": True}}], "tokens changes rows of the base"),
    ],
)
def test_names_that_mean_nothing_are_refused(stages: list[dict[str, Any]], why: str, tmp_path: Path) -> None:
    assert why in refuse(tmp_path, *stages)


# --- merging --------------------------------------------------------------------------------------------------------


def merge_start(run: RunFolder, name: str, origin: Any, *before: dict[str, Any]) -> RunFolder:
    """Of a run whose last stage starts there, and trains an adapter for no more than a tiny step."""
    tune = {**REPORTS, "name": "tuned", "from": origin, "steps": 1}
    path = written(run.root.parent.parent / name, recipe(name=name, stages=[*before, tune]))
    return trained(path, run.root.parent)


def fold(run: RunFolder, stage: str, rank: int) -> dict[str, torch.Tensor]:
    """The weights of a stage with its adapter added, by the formula of LoRA."""
    stored = weights(run, stage)
    whole = drop_adapters(stored)
    for name, a in stored.items():
        if ".lora_A" in name:
            b = stored[name.replace(".lora_A", ".lora_B")]
            layer = f"{name.partition('.lora_A')[0]}.weight"
            whole[layer] = whole[layer] + 32 / rank * b @ a
    return whole


def is_close(run: RunFolder, expected: dict[str, torch.Tensor]) -> None:
    found = drop_adapters(weights(run, "tuned"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_a_merged_start_is_the_weighted_mean_with_adapters_folded_in(run: RunFolder) -> None:
    reports, counts = fold(run, "reports", 2), fold(run, "counts", 3)
    shares = {f"{run.root}:reports": 0.25, f"{run.root}:counts": 0.75}
    merged = merge_start(run, "soup", {"merge": shares})
    is_close(merged, {name: 0.25 * reports[name] + 0.75 * counts[name] for name in reports})
    record = json.loads((merged.stage("tuned") / "stage.json").read_text())["from"]["language"]
    shares_of = {part.partition("/")[0]: part.rpartition(" x ")[2] for part in record.split(" + ")}
    assert shares_of == {"named:reports": "0.25", "named:counts": "0.75"}
    assert any("language from named:counts" in line for line in describe_lineage(str(merged.root)).lines)


@pytest.mark.slow
def test_differences_are_added_onto_a_model(run: RunFolder) -> None:
    align, reports, counts = weights(run, "align"), fold(run, "reports", 2), fold(run, "counts", 3)
    origin = {"merge": {f"{run.root}:reports": 0.5, f"{run.root}:counts": 0.8}, "onto": f"{run.root}:align"}
    merged = merge_start(run, "tasks", origin)
    is_close(
        merged,
        {n: align[n] + 0.5 * (reports[n] - align[n]) + 0.8 * (counts[n] - align[n]) for n in align},
    )


@pytest.mark.slow
def test_models_with_other_modules_are_not_merged(run: RunFolder) -> None:
    """A dual encoder has no language model."""
    pair = {**PAIR, "steps": 1, "save_every": 0}
    with pytest.raises(CheckpointError, match=r"from: not all of .*pair.* have weights of connectors.film"):
        merge_start(run, "unlike", {"merge": {"pair": 0.5, f"{run.root}:align": 0.5}}, pair)


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        (
            {"merge": {"align": 0.5, "reports": 0.4}},
            "the weights of merge sum to 0.9, which would scale the whole model",
        ),
        ({"merge": {"align": 1}}, "merge has one source, so there is nothing to merge"),
        ({"merge": {"align": 0.5, "report": 0.5}}, "from.merge.report: 'report' is no stage, did you mean 'reports'?"),
        ({"merge": {"align": "half"}}, "from.merge.align: expected a number, found 'half'"),
    ],
)
def test_merges_that_mean_nothing_are_refused(origin: Any, why: str, tmp_path: Path) -> None:
    assert why in refuse(tmp_path, REPORTS, {**COUNTS, "from": origin})


def test_a_merged_start_has_no_adapter_to_go_on_with(tmp_path: Path) -> None:
    more = {**ADAPT, "name": "more", "from": {"merge": {"align": 0.5, "reports": 0.5}}}
    assert "has lora, but neither this stage nor an earlier one defines the adapters" in refuse(tmp_path, REPORTS, more)


def test_shares_of_a_merge_sum_to_one() -> None:
    assert Merge(merge={"a": 0.5, "b": 0.8}, onto="c").list_shares() == pytest.approx({"a": 0.5, "b": 0.8, "c": -0.3})
    assert Merge(merge={"a": 0.5, "c": 0.8}, onto="c").list_shares() == pytest.approx({"a": 0.5, "c": 0.5})


def test_weights_without_adapters_are_those_of_the_base() -> None:
    from tests.models.tiny import vlm

    plain, model = vlm(), vlm()
    lora.attach(model, Lora(rank=2, targets=("language", "encoders")), seed=1)
    found = drop_adapters(model.state_dict())
    assert found.keys() == plain.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.state_dict().items())
