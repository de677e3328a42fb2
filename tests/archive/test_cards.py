"""The shipped cards on the real archives: what is in there, and what becomes of it."""

import csv
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.packing.pack import PackReceipt, pack
from medvlm.core.card import Card, load_card
from medvlm.core.config import component
from medvlm.core.contracts import RawSample
from medvlm.core.sample import Sample
from medvlm.io.dicom.header import MEASURED, SHOWN
from medvlm.io.images import decode
from medvlm.io.masks import decode_mask
from medvlm.io.opening import open_shards
from medvlm.tasks import findings
from tests.archive import made_layouts, test_card_layouts

MOSAIC = "a mosaic: the slices of a volume side by side in one image; split it, e.g. with dcm2niix, and read the NIfTI"
CARDS = Path(__file__).parents[2] / "data_cards"
ROOTS = {
    "bccd": "bccd",
    "bccd_boxes": "bccd",
    "bccd_cells": "bccd",
    "vqa_rad": "vqa_rad",
    "vqa_rad_folds": "vqa_rad",
    "vqa_rad_modality": "vqa_rad",
    "vqa_rad_organs": "vqa_rad",
    "vqa_rad_parts": "vqa_rad",
    "vqa_rad_views": "vqa_rad",
    "vqa_rad_published": "vqa_rad",
    "cxr_cohen": "nc/cxr_cohen",
    "cxr_cohen_by": "cxr_cohen_by",
    "cxr_cohen_findings": "nc/cxr_cohen",
    "cxr_cohen_lungs": "nc/cxr_cohen",
    "cxr_hannover": "cxr_hannover",
    "cxr_hannover_pairs": "cxr_hannover",
    "cxr_hannover_views": "cxr_hannover",
    "chase_db1": "chase_db1",
    "chase_db1_patches": "chase_db1",
    "dsb2018_boxes": "dsb2018_nuclei",
    "dsb2018_patches": "dsb2018_nuclei",
    "dsb2018_nuclei": "dsb2018_nuclei",
    "kvasir_seg": "nc/kvasir_seg_352",
    "kvasir_seg_folds": "nc/kvasir_seg_352",
    "slake_questions": "slake_questions",
    "volumes_ct": "volumes",
    "volumes_mr": "volumes",
    "pathology_openslide": "pathology_openslide",
    "pathology_cmu": "pathology_openslide",
    "dicom_series": "dicom_series",
    "dicom_pydicom": "dicom_pydicom",
}
SLOW = (
    "bccd_cells",
    "bccd_boxes",
    "chase_db1_patches",
    "dsb2018_boxes",
    "dsb2018_patches",
    "kvasir_seg_folds",
    "vqa_rad_folds",
    "vqa_rad_modality",
    "vqa_rad_organs",
    "vqa_rad_parts",
    "vqa_rad_published",
    "vqa_rad_views",
)
QUICK_AND_SLOW = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in sorted(ROOTS)]
REFUSED = {
    "dicom_series": {"1 slice; a volume needs at least 3": 3},
    "dicom_pydicom": {
        "1 slice; a volume needs at least 3": 21,
        "there is a sample of the same key already": 19,
        "a colour image of more than 8 bits": 4,
        "it has 32 bits per pixel": 2,
        "it has no Rows and no SOPClassUID": 1,
        "its slices are not evenly spaced": 1,
        "it has no PixelData": 1,
    },
}
"""How many samples are bad, by how the reason begins: files that are odd on purpose. No other archive has any."""
CEILINGS = {"dicom_series": 0.12, "dicom_pydicom": 0.65}
GENERATED = (
    "phantom",
    "phantom_3d",
    "phantom_marks",
    "phantom_labels",
    "phantom_masks",
    "phantom_masks_3d",
    "phantom_pairs",
    "phantom_spots",
)


