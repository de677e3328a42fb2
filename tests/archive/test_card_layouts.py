"""The shipped cards of archives that cannot be had here, on small made copies of their published layout."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvlm.archive.packing.pack import PackReceipt, pack
from medvlm.core.card import Card, load_card
from medvlm.core.config import component
from medvlm.core.contracts import BadSample, RawSample
from medvlm.core.sample import Sample
from medvlm.io.images import decode
from medvlm.io.opening import open_shards
from tests.archive import made_layouts

pytest.importorskip("pyarrow")

CARDS = Path(__file__).parents[2] / "data_cards"

PACKED: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {
    # samples by split, questions by split ({} where splits are dealt by hash), left out
    "slake": ({"train": 1, "val": 1, "test": 1}, {"train": 2, "val": 2, "test": 2}, {"q_lang is not en": 3}),
    "path_vqa": ({"train": 1, "val": 1, "test": 1}, {"train": 2, "val": 2, "test": 2}, {}),
    "pmc_vqa": ({"train": 1, "test": 1}, {"train": 1, "test": 1}, {}),
    "omnimedvqa": ({"test": 4}, {"test": 4}, {}),
    "medxpertqa_mm": ({"val": 2, "test": 2}, {"val": 2, "test": 2}, {}),
    "chexpert": ({"train": 3, "test": 3}, {"train": 6, "test": 6}, {"Frontal/Lateral is not Frontal": 2}),
    "pmc_oa": ({"train": 1, "val": 1, "test": 1}, {"train": 1, "val": 1, "test": 1}, {}),
    "rocov2": ({"train": 1, "val": 1, "test": 1}, {"train": 1, "val": 1, "test": 1}, {}),
    "mimic_cxr": (
        {"train": 2, "val": 1, "test": 2},
        {"train": 8, "val": 4, "test": 7},
        {
            "ViewPosition is not PA or AP": 1,
            "no text or no answer for the question consolidation": 5,
            "no text or no answer for the question edema": 5,
            "no text or no answer for the question effusion": 5,
            "no text or no answer for the question report": 1,
            "sample without a report": 1,
        },
    ),
    "mimic_cxr_pairs": (
        {"train": 1, "test": 1},
        {"train": 1, "test": 0},
        {
            "ViewPosition is not PA or AP": 1,
            "no earlier study of the patient": 3,
            "no text or no answer for the question follow-up": 1,
            "sample without a report": 1,
        },
    ),
    "chest_imagenome": (
        {"train": 2, "val": 1, "test": 2},
        {"train": 5, "val": 4, "test": 8},
        {
            "ViewPosition is not PA or AP": 1,
            "object of a class that the card does not name": 4,
            "sample without a file of its objects: nothing is asked about them": 1,
        },
    ),
    "chexpert_plus": (
        {"train": 1, "val": 1},
        {"train": 2, "val": 1},
        {
            "frontal_lateral is not Frontal": 1,
            "no text or no answer for the question impression": 1,
            "sample without a report": 1,
        },
    ),
    "medmnist_path": ({"train": 3, "val": 3, "test": 3}, {"train": 6, "val": 6, "test": 6}, {}),
    "medmnist_pneumonia": ({"train": 3, "val": 3, "test": 3}, {"train": 6, "val": 6, "test": 6}, {}),
    "medmnist_chest": ({"train": 3, "val": 3, "test": 3}, {"train": 45, "val": 45, "test": 45}, {}),
    "llava_med_instruct": ({}, {}, {}),
    "padchest": ({}, {}, {"Projection is not PA or AP or AP_horizontal or L": 1}),
    "iu_xray": ({}, {}, {"sample without a report": 1, "no text or no answer for the question report": 1}),
    "vindr_cxr": (
        {"train": 2, "test": 2},
        {"train": 30, "test": 30},
        {"object of a class that the card does not name": 2},
    ),
    "vindr_cxr_boxes": (
        {"train": 2, "test": 2},
        {"train": 2, "test": 2},
        {"object of a class that the card does not name": 2},
    ),
    "vindr_cxr_attributes": ({"train": 2, "test": 2}, {"train": 3, "test": 3}, {}),
    "vindr_cxr_known": (
        {"train": 2, "test": 2},
        {"train": 2, "test": 2},
        {"object of a class that the card does not name": 2},
    ),
    "vindr_cxr_unknown": (
        {"train": 2, "test": 2},
        {"train": 1, "test": 1},
        {"object of a class that the card does not name": 6},
    ),
    "medvision_sizes": ({"train": 1, "test": 1}, {"train": 2, "test": 2}, {"ability is not medvision-tl": 4}),
    "medvision_distances": ({"train": 1, "test": 1}, {"train": 2, "test": 2}, {"ability is not medvision-distance": 4}),
    "medvision_angles": ({"train": 1, "test": 1}, {"train": 2, "test": 2}, {"ability is not medvision-angle": 4}),
    "bimed_v": ({}, {}, {}),
    "bimed_v_captions": ({}, {}, {}),
    "mmxu": ({}, {}, {}),
    "med_mat": ({"train": 1, "test": 1}, {"train": 1, "test": 1}, {}),
    "m3cotbench": ({"test": 4}, {"test": 4}, {}),
    "medmcqa": ({"train": 1, "test": 1}, {"train": 1, "test": 1}, {}),
    "medthink_rad": ({"train": 1, "test": 1}, {"train": 1, "test": 1}, {}),
    "medthink_slake": ({"train": 1, "test": 1}, {"train": 1, "test": 1}, {}),
    "med_sg": ({}, {}, {}),
    "medreg_instruct": ({}, {}, {}),
    "med_multi_points": ({}, {}, {}),
    "medtrinity": ({}, {}, {}),
    "quilt_1m": ({}, {}, {}),
    "paxray": ({"train": 1, "val": 1, "test": 1}, {"train": 1, "val": 1, "test": 1}, {}),
    "puma": ({}, {}, {}),
    "busi": ({}, {}, {}),
    "chaos_ct": ({}, {}, {}),
    "chaos_mr": ({}, {}, {}),
}

READ = ("btcv", "ct_rate", "ct_rate_labels", "ct_rate_structured", "m3d_cap", "merlin", "vocomni")
"""Their media are volumes in files that are tried elsewhere: here, up to which files and texts belong together."""


SAME = {
    "mimic_cxr_pairs": "mimic_cxr",
    "ct_rate_labels": "ct_rate",
    "ct_rate_structured": "ct_rate",
    "bimed_v_captions": "bimed_v",
    **dict.fromkeys(("medvision_sizes", "medvision_distances", "medvision_angles"), "medvision"),
    **dict.fromkeys(("vindr_cxr_attributes", "vindr_cxr_boxes", "vindr_cxr_known", "vindr_cxr_unknown"), "vindr_cxr"),
}
"""Card -> the card of the same archive."""
WITH_TEXTS = ("bimed_v",)
"""Some of their samples have no image."""
SETTINGS = {"bimed_v_captions": {"stage": 1}}


class Made:
    def __init__(self, name: str, tmp: Path) -> None:
        self.root = tmp / name / "root"
        self.root.mkdir(parents=True)
        getattr(made_layouts, SAME.get(name, name))(self.root, **SETTINGS.get(name, {}))
        self.card: Card = load_card(CARDS / f"{name}.yaml")
        self.out = tmp / name / "shards"

    @property
    def raws(self) -> list[RawSample]:
        reader = component("archive.readers", self.card.reader.kind)
        return [item for item in reader.read(self.card.reader, self.root) if isinstance(item, RawSample)]


class Packed(Made):
    def __init__(self, name: str, tmp: Path) -> None:
        super().__init__(name, tmp)
        self.receipt: PackReceipt = pack(
            self.card.add_secret("a secret for a made copy"), self.root, self.out, workers=1
        )
        shards = open_shards(self.out)
        self.all: list[tuple[Sample, Any]] = [
            shards.read(split, i) for split in shards.splits for i in range(shards.count(split))
        ]
        self.samples = [sample for sample, _ in self.all]

    def questions(self, sample: Sample | None = None) -> list[tuple[str, str, str]]:
        return [
            (q.text, q.truth.task, q.truth.answer)
            for s in (self.samples if sample is None else [sample])
            for q in s.questions
        ]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return cache(lambda name: Packed(name, tmp_path_factory.mktemp("made")))


@pytest.mark.parametrize("name", sorted(PACKED))
def test_a_made_copy_packs_without_a_bad_sample(packed, name):
    found, (samples, questions, left_out) = packed(name), PACKED[name]
    assert found.receipt.quarantined == 0 and found.receipt.left_out == left_out
    if samples:
        assert found.receipt.samples == samples and found.receipt.questions == questions
    for sample, files in found.all:
        assert sample.media or not found.card.media or name in WITH_TEXTS, "these data sets are of images"
        assert all(decode(files[medium.member], medium.member).shape[:2] == medium.size for medium in sample.media)


@pytest.mark.parametrize("name", sorted([*PACKED, *READ]))
def test_the_card_says_that_only_a_synthetic_copy_was_read(name):
    assert "synthetic" in load_card(CARDS / f"{name}.yaml").limits.rpartition("Tested so far")[2], (
        "limits: Tested so far only on a synthetic copy ..."
    )


@pytest.mark.parametrize(
    "name", ["mimic_cxr", "mimic_cxr_pairs", "chest_imagenome", "chexpert_plus", "padchest", "iu_xray"]
)
def test_patients_are_known_and_in_one_split_each(packed, name):
    splits: dict[str, set[str]] = {}
    for sample in packed(name).samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
    assert "" not in splits and all(len(where) == 1 for where in splits.values())


def test_boxes_of_regions_are_those_in_pixels_of_the_film(packed):
    for sample in packed("chest_imagenome").samples:
        boxes = {q.truth.label: q.truth.boxes for q in sample.questions if q.truth.task == "boxes"}
        places = {"cardiac silhouette": (3, 2, 6, 5), "left lung": (4, 0, 8, 5), "right lung": (0, 0, 4, 5)}
        assert boxes in ({}, {name: (box,) for name, box in places.items()})
        (findings,) = [q.truth for q in sample.questions if q.template == "findings"]
        assert len(findings.classes) == 13 and {True, False, None} >= set(findings.labels)


def test_a_file_of_objects_that_is_none_makes_a_bad_sample(packed, tmp_path):
    card = packed("chest_imagenome").card
    made_layouts.chest_imagenome(tmp_path)
    graphs = sorted((tmp_path / "silver_dataset/scene_graph").iterdir())
    for path, text in zip(graphs, ('{"objects": [1]}', "{", '{"image_id": "x"}'), strict=False):
        path.write_text(text)
    found = list(component("archive.readers", card.reader.kind).read(card.reader, tmp_path))
    reasons = sorted(item.reason for item in found if isinstance(item, BadSample))
    assert reasons == [
        "the file of its objects is no JSON, or has no list under the key that the card names",
        "the file of its objects is no JSON, or has no list under the key that the card names",
        "the file of its objects lists something other than records",
    ]


def test_slake_asks_in_english_alone(packed):
    assert Counter(packed("slake").questions()) == {
        ("Is this CT?", "choice", "yes"): 3,
        ("Which organ?", "open", "liver"): 3,
    }


def test_the_first_word_of_a_question_of_path_vqa_is_its_template(packed):
    assert {q.template: q.truth.task for sample in packed("path_vqa").samples for q in sample.questions} == {
        "is": "choice",
        "what": "open",
    }


def test_pmc_vqa_is_answered_by_a_letter(packed):
    text, task, answer = packed("pmc_vqa").questions()[0]
    assert text.splitlines()[1:] == [
        "A:Pattern A",
        "B:Pattern B",
        "C:Pattern C",
        "D:Pattern D",
        "Answer with the letter.",
    ] and (task, answer) == ("choice", "B")


def test_options_of_pmc_vqa_are_kept_beside_their_letters(packed):
    (truth,) = {q.truth for sample in packed("pmc_vqa").samples for q in sample.questions}
    assert truth.choices == ("A", "B", "C", "D") and truth.options[1] == "B:Pattern B"


def test_omnimedvqa_is_answered_by_the_text_of_one_of_its_options(packed):
    of = {q.truth.choices: q for sample in packed("omnimedvqa").samples for q in sample.questions}
    assert sorted(map(len, of)) == [2, 4] and {q.truth.answer for q in of.values()} <= {"Healthy eye", "Yes"}
    assert of["No", "Yes"].text.splitlines()[1:4] == ["Candidate answers:", "No", "Yes"]
    assert {tuple(sample.groups) for sample in packed("omnimedvqa").samples} == {("modality", "dataset")}


def test_medxpertqa_has_all_images_of_a_question_and_its_options(packed):
    found = {sample.split: sample for sample in packed("medxpertqa_mm").samples if len(sample.media) == 2}
    (question,) = found["test"].questions
    assert question.truth.answer == "D" and question.truth.options[3] == "Arthroscopy"
    assert question.text.endswith("\nA: Among A through E, the answer is")


def test_uncertain_labels_of_chexpert_count_as_its_card_says(packed):
    """Present for atelectasis and edema, absent for the other tasks of the competition, else not known."""
    asked = [q for s in packed("chexpert").samples if s.split == "train" for q in s.questions]
    competition = {q.truth.labels for q in asked if q.template == "competition"}
    assert competition == {  # atelectasis, cardiomegaly, consolidation, edema, pleural effusion
        (True, False, False, False, False),
        (False, False, False, True, False),
        (True, True, True, False, True),
    }
    of_all = [dict(zip(q.truth.classes, q.truth.labels, strict=True)) for q in asked if q.template == "observations"]
    assert {name for labels in of_all for name, label in labels.items() if label is None} == {
        "enlarged cardiomediastinum", "pneumothorax", "support devices", "no finding", "lung lesion", "fracture"
    }  # fmt: skip
    assert len({sample.patient for sample in packed("chexpert").samples}) == 4


def test_vindr_asks_where_a_finding_is_and_whether_it_is_there(packed):
    found = {
        sample.split: sample
        for sample in packed("vindr_cxr").samples
        if any(q.truth.task == "boxes" for q in sample.questions)
    }
    boxes = {
        split: [q.truth.boxes for q in sample.questions if q.truth.task == "boxes"] for split, sample in found.items()
    }
    effusions, air = ((0, 2, 5, 6), (1, 2, 5, 6), (2, 2, 5, 6)), ((6, 1, 9, 4),)
    assert boxes == {"train": [effusions, air], "test": [effusions[:1], air]}
    said = Counter(
        q.truth.answer for sample in packed("vindr_cxr").samples for q in sample.questions if q.truth.task == "choice"
    )
    assert said == {"yes": 4, "no": 2 * 28 - 4}


def test_a_sample_of_med_mat_knows_the_combination_of_its_collection(packed):
    groups = packed("med_mat").samples[0].groups
    assert groups == {"collection": "2", "modality": "CT", "area": "Lung", "purpose": "Cancer"}


def test_medmcqa_is_answered_by_a_letter_without_an_image(packed):
    first, second = sorted(packed("medmcqa").samples, key=lambda sample: sample.split, reverse=True)
    (asked,) = first.questions
    assert not first.media and asked.text.splitlines()[1:3] == ["A. 0 lobes", "B. 1 lobes"]
    assert (asked.truth.answer, asked.truth.choices, asked.steps) == ("A", ("A", "B", "C", "D"), {})
    assert second.questions[0].truth.answer == "B"
    assert second.questions[0].steps == {"explanation": "Lungs have 1 lobes."}


def test_m3cotbench_has_steps_and_answers_of_each_form(packed):
    found = {q.truth.answer: q for sample in packed("m3cotbench").samples for q in sample.questions}
    tasks = {answer: q.truth.task for answer, q in found.items()}
    assert tasks == {"Cyst": "open", "A": "choice", "True": "choice", "A, C": "open"}
    assert list(found["True"].steps) == ["modality", "feature", "conclusion", "analysis"]
    assert list(found["Cyst"].steps) == ["modality", "feature", "conclusion"]
    assert found["True"].template == "Diagnosis"


@pytest.mark.parametrize("name", ["medthink_rad", "medthink_slake"])
def test_medthink_gives_a_rationale_with_each_answer(packed, name):
    answers = {q.truth.answer: q.steps for sample in packed(name).samples for q in sample.questions}
    assert answers == {"yes": {"rationale": "The area 0 is dark."}, "no": {"rationale": "The area 1 is bright."}}


def test_a_choice_of_med_mat_is_a_letter_and_its_collection_the_template(packed):
    question = packed("med_mat").samples[0].questions[0]
    assert (question.truth.task, question.truth.answer, question.template) == (
        "choice",
        "B",
        "2",
    ) and question.text.endswith("B: Cyst")


def test_captions_are_reports(packed):
    assert {sample.report for sample in packed("pmc_oa").samples} == {"Translocation."}
    assert {(sample.report, sample.concept) for sample in packed("rocov2").samples} == {("CT of the chest.", "")}
    assert sorted(sample.report for sample in packed("quilt_1m").samples) == ["A gland.\nA duct.", "Stroma."]


def test_a_turn_of_llava_med_has_the_earlier_ones_above_it(packed):
    assert len(packed("llava_med_instruct").samples) == 4
    assert packed("llava_med_instruct").questions()[:2] == [
        ("What is shown?", "open", "A chest film."),
        ("What is shown?\nA chest film.\n\nIs it normal?", "open", "It seems to be."),
    ]


def test_a_report_of_mimic_begins_at_its_findings(packed):
    reports = Counter(sample.report for sample in packed("mimic_cxr").samples)
    assert reports == {
        "": 1,
        **{f"FINDINGS:\n Film {number} is clear.\n\n IMPRESSION: Normal.": 1 for number in (1, 2, 3, 4)},
    }
    asked = {
        (q.template, q.truth.answer)
        for sample in packed("mimic_cxr").samples
        for q in sample.questions
        if q.truth.task == "choice"
    }
    assert asked == {
        ("atelectasis", "yes"),
        ("cardiomegaly", "no"),
        ("pneumothorax", "no"),
    }, "an uncertain or unknown finding is not asked"


def test_a_pair_of_mimic_is_the_earlier_film_and_the_later_one(packed):
    found = packed("mimic_cxr_pairs")
    (pair,) = [raw for raw in found.raws if raw.sample.key == "2a2277a9"]
    assert [path.stem for path in pair.files.values()] == [
        "02aa804e",
        "2a2277a9",
    ], "the lateral film of that day is none of the frontal ones"
    (question,) = pair.sample.questions
    assert (
        "Film 1 is clear." in question.text
        and "Film 2 is clear." in question.truth.answer
        and question.truth.task == "report"
    )
    assert [medium.size for medium in found.samples[0].media] == [(6, 8), (6, 8)]


def test_films_of_padchest_keep_their_16_bits(packed):
    for sample, files in packed("padchest").all:
        assert decode(files[sample.media[0].member], "x").dtype == np.uint16
    assert len(packed("padchest").samples) == 2


def test_a_study_of_iu_has_its_views_in_the_order_of_the_table(packed):
    one, two = sorted(packed("iu_xray").samples, key=lambda sample: -len(sample.media))
    assert (len(one.media), len(two.media)) == (2, 1) and (one.report, two.report) == ("Clear. Normal.", "")
    assert [path.name for path in packed("iu_xray").raws[0].files.values()] == [
        "1_IM-0001-4001.dcm.png",
        "1_IM-0001-3001.dcm.png",
    ]


def test_boxes_of_med_multi_points_are_counted_found_and_told(packed):
    found = packed("med_multi_points")
    counts = Counter((q.template, q.truth.answer) for sample in found.samples for q in sample.questions)
    assert counts["count:polyps", "1"] == 1 and counts["count:sperm", "2"] == 1 and counts["count:polyps", "0"] == 2
    boxes = [q.truth.boxes for sample in found.samples for q in sample.questions if q.template == "boxes:sperm"]
    assert boxes == [((0, 0, 2, 2), (4, 1, 8, 6))]
    assert {sample.media[0].modality for sample in found.samples} == {"Lower GI", "Microscopy"}


def test_images_of_medmnist_are_those_of_the_arrays_with_their_labels(packed):
    found = packed("medmnist_path")
    with np.load(found.root / "pathmnist.npz") as arrays:
        expected = {
            arrays["test_images"][i].tobytes(): found.card.reader.labels[int(arrays["test_labels"][i, 0])]
            for i in range(3)
        }
    stored = {
        decode(files["0.png"], "x").tobytes(): sample.questions[0].truth.answer
        for sample, files in found.all
        if sample.split == "test"
    }
    assert stored == expected


def test_ct_rate_finds_its_volumes_by_their_names(tmp_path):
    made = Made("ct_rate", tmp_path)
    raws = made.raws
    assert [
        (raw.sample.split, raw.sample.patient, made_layouts.path_in(raw.files["0"]).read_text()) for raw in raws
    ] == [
        ("train", "train_1", "train_1_a_1"),
        ("train", "train_1", "train_1_a_2"),
        ("train", "train_2", "train_2_b_1"),
        ("val", "valid_1", "valid_1_a_1"),
    ]
    assert {(m.kind, m.unit, m.modality) for raw in raws for m in raw.sample.media} == {("volume", "HU", "CT")}
    assert raws[0].sample.report == "Findings train_1_a_1. Clear." and [
        q.truth.task for q in raws[0].sample.questions
    ] == ["report", "report"]


def test_a_volume_of_vocomni_has_the_mask_of_its_number(tmp_path):
    raws = Made("vocomni", tmp_path).raws
    assert [raw.sample.patient for raw in raws] == ["VoComni_0", "VoComni_1"]
    for raw in raws:
        (question,) = raw.sample.questions
        truth: Any = question.truth
        assert question.template == "organs" and len(truth.classes) == 20
        labels = raw.files["0.mask"].args[0]
        assert labels.read_text() == f"{raw.sample.patient}_mask" and labels.parent.name == "labelsTr"
        assert raw.sample.media[0].unit == "HU"


def test_ct_rate_has_the_labels_of_both_tables(tmp_path):
    asked = [raw.sample.questions[-1] for raw in Made("ct_rate_labels", tmp_path).raws]
    truths: list[Any] = [question.truth for question in asked]
    assert [truth.labels[0] for truth in truths] == [False, True, False, False]
    assert all(len(truth.classes) == 18 for truth in truths)
    assert {question.template for question in asked} == {"abnormalities"}


def test_merlin_has_the_codes_that_a_table_of_its_studies_lists(tmp_path):
    raws = Made("merlin", tmp_path).raws
    assert [raw.sample.split for raw in raws] == ["train", "val", "test"]
    asked: list[Any] = [{q.template: q.truth for q in raw.sample.questions}.get("phecodes") for raw in raws]
    first, healthy, unknown = asked
    assert len(first.classes) == len(set(first.classes)) == 1692 and unknown is None
    there = {name for name, label in zip(first.classes, first.labels, strict=True) if label}
    assert there == {"8.5", "250.2", "401.1"} and None not in first.labels and not any(healthy.labels)


def test_m3d_cap_finds_the_text_of_each_volume(tmp_path):
    raws = Made("m3d_cap", tmp_path).raws
    assert [(raw.sample.split, raw.sample.patient, raw.sample.report) for raw in raws] == [
        (split, f"ct_quizze/{n:06d}", f"Findings of case {n}.") for n, split in enumerate(("train", "val", "test"))
    ]


def test_slake_reads_its_real_questions_about_images_that_are_made(real_data, tmp_path):
    """The only part of SLAKE that can be had here is validate.json, without its images."""
    asked = json.loads((real_data / "slake_questions" / "validate.json").read_text())
    made_layouts.slake(tmp_path)
    made_layouts.put(tmp_path, "validation.json", json.dumps(asked))
    for number, name in enumerate(sorted({row["img_name"] for row in asked})):
        made_layouts.put(tmp_path, f"imgs/{name}", made_layouts.film(100 + number))
    made_layouts.put(tmp_path, "train.json", "[]")
    made_layouts.put(tmp_path, "test.json", "[]")
    receipt = pack(load_card(CARDS / "slake.yaml"), tmp_path, tmp_path / "shards")
    english = [row for row in asked if row["q_lang"] == "en"]
    assert receipt.questions == {"val": len(english)} == {"val": 1053} and receipt.samples == {
        "val": len({row["img_name"] for row in english})
    }
    assert receipt.quarantined == 0 and receipt.left_out == {
        "q_lang is not en": 1046,
        "answer to {answer_type}:{content_type} that names one of its choices in other words, kept as another task": 6,
    }
