"""The phantom: what is drawn is what is said, and what is asked gives nothing away."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.phantom.film import FILM_MM
from medvlm.archive.phantom.finding import (
    KINDS,
    SHARE_NORMAL,
    SIDES,
    SIZES_MM,
    ZONES,
    Finding,
    concept_of,
    draw_finding,
    patient_of,
)
from medvlm.archive.phantom.text import ASK, NUMBERS, ask, write_report
from medvlm.archive.phantom.volume import draw_volume
from medvlm.archive.readers.phantom import Config, film_study, read, volume_study
from medvlm.core.card import load_card
from medvlm.core.contracts import RawSample
from medvlm.core.sample import Question
from medvlm.tasks.boxes import SLOT as BOXES_SLOT

CARDS = Path(__file__).parents[2] / "data_cards"
NUM_SAID = 8000


@cache
def said() -> list[tuple[str, str, int, tuple[Question, ...]]]:
    """Concept, report, clips and questions of many studies, without their pixels."""
    out = []
    for index in range(NUM_SAID):
        rng = np.random.default_rng([3, index])
        finding, num_clips = draw_finding(rng), int(rng.integers(6))
        report = write_report(rng, finding, num_clips)
        out.append(
            (
                concept_of(finding),
                report,
                num_clips,
                tuple(ask(rng, "film", finding, report, num_clips, (0.0, 0.0, 1.0, 1.0))),
            )
        )
    return out


@cache
def films() -> list[RawSample]:
    return [film_study(Config(seed=5, films=60), i) for i in range(60)]


def made(config: Config) -> list[RawSample]:
    return [deferred.make() for deferred in read(config, None)]


def answers(template: str) -> list[tuple[str, str]]:
    """(wording, answer) of every question of a template."""
    return [(q.text, q.truth.answer) for *_, questions in said() for q in questions if q.template == template]


def chi_square(pairs: Iterable[tuple[str, str]]) -> tuple[float, int]:
    """Pearson's statistic of independence and its degrees of freedom."""
    cells = Counter(pairs)
    rows: Counter[str] = Counter()
    columns: Counter[str] = Counter()
    for (row, column), n in cells.items():
        rows[row] += n
        columns[column] += n
    total = sum(cells.values())
    expected = {(r, c): rows[r] * columns[c] / total for r in rows for c in columns}
    return sum((cells[k] - e) ** 2 / e for k, e in expected.items()), (len(rows) - 1) * (len(columns) - 1)


def spots(mask: np.ndarray) -> list[int]:
    """Sizes of the connected parts of a mask, found by flood fill."""
    left, sizes = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        front, size = [left.pop()], 1
        while front:
            at = front.pop()
            steps = (
                tuple(np.add(at, step * np.eye(mask.ndim, dtype=int)[axis]))
                for axis in range(mask.ndim)
                for step in (-1, 1)
            )
            near = left.intersection(steps)
            left -= near
            front += near
            size += len(near)
        sizes.append(size)
    return sizes


def five_sigma(freedom: int) -> float:
    """Wilson and Hilferty's approximation of the chi-square quantile at five standard deviations."""
    return freedom * (1 - 2 / (9 * freedom) + 5 * (2 / (9 * freedom)) ** 0.5) ** 3


# --- nothing can be guessed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "chance"),
    [("side", 1 / 2), ("zone", 1 / 3), ("kind", 1 / 4), ("size", 1 / 3), ("presence", 1 / 2), ("count:clip", 1 / 6)],
)
def test_the_majority_answer_is_at_chance(template: str, chance: float) -> None:
    """The commonest answer of each wording, which is the best that a reader of the question alone can give."""
    by_wording: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for text, answer in answers(template):
        by_wording[text][answer] += 1
    right = sum(counts.most_common(1)[0][1] for counts in by_wording.values())
    total = sum(counts.total() for counts in by_wording.values())
    # The best of several counts lies above chance by luck; 16 wordings (presence) cost at most about 0.02 here.
    assert chance - 0.02 < right / total < chance + 0.03


@pytest.mark.parametrize("template", ["side", "zone", "kind", "size", "presence", "count:clip"])
def test_no_wording_tells_its_answer(template: str) -> None:
    statistic, freedom = chi_square(answers(template))
    assert freedom >= 3 and statistic < five_sigma(freedom)


@pytest.mark.parametrize("kind", KINDS)
def test_yes_is_half_of_the_answers_for_each_kind_with_normal_studies_counted(kind: str) -> None:
    """`a {kind}` in the question: a reader without the image sees no more than this."""
    given = [answer for text, answer in answers("presence") if kind in text]
    share = given.count("yes") / len(given)
    assert abs(share - 0.5) < 4 * 0.5 / len(given) ** 0.5


