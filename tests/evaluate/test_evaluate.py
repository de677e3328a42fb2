from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
import pytest

from medvlm.core.ask import CutAnswer
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.protocols import Row, Split, ignore_progress
from medvlm.core.run import RunFolder
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.core.tasks import is_scored
from medvlm.evaluate.pieces import KeptPieces
from medvlm.evaluate.protocols._majority import fit_majority
from medvlm.evaluate.run import evaluate
from medvlm.evaluate.saved import rescore
from medvlm.evaluate.table import format_table
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardSet, ShardWriter
from medvlm.scoring import medevalkit
from medvlm.tasks._matching import iou
from medvlm.tasks.boxes import parse
from tests.evaluate.toy import NOISE, Noisy, is_noisy, make_sample, scaled, write_shards

SAMPLES = [make_sample("test", i)[0] for i in range(200)]
TRAIN = [make_sample("train", i)[0] for i in range(300)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    return write_shards(tmp_path_factory.mktemp("toy"), {"train": 300, "test": 200})


def is_asked(question: Question) -> bool:
    return is_scored(question.truth)


def of(shards: ShardSet, *splits: str) -> list[tuple[str, int]]:
    return [(split, i) for split in splits for i in range(shards.count(split))]


def run_it(answerer: Noisy, shards: ShardSet, folder: Path, **changed: Any) -> list[Row]:
    settings: dict[str, Any] = {"dataset": "toy", "split": "test", "resamples": 200, **changed}
    places, training = settings.pop("places", None) or of(shards, "test"), settings.pop("training", None)
    return evaluate(
        [answerer],
        shards,
        places=places,
        training=lambda: of(shards, "train") if training is None else training,
        out=RunFolder(folder),
        **settings,
    )


@pytest.fixture(scope="module")
def done(shards: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Row], Noisy]:
    folder, answerer = tmp_path_factory.mktemp("run"), Noisy()
    rows = run_it(answerer, shards, folder, rewards={"choice": 0.8, "count": 0.8, "format": 0.2}, resamples=1000)
    return folder, {f"{row['task']} {row['metric']}": row for row in rows}, answerer


def noisy_share(template: str) -> float:
    return float(np.mean([is_noisy(sample.key, template) for sample in SAMPLES]))


def answers_to(template: str, samples: list[Sample]) -> list[str]:
    return [q.truth.answer for s in samples for q in s.questions if q.template == template]


def test_each_question_is_asked_once_by_the_model_and_once_by_each_baseline(
    done: tuple[Path, dict[str, Row], Noisy],
) -> None:
    times = Counter(
        (key, template, "media" if shown == "media" else "none" if shown == "none" else "other")
        for key, template, shown in done[2].asked
    )
    expected = {(s.key, q.template, how) for s in SAMPLES for q in s.questions for how in ("media", "none", "other")}
    assert set(times) == expected
    assert set(times.values()) == {1}


