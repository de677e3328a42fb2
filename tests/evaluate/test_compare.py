"""Two models on the same questions: the difference by patient, the tests, and the page."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm import cli
from medvlm.commands.compare import split_runs
from medvlm.core.ask import Ask
from medvlm.core.errors import RecipeError
from medvlm.evaluate.compare import Comparison, compare
from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from tests.evaluate.toy import Noisy, evaluate_toy, is_noisy, write_shards

SAMPLES = 60


class Better(Noisy):
    """Errs on half of the questions on which the other one errs, and perceives boxes on another canvas."""

    identity = {"model": "better"}

    def _answer(self, ask: Ask) -> str:
        if ask.shows == "media" and is_kept_right(ask.sample.key):
            files = (ask.media_of or (ask.sample, ask.files))[1]
            self.asked.append((ask.sample.key, ask.question.template, "media"))
            return str(json.loads(files["0.bin"])["answers"][ask.question.template])
        return super()._answer(ask)


def is_kept_right(key: str) -> bool:
    return int(key[-4:]) % 2 == 0


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 20, "test": SAMPLES})


@pytest.fixture(scope="module")
def runs(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, model in (("noisy", Noisy()), ("better", Better()), ("same", Noisy())):
        evaluate_toy(model, shards, folder / name)
    return folder


def find(found: list[Comparison], model: str, metric: str) -> Comparison:
    (one,) = (each for each in found if (each.model, f"{each.task} {each.metric}") == (model, metric))
    return one


def test_the_difference_is_that_of_the_answers_and_its_interval_goes_by_patients(runs: Path) -> None:
    found = compare({name: [runs / name / "evaluate"] for name in ("noisy", "better", "same")})
    one = find(found, "better", "vqa accuracy")
    templates = ("side", "place", "closed:hilum")
    keys = [f"test{i:04d}" for i in range(SAMPLES)]
    right = np.array([[not is_noisy(key, each) for each in templates] for key in keys])
    kept = np.array([is_kept_right(key) for key in keys])[:, None]
    gained = (~right & kept).mean()
    assert one.difference == pytest.approx(gained, abs=1e-6)
    assert one.value - one.against == pytest.approx(gained, abs=2e-6)
    assert (one.n, one.patients, one.left_out) == (3 * SAMPLES, SAMPLES // 2, 0)
    assert one.ci is not None and 0 < one.ci[0] < one.difference < one.ci[1]
    assert one.verdict == "better" and one.holm is not None and one.p <= one.holm < 0.05
    assert one.mcnemar is not None and one.mcnemar < 0.01
    error = find(found, "better", "count mae")
    assert error.difference < 0 and error.better == "lower" and error.mcnemar is None
    boxes = find(found, "better", "boxes mean_iou")
    assert boxes.difference > 0
    part = find(found, "better", "vqa accuracy:side")
    assert part.holm is None and part.verdict == ""


def test_a_model_does_not_differ_from_itself(runs: Path) -> None:
    found = compare({name: [runs / name / "evaluate"] for name in ("noisy", "same")})
    assert {each.difference for each in found} == {0.0}
    assert {each.p for each in found} == {1.0} and {each.verdict for each in found} == {""}
    accuracy = find(found, "same", "vqa accuracy")
    assert accuracy.ci is not None and accuracy.ci[0] == -accuracy.ci[1] and accuracy.mcnemar == 1.0
    assert 0.05 < accuracy.ci[1] < 0.2  # 30 patients who agree do not prove that all do


def test_the_same_numbers_under_two_names_are_one_comparison(runs: Path, tmp_path: Path) -> None:
    """All questions about words are closed here, so the accuracy of the closed ones is the accuracy."""
    for name in ("noisy", "better"):
        shutil.copytree(runs / name / "evaluate", tmp_path / name)
        answers = tmp_path / name / "answers.jsonl"
        answers.write_text(answers.read_text().replace('"template": "place"', '"template": "closed:place"'))
    found = compare({name: [tmp_path / name] for name in ("noisy", "better")})
    closed, both = (find(found, "better", f"vqa {metric}") for metric in ("accuracy_closed", "accuracy"))
    assert closed.difference == both.difference > 0 and (closed.is_headline, closed.holm) == (False, None)
    assert both.is_headline and len([each for each in found if each.is_headline and each.task == "vqa"]) == 1


def test_chance_alone_is_seldom_called_a_difference(shards: ShardSet, tmp_path: Path) -> None:
    """Holm's correction over all headline metrics: a change on one patient proves nothing."""

    class Other(Noisy):
        def _answer(self, ask: Ask) -> str:
            said = super()._answer(ask)
            return "left" if ask.sample.key == "test0001" and ask.question.template == "side" else said

    evaluate_toy(Noisy(), shards, tmp_path / "a")
    evaluate_toy(Other(), shards, tmp_path / "b")
    found = compare({name: [tmp_path / name / "evaluate"] for name in "ab"})
    assert {each.verdict for each in found} == {""}


