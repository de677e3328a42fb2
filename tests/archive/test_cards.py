"""The shipped cards on the real archives: what is in there, and what becomes of it."""

import csv
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from medvlm.archive.pack import PackReceipt, pack
from medvlm.core.card import Card, load_card
from medvlm.core.sample import Sample
from medvlm.io.images import decode
from medvlm.io.shards import open_shards

CARDS = Path(__file__).parents[2] / "data_cards"
ROOTS = {"bccd": "bccd", "vqa_rad": "vqa_rad", "cxr_cohen": "nc/cxr_cohen"}


class Packed:
    def __init__(self, name: str, real_data: Path, out: Path) -> None:
        self.card: Card = load_card(CARDS / f"{name}.yaml")
        self.folder = out / name
        self.receipt: PackReceipt = pack(self.card, real_data / ROOTS[name], self.folder)
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


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_all_samples_are_good_and_all_images_decode(packed, name):
    found = packed(name)
    assert found.receipt.quarantined == 0
    assert (found.folder / "quarantine.jsonl").read_text() == ""
    for sample, files in found.all:
        for medium in sample.media:
            assert decode(files[medium.member], medium.member).shape[:2] == medium.size
    keys = [sample.key for sample in found.samples]
    assert len(set(keys)) == len(keys) and all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_packed_again_the_bytes_are_the_same(packed, name, real_data, tmp_path):
    found = packed(name)
    assert pack(found.card, real_data / ROOTS[name], tmp_path / name) == found.receipt, "the receipt holds the sha256 of every tar"


@pytest.mark.parametrize("name", sorted(ROOTS))
def test_a_card_says_what_it_must(name):
    card = load_card(CARDS / f"{name}.yaml")
    assert card.name == name and card.licence.url and card.citation and card.limits and card.phi.note and card.units


def test_licences_are_those_of_the_archives():
    licences = {name: load_card(CARDS / f"{name}.yaml").licence for name in ROOTS}
    assert {name: (x.id, x.commercial, x.share_alike) for name, x in licences.items()} == {
        "bccd": ("MIT", True, False), "vqa_rad": ("CC0-1.0", True, False), "cxr_cohen": ("CC-BY-NC-SA-4.0", False, True),
    }  # fmt: skip


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
    boxes = [box for question in packed("bccd").questions if question.truth.task == "count" for box in question.truth.boxes]
    assert Counter(boxes) == Counter(rows)


def test_bccd_holds_out_every_image_once_and_90_at_least(packed):
    samples = packed("bccd").receipt.samples
    assert set(samples) == {"fold0", "fold1", "fold2"} and sum(samples.values()) == 275 and min(samples.values()) >= 90


def test_bccd_asks_where_the_cells_are_unless_they_are_too_many(packed):
    bccd = packed("bccd")
    asked = [question for question in bccd.questions if question.truth.task == "boxes"]
    assert {question.template for question in asked} == {"boxes:RBC", "boxes:WBC", "boxes:Platelets"}
    assert max(len(question.truth.boxes) for question in asked) <= 24
    unasked = [q.truth.count for q in bccd.questions if q.template == "count:RBC" and (q.truth.count == 0 or q.truth.count > 24)]
    assert len(unasked) + sum(q.template == "boxes:RBC" for q in asked) == 275
    assert Counter(q.truth.answer for q in bccd.questions if q.template == "presence:Platelets") == {"yes": 151, "no": 124}
    assert len({q.text for q in bccd.questions if q.template == "count:RBC"}) == 4
    assert "13 red blood cells, 1 white blood cell and 2 platelets." in {sample.report for sample in bccd.samples}


# --- VQA-RAD --------------------------------------------------------------------------------------


def test_vqa_rad_has_1812_questions_about_252_images(packed):
    vqa = packed("vqa_rad")
    assert (len(vqa.samples), len(vqa.questions)) == (252, 1812)
    assert vqa.receipt.left_out == {}


def test_vqa_rad_closed_questions_can_be_told_from_open_ones(packed, real_data):
    official = json.loads((real_data / "vqa_rad" / "VQA_RAD Dataset Public.json").read_text())
    closed = [str(row["answer"]).strip().lower() for row in official if row["answer_type"].strip() == "CLOSED"]
    vqa = packed("vqa_rad")
    assert sorted(q.truth.answer for q in vqa.questions if q.template.startswith("closed:")) == sorted(closed)
    assert Counter(q.truth.task for q in vqa.questions) == {"choice": 964, "open": 1812 - 964}
    assert len(closed) == 1052 and all(q.template.startswith("closed:") for q in vqa.questions if q.truth.task == "choice")
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


# --- COVID-19 image data collection ------------------------------------------------------------------


def test_cxr_cohen_keeps_118_films_of_143_images_and_says_what_became_of_the_rest(packed, real_data):
    with (real_data / "nc/cxr_cohen/metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), len({row["patientid"] for row in rows})) == (143, 70)
    films = [row for row in rows if row["modality"] == "X-ray"]
    cxr = packed("cxr_cohen")
    assert len(cxr.samples) == len(films) == 118
    assert len({sample.patient for sample in cxr.samples}) == len({row["patientid"] for row in films}) == 63
    assert cxr.receipt.left_out == {
        "modality is not X-ray": 25,
        "no text or no answer for the question finding": sum(row["finding"] == "todo" for row in films),
        "no text or no answer for the question view": sum(row["view"] in ("", "?") for row in films),
    }


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
    images = [decode(files[sample.media[0].member], "x") for sample, files in packed("cxr_cohen").all if sample.media[0].member == "0.png"]
    assert images and all(image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8 for image in images)


def test_no_metadata_of_cameras_and_editors_is_left(packed, real_data):
    raw = b"".join(path.read_bytes() for path in (real_data / "nc/cxr_cohen/images").iterdir())
    cxr = packed("cxr_cohen")
    stored = b"".join(data for _, files in cxr.all for data in files.values())
    for mark in (b"Exif\0\0", b"Photoshop", b"http://ns.adobe.com/xap", b"ICC_PROFILE"):
        assert mark in raw and mark not in stored, mark