def test_attributes_and_clips_are_uniform_and_independent() -> None:
    found = [(*concept.split("|"), str(clips)) for concept, _, clips, _ in said() if concept != "normal"]
    assert len(found) / NUM_SAID == pytest.approx(1 - SHARE_NORMAL, abs=4 * (0.09 / NUM_SAID) ** 0.5)
    for axis, values in enumerate((SIDES, ZONES, KINDS, tuple(SIZES_MM), "012345")):
        counts = Counter(f[axis] for f in found)
        assert set(counts) == set(values)
        expected = len(found) / len(values)
        assert max(abs(n - expected) for n in counts.values()) < 4.5 * expected**0.5
    for first, second in combinations(range(5), 2):
        statistic, freedom = chi_square((f[first], f[second]) for f in found)
        assert statistic < five_sigma(freedom)


def test_all_73_concepts_occur() -> None:
    assert len({concept for concept, *_ in said()}) == len(SIDES) * len(ZONES) * len(KINDS) * len(SIZES_MM) + 1 == 73


# --- the report answers everything -----------------------------------------------------------------------


def test_a_report_names_its_finding_first_and_nothing_else() -> None:
    """Read back by words alone: the first sentence gives every attribute, the second the number of clips."""
    for concept, report, num_clips, _ in said():
        finding, clips = report.lower().rstrip(".").split(". ")
        words = finding.replace(",", " ").replace(":", " ").split()
        named = [[w for w in values if w in words] for values in (SIDES, ZONES, KINDS, tuple(SIZES_MM))]
        assert named == ([[]] * 4 if concept == "normal" else [[value] for value in concept.split("|")])
        assert [n for n in NUMBERS if n in clips.split()] == [NUMBERS[num_clips]]


def test_every_attribute_is_reported_in_at_least_six_wordings() -> None:
    wordings = defaultdict(set)
    for concept, report, *_ in said():
        wordings[concept].add(report.split(". ")[0])
    assert min(len(w) for w in wordings.values()) >= 6


def test_a_normal_study_is_not_asked_what_it_cannot_answer() -> None:
    for concept, report, num_clips, questions in said()[:500]:
        truths: dict[str, Any] = {q.template: q.truth for q in questions}
        if concept == "normal":
            assert (
                set(truths) - {"boxes:finding"} == {"presence", "count:clip", "report"}
                and truths["presence"].answer == "no"
            )
        else:
            assert [truths[t].answer for t in ("side", "zone", "kind", "size")] == concept.split("|")
            assert truths["boxes:finding"].answer == BOXES_SLOT
        assert truths["count:clip"].count == num_clips and truths["report"].answer == report
        assert all(t.answer in t.choices for t in truths.values() if t.task == "choice")


def test_every_question_has_four_wordings() -> None:
    for template in ASK:
        asked = {q.text for *_, questions in said()[:1500] for q in questions if q.template == template}
        assert len(asked) >= 4


# --- what is drawn is what is said -----------------------------------------------------------------------


def test_a_finding_lies_on_the_named_side_and_is_as_large_as_said() -> None:
    """The patient's left is the image's right."""
    for study in films():
        truths: dict[str, Any] = {q.template: q.truth for q in study.sample.questions}
        if study.sample.concept == "normal":
            continue
        x1, y1, x2, y2 = truths["boxes:finding"].boxes[0]
        assert ("left" if (x1 + x2) / 2 > 64 else "right") == truths["side"].answer
        # Of a tilted bar, 10 mm wide, the box tells the length to within that width only.
        widest_mm = (
            (np.hypot(x2 - x1, y2 - y1) if truths["kind"].answer == "band" else max(x2 - x1, y2 - y1)) * FILM_MM / 128
        )
        least_mm = widest_mm - (10 if truths["kind"].answer == "band" else 0)
        size_mm = SIZES_MM[truths["size"].answer]
        # 5 % by which sizes vary, 6 % of a ragged outline, one pixel; the three classes stay apart.
        assert widest_mm > 0.88 * size_mm - 3 and least_mm < 1.06 * size_mm + 3


def test_zones_stand_one_below_the_other_and_do_not_overlap() -> None:
    rows = defaultdict(list)
    for study in films():
        truths: dict[str, Any] = {q.template: q.truth for q in study.sample.questions}
        if "zone" in truths:
            _, y1, _, y2 = truths["boxes:finding"].boxes[0]
            rows[truths["zone"].answer].append((y1 + y2) / 2)
    assert max(rows["upper"]) < min(rows["middle"]) and max(rows["middle"]) < min(rows["lower"])


def test_a_finding_is_brighter_than_the_lung_around_it() -> None:
    for study in films():
        truth: Any = next((q.truth for q in study.sample.questions if q.template == "boxes:finding"), None)
        for x1, y1, x2, y2 in truth.boxes if truth else ():
            pixels = study.files["0.png"].astype(float)
            inside = pixels[int(y1) : int(y2), int(x1) : int(x2)]
            around = pixels[max(int(y1) - 4, 0) : int(y2) + 4, int(x1) - 4 : int(x2) + 4]
            assert np.percentile(inside, 90) > np.percentile(around, 20) + 60