def test_the_command_writes_a_page_and_a_file(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *(str(runs / name) for name in ("noisy", "better", "same"))]) == 0
    out = capsys.readouterr().out
    assert "compared with noisy" in out and "better\n" in out
    page = (tmp_path / "compare.html").read_text()
    assert "better and same against noisy" in page and "\N{CHECK MARK} better" in page
    assert len(json.loads((tmp_path / "compare.json").read_text())) > 20


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("noisy",), "give at least two runs"),
        (("noisy", "nowhere"), "is not evaluated; run medvlm evaluate"),
        (("noisy", "noisy"), "the same run is given twice"),
    ],
)
def test_what_cannot_be_compared_costs_a_line(
    names: tuple[str, ...], why: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *(str(runs / name) for name in names)]) == 2
    assert why in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_page_is_not_overwritten_by_its_json(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = (str(runs / name) for name in ("noisy", "better"))
    assert cli.main(["compare", *both, "--to", str(tmp_path / "page.json")]) == 2
    assert "names the page, and a JSON file is written beside it; use page.html" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_on_other_data_have_nothing_in_common(
    runs: Path, shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_toy(Noisy(), shards, tmp_path / "other")
    path = tmp_path / "other" / "evaluate"
    for file in path.glob("*.json*"):
        file.write_text(file.read_text().replace('"dataset": "toy"', '"dataset": "another"'))
    assert cli.main(["compare", str(runs / "noisy"), str(tmp_path / "other"), "--to", str(tmp_path / "page.html")]) == 2
    assert "other and noisy have no data set, split and protocol in common" in capsys.readouterr().err


class Seeded(Noisy):
    """Is right on a share of the questions about the side, chosen by its seed; the other answers are Noisy's."""

    def __init__(self, seed: int, share: float):
        super().__init__()
        self.seed, self.share = seed, share
        self.identity = {"seed": seed, "share": share}

    def _answer(self, ask: Ask) -> str:
        if ask.question.template != "side":
            return super()._answer(ask)
        is_right = random.Random(f"{self.seed} {ask.sample.key}").random() < self.share
        return ask.question.truth.answer if is_right else "neither"


def write_seeds(shards: ShardSet, folder: Path, name: str, shares: Sequence[float], **changes: Any) -> list[str]:
    """Evaluated runs whose recipes differ in their seed."""
    for seed, share in enumerate(shares):
        run = folder / f"{name}-{seed}"
        evaluate_toy(Seeded(seed, share), shards, run, protocols=["answers"], baselines=[])
        (run / "recipe.resolved.yaml").write_text(
            yaml.safe_dump({"name": run.name, "seed": seed, "model": name, **changes})
        )
    return [str(folder / f"{name}-{seed}") for seed in range(len(shares))]


def test_a_difference_of_seeds_is_that_of_their_means_and_as_uncertain_as_they_are(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steady = write_seeds(shards, tmp_path, "steady", (0.5, 0.5, 0.5))
    better = write_seeds(shards, tmp_path, "better", (0.9, 0.95, 0.92))
    lucky = write_seeds(shards, tmp_path, "lucky", (0.95, 0.35, 0.4))
    page = tmp_path / "page.html"
    assert cli.main(["compare", *map(",".join, (steady, better, lucky)), "--to", str(page)]) == 0
    out = capsys.readouterr().out
    assert "compared with steady" in out and "(better 3, lucky 3, steady 3)" in out and "one seed" not in out
    rows = json.loads(page.with_suffix(".json").read_text())
    of = {row["model"]: row for row in rows if (row["task"], row["metric"]) == ("vqa", "accuracy:side")}
    for name, folders in (("better", better), ("lucky", lucky)):
        single = [
            next(row for row in json.loads(Path(f, "evaluate", "results.json").read_text())
                 if (row["task"], row["metric"]) == ("vqa", "accuracy:side"))["value"]
            for f in folders
        ]  # fmt: skip
        assert of[name]["values"] == pytest.approx(single) and of[name]["value"] == pytest.approx(
            np.mean(single), abs=2e-6
        )
        assert of[name]["mcnemar"] is None
    width = {name: row["ci"][1] - row["ci"][0] for name, row in of.items()}
    assert width["lucky"] > 2 * width["better"] and of["better"]["ci"][0] > 0 > of["lucky"]["ci"][0]
    assert f"\N{PLUS-MINUS SIGN} {numbers.format_value(np.std(of['lucky']['values'], ddof=1))}" in page.read_text()
    assert cli.main(["compare", steady[0], ",".join(lucky), "--to", str(page)]) == 0
    assert "steady-0: one seed, so its spread over seeds is unknown and in no interval" in capsys.readouterr().out


def test_runs_that_are_not_one_model_with_other_seeds_are_refused(
    shards: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = write_seeds(shards, tmp_path, "a", (0.5, 0.6))
    (c,) = write_seeds(shards, tmp_path, "c", (0.5,), stages=[])
    path = tmp_path / "page.html"

    def refuse(*words: str) -> str:
        assert cli.main(["compare", *words, "--to", str(path)]) == 2 and not path.exists()
        return capsys.readouterr().err

    assert "are not one model with other seeds: their recipes differ in model, stages" in refuse(f"{a},{c}", b)
    shutil.copytree(a, tmp_path / "copy")
    assert "have the same seed (0)" in refuse(f"{a},{tmp_path / 'copy'}", b)
    settings = Path(b, "evaluate", "protocol.json")
    settings.write_text(settings.read_text().replace('"split": "test"', '"split": "val"'))
    for file in Path(b, "evaluate").glob("*.jsonl"):
        file.write_text(file.read_text().replace('"split": "test"', '"split": "val"'))
    assert "a: 1 of its 2 runs are evaluated on toy:test by the protocol answers" in refuse(f"{a},{b}", c)


def test_a_comma_without_a_run_behind_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="names no run before or behind a comma"):
        split_runs("runs/a,")
