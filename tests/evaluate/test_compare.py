"""Two models on the same questions: the difference by patient, the tests, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medvlm import cli
from medvlm.core.ask import Ask
from medvlm.evaluate.compare import Comparison, compare
from medvlm.io.shards import ShardSet
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
    found = compare({name: runs / name / "evaluate" for name in ("noisy", "better", "same")})
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
    found = compare({name: runs / name / "evaluate" for name in ("noisy", "same")})
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
    found = compare({name: tmp_path / name for name in ("noisy", "better")})
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
    found = compare({name: tmp_path / name / "evaluate" for name in "ab"})
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
