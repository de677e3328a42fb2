"""Runs that are cut off, changed, continued and started anew. The undisturbed run is trained once and compared with."""

from __future__ import annotations

import gc
import itertools
import json
import os
import shutil
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm import cli
from medvlm.commands import building
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder
from medvlm.stages.supervised import Supervised
from medvlm.train import checkpoint, loop
from medvlm.train.engine import Engine
from medvlm.train.lease import Lease
from medvlm.train.proof import Proof
from tests.tiny_run import (
    INSTRUCT,
    LANGUAGE,
    PAIR,
    REASON,
    STAGES,
    cut_off,
    differing,
    recipe,
    samples,
    stop_after,
    trace,
    trained,
    weights,
    written,
)

AFTER = 3
"""The step after which processes are killed; the checkpoint they go on from is that of step 2."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    return folder / "runs"


@pytest.fixture(scope="module")
def undisturbed(folder: Path, runs: Path) -> RunFolder:
    return trained(written(folder / "undisturbed", recipe(name="undisturbed")), runs)


@pytest.fixture(scope="module")
def cut(folder: Path, runs: Path, undisturbed: RunFolder) -> RunFolder:
    """Killed once in every stage, each time gone on with by running the same command again; the states in between are
    kept."""
    path = written(folder / "cut", recipe(name="cut"))
    for stage in STAGES:
        cut_off(path, runs, stage, AFTER)
        shutil.copytree(runs / "cut", folder / f"killed-in-{stage}")
    return trained(path, runs)


@pytest.fixture
def killed(folder: Path, runs: Path, cut: RunFolder) -> Callable[[str], Path]:
    """The run as it was when it was killed in a stage, under the name `again`."""

    def restore(stage: str) -> Path:
        shutil.rmtree(runs / "again", ignore_errors=True)
        shutil.copytree(folder / f"killed-in-{stage}", runs / "again")
        return written(folder / "again", recipe(name="again"))

    return restore


def again(undisturbed: RunFolder, folder: Path, name: str = "copy") -> RunFolder:
    """A copy of the finished run."""
    to = undisturbed.root.with_name(name)
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(undisturbed.root, to)
    return RunFolder(to)


# --- before the first step --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"trains": ["connectors", "lora", "language.*.nothing"]}, "'language.*.nothing'"),
        (
            {"lora": {"targets": ["language.*.nothing_proj"]}},
            r"stages\.instruct\.lora\.targets: 'language\.\*\.nothing_proj' matches no linear layer",
        ),
        ({"lora": {"tokens": True}}, r"stages\.instruct\.lora\.tokens"),
        ({"optim": {"lr_of": {"language.nothing": 1.0e-5}}}, "language.nothing"),
    ],
)
def test_what_a_later_stage_cannot_train_is_said_before_the_first_one_begins(
    changes: dict[str, Any], why: str, folder: Path, runs: Path
) -> None:
    path = written(folder / "later", recipe(name="later", stages=[PAIR, {**INSTRUCT, **changes}]))
    with pytest.raises(RecipeError, match=why):
        trained(path, runs)
    assert not (runs / "later" / "pair").exists()


def test_a_stage_is_gone_before_the_next_one_is_built(
    folder: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[weakref.ref[Any]] = []

    def started(model: Any, *args: Any) -> Any:
        assert [ref() for ref in built] == [None] * len(built), "its memory would be missing on a GPU"
        built.append(weakref.ref(model))
        return put_start(model, *args)

    put_start = building.put_start
    monkeypatch.setattr(building, "put_start", started)
    gc.disable()  # whatever the collector would do by chance
    try:
        trained(
            written(
                folder / "gone",
                recipe(
                    name="gone",
                    stages=[
                        {**stage, "steps": 1, "save_every": 0}
                        for stage in (PAIR, INSTRUCT, {**INSTRUCT, "name": "more"})
                    ],
                ),
            ),
            runs,
        )
    finally:
        gc.enable()
    assert len(built) == 3


# --- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_takes_the_same_samples_and_has_the_same_losses_and_weights_to_the_last_bit(
    stage: str, undisturbed: RunFolder, cut: RunFolder
) -> None:
    assert samples(cut, stage) == samples(undisturbed, stage) and len(set(samples(cut, stage))) == 6
    assert trace(cut, stage) == trace(undisturbed, stage)
    assert differing(weights(cut, stage), weights(undisturbed, stage)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_it_was_killed_in_the_middle_of_the_stage(stage: str, folder: Path, cut: RunFolder) -> None:
    """What the test above says nothing about if the process had ended by itself or begun anew."""
    left = RunFolder(folder / f"killed-in-{stage}")
    assert [step for step, *_ in trace(left, stage)] == [1, 2, 3] and not (left.stage(stage) / "stage.json").exists()
    assert [p.name for p in left.stage(stage).iterdir() if p.name != "rollouts"] == ["step-2"]


def test_without_the_state_of_the_stream_the_samples_are_others(
    killed: Callable[[str], Path], runs: Path, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: the comparison fails when the checkpoint does not say how many samples were used."""
    read = checkpoint.read_state
    monkeypatch.setattr(loop.checkpoint, "read_state", lambda folder: {**read(folder), "consumed": 0})
    run = trained(killed("instruct"), runs, only="instruct")
    assert samples(run, "instruct")[:2] == samples(undisturbed, "instruct")[:2]
    assert samples(run, "instruct")[2:] == samples(undisturbed, "instruct")[:4], "it began the stream again"
    assert differing(weights(run, "instruct"), weights(undisturbed, "instruct"))


