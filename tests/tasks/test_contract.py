"""What every task must keep, for each file of the folder: its examples, JSON, geometry, constants and made-up samples.

The right places of boxes are read from painted pixels that go through the same changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from medvlm.core import geometry
from medvlm.core.errors import DataError
from medvlm.core.geometry import Canvas
from medvlm.core.measure import AtPoints, Measure, OfCorpus, OfJudge, fit_columns
from medvlm.core.sample import Medium, Truth, UnknownTruth, make_truth, truth_from_json
from medvlm.core.tasks import FIRST_TASKS, find_task, list_pair_tasks, list_tasks, list_text_tasks
from medvlm.evaluate.measures import join_measures
from medvlm.metrics.bootstrap import value
from medvlm.tasks._writing import Writing

HEIGHT, WIDTH = 112, 96
FILM = (Medium("film", "0.png", (HEIGHT, WIDTH), (1.0, 1.0)),)
WHOLE = geometry.identity((HEIGHT, WIDTH))
SCORED = [kind for kind in list_text_tasks() if find_task(kind).score]
BOXED = [kind for kind in list_text_tasks() if "boxes" in {f.name for f in fields(find_task(kind).Truth)}]
POINTED = [kind for kind in list_text_tasks() if kind not in BOXED and find_task(kind).NEEDS_CANVAS]
CELLS = [(8.0 + 22 * i, 6.0 + 26 * j, 8.0 + 22 * i + 12, 6.0 + 26 * j + 16) for i in range(4) for j in range(4)]
"""Apart from each other, so that each can be told by its grey."""


def make_up(kind: str, count: int = 300) -> list[Truth]:
    """Truths of made-up samples, as the model sees them."""
    found = []
    for seed in range(count):
        example = find_task(kind).example
        made = example and example(np.random.default_rng(seed), FILM, f"report {seed}")
        if made:
            found.append(find_task(kind).place(made[1], WHOLE, Writing()))
    return found


def score(kind: str, answer: Any, truth: Truth) -> float:
    scorer = find_task(kind).score
    assert scorer is not None
    return scorer(answer, truth)


# --- examples --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list_tasks())
def test_examples_score_what_they_say(kind: str) -> None:
    for answer, truth, expected in find_task(kind).EXAMPLES:
        assert truth.task == kind
        assert score(kind, answer, truth) == pytest.approx(expected), (answer, truth)


@pytest.mark.parametrize("kind", [kind for kind in list_tasks() if find_task(kind).score])
def test_examples_hold_a_right_a_wrong_and_a_cheating_answer(kind: str) -> None:
    scores = [expected for *_, expected in find_task(kind).EXAMPLES]
    assert len(scores) > 4 and max(scores) == 1 and min(scores) == 0


@pytest.mark.parametrize("kind", SCORED)
def test_no_attempt_to_cheat_earns_more_than_an_honest_guess(kind: str) -> None:
    """A guess is the right answer of another sample. An attempt says many things at once, or says nothing."""
    truths = make_up(kind, 60)
    answers = sorted({find_task(kind).write(truth) for truth in truths})
    guess = np.mean([score(kind, find_task(kind).write(other), truth) for truth in truths for other in truths])
    grid = ", ".join(f"[{x}, {y}, {x + 50}, {y + 50}]" for x in range(0, 1000, 50) for y in range(0, 1000, 50))
    joined = [glue.join(answers) for glue in (" ", ", ", " or ", "\n", "; not ")]
    for attempt in ("", " ", "?", grid, "[0, 0, 1000, 1000]", " ".join(map(str, range(100))), *joined):
        assert np.mean([score(kind, attempt, truth) for truth in truths]) <= guess + 1e-9, attempt[:80]


@pytest.mark.parametrize("kind", SCORED)
def test_a_made_up_question_can_be_scored_and_its_right_answer_is_right(kind: str) -> None:
    task, truths = find_task(kind), make_up(kind)
    assert len(truths) == 300
    for truth in truths:
        written = task.write(truth)
        assert score(kind, written, truth) == 1, (written, truth)
        assert task.parse(written, truth) is not None
        assert task.is_formatted is None or task.is_formatted(written, truth)
    assert len({task.write(truth) for truth in truths}) > 1


def test_a_made_up_sample_draws_the_same_numbers_for_the_first_tasks_whatever_comes_after_them() -> None:
    rng = np.random.default_rng([7, 3])
    drawn: dict[str, Any] = {kind: find_task(kind).example(rng, FILM, "clear") for kind in FIRST_TASKS}  # type: ignore
    assert list(list_tasks()[: len(FIRST_TASKS)]) == list(FIRST_TASKS)
    assert [drawn[kind][0] for kind in ("choice", "boxes")] == [
        "choice: lung seen nodule no?",
        "boxes: seen no lower left?",
    ]
    # As the samples of dry runs were drawn before each task had its own file.
    assert [drawn[kind][1].answer for kind in FIRST_TASKS] == ["yes", "left", "3", "{boxes}", "clear"]


# --- JSON --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list_tasks())
def test_a_truth_comes_back_from_json(kind: str) -> None:
    for truth in [*make_up(kind, 20), *(truth for _, truth, _ in find_task(kind).EXAMPLES)]:
        text = json.dumps(truth.to_json())
        back = truth_from_json(json.loads(text))
        assert back == truth and type(back) is type(truth) and json.dumps(back.to_json()) == text


FLAT: dict[str, Any] = {"choices": [], "count": None, "boxes": [], "label": ""}
"""What every record of a truth held before each task had its own fields, where the task had no use for it."""


@pytest.mark.parametrize(
    "record",
    [
        {"task": "choice", "answer": "left", **FLAT, "choices": ["left", "right"]},
        {"task": "choice", "answer": "yes", **FLAT, "choices": ["yes", "no"], "label": "cell"},
        {"task": "open", "answer": "left lung", **FLAT},
        {"task": "count", "answer": "2", **FLAT, "count": 2, "boxes": [[0, 0, 1.5, 1], [2, 2, 3, 3]], "label": "cell"},
        {"task": "boxes", "answer": "{boxes}", **FLAT, "boxes": [[0, 0, 1.5, 1]], "label": "cell"},
        {"task": "report", "answer": "Clear lungs.", **FLAT},
    ],
    ids=lambda record: record["task"],
)
def test_records_of_old_shards_are_read(record: dict[str, Any]) -> None:
    truth = truth_from_json(record)
    own = {name: value for name, value in record.items() if name == "task" or hasattr(truth, name)}
    assert json.loads(json.dumps(truth.to_json())) == own


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 3}, "a truth of task 'open' has no field 'count'"),
        ({"count": 0}, "a truth of task 'open' has no field 'count'"),
        ({"choices": ["a"]}, "no field 'choices'"),
        ({"degrees": 3}, "no field 'degrees'"),
    ],
)
def test_a_field_that_is_not_the_task_s_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        truth_from_json({"task": "open", "answer": "left", **FLAT, **changes})


def test_a_truth_of_an_unknown_task_is_kept_as_it_is() -> None:
    record = {"task": "angle", "answer": "30", "degrees": 30}
    truth = truth_from_json(record)
    assert isinstance(truth, UnknownTruth) and truth.task == "angle" and truth.to_json() == record
    with pytest.raises(DataError, match=r"task 'angle' is not known \(there are choice, open, count, boxes, report"):
        find_task(truth.task)


def test_a_misspelt_task_is_told_the_nearest() -> None:
    with pytest.raises(DataError, match=r"task 'chioce' is not known, did you mean 'choice'\?"):
        find_task("chioce")


# --- geometry --------------------------------------------------------------------------------


def truth_of(kind: str, boxes: list[Any]) -> Truth:
    own: dict[str, Any] = {"boxes": tuple(boxes), "label": "cell"}
    if "count" in {f.name for f in fields(find_task(kind).Truth)}:
        own["count"] = len(boxes)
    return make_truth(kind, **own)


def change(rng: np.random.Generator, pixels: np.ndarray) -> tuple[np.ndarray, Canvas]:
    """Up to four crops, flips and quarter turns, of the pixels and as a canvas."""
    canvas = geometry.identity((pixels.shape[0], pixels.shape[1]))
    for _ in range(rng.integers(1, 5)):
        height, width = pixels.shape
        which = rng.integers(3)
        if which == 0:
            h, w = (int(rng.integers(size * 3 // 5, size + 1)) for size in (height, width))
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            pixels, step = pixels[y : y + h, x : x + w], geometry.crop((height, width), y, x, (h, w))
        elif which == 1:
            pixels, step = pixels[:, ::-1], geometry.flip((height, width))
        else:
            turns = int(rng.integers(4))
            pixels, step = np.rot90(pixels, turns), geometry.rot90((height, width), turns)
        canvas = canvas.then(step)
    return pixels, canvas


def see_boxes(pixels: np.ndarray, boxes: list[Any]) -> set[tuple[float, ...]]:
    """Of the cells of which half can be seen: where their grey is."""
    found: set[tuple[float, ...]] = set()
    for grey, (x1, y1, x2, y2) in enumerate(boxes, 1):
        ys, xs = np.nonzero(pixels == grey)
        if len(ys) >= (x2 - x1) * (y2 - y1) / 2:
            found.add((float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)))
    return found


@pytest.mark.parametrize("kind", BOXED)
def test_truths_follow_crops_flips_and_turns_as_painted_pixels_do(kind: str) -> None:
    task, sizes = find_task(kind), set()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        boxes = [CELLS[i] for i in rng.choice(len(CELLS), rng.integers(1, 9), replace=False)]
        painted = np.zeros((HEIGHT, WIDTH), np.uint8)
        for grey, (x1, y1, x2, y2) in enumerate(boxes, 1):
            painted[int(y1) : int(y2), int(x1) : int(x2)] = grey
        pixels, canvas = change(rng, painted)
        seen = see_boxes(pixels, boxes)
        truth = truth_of(kind, boxes)
        task.check(truth, FILM)
        task.check_crop(truth)
        # In pixels of the canvas, whether training changes the stored pixels or the preprocessing cuts them.
        expected = truth_of(kind, sorted(seen))
        followed = task.follow(truth, canvas)
        if task.NEEDS_CANVAS and not seen:
            assert followed is None
            with pytest.raises(DataError, match="no box lies on what the model sees"):
                task.place(truth, canvas, Writing("bbox_2d_pixels"))
            continue
        assert followed is not None
        placed: Any = task.place(truth, canvas, Writing("bbox_2d_pixels"))
        assert set(placed.boxes) == seen and getattr(placed, "count", len(seen)) == len(seen)
        in_order: Any = followed
        assert {**followed.to_json(), "boxes": sorted(in_order.boxes)} == {
            **expected.to_json(),
            "boxes": sorted(seen),
        }
        sizes.add(canvas.size)
    assert len(sizes) > 50


@pytest.mark.parametrize("kind", BOXED)
def test_boxes_from_left_to_right_stay_so(kind: str) -> None:
    truth: Any = find_task(kind).follow(truth_of(kind, sorted(CELLS)), geometry.flip((HEIGHT, WIDTH)))
    assert list(truth.boxes) == sorted(truth.boxes)


@pytest.mark.parametrize("kind", [kind for kind in list_text_tasks() if kind not in BOXED + POINTED])
def test_other_truths_are_the_same_on_every_canvas(kind: str) -> None:
    for truth in make_up(kind, 5):
        turned = geometry.rot90((HEIGHT, WIDTH))
        assert find_task(kind).follow(truth, turned) == find_task(kind).place(truth, turned, Writing()) == truth
        assert find_task(kind).place(truth, None, Writing()) == truth
        assert not find_task(kind).has_coordinates(truth)


@pytest.mark.parametrize("kind", BOXED)
@pytest.mark.parametrize("box", [(0, 0, WIDTH + 1, 5), (5, 5, 5, 9), (-1, 0, 4, 4), (9, 9, 3, 12)])
def test_a_box_that_does_not_fit_its_image_is_refused(kind: str, box: Any) -> None:
    with pytest.raises(DataError, match=f"empty or reaches beyond the image of {WIDTH} x {HEIGHT} pixels"):
        find_task(kind).check(truth_of(kind, [box]), FILM)


# --- measures --------------------------------------------------------------------------------


def list_judged_measures() -> Iterator[tuple[str, Measure]]:
    """(task, measure) for measures that a constant answer may be best in, except for the means over classes. Of long
    answers only the commonest are tried as constants, which need not be the best for every measure."""
    for kind in SCORED:
        task = find_task(kind)
        for measure in task.MEASURES[:1] if task.IS_LONG else task.MEASURES:
            if measure.better and not measure.by_class and not isinstance(measure.columns, OfCorpus | OfJudge):
                yield kind, measure


@pytest.mark.parametrize(
    ("kind", "measure"), [pytest.param(*each, id=f"{each[0]}-{each[1].metric}") for each in list_judged_measures()]
)
def test_no_other_constant_is_better_for_a_measure(kind: str, measure: Measure) -> None:
    """Tried are all right answers of the training questions."""
    task, rng = find_task(kind), np.random.default_rng(0)
    truths = make_up(kind, 100)
    # Not all equally often: else every constant is as good.
    truths += [truths[i] for i in rng.integers(0, 12, 100)]
    assert task.best_constant is not None

    def measured(answer: Any) -> float:
        return value(np.array([measure.columns(answer, truth) for truth in truths]), measure.statistic)

    best = measured(task.best_constant(truths, measure))
    others = [measured(answer) for answer in {task.write(truth) for truth in truths}]
    assert len(others) > 1
    assert best <= min(others) if measure.better == "lower" else best >= max(others)


@pytest.mark.parametrize("kind", list_tasks())
def test_measures_are_numbers_and_have_names_of_their_own(kind: str) -> None:
    task = find_task(kind)
    for measure in task.MEASURES:
        if isinstance(measure.columns, OfJudge):
            continue  # of the scores of a judge, not of answers
        truths = [truth for _, truth, _ in task.EXAMPLES]
        columns = fit_columns(measure, truths)
        found: list[Any] = [columns(answer, truth) for answer, truth, _ in task.EXAMPLES]
        if isinstance(columns, AtPoints):
            assert task.choose_points is not None
            chosen = columns.at(task.choose_points([answer for answer, *_ in task.EXAMPLES], truths))
            found += [chosen(answer, truth) for answer, truth, _ in task.EXAMPLES]
        rows = [row for by_class in found for row in by_class.values()] if measure.by_class else found
        assert len({len(row) for row in rows}) == 1 and np.isfinite(rows).all()
    assert len({(measure.group, measure.metric) for measure in task.MEASURES}) == len(task.MEASURES)


def test_measures_that_tasks_share_mean_the_same() -> None:
    joined = join_measures(list_tasks())
    names = [(measure.group, measure.metric) for measure in joined]
    assert len(set(names)) == len(names)
    assert names[:8] == [
        ("vqa", "accuracy"),
        ("vqa", "accuracy_closed"),
        ("vqa", "judged_closed"),
        ("vqa", "accuracy_open"),
        ("vqa", "f1_open"),
        ("vqa", "recall_open"),
        ("vqa", "judged_open"),
        ("count", "mae"),
    ]


# --- words --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list_tasks())
def test_a_truth_is_summarised_and_drawn(kind: str) -> None:
    for answer, truth, _ in find_task(kind).EXAMPLES:
        assert find_task(kind).summarise(truth)
        drawing = find_task(kind).describe(answer, truth)
        assert "{" not in drawing.truth
        assert (drawing.boxes is not None) == (kind in {*BOXED, *POINTED, "detect"})


@pytest.mark.parametrize("kind", [kind for kind in list_text_tasks() if kind not in list_pair_tasks()])
def test_what_is_written_is_what_a_text_of_an_archive_says(kind: str) -> None:
    task = find_task(kind)
    assert task.from_text is not None
    truths: list[Any] = make_up(kind, 20)
    own: dict[str, Any] = {"choices": ["yes", "no"]} if "choices" in task.Config.model_fields else {}
    if "ontology" in task.Config.model_fields:
        entries = {name: {"synonyms": synonyms, "parents": parents} for name, synonyms, parents in truths[0].entries}
        own = {"ontology": {"findings": entries, "nothing": truths[0].nothing}}
    elif "entries" in {f.name for f in fields(task.Truth)}:
        own = {"findings": dict(truths[0].entries)}
    config = task.Config.model_validate({"kind": kind, **own})
    for truth in truths:
        read = task.from_text(task.write(truth), config)
        assert read is not None and score_or_equal(kind, task.write(truth), read)


def score_or_equal(kind: str, text: str, truth: Truth) -> bool:
    """Boxes of a text are in stored pixels; on this image the two are written with the same numbers."""
    scorer = find_task(kind).score
    return truth.answer == text if scorer is None else scorer(text, truth) == 1