class Packed:
    def __init__(self, name: str, real_data: Path, out: Path) -> None:
        self.card: Card = load_card(CARDS / f"{name}.yaml")
        self.folder = out / name
        self.receipt: PackReceipt = pack(
            self.card, real_data / ROOTS[name], self.folder, workers=1, max_bad=CEILINGS.get(name, 0.0)
        )
        shards = open_shards(self.folder)
        self.all = [shards.read(split, i) for split in shards.splits for i in range(shards.count(split))]
        self.samples: list[Sample] = [sample for sample, _ in self.all]
        self.questions = [question for sample in self.samples for question in sample.questions]


@pytest.fixture(scope="module")
def packed(real_data, tmp_path_factory):
    """Each archive packed once, when a test first asks for it."""
    out = tmp_path_factory.mktemp("packed")

    @cache
    def get(name: str) -> Packed:
        if not (real_data / ROOTS[name]).is_dir():
            pytest.skip(f"needs the real data set {ROOTS[name]}")
        return Packed(name, real_data, out)

    return get


@pytest.fixture(scope="module")
def decoded():
    """Files that were decoded, with their sizes: several cards are of the same images."""
    return set()


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_samples_are_good_or_refused_as_expected_and_all_images_decode(packed, decoded, name):
    found = packed(name)
    reasons = [json.loads(line)["reason"] for line in (found.folder / "quarantine.jsonl").read_text().splitlines()]
    assert found.receipt.quarantined == len(reasons) == sum(REFUSED.get(name, {}).values())
    assert {
        start: sum(reason.startswith(start) for reason in reasons) for start in REFUSED.get(name, {})
    } == REFUSED.get(name, {})
    for sample, files in found.all:
        for medium in sample.media:
            stored = files[medium.member], medium.size
            if stored not in decoded:
                assert decode(stored[0], medium.member).shape[: len(medium.size)] == medium.size
                decoded.add(stored)
    keys = [sample.key for sample in found.samples]
    assert len(set(keys)) == len(keys) and all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


@pytest.mark.parametrize(
    "name",
    [
        "chase_db1",
        "volumes_mr",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("bccd", "cxr_cohen", "cxr_cohen_lungs", "vqa_rad")),
    ],
)
def test_packed_again_the_bytes_are_the_same(packed, name, real_data, tmp_path):
    found = packed(name)
    assert pack(found.card, real_data / ROOTS[name], tmp_path / name) == found.receipt, (
        "the receipt holds the sha256 of every tar"
    )


def test_every_shipped_card_is_tried_on_an_archive():
    """On the real one, on a made copy of its layout, or on what is made from a seed."""
    tried = [*ROOTS, *GENERATED, *test_card_layouts.PACKED, *test_card_layouts.READ]
    assert sorted(tried) == sorted(path.stem for path in CARDS.glob("*.yaml"))


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_card_says_what_it_must(path):
    card = load_card(path)
    assert card.name == path.stem and card.licence.url and card.limits and card.phi.note and card.units
    if card.access != "generated":
        assert card.citation and card.homepage.startswith("https://") and card.terms
    assert bool(card.patient_key) or card.splits.by != "patient" or path.stem == "pathology_openslide", (
        "who is a patient has to be said"
    )
    assert card.licence.redistribute or not card.licence.commercial or path.stem not in ROOTS