def test_values_are_what_the_mistakes_make_them(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    """The answerer errs on known questions: by a wrong word, by 2, by a box elsewhere, by an axis of no text."""
    rows = done[1]
    short = ("side", "place", "closed:hilum")
    for template in short:
        assert rows[f"vqa accuracy:{template}"]["value"] == pytest.approx(1 - noisy_share(template))
    assert rows["vqa accuracy"]["value"] == pytest.approx(1 - np.mean([noisy_share(t) for t in short]))
    assert rows["vqa accuracy"]["value"] == pytest.approx(1 - NOISE, abs=0.06)
    assert rows["vqa accuracy_closed"]["value"] == pytest.approx(
        1 - np.mean([noisy_share("side"), noisy_share("closed:hilum")])
    )
    assert rows["vqa accuracy_open"]["value"] == pytest.approx(1 - noisy_share("place"))
    assert rows["count mae"]["value"] == pytest.approx(2 * noisy_share("count:nodule"))
    assert rows["count exact"]["value"] == pytest.approx(1 - noisy_share("count:nodule"))
    assert rows["count unreadable"]["value"] == 0
    assert (
        rows["boxes hit_rate"]["value"]
        == rows["boxes mean_iou:boxes:nodule"]["value"]
        == pytest.approx(1 - noisy_share("boxes:nodule"))
    )
    assert rows["retrieval image_to_text_top1"]["value"] == pytest.approx(1 - noisy_share("retrieval"))
    assert rows["retrieval text_to_image_top1"]["value"] == 1


def test_every_row_says_how_many_questions_it_is_about(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    rows = done[1]
    assert rows["vqa accuracy"]["n"] == 600
    assert rows["vqa accuracy_closed"]["n"] == 400
    assert (
        rows["vqa accuracy:side"]["n"]
        == rows["count mae"]["n"]
        == rows["boxes mean_iou"]["n"]
        == rows["retrieval image_to_text_top1"]["n"]
        == 200
    )
    assert rows["retrieval text_to_image_top1"]["n"] == 6


def test_majority_is_the_best_constant_of_train(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    rows = done[1]
    for template in ("side", "place", "closed:hilum"):
        constant = Counter(answers_to(template, TRAIN)).most_common(1)[0][0]
        found = rows[f"vqa accuracy:{template}"]["baselines"]["majority"]
        assert found == pytest.approx(np.mean([a == constant for a in answers_to(template, SAMPLES)]), abs=1e-6)
    counts = [int(a) for a in answers_to("count:nodule", SAMPLES)]
    constant_count = median_low(int(a) for a in answers_to("count:nodule", TRAIN))
    assert rows["count mae"]["baselines"]["majority"] == pytest.approx(
        np.mean([abs(n - constant_count) for n in counts])
    )
    assert rows["count correlation"]["baselines"]["majority"] == 0


def test_majority_boxes_are_where_most_boxes_of_train_are(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    """60 % of the boxes lie left: the constant is one of those, and scores what that box scores."""
    lines = [json.loads(line) for line in RunFolder(done[0]).answers.read_text().splitlines()]
    (constant,) = {line["majority"] for line in lines if line["task"] == "boxes"}
    (box,) = parse(constant) or []
    assert box[2] < 500
    truths = [scaled(q.truth).boxes[0] for s in SAMPLES for q in s.questions if q.truth.task == "boxes"]
    assert done[1]["boxes mean_iou"]["baselines"]["majority"] == pytest.approx(
        np.mean([iou(box, truth) for truth in truths]), abs=1e-6
    )


def test_blind_and_shuffled_know_nothing_of_this_image(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    """Blind says `left`; shuffled names the other sample's side: 0.7 times the agreement of two random samples."""
    side = done[1]["vqa accuracy:side"]["baselines"]
    left = np.mean([a == "left" for a in answers_to("side", SAMPLES)])
    assert side["blind"] == pytest.approx(left)
    assert side["shuffled"] == pytest.approx(0.7 * (left**2 + (1 - left) ** 2), abs=0.08)


def test_retrieval_is_compared_with_chance(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    row = done[1]["retrieval image_to_text_top1"]
    assert row["baselines"] == {"chance": pytest.approx(1 / 6, abs=1e-6)}
    assert row["paired"] is not None and row["paired"]["difference"] == pytest.approx(row["value"] - 1 / 6, abs=1e-6)


def test_the_reward_is_the_composer_s(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    """Sides: right gets 1, `neither` 0. Counts: 2 too many gets 0.8 * (1 - 2 / max(1, n)) + 0.2. Boxes: format alone,
    always kept."""
    rows = done[1]
    scores = []
    for sample in SAMPLES:
        n = int(answers_to("count:nodule", [sample])[0])
        scores.append(0.8 * max(0, 1 - 2 / max(1, n)) + 0.2 if is_noisy(sample.key, "count:nodule") else 1)
        scores.append(0 if is_noisy(sample.key, "side") else 1)
        scores.append(1)
    assert rows["reward total"]["value"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert rows["reward choice"]["n"] == 200
    assert rows["reward total"]["n"] == rows["reward format"]["n"] == 600


def test_intervals_hold_the_value_and_the_truth(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    for name, row in done[1].items():
        assert row["ci"] and row["ci"][0] <= row["value"] <= row["ci"][1], name
    low, high = done[1]["vqa accuracy"]["ci"] or (0.0, 0.0)
    assert low < 1 - NOISE < high
    assert 0.04 < high - low < 0.12


def test_the_paired_difference_is_from_the_strongest_baseline(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    for name in ("vqa accuracy", "count mae", "boxes mean_iou", "reward total"):
        row = done[1][name]
        strongest = (min if name == "count mae" else max)(row["baselines"].values())
        assert row["paired"] is not None
        assert row["baselines"][row["paired"]["against"]] == strongest
        assert row["paired"]["difference"] == pytest.approx(row["value"] - strongest, abs=2e-6)
    mae = done[1]["count mae"]["paired"]
    assert mae is not None and mae["ci"] and mae["ci"][1] < 0, "fewer errors than the constant"


def test_saved_answers_score_bit_equal_without_the_model(
    done: tuple[Path, dict[str, Row], Noisy], tmp_path: Path
) -> None:
    shutil.copytree(RunFolder(done[0]).answers.parent, tmp_path / "elsewhere")
    assert (
        rescore(tmp_path / "elsewhere") == json.loads(RunFolder(done[0]).results.read_text()) == list(done[1].values())
    )


def test_the_rows_of_one_model_are_those_of_the_protocols_that_asked_it(
    done: tuple[Path, dict[str, Row], Noisy],
) -> None:
    rows = list(done[1].values())
    folder = RunFolder(done[0]).answers.parent
    assert rescore(folder, ["embed"]) == [row for row in rows if row["task"] == "retrieval"]
    assert rescore(folder, ["answer"]) == [row for row in rows if row["task"] != "retrieval"]


def test_a_changed_answer_changes_the_score(done: tuple[Path, dict[str, Row], Noisy], tmp_path: Path) -> None:
    shutil.copytree(RunFolder(done[0]).answers.parent, tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "answers.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    at = next(n for n, line in enumerate(lines) if line["template"] == "side" and line["answer"] == "neither")
    lines[at]["answer"] = lines[at]["truth"]["answer"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = [row for row in rescore(path.parent) if row["metric"] == "accuracy:side"]
    assert row["value"] == pytest.approx(done[1]["vqa accuracy:side"]["value"] + 1 / 200)


def test_lost_lines_are_noticed(done: tuple[Path, dict[str, Row], Noisy], tmp_path: Path) -> None:
    shutil.copytree(RunFolder(done[0]).answers.parent, tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"answers\.jsonl: 999 records of toy:test, expected 1000"):
        rescore(path.parent)
    path.write_text("".join(lines)[:-30])
    with pytest.raises(
        DataError, match=r"answers\.jsonl:1000: damaged \(not JSON\); delete the folder elsewhere, and evaluate again"
    ):
        rescore(path.parent)
    path.with_name("retrieval.jsonl").unlink()
    path.write_text("".join(lines))
    with pytest.raises(DataError, match=r"retrieval\.jsonl: cannot be read"):
        rescore(path.parent)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"records": []}, "records has 0 entries, expected 2"),
        ({"records": [1, 2, 3]}, "records has 3 entries, expected 2"),
        ({"records": {"nonsense": 3}}, "records: 'nonsense' is no protocol of medvlm"),
        ({"records": {"nolab.risk": 3}}, "records: 'nolab.risk' is no protocol of medvlm"),
        ({"seed": "nonsense"}, "0.seed is text, expected a whole number"),
        ({"seed": [7]}, "0.seed is a list"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"resamples": 0}, "resamples is 0, expected 1 to 1000000"),
        ({"resamples": 10**12}, "resamples is 1000000000000, expected 1 to 1000000"),
        ({"resamples": 10**30}, "0.resamples is a number out of range"),
        ({"baselines": None}, "0.baselines is nothing, expected a list"),
        ({"rewards": "choice"}, "0.rewards is text"),
    ],
)
def test_settings_that_no_evaluation_writes_are_refused(
    change: dict[str, Any], why: str, done: tuple[Path, dict[str, Row], Noisy], tmp_path: Path
) -> None:
    shutil.copytree(RunFolder(done[0]).answers.parent, tmp_path / "elsewhere")
    path = tmp_path / "elsewhere" / "protocol.json"
    (settings,) = json.loads(path.read_text())
    path.write_text(json.dumps([settings | change]))
    with pytest.raises(DataError, match=rf"protocol\.json: damaged \({re.escape(why)}.*evaluate again"):
        rescore(path.parent)


def test_the_gallery_has_the_first_samples(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    run = RunFolder(done[0])
    lines = [json.loads(line) for line in run.answers.read_text().splitlines()]
    thumbs = {line["thumb"] for line in lines} - {None}
    assert thumbs == {f"gallery/test{i:04d}.png" for i in range(24)}
    assert all((run.answers.parent / thumb).read_bytes().startswith(b"\x89PNG") for thumb in thumbs)
    first = lines[0]
    assert first["truth"]["task"] == first["task"] and all(
        line["scale"] == ([1000, 1000] if line["task"] == "boxes" else None) for line in lines
    )
    assert {
        "dataset",
        "split",
        "key",
        "template",
        "question",
        "answer",
        "blind",
        "shuffled",
        "majority",
        "score",
        "rewards",
    } <= set(first)
    assert not any("patient" in value for line in lines for value in map(str, line.values()))


def test_the_samples_of_a_patient_are_drawn_together(done: tuple[Path, dict[str, Row], Noisy]) -> None:
    lines = [json.loads(line) for line in RunFolder(done[0]).answers.read_text().splitlines()]
    patient_of = {sample.key: sample.patient for sample in SAMPLES}
    assert len({line["cluster"] for line in lines}) == 100
    assert len({(line["cluster"], patient_of[line["key"]]) for line in lines}) == 100


def test_a_constant_answerer_does_not_beat_the_majority(shards: ShardSet, tmp_path: Path) -> None:
    class Constant(Noisy):
        def _answer(self, ask: Any) -> str:
            return self.blind[ask.question.template]

    for row in run_it(Constant(), shards, tmp_path):
        if row["task"] in ("vqa", "count", "boxes") and row["paired"] and not row["metric"].startswith("correlation"):
            assert row["baselines"]["blind"] == row["baselines"]["shuffled"] == row["value"], row
            gain = row["paired"]["difference"] * (-1 if row["metric"].startswith("mae") else 1)
            assert gain <= 0 or row["paired"]["verdict"] != "better", row


@pytest.mark.parametrize("garbage", ["", "no idea", "[[[", "\ud800", "left right 1 2"])
def test_an_answerer_of_garbage_scores_nothing(shards: ShardSet, tmp_path: Path, garbage: str) -> None:
    class Garbage(Noisy):
        def _answer(self, ask: Any) -> str:
            return garbage

    rows = {f"{row['task']} {row['metric']}": row for row in run_it(Garbage(), shards, tmp_path, limit=20)}
    assert (
        rows["vqa accuracy"]["value"]
        == rows["boxes mean_iou"]["value"]
        == rows["count exact"]["value"]
        == rows["count correlation"]["value"]
        == 0
    )
    assert rows["count unreadable"]["value"] == rows["boxes unreadable"]["value"] == 1
    assert rows["count mae"]["value"] >= rows["count mae"]["baselines"]["majority"]


@pytest.mark.slow
def test_a_right_answer_that_was_cut_counts_as_none_for_every_task(shards: ShardSet, tmp_path: Path) -> None:
    """What is cut may go on to say the opposite. It is kept as it is, and scored the same when it is scored again."""

    class Cut(Noisy):
        def _answer(self, ask: Any) -> str:
            return CutAnswer(super()._answer(ask))

    said: list[str] = []
    rewards = {"choice": 0.8, "count": 0.8, "format": 0.2}
    kept = run_it(Cut(), shards, tmp_path, limit=20, rewards=rewards, say=said.append)
    rows = {f"{row['task']} {row['metric']}": row for row in kept}
    for name in ("vqa accuracy", "vqa f1_open", "boxes mean_iou", "count exact", "reward total"):
        assert rows[name]["value"] == 0 and rows[name]["baselines"]["blind"] == 0, name
        assert rows[name]["baselines"]["majority"] > 0, "the constant is not the model's"
    assert rows["count unreadable"]["value"] == rows["boxes unreadable"]["value"] == 1
    records = [json.loads(line) for line in (tmp_path / "evaluate" / "answers.jsonl").read_text().splitlines()]
    assert all(r["cut"] == ["answer", "blind", "shuffled"] and r["score"] == 0 and r["answer"] for r in records)
    assert said == [
        f"toy:test: {len(records)} answers did not end within evaluate.max_new_tokens; they count as no answer",
        "toy:test: 20 long answers did not end within evaluate.max_new_tokens; what there is of them is compared;"
        " raise it",
    ]
    assert rescore(tmp_path / "evaluate") == kept


@pytest.mark.slow
def test_splits_are_collected_and_replaced(shards: ShardSet, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = run_it(Noisy(), shards, tmp_path, limit=30)
    second = run_it(
        Noisy(),
        shards,
        tmp_path,
        dataset="other",
        split="val",
        places=of(shards, "train"),
        limit=20,
        baselines=["blind"],
    )
    assert json.loads(run.results.read_text()) == [*first, *second]
    again = run_it(Noisy(), shards, tmp_path, limit=10)
    assert json.loads(run.results.read_text()) == [*second, *again]
    lines = [json.loads(line) for line in run.answers.read_text().splitlines()]
    assert Counter((line["dataset"], line["split"]) for line in lines) == {("other", "val"): 100, ("toy", "test"): 50}
    assert sorted(path.name for path in run.answers.parent.iterdir()) == [
        "answers.jsonl",
        "gallery",
        "long_answers.jsonl",
        "protocol.json",
        "results.json",
        "retrieval.jsonl",
    ]


def test_only_the_baselines_that_were_asked_for(shards: ShardSet, tmp_path: Path) -> None:
    answerer = Noisy()
    rows = run_it(answerer, shards, tmp_path, limit=20, baselines=[])
    assert all(not row["baselines"] and row["paired"] is None for row in rows if row["task"] != "retrieval")
    assert {shown for _, _, shown in answerer.asked} == {"media"}


def test_folds_are_evaluated_as_the_test_split(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "folds", {"fold0": 10, "fold1": 8, "fold2": 6})
    rows = run_it(Noisy(), shards, tmp_path / "run", places=of(shards, "fold1", "fold2"), training=of(shards, "fold0"))
    assert {(row["split"], row["n"]) for row in rows if row["metric"] == "mae"} == {("test", 14)}


def test_a_dual_encoder_alone_is_evaluated_on_retrieval(shards: ShardSet, tmp_path: Path) -> None:
    class Dual(Noisy):
        can = frozenset({"embed"})

        def answer(self, asks: Any) -> list[str]:
            raise AssertionError("has no language model")

    assert [row["metric"] for row in run_it(Dual(), shards, tmp_path)] == [
        *(
            f"{way}_top{k}"
            for way in ("image_to_text", "text_to_image")
            for k in (1, 5, 10)
            if k < 6 or "text_to" in way
        ),
        *(f"image_to_image_{what}" for what in ("precision1", "precision5", "precision10", "map")),
    ]  # six texts: the first ten are all of them


def test_without_a_dual_encoder_there_is_no_retrieval(shards: ShardSet, tmp_path: Path) -> None:
    class Language(Noisy):
        can = frozenset({"answer"})

        def embed_media(self, items: Any) -> Any:
            raise AssertionError("has no dual encoder")

    assert "retrieval" not in {row["task"] for row in run_it(Language(), shards, tmp_path, limit=20)}


def test_nothing_to_evaluate_is_said(shards: ShardSet, tmp_path: Path) -> None:
    class Nothing(Noisy):
        can = frozenset()

    with pytest.raises(DataError, match=r"toy:test: the model cannot answer, .*the model cannot embed"):
        run_it(Nothing(), shards, tmp_path)


def test_a_misspelt_baseline_is_refused(shards: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.baselines: unknown baseline 'blimd', did you mean 'blind'"):
        run_it(Noisy(), shards, tmp_path, baselines=["blimd"])


def test_a_benchmark_without_training_samples_has_no_majority_and_says_so(shards: ShardSet, tmp_path: Path) -> None:
    said: list[str] = []
    rows = run_it(Noisy(), shards, tmp_path, training=[], limit=20, say=said.append)
    assert {name for row in rows if row["task"] == "vqa" for name in row["baselines"]} == {"blind", "shuffled"}
    reason = "because there are no training samples"
    assert [line for line in said if reason in line] == [
        f"toy:test: no majority baseline, {reason}",
        f"toy:test: no nearest baseline, {reason}",
    ]


def test_a_published_rule_stands_beside_the_strict_score_and_is_scored_again(shards: ShardSet, tmp_path: Path) -> None:
    rows = run_it(Noisy(), shards, tmp_path, limit=20, scoring=["llava_med", medevalkit.Config(closed="typed")])
    by_rule = {(row["task"], row["metric"]): row for row in rows}
    strict = by_rule["vqa", "accuracy_closed"]
    assert by_rule["llava_med", "accuracy_closed"]["n"] < strict["n"], "sides are no closed questions of LLaVA-Med"
    assert by_rule["medevalkit", "accuracy_closed"]["baselines"].keys() == strict["baselines"].keys()
    assert rescore(tmp_path / "evaluate") == rows
    settings = json.loads((tmp_path / "evaluate" / "protocol.json").read_text())[0]
    assert [rule["kind"] for rule in settings["scoring"]] == ["llava_med", "medevalkit"]
    assert "llava_med: the published rule of LLaVA-Med (arXiv 2306.00890)" in format_table(rows)


def test_progress_ends_at_its_total(shards: ShardSet, tmp_path: Path) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    run_it(
        Noisy(),
        shards,
        tmp_path,
        limit=40,
        progress=lambda what, done, total: seen.setdefault(what, []).append((done, total)),
    )
    own = {"majority", "questions"}
    assert set(seen) == {*own, *(f"{each} for reports" for each in (*own, "nearest")), "retrieval"}
    for steps in seen.values():
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]
    assert seen["questions"][-1] == (200, 200)


def training_of(shards: ShardSet) -> Split:
    return Split(shards, (), lambda: of(shards, "train"), (), {}, 0, Path(), KeptPieces(Path()), ignore_progress)


def test_a_template_that_training_lacks_gets_the_constant_of_its_kind(shards: ShardSet) -> None:
    fitted = fit_majority(Noisy(), training_of(shards), is_asked, None)
    counts = [int(a) for a in answers_to("count:nodule", TRAIN)]
    assert fitted.answer(Question("How many cysts?", make_truth("count", "1", count=1), "count:cyst")) == str(
        median_low(counts)
    )
    short = Counter(a for template in ("side", "place", "closed:hilum") for a in answers_to(template, TRAIN))
    assert fitted.answer(Question("Sure?", make_truth("open", "yes"), "sure")) == short.most_common(1)[0][0]


def test_a_choice_and_an_open_answer_to_one_template_share_their_constant(tmp_path: Path) -> None:
    asked = [
        make_truth("choice", "axial", choices=("axial", "sagittal")),
        make_truth("open", "oblique"),
        make_truth("open", "oblique"),
    ]
    with ShardWriter(tmp_path, "train") as writer:
        writer.write(
            Sample("k", "toy", "train", questions=tuple(Question("Which plane?", truth, "plane") for truth in asked)),
            {},
        )
    made = open_shards(tmp_path)
    fitted = fit_majority(Noisy(), training_of(made), is_asked, None)
    assert fitted.answer(Question("Which plane?", asked[0], "plane")) == "oblique"
    assert fitted.answer(Question("How many?", make_truth("count", "1", count=1), "count")) is None
