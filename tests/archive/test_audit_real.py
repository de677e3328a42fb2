"""What an audit finds in real data sets, and how often it would cry wolf."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.audit.near import DISTANCE, find_near
from medvlm.archive.audit.picture import hash_picture
from medvlm.archive.audit.run import audit
from medvlm.archive.audit.scan import open_set
from medvlm.archive.packing.pack import pack
from medvlm.core.card import Card, load_card

CARDS = Path(__file__).parents[2] / "data_cards"
FOLDERS = {
    "bccd": "bccd/BCCD/JPEGImages",
    "vqa_rad": "vqa_rad/VQA_RAD Image Folder",
    "cxr_cohen": "nc/cxr_cohen/images",
    "cxr_hannover": "cxr_hannover/png",
    "kvasir": "nc/kvasir_seg_352/images",
    "chase_db1": "chase_db1/images",
}


def need(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"needs the real data set {folder.name}")
    return folder


def findings(*sets, against=()):
    return [
        (f.kind, f.between, f.count, f.of)
        for f in audit([open_set(s, {}) for s in sets], [open_set(s, {}) for s in against]).findings
        if f.severity != "note"
    ]


@pytest.mark.slow
def test_cxr_cohen_holds_cases_that_were_published_twice(real_data, tmp_path):
    """Patients 97 and 178 are one woman, from two publishers: the same two films, looked at, and the notes of one
    case."""
    plain = load_card(CARDS / "cxr_cohen.yaml").model_dump(mode="json", by_alias=True)
    plain["reader"]["rename"].pop("patientid", None)
    pack(
        Card.model_validate({**plain, "splits": {"ratios": {"train": 0.7, "val": 0.1, "test": 0.2}}}),
        need(real_data / "nc/cxr_cohen"),
        tmp_path / "cohen",
    )
    assert findings(tmp_path / "cohen") == [("shared_near_images", ("cxr_cohen:train", "cxr_cohen:test"), 2, 30)]


@pytest.mark.slow
def test_the_official_test_images_of_vqa_rad_are_training_images(real_data, tmp_path):
    """163 of the 164 that are there (of 203; 202 of them, says the card)."""
    root = need(real_data / "vqa_rad")
    types = sorted({row["phrase_type"] for row in json.loads((root / "VQA_RAD Dataset Public.json").read_text())})
    plain = load_card(CARDS / "vqa_rad.yaml").model_dump(mode="json", by_alias=True)
    for split in ("train", "test"):
        reader = {
            **plain["reader"],
            "where": {"phrase_type": [t for t in types if t.startswith("test") == (split == "test")]},
        }
        card = Card.model_validate(
            {**plain, "name": f"official_{split}", "splits": {"by": "image", "ratios": {split: 1.0}}, "reader": reader}
        )
        pack(card, root, tmp_path / split)
    assert findings(tmp_path / "train", against=[tmp_path / "test"]) == [
        ("benchmark_images", ("official_train:train", "official_test:test"), 163, 164)
    ]


@pytest.mark.slow
def test_one_data_set_under_two_names_is_seen_through(real_data, tmp_path):
    plain = load_card(CARDS / "bccd.yaml")
    for name in ("one", "two"):
        splits = plain.splits.model_copy(update={"salt": name})
        pack(plain.model_copy(update={"name": name, "splits": splits}), need(real_data / "bccd"), tmp_path / name)
    found = findings(tmp_path / "one", tmp_path / "two")
    assert {kind for kind, *_ in found} == {"shared_images"} and len(found) == 6
    assert findings(tmp_path / "one") == [], "smears of one slide are alike, but no two pictures are the same"


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def recompressed(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=30)
    return Image.open(out)


COPIES = {
    "half the size": halved,
    "224 x 224": lambda im: im.resize((224, 224), Image.Resampling.BICUBIC),
    "JPEG of quality 30": recompressed,
    "40 grey levels brighter": lambda im: im.point(lambda v: min(v + 40, 255)),
    "0.6 of the contrast": lambda im: im.point(lambda v: 128 + (v - 128) * 0.6),
}


@pytest.mark.slow
def test_of_380_thousand_pairs_of_real_images_only_copies_are_near(real_data):
    images = {
        path: Image.open(path).convert("RGB")
        for folder in FOLDERS.values()
        for path in sorted(need(real_data / folder).iterdir())
    }
    assert len(images) == 872
    near_N4 = np.stack([hash_picture(np.asarray(image), 2).near for image in images.values()])  # type: ignore[misc]
    differ_NN = np.bitwise_count(near_N4[:, None] ^ near_N4[None]).sum(2, dtype=np.int64)[np.triu_indices(872, 1)]
    assert len(differ_NN) == 379_756
    assert sorted(differ_NN[differ_NN <= DISTANCE]) == [0, 0, 4], "three pairs of cxr_cohen, copies by the look of them"
    assert sorted(differ_NN)[3] >= 48
    for name, change in COPIES.items():
        copies = [np.asarray(change(image)) for image in list(images.values())[::5]]
        found, _ = find_near(np.stack([hash_picture(copy, 2).near for copy in copies]), near_N4)  # type: ignore[misc]
        missed = int((found < 0).sum())
        assert missed <= (0 if name != "40 grey levels brighter" else 2), (name, missed)