@pytest.mark.parametrize("path", sorted(CARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_card_without_patients_says_so_in_its_limits(path):
    card = load_card(path)
    if not card.patient_key and card.media and card.access != "generated" and path.stem != "pathology_openslide":
        assert re.search("patient|article|video|slide|plate", card.limits, re.IGNORECASE), (
            "which images belong together, and may lie on both sides of a split"
        )


def test_licences_are_those_of_the_archives():
    licences = {name: load_card(CARDS / f"{name}.yaml").licence for name in ROOTS}
    assert {name: (x.id, x.commercial, x.share_alike) for name, x in licences.items()} == {
        "bccd": ("MIT", True, False),
        "bccd_boxes": ("MIT", True, False),
        "bccd_cells": ("MIT", True, False),
        "vqa_rad": ("CC0-1.0", True, False),
        "vqa_rad_folds": ("CC0-1.0", True, False),
        "vqa_rad_modality": ("CC0-1.0", True, False),
        "vqa_rad_organs": ("CC0-1.0", True, False),
        "vqa_rad_parts": ("CC0-1.0", True, False),
        "vqa_rad_views": ("CC0-1.0", True, False),
        "vqa_rad_published": ("CC0-1.0", True, False),
        "cxr_cohen": ("CC-BY-NC-SA-4.0", False, True),
        "cxr_cohen_by": ("custom", True, True),
        "cxr_cohen_findings": ("CC-BY-NC-SA-4.0", False, True),
        "cxr_cohen_lungs": ("CC-BY-NC-SA-4.0", False, True),
        "cxr_hannover": ("CC-BY-3.0", True, False),
        "cxr_hannover_pairs": ("CC-BY-3.0", True, False),
        "cxr_hannover_views": ("CC-BY-3.0", True, False),
        "chase_db1": ("CC-BY-4.0", True, False),
        "chase_db1_patches": ("CC-BY-4.0", True, False),
        "dsb2018_boxes": ("CC0-1.0", True, False),
        "dsb2018_nuclei": ("CC0-1.0", True, False),
        "dsb2018_patches": ("CC0-1.0", True, False),
        "kvasir_seg": ("custom", False, False),
        "kvasir_seg_folds": ("custom", False, False),
        "slake_questions": ("CC-BY-4.0", True, False),
        "volumes_ct": ("Apache-2.0", True, False),
        "volumes_mr": ("MIT", True, False),
        "pathology_openslide": ("custom", True, False),
        "pathology_cmu": ("CC0-1.0", True, False),
        "dicom_series": ("custom", True, False),
        "dicom_pydicom": ("MIT", True, False),
    }


COUNTS = {
    "bccd": (275, 1783, 0),
    "bccd_boxes": (275, 275, 0),
    "bccd_cells": (3688, 3688, 275),
    "vqa_rad": (252, 1812, 0),
    "vqa_rad_folds": (252, 1812, 0),
    "vqa_rad_modality": (54, 54, 0),
    "vqa_rad_organs": (252, 252, 0),
    "vqa_rad_parts": (252, 4960, 0),
    "vqa_rad_views": (130, 665, 0),
    "vqa_rad_published": (164, 351, 0),
    "cxr_cohen": (118, 286, 62),
    "cxr_cohen_by": (7, 7, 6),
    "cxr_cohen_findings": (118, 73, 62),
    "cxr_cohen_lungs": (19, 38, 11),
    "cxr_hannover": (98, 240, 49),
    "cxr_hannover_pairs": (44, 44, 26),
    "cxr_hannover_views": (98, 98, 49),
    "chase_db1": (24, 72, 12),
    "chase_db1_patches": (2880, 2880, 12),
    "dsb2018_boxes": (42, 84, 0),
    "dsb2018_nuclei": (42, 109, 0),
    "dsb2018_patches": (2520, 2520, 42),
    "kvasir_seg": (80, 320, 0),
    "kvasir_seg_folds": (80, 320, 0),
    "slake_questions": (174, 2099, 0),
    "volumes_ct": (2, 0, 1),
    "volumes_mr": (3, 3, 2),
    "pathology_openslide": (3, 3, 2),
    "pathology_cmu": (1, 0, 1),
    "dicom_series": (24, 0, 11),
    "dicom_pydicom": (31, 0, 15),
}
"""Samples and questions of all splits, and patients."""


@pytest.mark.parametrize("name", QUICK_AND_SLOW)
def test_all_of_the_real_data_packs_to_these_counts(packed, name):
    found = packed(name).receipt
    counted = found.samples, found.questions, found.patients
    assert tuple(sum(each.values()) for each in counted) == COUNTS[name]


def test_what_is_left_out_of_the_real_data_is_counted(packed):
    assert packed("dicom_series").receipt.left_out == {
        MOSAIC: 20,
        "a secondary capture: a picture of a screen or of a film": 1,
        "a tiled slide; read it as a whole slide": 8,
        "not an image: it has no Rows": 4,
        "computed from other images (ImageType DERIVED or SECONDARY), such as a reformation or a projection": 11,
        "not a DICOM file": 46,
        f"not an image for viewing: its Modality is not one of {', '.join((*MEASURED, *SHOWN))}": 12,
        "of modality DX, which the card does not name": 1,
    }


# --- BCCD -----------------------------------------------------------------------------------------


def test_bccd_has_275_images_and_every_annotated_cell(packed):
    """The numbers of the archive's own description."""
    bccd = packed("bccd")
    assert len(bccd.samples) == 275
    counts: Counter[str] = Counter()
    for question in bccd.questions:
        if question.truth.task == "count":
            assert len(question.truth.boxes) == question.truth.count
            counts[question.template] += question.truth.count
    assert counts == {"count:RBC": 3134, "count:WBC": 281, "count:Platelets": 273}
    assert bccd.receipt.left_out == {}, "no box of these 275 images is degenerate"


def test_bccd_agrees_with_the_boxes_of_its_csv(packed, real_data):
    """test.csv is a second record of the same boxes."""
    path = real_data / "bccd" / "test.csv"
    with path.open() as file:
        rows = [tuple(float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax")) for row in csv.DictReader(file)]
    boxes = [
        box for question in packed("bccd").questions if question.truth.task == "count" for box in question.truth.boxes
    ]
    assert Counter(boxes) == Counter(rows)


def test_bccd_holds_out_every_image_once_and_90_at_least(packed):
    samples = packed("bccd").receipt.samples
    assert set(samples) == {"fold0", "fold1", "fold2"} and sum(samples.values()) == 275 and min(samples.values()) >= 90


def test_bccd_asks_where_the_cells_are_unless_they_are_too_many(packed):
    bccd = packed("bccd")
    asked = [question for question in bccd.questions if question.truth.task == "boxes"]
    assert {question.template for question in asked} == {"boxes:RBC", "boxes:WBC", "boxes:Platelets"}
    assert max(len(question.truth.boxes) for question in asked) <= 24
    unasked = [
        q.truth.count
        for q in bccd.questions
        if q.template == "count:RBC" and (q.truth.count == 0 or q.truth.count > 24)
    ]
    assert len(unasked) + sum(q.template == "boxes:RBC" for q in asked) == 275
    assert Counter(q.truth.answer for q in bccd.questions if q.template == "presence:Platelets") == {
        "yes": 151,
        "no": 124,
    }
    assert len({q.text for q in bccd.questions if q.template == "count:RBC"}) == 4
    assert "13 red blood cells, 1 white blood cell and 2 platelets." in {sample.report for sample in bccd.samples}


# --- VQA-RAD --------------------------------------------------------------------------------------


def test_vqa_rad_has_1812_questions_about_252_images(packed):
    vqa = packed("vqa_rad")
    assert (len(vqa.samples), len(vqa.questions)) == (252, 1812)
    other = "answer to {answer_type}:{question_type} that names one of its choices in other words, kept as another task"
    assert vqa.receipt.left_out == {other: 3}


def test_vqa_rad_closed_questions_can_be_told_from_open_ones(packed, real_data):
    official = json.loads((real_data / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    closed = [str(row["answer"]).strip().lower() for row in official if row["answer_type"].strip() == "CLOSED"]
    vqa = packed("vqa_rad")
    assert sorted(q.truth.answer for q in vqa.questions if q.template.startswith("closed:")) == sorted(closed)
    assert Counter(q.truth.task for q in vqa.questions) == {"choice": 964, "open": 1812 - 964}
    assert len(closed) == 1052 and all(
        q.template.startswith("closed:") for q in vqa.questions if q.truth.task == "choice"
    )
    assert {"4", "12"} <= {q.truth.answer for q in vqa.questions}, "numbers in the JSON are answers too"


def test_vqa_rad_templates_are_the_eleven_question_types(packed):
    types = {q.template.partition(":")[2] for q in packed("vqa_rad").questions}
    assert types == {"pres", "pos", "abn", "modality", "other", "size", "plane", "attrib", "organ", "color", "count"}


def test_vqa_rad_splits_share_no_image_and_have_their_share(packed):
    vqa = packed("vqa_rad")
    seen: dict[bytes, str] = {}
    for sample, files in vqa.all:
        assert seen.setdefault(files["0.jpg"], sample.split) == sample.split
    assert len(seen) == 252
    for split, ratio in vqa.card.splits.ratios.items():
        assert vqa.receipt.samples[split] == pytest.approx(252 * ratio, rel=0.05)


@pytest.mark.slow
def test_the_cards_of_vqa_rad_in_folds_hold_out_the_same_images(packed):
    """One recipe trains on all three."""
    folds = {
        name: {(files["0.jpg"], sample.split) for sample, files in packed(name).all}
        for name in ("vqa_rad_folds", "vqa_rad_parts", "vqa_rad_views")
    }
    assert folds["vqa_rad_parts"] == folds["vqa_rad_folds"] > folds["vqa_rad_views"]


@pytest.mark.slow
def test_what_follows_from_the_part_of_the_body_agrees_with_the_answers_of_clinicians(packed):
    """Modality and plane follow from the part of the body in one card, and from answers about an image in another."""
    said, follows = (
        {(files["0.jpg"], q.template): q.truth.answer for sample, files in packed(name).all for q in sample.questions}
        for name in ("vqa_rad_views", "vqa_rad_parts")
    )
    assert Counter(asked for image, asked in said if (image, asked) in follows) == {
        "scan": 26,
        "plane": 27,
        "is_ct": 26,
    }
    assert all(said[each] == answer for each, answer in follows.items() if each in said)
    assert {answer for (_, asked), answer in said.items() if asked == "scan"} == {"ct", "mri", "x-ray"}


# --- COVID-19 image data collection ------------------------------------------------------------------


def test_cxr_cohen_keeps_118_films_of_143_images_and_says_what_became_of_the_rest(packed, real_data):
    with (real_data / "nc/cxr_cohen/metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), len({row["patientid"] for row in rows})) == (143, 70)
    films = [row for row in rows if row["modality"] == "X-ray"]
    cxr = packed("cxr_cohen")
    assert len(cxr.samples) == len(films) == 118
    numbers = {row["patientid"] for row in films}
    assert {"97", "178"} <= numbers and len(numbers) == 63
    assert len({sample.patient for sample in cxr.samples}) == 62, "97 and 178 are one patient"
    assert cxr.receipt.left_out == {
        "modality is not X-ray": 25,
        "no text or no answer for the question finding": sum(row["finding"] == "todo" for row in films),
        "no text or no answer for the question view": sum(row["view"] in ("", "?") for row in films),
    }


def test_cxr_cohen_findings_are_sets_of_its_ontology(packed):
    """By hand from the column `finding`: 38 COVID-19, 6 of it with ARDS, 9 pneumonias of unknown cause, ..."""
    counted = Counter(question.truth.answer for question in packed("cxr_cohen_findings").questions)
    by_hand = {"COVID-19": 38, "COVID-19; ARDS": 6, "pneumonia": 9, "klebsiella pneumonia": 6, "no finding": 1}
    assert {answer: counted[answer] for answer in by_hand} == by_hand and counted.total() == 73
    (covid, *_) = (q.truth for q in packed("cxr_cohen_findings").questions if q.truth.answer == "COVID-19")
    assert covid.members_of_set == {"COVID-19", "viral pneumonia", "pneumonia"}
    assert findings.score("viral pneumonia", covid) == pytest.approx(0.8)


def test_cxr_cohen_patients_are_in_one_split_each(packed):
    cxr = packed("cxr_cohen")
    splits: dict[str, set[str]] = {}
    for sample in cxr.samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
    assert all(len(where) == 1 for where in splits.values()) and "" not in splits
    assert set(cxr.receipt.samples) == {"train", "val", "test"}


def test_cxr_cohen_pairs_films_with_their_notes(packed, real_data):
    with (real_data / "nc/cxr_cohen/metadata.csv").open(encoding="utf-8") as file:
        notes = [row["clinical_notes"].strip() for row in csv.DictReader(file) if row["modality"] == "X-ray"]
    assert Counter(sample.report for sample in packed("cxr_cohen").samples) == Counter(notes)
    assert "todo" not in {sample.concept for sample in packed("cxr_cohen").samples}


def test_cxr_cohen_png_called_jpg_and_opaque_alpha(packed):
    """15 files are RGBA PNG, 7 of them by the name of .jpg (metadata keeps 15 among the films)."""
    images = [
        decode(files[sample.media[0].member], "x")
        for sample, files in packed("cxr_cohen").all
        if sample.media[0].member == "0.png"
    ]
    assert images and all(image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 for image in images)


def test_no_metadata_of_cameras_and_editors_is_left(packed, real_data):
    raw = b"".join(path.read_bytes() for path in (real_data / "nc/cxr_cohen/images").iterdir())
    cxr = packed("cxr_cohen")
    stored = b"".join(data for _, files in cxr.all for data in files.values())
    for mark in (b"Exif\0\0", b"Photoshop", b"http://ns.adobe.com/xap", b"ICC_PROFILE"):
        assert mark in raw and mark not in stored, mark


# --- Hannover ---------------------------------------------------------------------------------------


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_hannover_knows_projection_sex_and_the_joined_findings(packed, real_data):
    rows = rows_of(real_data / "cxr_hannover" / "data.csv")
    findings = rows_of(real_data / "cxr_hannover" / "finding_from_covid_chestxray.csv")
    films = packed("cxr_hannover")
    assert Counter(q.truth.answer for q in films.questions if q.template == "projection") == Counter(
        row["projection"].upper() for row in rows
    )
    assert Counter(q.truth.answer for q in films.questions if q.template == "finding") == Counter(
        row["finding"].lower() for row in findings
    )
    assert films.receipt.left_out == {
        "no text or no answer for the question finding": len(rows) - len(findings),
        "row without a partner in finding_from_covid_chestxray.csv": len(rows) - len(findings),
    }
    sexes = Counter({"m": "male", "f": "female"}[row["sex"]] for row in rows)
    assert Counter(sample.report.split()[4] for sample in films.samples) == sexes


def test_hannover_pairs_are_each_film_with_the_last_one_of_an_earlier_day(packed, real_data):
    """By hand: of each patient the days, and for each film of a later day the first film of the day before it."""
    rows = rows_of(real_data / "cxr_hannover" / "data.csv")
    images = {
        row["image_id"]: (real_data / "cxr_hannover" / "png" / f"{row['image_id']}.png").read_bytes() for row in rows
    }
    expected = Counter()
    for row in rows:
        earlier = [
            other
            for other in rows
            if other["patient_id"] == row["patient_id"]
            and int(other["admission_offset"]) > int(row["admission_offset"])
        ]
        if earlier:
            day = min(int(other["admission_offset"]) for other in earlier)
            first = next(other for other in earlier if int(other["admission_offset"]) == day)
            expected[
                decode(images[first["image_id"]], "x").tobytes(), decode(images[row["image_id"]], "x").tobytes()
            ] += 1
    pairs = packed("cxr_hannover_pairs")
    assert (
        Counter(
            (decode(files["0.png"], "x").tobytes(), decode(files["1.png"], "x").tobytes()) for _, files in pairs.all
        )
        == expected
    )
    without_report = sum(not sample.report for sample in pairs.samples)
    assert expected.total() == 44
    assert pairs.receipt.left_out == {
        "no earlier study of the patient": 54,
        "sample without a report": without_report,
    }


def test_a_patient_of_hannover_is_on_the_same_side_in_both_cards(packed):
    films = {sample.patient: sample.split for sample in packed("cxr_hannover").samples}
    assert all(films[sample.patient] == sample.split for sample in packed("cxr_hannover_pairs").samples)


# --- lungs of the COVID-19 collection --------------------------------------------------------------------


def test_lungs_are_where_the_file_of_boxes_says(packed, real_data):
    path = real_data / "nc/cxr_cohen/annotations/imageannotation_ai_lung_bounding_boxes.json"
    raw = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in raw["categories"]}
    expected = Counter(
        (
            names[a["category_id"]],
            (a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]),
        )
        for a in raw["annotations"]
    )
    found = Counter(
        (q.template.partition(":")[2], box) for q in packed("cxr_cohen_lungs").questions for box in q.truth.boxes
    )
    assert found == expected and expected.total() == 38
    sides = {sample.patient: sample.split for sample in packed("cxr_cohen").samples}
    assert all(sides.get(sample.patient, sample.split) == sample.split for sample in packed("cxr_cohen_lungs").samples)


# --- masks ------------------------------------------------------------------------------------------------


def test_nuclei_are_counted_by_their_masks(packed, real_data):
    folders = sorted((real_data / "dsb2018_nuclei" / "stage1_train").iterdir())
    counts = [len(list((folder / "masks").iterdir())) for folder in folders]
    nuclei = packed("dsb2018_nuclei")
    found = [q.truth for q in nuclei.questions if q.template == "count:nucleus"]
    assert sorted(truth.count for truth in found) == sorted(counts) and sum(counts) == 1060
    assert all(len(truth.boxes) == truth.count for truth in found) and nuclei.receipt.left_out == {}
    assert sum(q.template == "boxes:nucleus" for q in nuclei.questions) == sum(n <= 24 for n in counts)


def test_a_box_of_a_nucleus_is_that_of_its_mask(packed, real_data):
    """Pillow's own bounding box of each mask of some images."""
    expected = []
    for folder in sorted((real_data / "dsb2018_nuclei" / "stage1_train").iterdir())[:6]:
        boxes = []
        for path in (folder / "masks").iterdir():
            with Image.open(path) as mask:
                boxes.append(tuple(map(float, mask.getbbox() or ())))
        expected.append(tuple(sorted(boxes)))
    found = {q.truth.boxes for q in packed("dsb2018_nuclei").questions if q.template == "count:nucleus"}
    assert len(expected) == 6 and set(expected) <= found


def test_vessels_cover_what_the_first_observer_marked(packed, real_data):
    expected = []
    for path in sorted((real_data / "chase_db1" / "labels1").iterdir()):
        with Image.open(path) as mask:
            expected.append(round(100 * mask.convert("L").histogram()[255] / (mask.width * mask.height)))
    fundus = packed("chase_db1")
    assert sorted(q.truth.count for q in fundus.questions if q.template == "area:vessel") == sorted(expected) and set(
        expected
    ) <= set(range(4, 12))
    assert Counter(q.truth.answer for q in fundus.questions if q.template == "eye") == {"left": 12, "right": 12}
    assert len({sample.patient for sample in fundus.samples}) == 12


def test_polyps_have_a_box_within_the_frame_and_specks_of_jpeg_are_none(packed):
    polyps = packed("kvasir_seg")
    counts = Counter(q.truth.count for q in polyps.questions if q.template == "count:polyp")
    assert counts.total() == 80 and counts[0] == 0 and max(counts) <= 8
    assert all(
        0 <= x1 < x2 <= 352 and 0 <= y1 < y2 <= 352
        for q in polyps.questions
        if q.template in ("count:polyp", "boxes:polyp")
        for x1, y1, x2, y2 in q.truth.boxes
    )
    assert all(1 <= q.truth.count <= 80 for q in polyps.questions if q.template == "area:polyp")


def test_the_masks_that_are_kept_are_those_of_the_archives(packed, real_data):
    """Each by the pixels that it marks: no two files of a set mark as many."""

    def count(*paths: Path, above: int = 0) -> int:
        return int(np.any([np.asarray(Image.open(path).convert("L")) > above for path in paths], axis=0).sum())

    nuclei, chase, kvasir = (real_data / each for each in ("dsb2018_nuclei", "chase_db1", "nc/kvasir_seg_352"))
    expected = {
        "chase_db1": [count(path) for path in (chase / "labels1").iterdir()],
        "dsb2018_nuclei": [count(*(folder / "masks").glob("*.png")) for folder in (nuclei / "stage1_train").iterdir()],
        "kvasir_seg": [count(path, above=127) for path in (kvasir / "masks").iterdir()],
    }
    for name, template in (("chase_db1", "vessel"), ("dsb2018_nuclei", "nucleus"), ("kvasir_seg", "polyp")):
        masks = []
        for sample, files in packed(name).all:
            (truth,) = (q.truth for q in sample.questions if q.template == template)
            mask = decode_mask(files[truth.member], truth.member)
            assert truth.classes == (template,) and mask.shape == sample.media[0].size
            counted = next((q.truth.count for q in sample.questions if q.template == f"count:{template}"), 1)
            assert np.array_equal(np.unique(mask), np.arange(1 + (counted if truth.objects else 1)))
            masks.append(int((mask > 0).sum()))
        assert sorted(masks) == sorted(expected[name])
    seconds = [
        int(decode_mask(files[q.truth.second], "second").sum())
        for sample, files in packed("chase_db1").all
        for q in sample.questions
        if q.template == "vessel"
    ]
    assert sorted(seconds) == sorted(count(path) for path in (chase / "labels2").iterdir())


@pytest.mark.slow
def test_each_cell_is_an_image_and_those_of_a_photograph_are_in_one_split(packed):
    cells = packed("bccd_cells")
    found = Counter(q.truth.answer for q in cells.questions)
    assert found == {"RBC": 3134, "WBC": 281, "Platelets": 273}
    splits: dict[str, set[str]] = {}
    for sample in cells.samples:
        splits.setdefault(sample.patient, set()).add(sample.split)
        assert sample.groups == {"class": sample.questions[0].truth.answer}
    assert len(splits) == 275 and all(len(each) == 1 for each in splits.values())


# --- text alone, volumes and slides ------------------------------------------------------


def test_slake_questions_are_all_there_and_closed_ones_in_english_are_choices(packed, real_data):
    raw = json.loads((real_data / "slake_questions" / "validate.json").read_text())
    slake = packed("slake_questions")
    assert Counter(q.text for q in slake.questions) == Counter(row["question"].strip() for row in raw)
    assert sum(q.truth.task == "choice" for q in slake.questions) == sum(
        row["answer"].strip().lower() in ("yes", "no") for row in raw
    )
    assert all(not sample.media for sample in slake.samples)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "volumes_ct",
            {
                ("totalsegmentator/example_ct.nii.gz", "volume", "CT", "HU", "ct"),
                ("totalsegmentator/example_ct_sm.nii.gz", "volume", "CT", "HU", "ct"),
            },
        ),
        (
            "volumes_mr",
            {
                ("totalsegmentator/example_mr_sm.nii.gz", "volume", "MR", "raw", "trunk"),
                ("sct_testing_data/t1/t1w.nii.gz", "volume", "MR", "raw", "spine"),
                ("sct_testing_data/t2/t2.nii.gz", "volume", "MR", "raw", "spine"),
            },
        ),
        (
            "pathology_openslide",
            {
                ("qupath/images/OS-1-detail.ome.tif", "slide", "SM", "display", "H&E"),
                ("qupath/images/OS-2-ndpi.ome.tif", "slide", "SM", "display", "Ki-67"),
                ("qupath/images/OS-2-vsi.ome.tif", "slide", "SM", "display", "Ki-67"),
            },
        ),
    ],
)
def test_volumes_and_slides_are_found(real_data, name, expected):
    root, card = real_data / ROOTS[name], load_card(CARDS / f"{name}.yaml")
    if not root.is_dir():
        pytest.skip(f"needs the real data set {ROOTS[name]}")
    found = set()
    for raw in component("archive.readers", card.reader.kind).read(card.reader, root):
        assert isinstance(raw, RawSample)
        (medium,), (file,) = raw.sample.media, raw.files.values()
        found.add(
            (
                made_layouts.path_in(file).relative_to(root).as_posix(),
                medium.kind,
                medium.modality,
                medium.unit,
                raw.sample.patient,
            )
        )
    assert found == expected