@pytest.mark.parametrize("stage", ["pair", "instruct"])
def test_without_the_random_state_the_losses_are_others(
    stage: str, killed: Callable[[str], Path], runs: Path, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: dropout (of the text tower, of the adapters) follows the random state of the checkpoint."""
    monkeypatch.setattr(checkpoint, "set_random_state", lambda state: None)
    run = trained(killed(stage), runs, only=stage)
    assert samples(run, stage) == samples(undisturbed, stage)
    assert (
        trace(run, stage)[:2] == trace(undisturbed, stage)[:2] and trace(run, stage)[2] != trace(undisturbed, stage)[2]
    )
    assert differing(weights(run, stage), weights(undisturbed, stage))


def test_without_the_state_of_the_optimiser_the_losses_are_others(
    killed: Callable[[str], Path], runs: Path, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Engine.load

    def forgetful(self: Engine, read: Any, names: Any) -> None:
        load(self, read, names)
        self.optimizers[""].state.clear()

    monkeypatch.setattr(Engine, "load", forgetful)
    run = trained(killed("instruct"), runs, only="instruct")
    assert trace(run, "instruct")[3:] != trace(undisturbed, "instruct")[3:]


def test_without_the_place_in_the_schedule_the_losses_are_others(
    killed: Callable[[str], Path], runs: Path, undisturbed: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_rate, begun_anew = loop.set_rate, itertools.count()
    monkeypatch.setattr(
        loop, "set_rate", lambda optimizer, config, step, steps: set_rate(optimizer, config, next(begun_anew), steps)
    )
    run = trained(killed("instruct"), runs, only="instruct")
    assert (
        samples(run, "instruct") == samples(undisturbed, "instruct")
        and trace(run, "instruct")[3:] != trace(undisturbed, "instruct")[3:]
    )
    assert differing(weights(run, "instruct"), weights(undisturbed, "instruct"))


def test_with_all_put_back_the_controls_would_agree(
    killed: Callable[[str], Path], runs: Path, undisturbed: RunFolder
) -> None:
    run = trained(killed("instruct"), runs, only="instruct")
    assert trace(run, "instruct") == trace(undisturbed, "instruct")


@pytest.mark.slow
def test_what_a_process_did_before_a_stage_does_not_reach_into_it(
    folder: Path, runs: Path, undisturbed: RunFolder
) -> None:
    """As after a kill before the first checkpoint of a stage: it begins with another random state of the process."""
    torch.manual_seed(12345)
    run = again(undisturbed, folder)
    trained(written(folder / "copy", recipe(name="copy")), runs, again_from="instruct")
    for stage in ("instruct", "reason"):
        assert trace(run, stage) == trace(undisturbed, stage)
    assert {p.name for p in run.root.glob("*.old-*")} == {"instruct.old-1", "reason.old-1"}


def test_a_part_that_never_gets_a_gradient_does_not_stop_a_run_from_going_on(folder: Path, runs: Path) -> None:
    """SigLIP's pooling head in a stage that trains the tower below the language model; tied embeddings too."""
    model = {
        "encoders": recipe()["model"]["encoders"],
        "language": {"kind": "causal", "config": {**LANGUAGE, "tie_word_embeddings": True}, "vocabulary": 512},
    }
    whole = {
        **{k: v for k, v in INSTRUCT.items() if k != "lora"},
        "name": "whole",
        "trains": ["encoders", "connectors", "language"],
    }
    straight = trained(written(folder / "whole", recipe(name="whole", model=model, stages=[whole])), runs)
    path = written(folder / "stopped", recipe(name="stopped", model=model, stages=[whole]))
    stop_after(path, runs, 3)
    run = trained(path, runs)
    assert (
        trace(run, "whole") == trace(straight, "whole")
        and differing(weights(run, "whole"), weights(straight, "whole")) == []
    )


# --- told to stop ----------------------------------------------------------------------------------------


def test_a_run_that_is_told_to_stop_saves_says_so_and_goes_on_as_if_nothing_had_been(
    folder: Path, runs: Path, undisturbed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(folder / "told", recipe(name="told", stages=[PAIR]))
    assert stop_after(path, runs, 3) == 75
    # The wish is read once a step: the step after the signal is still done.
    assert "stage pair saved at step 4; run the same command again to resume" in capsys.readouterr().err
    run = RunFolder(runs / "told")
    assert json.loads(run.status.read_text())["status"] == "preempted" and (run.stage("pair") / "step-4").is_dir()
    assert trained(path, runs) == run and json.loads(run.status.read_text())["status"] == "done"
    assert trace(run, "pair") == trace(undisturbed, "pair")


# --- finished, changed, started anew -----------------------------------------------------------------------


def stamps(run: RunFolder) -> dict[str, int]:
    return {
        str(p): p.stat().st_mtime_ns
        for p in run.root.rglob("*")
        if p.is_file() and p.parent.parent != run.root and p.parent != run.root
    }


def test_a_finished_stage_is_not_run_twice(
    folder: Path, runs: Path, undisturbed: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stamps(undisturbed), undisturbed.metrics.read_text()
    trained(folder / "undisturbed" / "recipe.yaml", runs)
    assert (stamps(undisturbed), undisturbed.metrics.read_text()) == before
    assert [line for line in capsys.readouterr().out.splitlines() if "reused" in line] == [
        f"stage {n}/3 {stage}: already finished, reused" for n, stage in enumerate(STAGES, 1)
    ]


CHANGES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a setting of the stage": ({"stages": [{**PAIR, "batch": 4}, INSTRUCT, REASON]}, ()),
    "the seed": ({"seed": 8}, ()),
    "the model": ({}, ("model.boxes.scale=50",)),
    "augmentation": ({}, ("data.films.augment={noise: 0.1}",)),
    "the precision": ({}, ("engine.precision=bf16-mixed",)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_finished_stage_with_other_settings_is_refused_with_what_to_do(
    change: str, folder: Path, runs: Path, undisturbed: RunFolder
) -> None:
    again(undisturbed, folder)
    changes, overrides = CHANGES[change]
    with pytest.raises(
        CheckpointError,
        match=(
            r"stage pair is finished, but its settings, data or starting weights have changed since; .*--from pair, or"
            r" give the recipe another name"
        ),
    ):
        trained(written(folder / "copy", recipe(name="copy", **changes)), runs, *overrides)


def test_other_data_are_refused_too(folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    from tests.tiny_run import CARD

    again(undisturbed, folder)
    card = {**CARD, "reader": {**CARD["reader"], "films": 61}}  # type: ignore[dict-item]
    with pytest.raises(
        CheckpointError, match="stage pair is finished, but its settings, data or starting weights have changed"
    ):
        trained(written(folder / "copy", recipe(name="copy"), card), runs)


def test_what_decides_nothing_may_change(folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    again(undisturbed, folder)
    trained(
        written(folder / "copy", recipe(name="copy")),
        runs,
        "stages.0.save_every=5",
        "engine.workers=0",
        "evaluate.bootstrap=7",
    )


def test_an_unfinished_stage_with_other_settings_is_refused_with_what_to_do(
    killed: Callable[[str], Path], runs: Path
) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"instruct/step-2 was trained with other settings, data or starting weights; .*--from instruct",
    ):
        trained(killed("instruct"), runs, "stages.1.optim.lr=0.5")


def test_a_changed_stage_is_trained_anew_from_where_it_is_told_and_the_ones_before_are_kept(
    folder: Path, runs: Path, undisturbed: RunFolder
) -> None:
    run = again(undisturbed, folder)
    kept = stamps(RunFolder(run.stage("pair")))
    trained(
        written(folder / "copy", recipe(name="copy", stages=[PAIR, {**INSTRUCT, "steps": 4}, REASON])),
        runs,
        again_from="instruct",
    )
    assert stamps(RunFolder(run.stage("pair"))) == kept and samples(run, "pair") == samples(undisturbed, "pair")
    assert [s for s, *_ in trace(run, "instruct")] == [1, 2, 3, 4] and [s for s, *_ in trace(run, "reason")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    starts = json.loads((run.stage("reason") / "stage.json").read_text())["from"]
    assert starts["language"].startswith("instruct/step-4@")


def test_a_run_that_is_trained_anew_from_its_first_stage_makes_its_tokenizer_anew(
    folder: Path, runs: Path, undisturbed: RunFolder
) -> None:
    """Otherwise another `vocabulary` would be taken and not followed."""
    run = again(undisturbed, folder)
    path = written(folder / "copy", recipe(name="copy"))
    with pytest.raises(CheckpointError, match="--from pair"):
        trained(path, runs, "model.language.vocabulary=420", again_from="instruct")
    trained(path, runs, "model.language.vocabulary=420", only="pair", again_from="pair")
    assert weights(run, "pair")["text.tower.embeddings.word_embeddings.weight"].shape[0] == 420


def test_one_process_may_be_told_to_be_ddp(folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    try:
        run = trained(written(folder / "ddp", recipe(name="ddp")), runs, "engine.kind=ddp", only="pair")
    finally:
        torch.distributed.destroy_process_group()
    assert trace(run, "pair") == trace(undisturbed, "pair")


@pytest.mark.parametrize("flag", ["only", "again_from"])
def test_a_stage_that_is_not_there_is_refused(flag: str, folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    with pytest.raises(RecipeError, match=r"align: there is no such stage \(stages: pair, instruct, reason\)"):
        trained(folder / "undisturbed" / "recipe.yaml", runs, **{flag: "align"})


def test_a_stage_whose_start_is_not_finished_is_refused(folder: Path, runs: Path) -> None:
    with pytest.raises(
        CheckpointError, match="stage reason starts from instruct, which is not finished; train that stage first"
    ):
        trained(written(folder / "alone", recipe(name="alone")), runs, only="reason")


def test_two_processes_do_not_write_into_one_run(folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    with (
        Lease(undisturbed.root),
        pytest.raises(CheckpointError, match="undisturbed: another process is training this run"),
    ):
        trained(folder / "undisturbed" / "recipe.yaml", runs)


# --- what is handed on -------------------------------------------------------------------------------------


def frozen_weights(a: RunFolder, stage: str, b: RunFolder, other: str, module: str) -> bool:
    left, right = weights(a, stage), weights(b, other)
    names = [n for n in left if n.startswith(module + ".") and ".lora_" not in n]
    assert names
    return all(torch.equal(left[n], right[n]) for n in names)


def test_frozen_parts_are_handed_on_to_the_last_bit_and_trained_ones_have_moved(undisturbed: RunFolder) -> None:
    assert frozen_weights(undisturbed, "instruct", undisturbed, "pair", "encoders.film")
    assert frozen_weights(undisturbed, "reason", undisturbed, "instruct", "encoders.film") and frozen_weights(
        undisturbed, "reason", undisturbed, "instruct", "language"
    )
    assert any(
        "connectors.film" in n for n in differing(weights(undisturbed, "reason"), weights(undisturbed, "instruct"))
    )


def test_the_record_of_a_stage_says_what_it_trained_what_it_froze_and_where_it_began(undisturbed: RunFolder) -> None:
    record = json.loads((undisturbed.stage("instruct") / "stage.json").read_text())
    pair = json.loads((undisturbed.stage("pair") / "stage.json").read_text())
    assert record["trains"].keys() == {"connectors.film", "lora"} and all(t["moved"] for t in record["trains"].values())
    assert record["frozen"].keys() == {"encoders.film", "language"}
    assert record["from"] == {"encoders.film": f"pair/step-6@{pair['checkpoint']}"}, (
        "the connector and the language model began with their seed"
    )
    assert pair["checkpoint"] == checkpoint.digest(undisturbed.stage("pair") / "step-6") and pair["take"] == "step-6"
    assert json.loads(undisturbed.lineage.read_text())["stages"]["instruct"]["from"] == record["from"]
    assert record["scales"][0].startswith("film: 96 x 96 px of 3.33 x 3.33 mm in the file, 32 x 32 px of 10 x 10 mm")
    assert "labelled boxes become smaller than a patch (16 x 16 px)" in record["scales"][1]


def test_each_module_starts_from_the_stage_that_is_named_for_it(
    folder: Path, runs: Path, undisturbed: RunFolder
) -> None:
    """Two stages train the connector and the adapters; the third takes the connector of the first and the rest of the
    second."""
    short = {**INSTRUCT, "lora": {"rank": 2, "alpha": 4}, "steps": 2, "save_every": 0}
    third = {**short, "name": "c", "from": {"connectors": "a", "language": "b"}, "trains": ["lora"]}
    stages = [{**short, "name": "a"}, {**short, "name": "b", "batch": 4}, third]
    run = trained(written(folder / "per-module", recipe(name="per-module", stages=stages)), runs)
    assert frozen_weights(run, "c", run, "a", "connectors.film") and not frozen_weights(
        run, "b", run, "a", "connectors.film"
    )
    starts = json.loads((run.stage("c") / "stage.json").read_text())["from"]
    assert {module: origin.partition("/")[0] for module, origin in starts.items()} == {
        "connectors.film": "a",
        "language": "b",
        "encoders.film": "b",
    }


def test_other_adapters_are_put_on_after_the_earlier_ones_are_folded_in(folder: Path, runs: Path) -> None:
    short = {**INSTRUCT, "lora": {"rank": 2, "alpha": 4}, "steps": 2, "save_every": 0}
    stages = [{**short, "name": "a"}, {**short, "name": "b", "lora": {"rank": 3, "alpha": 3}}]
    run = trained(written(folder / "refitted", recipe(name="refitted", stages=stages)), runs)
    before, after = weights(run, "a"), weights(run, "b")
    name = "language.model.layers.0.self_attn.q_proj"
    a, b = (before[f"{name}.lora_{x}.default.weight"] for x in "AB")
    torch.testing.assert_close(
        after[f"{name}.base_layer.weight"], before[f"{name}.base_layer.weight"] + 2.0 * b @ a, rtol=1e-5, atol=1e-7
    )
    assert after[f"{name}.lora_A.default.weight"].shape[0] == 3


# --- validation ----------------------------------------------------------------------------------------------


def validations(run: RunFolder, stage: str) -> dict[int, float]:
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    return {r["step"]: r["validation"]["loss"] for r in records if r["stage"] == stage and "validation" in r}


@pytest.fixture(scope="module")
def overfitted(folder: Path, runs: Path) -> RunFolder:
    """A rate that makes it worse from some step on: 12 steps at most, stopped after two validations without a better
    loss."""
    stage = {
        **INSTRUCT,
        "batch": 4,
        "steps": 12,
        "save_every": 3,
        "validate": {"every": 1, "samples": 4, "patience": 2},
        "keep": "best",
        "optim": {"lr": 0.5, "schedule": "constant"},
    }
    return trained(written(folder / "overfitted", recipe(name="overfitted", stages=[stage])), runs)


def test_a_stage_stops_when_validation_gets_no_better_and_hands_on_its_best(overfitted: RunFolder) -> None:
    losses, record = (
        validations(overfitted, "instruct"),
        json.loads((overfitted.stage("instruct") / "stage.json").read_text()),
    )
    best = min(losses, key=lambda step: losses[step])
    assert record["step"] == max(losses) == best + 2 < 12 and best > 1
    assert all(moved["moved"] for moved in record["trains"].values()), (
        "proven, though it ended before the step of the proof"
    )
    assert checkpoint.list_saved_steps(overfitted.stage("instruct")) == [best, best + 1, best + 2]
    assert record["take"] == f"step-{best}" and (overfitted.stage("instruct") / f"step-{best}").is_dir()
    state = checkpoint.read_state(overfitted.stage("instruct") / f"step-{record['step']}")
    assert state["best_loss"] == losses[best] and state["best_step"] == best


def test_validating_changes_nothing_in_training(folder: Path, runs: Path, undisturbed: RunFolder) -> None:
    stages = [
        {**PAIR, "validate": {"every": 1, "samples": 4}},
        {**INSTRUCT, "validate": {"every": 2, "samples": 4}},
        {**REASON, "validate": {"every": 2, "samples": 4}},
    ]
    run = trained(written(folder / "validated", recipe(name="validated", stages=stages)), runs)
    for stage, expected in zip(STAGES, ([1, 2, 3, 4, 5, 6], [2, 4, 6], [2, 4, 6]), strict=True):
        assert trace(run, stage) == trace(undisturbed, stage) and list(validations(run, stage)) == expected


# --- proof ---------------------------------------------------------------------------------------------------


def test_a_module_that_the_stage_cannot_reach_is_refused_after_a_few_steps(folder: Path, runs: Path) -> None:
    reading = {**INSTRUCT, "shows": ["report"], "trains": ["language", "connectors"], "save_every": 0}
    del reading["lora"]
    with pytest.raises(
        RecipeError, match=r"stages.instruct.trains: connectors.film got no gradient in the first 6 steps"
    ):
        trained(written(folder / "unreached", recipe(name="unreached", stages=[reading])), runs)
    assert json.loads((runs / "unreached" / "status.json").read_text()) == {
        "status": "failed",
        "reason": "RecipeError",
        "pid": os.getpid(),
        "job": "",
    }


def test_gradients_that_were_seen_before_a_kill_count_afterwards(
    killed: Callable[[str], Path], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a run goes on for a last few steps in which a rare medium does not come, or no answer earns more than
    another."""
    monkeypatch.setattr(Proof, "note_gradients", lambda self, _: sorted(self.with_gradient))
    run = trained(killed("instruct"), runs, only="instruct")
    assert json.loads((run.stage("instruct") / "stage.json").read_text())["trains"]["lora"]["moved"]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bfloat16_runs_go_through_and_resume(precision: str, folder: Path, runs: Path) -> None:
    name = precision.replace("-", "_")
    stages = [{**PAIR, "steps": 3}, {**INSTRUCT, "steps": 4}, {**REASON, "group": 16, "steps": 3}]
    straight = trained(written(folder / name, recipe(name=name, stages=stages)), runs, f"engine.precision={precision}")
    shutil.rmtree(runs / "again", ignore_errors=True)
    shutil.copytree(straight.root, runs / "again")
    left = RunFolder(runs / "again").stage("instruct")
    shutil.rmtree(left / "step-4")
    (left / "stage.json").unlink()
    run = trained(
        written(folder / "again", recipe(name="again", stages=stages)),
        runs,
        f"engine.precision={precision}",
        only="instruct",
    )
    assert (
        trace(run, "instruct") == trace(straight, "instruct")
        and differing(weights(run, "instruct"), weights(straight, "instruct")) == []
    )
    kept = {t.dtype for t in weights(run, "instruct").values() if t.is_floating_point()}
    assert kept == ({torch.bfloat16} if precision == "bf16-true" else {torch.bfloat16, torch.float32})
    trained_dtypes = {t.dtype for n, t in weights(run, "instruct").items() if n.startswith("connectors.")}
    assert trained_dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}


# --- the way of a call ---------------------------------------------------------------------------------------


def test_few_calls_lie_between_the_command_and_the_loss(
    folder: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """main, the command, train, the loop, its step, the gradient, the loss: what a traceback of a stage shows."""
    loss, seen = Supervised.compute_loss, list[list[str]]()

    def noted(self: Any, model: Any, micro: Any, step: int) -> Any:
        frames = [f"{frame.filename}: {frame.name}" for frame in traceback.extract_stack()]
        seen.append([frame for frame in frames if frame.startswith(str(Path(cli.__file__).parent))])
        return loss(self, model, micro, step)

    monkeypatch.setattr(Supervised, "compute_loss", noted)
    path = written(folder / "near", recipe(name="near", stages=[{**INSTRUCT, "steps": 1, "save_every": 0}]))
    assert cli.main(["train", str(path), "--runs", str(runs)]) == 0
    assert seen and all(len(frames) == 6 for frames in seen), "with the loss itself seven:\n" + "\n".join(seen[0])
