"""A recipe is refused if its own cards cannot feed its stages or its evaluation."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from medvlm.cli import main
from medvlm.core.card import load_card
from medvlm.core.content import find_content, list_splits
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.preflight.rehearsal.small_data import make_small_data
from medvlm.recipe.load import find_shipped, load, validate
from medvlm.recipe.packed import require_evaluation, require_samples
from medvlm.recipe.schema import Recipe
from medvlm.recipe.sources import open_sources
from tests import tiny_run

SYSTEMS = sorted(find_shipped("recipes").glob("systems/*.yaml"))
INSTRUCT = {**tiny_run.INSTRUCT, "accumulate": 1}
REPORT = {"text": "Write the report.", "answer": "{findings}", "task": "report", "template": "report"}
SIDE = {"text": "Which side?", "answer": "{side}", "choices": ["left", "right"], "template": "side"}
OBJECTS = {
    "named": "class",
    "corners": ["a", "b", "c", "d"],
    "classes": {"clip": {"one": "clip", "many": "clips"}},
    "boxes": {"wordings": ["Where?"]},
}


def make_card(*questions: dict[str, Any], splits: Any = None, **reader: Any) -> dict[str, Any]:
    medium = {"file": "{path}", "kind": "film"}
    table = {"kind": "table", "file": "films.csv", "key": "{path}", "media": [medium], "questions": [*questions]}
    return {**tiny_run.CARD, "access": "open", "reader": {**table, **reader}, "splits": splits or {"by": "image"}}


def write(folder: Path, card: dict[str, Any], stage: dict[str, Any], on: str = "") -> Path:
    evaluate = {"on": [on]} if on else {}
    return tiny_run.written(folder, tiny_run.recipe(stages=[stage], evaluate=evaluate), card)


def refuse(path: Path) -> str:
    with pytest.raises(RecipeError) as refused:
        load(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("card", "stage", "key", "said"),
    [
        (make_card(), INSTRUCT, "stages.instruct.mix.films", "its card has no questions"),
        (make_card(SIDE), {**INSTRUCT, "tasks": ["report"]}, "stages.instruct.mix.films", "of choice, open, and this"),
        (make_card(REPORT), {**INSTRUCT, "tasks": ["choice", "count"]}, "stages.instruct.mix.films", "only those of"),
        (make_card(objects=OBJECTS), {**INSTRUCT, "tasks": ["count"]}, "stages.instruct.mix.films", "of boxes, and"),
        (
            make_card(report="{a} {b}"),
            {**INSTRUCT, "tasks": ["report"]},
            "stages.instruct.mix.films",
            'questions: [{text: Write the report., answer: "{a} {b}", task: report}]',
        ),
        (
            make_card(SIDE, report="{findings}"),
            {**INSTRUCT, "tasks": ["report", "count"]},
            "stages.instruct.mix.films",
            "to train on its reports, add to the reader in card.yaml: questions: [{text: Write the report.",
        ),
        (make_card(SIDE), tiny_run.PAIR, "stages.pair.mix.films", "no reports, which this stage needs; set `report`"),
        (make_card(SIDE), {**INSTRUCT, "shows": ["report"]}, "stages.instruct.mix.films", "has no reports"),
        (
            {**make_card(SIDE, media=[]), "media": []},
            INSTRUCT,
            "stages.instruct.mix.films",
            "has no media, which this stage shows",
        ),
        (make_card(SIDE), {**INSTRUCT, "rationale": "before"}, "stages.instruct.mix.films", "have no `steps`"),
        (make_card(REPORT), tiny_run.REASON, "stages.reason.mix.films", "this stage asks only those of"),
        ({**make_card(SIDE), "media": ["xray"]}, INSTRUCT, "data.films.card", "reader makes media of kind 'film'"),
        (
            make_card(SIDE, file={"train": "a.csv", "test": "b.csv"}, splits={"by": "column"}),
            {**INSTRUCT, "validate": {"every": 2}},
            "stages.instruct.validate",
            "its card has test, train",
        ),
        (
            make_card(SIDE, split="test", splits={"by": "column"}),
            INSTRUCT,
            "stages.instruct.mix.films",
            "no samples in 'train' (it has test)",
        ),
        (make_card(SIDE, splits={"by": "column"}), INSTRUCT, "stages.instruct.mix.films", "no samples in 'train'"),
    ],
)
def test_a_stage_that_its_card_cannot_feed_is_refused(
    card: dict[str, Any], stage: dict[str, Any], key: str, said: str, tmp_path: Path
) -> None:
    message = refuse(write(tmp_path, card, stage))
    assert key in message and said in message and "recipe.yaml:" in message


def test_a_source_with_nothing_to_evaluate_is_refused(tmp_path: Path) -> None:
    content = tiny_run.recipe(stages=[INSTRUCT], evaluate={"on": ["bare:test"]})
    content["data"]["bare"] = {"card": "bare.yaml"}
    path = tiny_run.written(tmp_path, content)
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(make_card()))
    assert "evaluate.on.0: its card has no question that can be scored" in refuse(path)


def test_reports_alone_may_be_evaluated(tmp_path: Path) -> None:
    path = write(tmp_path, make_card(REPORT), {**INSTRUCT, "tasks": ["report"]}, "films:test")
    assert any(line.startswith("  evaluates on films:test against blind, shuffled") for line in validate(path))


def test_reports_are_refused_where_only_short_answers_are_asked(tmp_path: Path) -> None:
    path = write(tmp_path, make_card(REPORT), {**INSTRUCT, "tasks": ["report"]}, "films:test")
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "evaluate": {"on": ["films:test"], "protocols": ["answers"]}}))
    assert "evaluate.on.0: its card has no question that can be scored" in refuse(path)


@pytest.mark.parametrize(
    ("card", "tasks"),
    [
        ("vindr_cxr", "boxes choice"),
        ("mimic_cxr_pairs", "report"),
        ("chase_db1", "choice open count mask"),
        ("bccd_cells", "labels"),
        ("bccd", "boxes choice count"),
        ("quilt_1m", ""),
        ("medmnist_path", "choice labels"),
        ("phantom_3d", "boxes choice count report"),
        ("llava_med_instruct", "open"),
    ],
)
def test_the_tasks_of_a_card_are_known_from_its_reader(card: str, tasks: str) -> None:
    found = find_content(load_card(find_shipped("data_cards") / f"{card}.yaml"))
    assert found.tasks == frozenset(tasks.split())


def test_every_shipped_card_says_what_its_reader_makes() -> None:
    for path in find_shipped("data_cards").glob("*.yaml"):
        found = find_content(load_card(path))
        assert None not in (found.tasks, found.media, found.has_reports), path


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_a_published_system_asks_only_what_its_cards_have(path: Path) -> None:
    loaded = load(path)
    for stage in loaded.recipe.stages:
        needs = stage.find_needs(loaded.recipe.model)
        for source in stage.mix:
            content = find_content(loaded.cards[source])
            assert needs.tasks is None or (content.tasks or frozenset()) & set(needs.tasks)
            assert not needs.report or content.has_reports
            assert stage.validate_ is None or "val" in list_splits(loaded.cards[source])


@pytest.mark.parametrize("name", ["k2sight", "xraygpt", "mmxu", "merlin_report"])
def test_a_rehearsal_makes_only_what_the_card_has(name: str, tmp_path: Path) -> None:
    loaded = load(find_shipped("recipes") / "systems" / f"{name}.yaml")
    axes = {kind: 3 if kind == "volume" else 2 for card in loaded.cards.values() for kind in card.media}
    for source, made in make_small_data(loaded, tmp_path / "runs", tmp_path / "data", axes).items():
        content = find_content(loaded.cards[source])
        splits = {path.name.partition("-")[0] for path in made.folder.glob("*.tar")}
        assert splits == set(list_splits(loaded.cards[source]))
        shards = open_shards(made.folder)
        entries = [shards.entry(split, i) for split in shards.splits for i in range(shards.count(split))]
        assert {task for entry in entries for task in entry.tasks} == set(content.tasks or ())
        assert {entry.has_report for entry in entries} == {content.has_reports}


def store(folder: Path, recipe: dict[str, Any], splits: str, *questions: dict[str, Any]) -> tuple[Recipe, Any]:
    """The recipe with shards. splits: `train:choice test:` are a sample with a question and one without."""
    medium, truths = (
        Medium("film", "0.png", (8, 8)),
        {"choice": make_truth("choice", "left", choices=("left", "right"))},
    )
    truths["report"] = make_truth("report", "Clear.")
    for number, (split, _, task) in enumerate(each.partition(":") for each in splits.split()):
        with closing(ShardWriter(folder / "films", split)) as writer:
            asked = (Question("Which?", truths[task], task),) if task else ()
            sample = Sample(str(number), "films", split, (medium,), questions=asked, groups={"site": "here"})
            writer.write(sample, {"0.png": b"not looked at"})
    recipe["data"]["films"]["shards"] = str(folder / "films")
    card = make_card(*questions, splits={"by": "column"}, split="{part}")
    loaded = load(tiny_run.written(folder, recipe, card))
    return loaded.recipe, open_sources(loaded, folder / "runs", say=lambda _: None)


def test_packed_data_without_what_a_later_stage_needs_stop_training_at_its_start(tmp_path: Path) -> None:
    """The card of the shards offers an open question too, but every answer in them is a choice."""
    stages = [INSTRUCT, {**INSTRUCT, "name": "talk", "tasks": ["open"]}]
    recipe, sources = store(tmp_path, tiny_run.recipe(stages=stages), "train:choice", SIDE)
    require_samples(recipe, sources, [0])
    with pytest.raises(DataError, match=r"stages\.talk\.mix\.films: .*questions of choice, media film, no reports"):
        require_samples(recipe, sources, [0, 1])


@pytest.mark.parametrize(
    ("splits", "on", "said"),
    [
        ("train:choice test:choice", "films:test", ""),
        ("train:choice test:report", "films:test", ""),
        ("train:choice", "films:test", "these shards have no split 'test' (found train)"),
        ("train:choice test:choice", "films:val", "these shards have no split 'val' (found test, train)"),
        ("train:choice test:choice", "films:held_out", "its shards have no sample in 'held_out'"),
        ("train:choice test:", "films:test", "its shards have no question that can be scored, and no "),
    ],
)
def test_what_the_packed_data_cannot_evaluate_stops_training_at_its_start(
    splits: str, on: str, said: str, tmp_path: Path
) -> None:
    content = tiny_run.recipe(stages=[INSTRUCT], evaluate={"on": [on]})
    content["data"]["films"]["hold_out"] = {"by": "site", "values": ["elsewhere"]}
    recipe, sources = store(tmp_path, content, splits, SIDE, REPORT)
    if not said:
        require_evaluation(recipe, sources)
        return
    with pytest.raises(DataError, match=re.escape(f"evaluate.on: {on}: {said}")):
        require_evaluation(recipe, sources)


def test_a_combination_whose_parts_are_in_no_training_sample_stops_training_at_its_start(tmp_path: Path) -> None:
    content = tiny_run.recipe(stages=[INSTRUCT], evaluate={"on": ["films:held_out"]})
    content["data"]["films"]["hold_out"] = {"combination": {"media": "film", "task": "choice"}}
    recipe, sources = store(tmp_path, content, "train:report test:choice", SIDE, REPORT)
    with pytest.raises(DataError, match="no training sample has task 'choice', which the held-out combination"):
        require_evaluation(recipe, sources)


@pytest.mark.slow
def test_reports_alone_are_held_out_and_scored_in_the_rehearsal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, make_card(REPORT), {**INSTRUCT, "tasks": ["report"]}, "films:test")
    assert main(["dry-run", str(path), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert re.search(r"  evaluate  \d+ results: report\b", said), said
