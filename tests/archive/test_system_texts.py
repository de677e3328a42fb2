"""What makes a published system and stands in its data card: without it, samples ask and answer something else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvlm.archive.scripts import find_script
from medvlm.archive.text_boxes import TextBoxes, read_text_boxes
from medvlm.core.card import Card, load_card
from medvlm.core.config import component
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.core.geometry import resize
from medvlm.core.sample import Sample
from medvlm.core.tasks import find_task
from medvlm.data.order import Order
from medvlm.data.parts import make_parts
from medvlm.data.prepare import choose
from medvlm.data.source import SourceView, find_group
from medvlm.data.stream import Stream
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.recipe.load import load
from medvlm.tasks._writing import Writing
from medvlm.tasks.indexed_boxes import Truth as Indexed
from tests.archive import made_layouts
from tests.archive.test_card_layouts import CARDS, SAME, SETTINGS

pytest.importorskip("pyarrow")
Edit = Callable[[dict[str, Any]], Any]


def change(card: Card, edit: Edit) -> Card:
    """edit: changes the settings of the reader in place."""
    reader = card.reader.model_dump(mode="json", by_alias=True)
    edit(reader)
    kind = component("archive.readers", card.reader.kind)
    return card.model_copy(update={"reader": kind.Config.model_validate(reader)})


def read(card: Card, root: Path) -> list[Sample]:
    reader = component("archive.readers", card.reader.kind)
    return [item.sample for item in reader.read(card.reader, root) if isinstance(item, RawSample)]


def reword(edit: Callable[[str], str]) -> Edit:
    def apply(reader: dict[str, Any]) -> None:
        asked = reader["objects"]["boxes"]
        asked["wordings"] = [edit(wording) for wording in asked["wordings"]]

    return apply


def unsay(*parts: str) -> Edit:
    def apply(reader: dict[str, Any]) -> None:
        for asked in reader["questions"]:
            for part in parts:
                asked["text"] = [text.replace(part, "") for text in asked["text"]]

    return apply


SWITCHES: list[tuple[str, str, Edit]] = [
    # card, what is switched off, and how
    ("med_multi_points", "points", lambda reader: reader["objects"].pop("points")),
    ("med_multi_points", "counted points", lambda reader: reader["objects"].pop("counted_points")),
    ("med_multi_points", "counted boxes", lambda reader: reader["objects"].pop("counted_boxes")),
    ("medreg_instruct", "boxes of regions", lambda reader: reader.pop("boxes")),
    ("medreg_instruct", "languages", lambda reader: reader.pop("by_script")),
    ("med_sg", "boxes on images", lambda reader: reader.pop("boxes")),
    ("bimed_v", "languages", lambda reader: reader.pop("by_script")),
    ("vindr_cxr_attributes", "attributes", reword(lambda wording: wording.replace(" means {means}", ""))),
    ("vindr_cxr_known", "descriptions", reword(lambda wording: wording.replace(" means {means}", ""))),
    ("medvision_sizes", "steps", lambda reader: [asked.pop("steps") for asked in reader["questions"]]),
    ("medvision_angles", "degrees", lambda reader: reader["questions"][0]["task"].update(of="length")),
    ("mmxu", "global record", unsay("{prior_report}")),
    ("mmxu", "regional record", unsay("{regional}")),
    ("mmxu", "earlier film", lambda reader: reader["media"].pop(0)),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder, made = tmp_path_factory.mktemp("archives"), dict[str, Path]()

    def get(name: str) -> Path:
        if name not in made:
            made[name] = folder / name
            made[name].mkdir()
            getattr(made_layouts, SAME.get(name, name))(made[name], **SETTINGS.get(name, {}))
        return made[name]

    return get


@pytest.mark.parametrize(("name", "term", "edit"), SWITCHES, ids=[f"{name} {term}" for name, term, _ in SWITCHES])
def test_without_its_term_a_card_makes_other_samples(
    name: str, term: str, edit: Edit, roots: Callable[[str], Path]
) -> None:
    card, root = load_card(CARDS / f"{name}.yaml"), roots(name)
    whole, less = read(card, root), read(change(card, edit), root)
    assert whole and len(whole) == len(less)
    assert [(s.questions, s.media, s.groups) for s in whole] != [(s.questions, s.media, s.groups) for s in less]


ONE_BOX = "<box>[[1, 2, 50, 60]]</box>"


@pytest.mark.parametrize(
    "answer",
    [
        f"<ref>liver</ref>{ONE_BOX}<ref>spleen</ref>{ONE_BOX}",
        f"{ONE_BOX} The lungs show an effusion. {ONE_BOX}",
        f"It's in the first image. {ONE_BOX} It's in the second image. {ONE_BOX}",
        f"It's in the f\u0131rst image. {ONE_BOX}",
    ],
)
def test_boxes_of_several_names_and_boxes_in_a_report_stay_text(answer: str) -> None:
    assert read_text_boxes(TextBoxes(), answer, 2, lambda number: (99, 99)) is None
    both: Any = read_text_boxes(TextBoxes(), f"<ref>node</ref>{ONE_BOX}, {ONE_BOX}.", 1, lambda number: (99, 99))
    assert both.boxes == ((1, 2, 50, 60),) * 2 and both.label == "node"


def test_a_box_without_an_area_is_refused_and_tags_are_of_no_language() -> None:
    for boxes in ("[[9, 2, 9, 60]]", "[[1, 2, 50, 60], [9, 2, 9, 60]]"):
        with pytest.raises(DataError, match="without an area"):
            read_text_boxes(TextBoxes(), f"<box>{boxes}</box>", 1, lambda number: (99, 99))
    assert find_script("\u809d\u810f\u5728\u54ea\u91cc<ref>\u809d</ref><box>[[1, 2, 50, 60]]</box>") == "han"
    assert find_script("<ref>liver</ref>") == "latin" and find_script("<box>[[1, 2, 50, 60]]</box>") == ""


def test_the_region_of_a_question_has_its_sentence_of_the_record(roots: Callable[[str], Path]) -> None:
    (question,) = read(load_card(CARDS / "mmxu.yaml"), roots("mmxu"))[1].questions
    said = "It says about the right lower lung zone: An opacity is seen in the right lung.\n"
    assert said in question.text and "The heart is of normal size. An opacity" in question.text


def test_boxes_of_regions_are_pixels_of_their_image(roots: Callable[[str], Path]) -> None:
    """The made images are 8 pixels wide and 6 high."""
    (question,) = read(load_card(CARDS / "medreg_instruct.yaml"), roots("medreg_instruct"))[0].questions
    (box,) = question.truth.boxes  # type: ignore[attr-defined]
    assert question.truth.label == "liver"  # type: ignore[attr-defined]
    assert box == pytest.approx((800 / 999, 1200 / 999, 4000 / 999, 3600 / 999))


def test_a_size_of_medvision_has_its_points_and_the_size_of_a_pixel(roots: Callable[[str], Path]) -> None:
    asked, reasoned = read(load_card(CARDS / "medvision_sizes.yaml"), roots("medvision_sizes"))[0].questions
    assert len(asked.truth.values) == 2 and " x " in asked.truth.answer  # type: ignore[attr-defined]
    assert "mm (width)" in asked.text and list(asked.steps) == ["major", "minor"]
    assert f"<step-1-answer> {asked.steps['major']} </step-1-answer>" in reasoned.truth.answer


def test_a_box_of_medsg_lies_on_the_image_that_its_answer_names(roots: Callable[[str], Path]) -> None:
    """In the pixels of that image, so it stays where it is if the images are shown at sizes of their own."""
    samples = read(load_card(CARDS / "med_sg.yaml"), roots("med_sg"))
    asked = {q.template: q for sample in samples for q in sample.questions}
    named: Any = asked["referring"].truth
    silent: Any = asked["registered_diff"].truth
    assert {type(named), type(silent)} == {Indexed}
    assert (named.numbers, silent.numbers) == ((2,), (2,)) and named.boxes == ((2, 3, 14, 12),)
    task: Any = find_task(named.task)
    canvases = [replace(resize((24, 32), size), further=()) for size in ((24, 32), (48, 96))]
    placed = task.place(named, replace(canvases[0], further=(canvases[1],)), Writing("bbox_2d_pixels"))
    assert placed.boxes == ((6, 6, 42, 24),) and task.score(task.write(placed), placed) == 1
    assert task.score(task.write(placed).replace("image 2", "image 1"), placed) == 0


def test_points_boxes_and_counts_are_asked_by_one_stage_together(roots: Callable[[str], Path]) -> None:
    stage = load("systems/point_detect_count.yaml").recipe.stages[0]
    samples = read(load_card(CARDS / "med_multi_points.yaml"), roots("med_multi_points"))
    sample = next(s for s in samples if any(q.truth.task == "boxes" for q in s.questions))

    def ask(tasks: tuple[str, ...]) -> set[str]:
        chosen = [q for epoch in range(8) for q in choose(sample, tasks, stage.questions, epoch, 7, stage.name)]
        return {q.template.partition(":")[0] for q in chosen}

    assert ask(stage.tasks) == {"count", "boxes", "points", "counted_boxes", "counted_points"}
    assert ask(tuple(task for task in stage.tasks if task != "points")) == {"count", "boxes", "counted_boxes"}


def test_ag_kd_is_tested_on_kinds_that_it_never_saw() -> None:
    loaded = load("systems/ag_kd.yaml")
    known, unknown = (set(loaded.cards[name].reader.objects.classes) for name in ("known", "unknown"))
    assert known and unknown and not known & unknown
    assert {source for stage in loaded.recipe.stages for source in stage.mix} == {"known"}
    assert ("unknown", "test") in loaded.recipe.evaluate.pairs()


def test_both_languages_come_equally_often(tmp_path: Path) -> None:
    """Of a source in which three of four samples are in English."""
    stage = load("systems/ain.yaml").recipe.stages[0]
    (tmp_path / "root").mkdir()
    made_layouts.bimed_v(tmp_path / "root", cases=8, stage=1)
    with closing(ShardWriter(tmp_path / "shards", "train")) as writer:
        for number, sample in enumerate(read(load_card(CARDS / "bimed_v_captions.yaml"), tmp_path / "root")):
            writer.write(replace(sample, key=f"{number:016x}", source="captions", split="train", media=()), {})
    shards = open_shards(tmp_path / "shards")
    every = SourceView(shards, ("train",))
    arabic = {every.entry(i).key for i in range(len(every)) if find_group(every.entry(i), "script") == "arabic"}
    kept = {*sorted(arabic)[::3]}
    view = SourceView(shards, ("train",), keep=lambda entry: entry.key not in arabic or entry.key in kept)

    def count(balance: dict[str, str]) -> Counter[str]:
        own = stage.sampling.model_copy(update={"balance": balance})
        stream = Stream(make_parts({"captions": view}, {"captions": 1}, own, {"captions": Order()}, "s"), 7, stage="s")
        places = [stream.place(position) for position in range(120)]
        return Counter(find_group(shards.entry(place.split, place.index), "script") for place in places)

    assert count({"captions": stage.sampling.balance["captions"]}) == {"arabic": 60, "latin": 60}
    assert count({})["arabic"] < 45