def test_clips_are_the_only_white_things_and_as_many_as_said() -> None:
    """Counted anew in the pixels by flood fill."""
    for study in films():
        truth: Any = next(q.truth for q in study.sample.questions if q.template == "count:clip")
        assert sum(size >= 6 for size in spots(study.files["0.png"] > 250)) == truth.count == len(truth.boxes)
        for x1, y1, x2, y2 in truth.boxes:
            assert study.files["0.png"][int(y1) : int(y2), int(x1) : int(x2)].max() == 255


def test_a_volume_holds_lungs_bone_and_as_many_clips_as_said() -> None:
    for index in range(40):
        study = volume_study(Config(seed=5, volumes=40), index)
        hu = study.files["0.npy"]
        assert hu.dtype == np.int16 and hu.shape == (24, 64, 64) and -1024 <= hu.min() < -900 < 400 < hu.max()
        assert min(np.median(hu[12, 20:44, 14:22]), np.median(hu[12, 20:44, 42:50])) < -600
        assert np.median(hu[12, 28:32, 31:33]) > -50
        truth: Any = next(q.truth for q in study.sample.questions if q.template == "count:clip")
        assert len(spots(hu == 2500)) == truth.count
        assert not truth.boxes and "boxes:finding" not in {q.template for q in study.sample.questions}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("size", SIZES_MM)
def test_a_nodule_of_a_volume_is_a_ball_on_the_named_side_and_in_the_named_zone(
    side: str, zone: str, size: str
) -> None:
    """Against the same chest without a finding; voxels are 8 x 5 x 5 mm."""
    nodule = Finding("nodule", side, zone, size, SIZES_MM[size])
    hu, bare = (draw_volume(np.random.default_rng(4), f, 0, (24, 64, 64))[0].astype(float) for f in (nodule, None))
    depth, _, column = np.nonzero(hu - bare > 400)
    assert depth.mean() // 8 == ZONES.index(zone)
    assert ("left" if column.mean() > 31.5 else "right") == side
    ball_mm3 = np.pi / 6 * SIZES_MM[size] ** 3
    # A large one reaches into the heart and out of the lung, where it is tissue in tissue.
    assert 0.6 * ball_mm3 < depth.size * 8 * 5 * 5 < 1.15 * ball_mm3


# --- how it is made ----------------------------------------------------------------------------------------


def test_a_study_depends_on_seed_and_index_alone() -> None:
    few, many = made(Config(seed=1, films=3, volumes=2)), made(Config(seed=1, films=5, volumes=4))
    by_key = {s.sample.key: s for s in many}
    assert len(by_key) == 9
    for study in few:
        other = by_key[study.sample.key]
        assert study.sample == other.sample
        assert all(np.array_equal(study.files[m], other.files[m]) for m in study.files)
    assert not np.array_equal(few[0].files["0.png"], film_study(Config(seed=2, films=1), 0).files["0.png"])


def test_sixteen_bits_hold_more_than_256_levels_of_the_same_film() -> None:
    deep, flat = (film_study(Config(films=1, bits=bits), 0).files["0.png"] for bits in (16, 8))
    assert deep.dtype == np.uint16 and len(np.unique(deep)) > 1000
    assert np.abs(deep / 257 - flat).max() <= 0.51


def test_media_say_their_size_and_spacing() -> None:
    film, volume = (s.sample.media[0] for s in made(Config(films=1, volumes=1, film_px=160)))
    assert (film.size, film.spacing_mm, film.unit, film.modality) == ((160, 160), (2.0, 2.0), "display", "DX")
    assert (volume.size, volume.spacing_mm, volume.unit, volume.modality) == ((24, 64, 64), (8.0, 5.0, 5.0), "HU", "CT")


def test_patients_have_one_two_or_three_studies() -> None:
    studies = Counter(patient_of(i) for i in range(600))
    assert Counter(studies.values()) == {1: 100, 2: 100, 3: 100}


@pytest.mark.parametrize(("name", "media"), [("phantom", ("film",)), ("phantom_3d", ("film", "volume"))])
def test_the_shipped_cards_are_for_films_and_volumes_without_patients(name: str, media: tuple[str, ...]) -> None:
    card = load_card(CARDS / f"{name}.yaml")
    assert (
        card.media == media
        and card.licence.commercial
        and card.phi.status == "synthetic"
        and card.access == "generated"
    )
    assert {
        m.kind
        for s in made(card.reader.model_copy(update={"films": 1, "volumes": min(card.reader.volumes, 1)}))
        for m in s.sample.media
    } == set(media)


@pytest.mark.parametrize(
    "wrong", [{}, {"films": 1, "film_px": 32}, {"films": 1, "bits": 12}, {"volumes": 1, "volume_size": [8, 64, 64]}]
)
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"films and volumes|film_px|bits|volume_size"):
        Config(**wrong)


def test_a_pair_is_right_and_wrong_about_the_image_in_the_same_words() -> None:
    """The other questions, and the images, do not change; every value is right as often as it is wrong."""
    plain, paired = (list(made(Config(films=300, volumes=20, pairs=on))) for on in (False, True))
    assert [s.sample.questions for s in plain] == [s.sample.questions[:-1] for s in paired]
    right, wrong = Counter[str](), Counter[str]()
    for raw in paired:
        truth: Any = raw.sample.questions[-1].truth
        concept = raw.sample.concept.split("|")
        better, worse = (Counter(re.findall(r"\w+", text.lower())) for text in (truth.answer, truth.rejected))
        if concept != ["normal"]:
            assert all(better[value] for value in concept), (concept, truth)
            assert (better - worse).total() == (worse - better).total() == 1
            right.update((better - worse).keys())
            wrong.update((worse - better).keys())
    assert right.keys() == wrong.keys() == {*SIDES, *ZONES, *KINDS}
    assert all(0.4 < right[value] / (right[value] + wrong[value]) < 0.6 for value in SIDES)


def test_masks_of_films_lie_in_their_boxes_and_change_nothing_else() -> None:
    kinds = set[str]()
    for index in range(30):
        plain, masked = (film_study(Config(seed=5, films=60, masks=m), index) for m in (False, True))
        assert np.array_equal(plain.files["0.png"], masked.files["0.png"])
        *others, asked = masked.sample.questions
        assert tuple(others) == plain.sample.questions and asked.truth.members == ("0.mask",)
        labels, classes = masked.files["0.mask"].pixels, asked.truth.classes  # type: ignore[attr-defined]
        truths: dict[str, Any] = {q.template: q.truth for q in plain.sample.questions}
        found = [classes[number - 1] for number in np.unique(labels) if number]
        kind = [truths["kind"].answer] if "kind" in truths else []
        assert found == [*kind, *(["clip"] if truths["count:clip"].count else [])]
        kinds |= set(kind)
        if kind:
            rows, columns = (np.flatnonzero((labels == classes.index(kind[0]) + 1).any(axis)) for axis in (1, 0))
            box = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            assert box == truths["boxes:finding"].boxes[0]
        marked = np.zeros(labels.shape, bool)
        for x1, y1, x2, y2 in (map(int, box) for box in truths["count:clip"].boxes):
            marked[y1:y2, x1:x2] = True
        assert not (labels == 5)[~marked].any()
    assert len(kinds) == 4


def test_labels_say_what_the_questions_say_and_change_nothing_else() -> None:
    for index in range(20):
        plain, labelled = (film_study(Config(seed=5, films=60, labels=y), index) for y in (False, True))
        assert np.array_equal(plain.files["0.png"], labelled.files["0.png"])
        asked = plain.sample.questions
        assert labelled.sample.questions[: len(asked)] == asked
        truths: dict[str, Any] = {q.template: q.truth for q in labelled.sample.questions}
        assert ("kind" in truths) == ("kind_label" in truths)
        for name in ("kind", "side", "zone", "size") if "kind" in truths else ():
            assert truths[f"{name}_label"].answer == truths[name].answer


def test_masks_of_volumes_mark_what_was_drawn_and_change_nothing_else() -> None:
    seen = set[str]()
    for index in range(40):
        plain, masked = (volume_study(Config(seed=5, volumes=40, masks=m), index) for m in (False, True))
        hu = plain.files["0.npy"].astype(float)
        assert np.array_equal(hu, masked.files["0.npy"])
        labels, classes = masked.files["0.mask"].pixels, masked.sample.questions[-1].truth.classes  # type: ignore
        assert ((labels == 5) == (hu > 2000)).all(), "clips are metal"
        found = [classes[number - 1] for number in np.unique(labels) if 0 < number < 5]
        truths: dict[str, Any] = {q.template: q.truth for q in plain.sample.questions}
        assert found == ([truths["kind"].answer] if "kind" in truths else [])
        for name in found:
            inside, seen = hu[labels == classes.index(name) + 1], seen | {name}
            low, high = {"nodule": (-200, 280), "band": (-200, 280), "consolidation": (-800, 200)}.get(
                name, (-1100, 280)
            )
            assert ((inside > low) & (inside < high)).all()
            if name == "nodule":
                extent = (labels == 1).any((1, 2)).sum() * 8.0
                assert abs(extent - {"small": 28, "medium": 44, "large": 68}[truths["size"].answer]) < 14
    assert seen == {"nodule", "cavity", "band", "consolidation"}
