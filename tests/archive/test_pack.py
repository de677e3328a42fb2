import csv
import io
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvlm.archive.packing import pack as packing
from medvlm.archive.packing.pack import card_hash, pack, pack_once, read_receipt
from medvlm.archive.packing.stored import make_stored
from medvlm.archive.packing.target import target_of
from medvlm.cli import main
from medvlm.core.card import Card, load_card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Sample
from medvlm.io.images import decode, encode_npy, encode_png
from medvlm.io.opening import open_shards

CARD = {
    "name": "made",
    "title": "Made",
    "summary": "Made for a test.",
    "access": "open",
    "media": ["film"],
    "licence": {"id": "MIT", "commercial": True},
    "phi": {"status": "synthetic"},
    "splits": {"ratios": {"train": 0.6, "test": 0.4}},
    "reader": {
        "kind": "table",
        "file": "table.csv",
        "media": [{"file": "{image}", "kind": "film"}],
        "patient": "{who}",
        "report": "{note}",
        "split": "{part}",
        "questions": [{"text": "Which number?", "answer": "{answer}"}],
    },
}
SECRET = "JANE-DOE-1961"


@pytest.fixture(autouse=True)
def one_decoder(monkeypatch):
    """The start of each takes half a second."""
    monkeypatch.setattr(packing, "num_decoders", lambda: 1)


def card(**settings: Any) -> Card:
    """reader: only what differs from CARD's."""
    reader = {**CARD["reader"], **settings.pop("reader", {})}  # type: ignore[dict-item]
    return Card.model_validate({**CARD, **settings, "reader": reader})


def noise(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (16, 24), dtype=np.uint8)


def jpeg(i: int, turn: int = 1) -> bytes:
    found = Image.Exif()
    found[0x010E], found[0x0112] = SECRET, turn
    out = io.BytesIO()
    Image.fromarray(noise(i)).save(out, "JPEG", exif=found, comment=SECRET.encode())
    return out.getvalue()


def archive(root: Path, n: int = 30, **images: bytes) -> Path:
    """n films of n / 2 patients; images: file name without suffix -> its bytes, one more row each."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "image": f"{SECRET}-{i}.jpg",
            "who": f"{SECRET}-{i // 2}",
            "note": f"Film {i}.",
            "answer": str(i),
            "part": "ab"[i % 2],
        }
        for i in range(n)
    ]
    for i, row in enumerate(rows):
        (root / row["image"]).write_bytes(jpeg(i))
    for name, data in images.items():
        (root / name).write_bytes(data)
        rows.append({"image": name, "who": name, "note": "One more.", "answer": name, "part": "a"})
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return root


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def all_samples(folder: Path) -> list:
    shards = open_shards(folder)
    return [shards.read(split, i) for split in shards.splits for i in range(shards.count(split))]


def by_answer(folder: Path) -> dict:
    """Answer of the first question, which tells the row, -> sample and files."""
    return {sample.questions[0].truth.answer: (sample, files) for sample, files in all_samples(folder)}


# --- what comes out -------------------------------------------------------------------------------


def test_every_sample_arrives_with_its_text_and_pixels(tmp_path):
    receipt = pack(card(), archive(tmp_path / "raw"), tmp_path / "out")
    found = by_answer(tmp_path / "out")
    assert set(found) == {str(i) for i in range(30)}
    assert sum(receipt.samples.values()) == sum(receipt.questions.values()) == 30 and receipt.quarantined == 0
    for i in range(30):
        sample, files = found[str(i)]
        assert (sample.source, sample.report, sample.media[0].member, sample.media[0].size) == (
            "made",
            f"Film {i}.",
            "0.jpg",
            (16, 24),
        )
        assert np.array_equal(decode(files["0.jpg"], "x"), np.asarray(Image.open(io.BytesIO(jpeg(i)))))


def test_no_patient_is_in_two_splits(tmp_path):
    receipt = pack(card(), archive(tmp_path / "raw", 100), tmp_path / "out")
    splits: dict[str, set] = {}
    for sample, _ in all_samples(tmp_path / "out"):
        splits.setdefault(sample.patient, set()).add(sample.split)
    assert len(splits) == sum(receipt.patients.values()) == 50
    assert all(len(where) == 1 for where in splits.values())
    assert min(receipt.samples.values()) > 20, receipt.samples


def test_names_and_metadata_of_the_archive_are_nowhere(tmp_path):
    """File names, patient ids, EXIF and comments all hold the secret; so does the path of one bad row."""
    raw = archive(tmp_path / "raw", 30, **{f"{SECRET}.jpg": b"no image"})
    said: list[str] = []
    pack(card(), raw, tmp_path / "out", progress=said.append, max_bad=0.1)
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "card.yaml")
    assert SECRET.encode() not in written and SECRET not in "".join(said)
    (line,) = map(json.loads, (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines())
    assert (
        line["where"] == "line 32 of table.csv"
        and "not a PNG, JPEG or .npy" in line["reason"]
        and len(line["key"]) == 16
    )


def test_a_16_bit_ramp_keeps_all_levels(tmp_path):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pack(card(), archive(tmp_path / "raw", 4, ramp=encode_png(ramp)), tmp_path / "out")
    sample, files = by_answer(tmp_path / "out")["ramp"]
    assert sample.media[0].member == "0.png" and np.array_equal(decode(files["0.png"], "x"), ramp)


def test_arrays_are_stored_and_read_without_loss(tmp_path):
    """Made in memory: 16-bit films become PNG, volumes in Hounsfield units .npy."""
    made = {
        "kind": "phantom",
        "seed": 3,
        "films": 3,
        "volumes": 1,
        "bits": 16,
        "film_px": 96,
        "volume_size": [24, 32, 32],
    }
    phantom = Card.model_validate({**CARD, "access": "generated", "media": ["film", "volume"], "reader": made})
    receipt = pack(phantom, None, tmp_path / "out")
    assert receipt.samples and sum(receipt.samples.values()) == 4
    for sample, files in all_samples(tmp_path / "out"):
        (medium,) = sample.media
        array = decode(files[medium.member], "x")
        assert array.shape == medium.size
        assert (medium.member, array.dtype.kind) == (
            ("0.png", "u") if medium.kind == "film" else ("0.npy", array.dtype.kind)
        )
        assert medium.kind == "volume" or (array.dtype == np.uint16 and array.max() > 255)


def test_content_decides_not_the_name(tmp_path):
    images = {"really-png.jpg": encode_png(noise(77)), "array.png": encode_npy(np.array([[0.5, 1.5]], np.float32))}
    pack(card(), archive(tmp_path / "raw", 4, **images), tmp_path / "out")
    found = by_answer(tmp_path / "out")
    assert [found[name][0].media[0].member for name in images] == ["0.png", "0.npy"]


def test_an_image_that_exif_turns_is_stored_upright(tmp_path):
    pack(card(), archive(tmp_path / "raw", 4, turned=jpeg(50, turn=6)), tmp_path / "out")
    sample, files = by_answer(tmp_path / "out")["turned"]
    assert (sample.media[0].member, sample.media[0].size) == ("0.png", (24, 16))
    assert np.array_equal(decode(files["0.png"], "x"), np.rot90(decode(jpeg(50), "x"), -1))


def test_the_same_archive_gives_the_same_bytes(tmp_path):
    raw = archive(tmp_path / "raw")
    (tmp_path / "b" / "out").mkdir(parents=True)  # an empty folder may be there
    for name in ("a", "b"):
        pack(card(), raw, tmp_path / name / "out")
    assert contents(tmp_path / "a" / "out") == contents(tmp_path / "b" / "out")
    assert {"card.yaml", "packed.json", "quarantine.jsonl"} < contents(tmp_path / "a" / "out").keys()


def test_more_samples_leave_the_others_in_their_splits(tmp_path):
    pack(card(), archive(tmp_path / "few", 20), tmp_path / "a")
    pack(card(), archive(tmp_path / "many", 40), tmp_path / "b")
    few, many = ({key: sample.split for key, (sample, _) in by_answer(tmp_path / name).items()} for name in "ab")
    assert few.items() < many.items()


def test_the_copied_card_is_the_card(tmp_path):
    pack(card(), archive(tmp_path / "raw"), tmp_path / "out")
    assert load_card(tmp_path / "out" / "card.yaml") == card()


def test_progress_tells_how_far_it_is(tmp_path):
    said: list[str] = []
    pack(card(), archive(tmp_path / "raw"), tmp_path / "out", progress=said.append)
    assert said and said[-1].startswith("packing made: 30 of 30, 0 s left, ")


# --- splits ---------------------------------------------------------------------------------------


def test_a_column_of_the_archive_can_name_the_splits(tmp_path):
    """Films 2k and 2k + 1 are of one patient and alternate between a and b, so here each has its own."""
    by_column = card(splits={"by": "column"}, reader={"patient": ""})
    receipt = pack(by_column, archive(tmp_path / "raw"), tmp_path / "out")
    assert receipt.samples == {"a": 15, "b": 15}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("Train", "train"),
        ("TEST", "test"),
        ("validation", "val"),
        ("training", "train"),
        ("dev", "val"),
    ],
)
def test_a_split_under_another_name_is_refused_and_not_left_unused(written, meant):
    with pytest.raises(DataError, match=f"another word for {meant}, which recipes would not find") as refusal:
        make_stored(RawSample(Sample("a", "", written), {}), card(splits={"by": "column"}))
    assert f"{{COLUMN: {{{written}: {meant}}}}}" in str(refusal.value)


@pytest.mark.parametrize("name", ["train", "val", "test", "a", "fold0", "external"])
def test_other_splits_keep_their_name(name):
    assert make_stored(RawSample(Sample("a", "", name), {}), card(splits={"by": "column"})).facts.split == name


def test_an_official_split_that_tears_patients_apart_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"15 of 30 samples are bad.*patient is in another split"):
        pack(card(splits={"by": "column"}), archive(tmp_path / "raw"), tmp_path / "out")


def test_one_image_under_two_names_stays_on_one_side(tmp_path):
    copies = {f"copy-{i}": jpeg(0) for i in range(40)}
    pack(
        card(splits={"by": "image"}, reader={"patient": ""}),
        archive(tmp_path / "raw", 20, **copies),
        tmp_path / "image",
    )
    assert (
        len({sample.split for name, (sample, _) in by_answer(tmp_path / "image").items() if name.startswith("copy")})
        == 1
    )
    with pytest.raises(DataError, match="image is in another split"):
        pack(card(), archive(tmp_path / "raw", 20, **copies), tmp_path / "patient")


def test_a_sample_without_patient_is_bad_where_patients_are_split(tmp_path):
    with pytest.raises(DataError, match="30 x has no patient"):
        pack(card(reader={"patient": ""}), archive(tmp_path / "raw"), tmp_path / "out")


# --- bad samples ----------------------------------------------------------------------------------


def test_bad_samples_are_listed_and_the_rest_is_packed(tmp_path):
    transparent = io.BytesIO()
    Image.new("RGBA", (4, 4), (255, 0, 0, 128)).save(transparent, "PNG")
    bad = {
        "cut": jpeg(1)[:-40],
        "see-through": transparent.getvalue(),
        "infinite": encode_npy(np.array([[np.nan]], np.float32)),
        "text": b"hello",
    }
    raw = archive(tmp_path / "raw", 30, **bad)
    (raw / f"{SECRET}-0.jpg").unlink()
    receipt = pack(card(), raw, tmp_path / "out", max_bad=0.2)
    lines = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {line["where"].split()[1]: line["reason"] for line in lines}
    assert receipt.quarantined == len(lines) == 5 and sum(receipt.samples.values()) == 29
    for row, reason in (
        ("2", "not there"),
        ("32", "damaged JPEG"),
        ("33", "transparent"),
        ("34", "not finite"),
        ("35", "not a PNG"),
    ):
        assert reason in reasons[row]


def test_above_the_ceiling_nothing_is_published_but_the_list(tmp_path):
    raw = archive(tmp_path / "raw", 30, bad=b"hello")
    with pytest.raises(
        DataError, match=r"1 of 31 samples are bad, at most 1.00% are accepted: 1 x its image: not a PNG"
    ):
        pack(card(), raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "out.quarantine.jsonl",
        "raw",
    ]
    assert not (tmp_path / ".out.packing").exists()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"media": ["smear"]}, "kind 'film', but the card's media are smear"),
        ({"reader": {"file": "x.csv"}}, "no such table"),
    ],
)
def test_a_card_that_does_not_fit_its_archive_is_refused(tmp_path, settings, reason):
    with pytest.raises(DataError, match=reason):
        pack(card(**settings), archive(tmp_path / "raw"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_says_by_its_exit_code_whether_the_ceiling_held(tmp_path, capsys):
    raw, made = archive(tmp_path / "raw", 30, bad=b"hello"), tmp_path / "card.yaml"
    made.write_text(card().model_dump_json(by_alias=True))
    command = ["data", "pack", str(made), "--root", str(raw), "--workers", "1"]
    assert main([*command, "--out", str(tmp_path / "a"), "--max-bad", "0.05"]) == 0
    assert "30 samples" in capsys.readouterr().out
    assert main([*command, "--out", str(tmp_path / "b")]) == 2
    assert "1 of 31 samples are bad" in capsys.readouterr().err
    assert main([*command[:-1], "0", "--out", str(tmp_path / "c")]) == 2
    assert "expected at least 1 process" in capsys.readouterr().err


def test_boxes_beyond_the_stored_image_are_bad(tmp_path):
    """The annotation speaks of 24 x 16 pixels, as the image has; one of 32 x 16 is of another image, one box lies
    outside."""
    reader = {
        "kind": "voc",
        "annotations": "xml",
        "images": "img",
        "medium": "film",
        "classes": {"c": {"one": "c", "many": "cs"}},
        "count": {"wordings": ["?"]},
    }
    boxes = Card.model_validate({**CARD, "splits": {"by": "image"}, "reader": reader})
    for folder in ("xml", "img"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    for name, width, x2 in (("good", 24, 24), ("other", 32, 20), ("outside", 0, 30)):
        box = f"<bndbox><xmin>0</xmin><ymin>0</ymin><xmax>{x2}</xmax><ymax>9</ymax></bndbox>"
        size = f"<size><width>{width}</width><height>{16 if width else 0}</height></size>"
        (tmp_path / "raw" / "xml" / f"{name}.xml").write_text(
            f"<annotation>{size}<object><name>c</name>{box}</object></annotation>"
        )
        (tmp_path / "raw" / "img" / f"{name}.png").write_bytes(encode_png(noise(len(name))))
    receipt = pack(boxes, tmp_path / "raw", tmp_path / "out", max_bad=0.9)
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert sum(receipt.samples.values()) == 1
    assert reasons == [
        "annotated for 32 x 16 pixels, but its image has 24 x 16",
        "count:c: a box is empty or reaches beyond the image of 24 x 16 pixels",
    ]


# --- once, whole, or not at all -------------------------------------------------------------------


def test_packing_again_is_done_at_once(tmp_path):
    raw = archive(tmp_path / "raw")
    receipt = pack(card(), raw, tmp_path / "out")
    (raw / "table.csv").unlink()
    assert (
        pack(card(), raw, tmp_path / "out")
        == pack_once(card(), None, tmp_path / "out")
        == read_receipt(tmp_path / "out")
        == receipt
    )


def test_another_card_is_refused_and_another_citation_is_not(tmp_path):
    raw = archive(tmp_path / "raw")
    receipt = pack(card(), raw, tmp_path / "out")
    assert pack(card(citation="Somebody (2026)"), raw, tmp_path / "out") == receipt
    checked = card(phi={"status": "synthetic", "note": "me", "checked": ["text"]})
    for other in (
        card(splits={"salt": "other"}),
        card(reader={"report": ""}),
        card(name="other"),
        checked,
        card().add_secret("0123456789abcdef"),
    ):
        assert card_hash(other) != card_hash(card())
        with pytest.raises(DataError, match="was packed with another card"):
            pack(other, raw, tmp_path / "out")


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="holds something"):
        pack(card(), archive(tmp_path / "raw"), tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write beside it"):
        pack(card(), archive(tmp_path / "raw"), tmp_path / "file" / "out")


@pytest.mark.parametrize("root", [None, Path("nowhere")])
def test_an_archive_needs_its_root(tmp_path, root):
    with pytest.raises(DataError, match="root"):
        pack(card(), root, tmp_path / "out")


@pytest.mark.slow
def test_of_several_processes_one_packs_and_all_get_the_receipt(tmp_path):
    script = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from medvlm.archive.packing import pack as packing
from medvlm.core.card import load_card
card, root, out = sys.argv[1:]
plain, calls = packing.PackState.take, [0]
def counted(*args):
    calls[0] += 1
    return plain(*args)
packing.PackState.take = counted
print(json.dumps([calls, asdict(packing.pack_once(load_card(Path(card)), Path(root), Path(out)))]))
"""
    raw = archive(tmp_path / "raw")
    receipt = pack(card(), raw, tmp_path / "whole")
    arguments = [str(tmp_path / "whole" / "card.yaml"), str(raw), str(tmp_path / "out")]
    children = [
        subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [json.loads(child.communicate()[0]) for child in children]
    assert [found for _, found in said] == [vars(receipt)] * 3
    assert sorted(calls[0] for calls, _ in said) == [0, 0, 30]


def test_pack_does_not_wait_for_another_process(tmp_path):
    with (
        packing._lock(target_of(tmp_path / "out"), wait=True),
        pytest.raises(DataError, match="another process is packing"),
    ):
        pack(card(), archive(tmp_path / "raw"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_card_names_a_plugin_s_task_and_the_decoders_know_it(tmp_path, monkeypatch):
    """Other processes decode and check the samples: what the card permits, they permit."""
    monkeypatch.setattr("medvlm.core.config._PERMITTED", set())
    (tmp_path / "raw").mkdir()
    with (tmp_path / "raw" / "table.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "who", "note", "part", "answer"])
        writer.writeheader()
        for i, answer in enumerate(["ill", "well", "perhaps"] * 4):
            (tmp_path / "raw" / f"{i}.png").write_bytes(encode_png(noise(i)))
            writer.writerow({"image": f"{i}.png", "who": i, "note": "", "part": "train", "answer": answer})
    asked = {"text": "How likely is it?", "answer": "{answer}", "task": "tests.evaluate.risk"}
    path = tmp_path / "card.yaml"
    reader: dict[str, Any] = {**CARD["reader"], "questions": [asked]}  # type: ignore[dict-item]
    path.write_text(json.dumps({**CARD, "reader": reader}))
    with pytest.raises(RecipeError, match=r"reader\.questions\.0\.task: 'tests\.evaluate\.risk' is a plugin's"):
        load_card(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "plugins": ["tests"]}))
    receipt = pack(load_card(path), tmp_path / "raw", tmp_path / "out")
    assert sum(receipt.questions.values()) == 8, "what a text does not say is not asked"
    shards = open_shards(tmp_path / "out")
    samples = [shards.read(split, i)[0] for split in shards.splits for i in range(shards.count(split))]
    truths: list[Any] = [question.truth for sample in samples for question in sample.questions]
    assert sorted(truth.is_ill for truth in truths) == [False] * 4 + [True] * 4
    assert {truth.task for truth in truths} == {"tests.evaluate.risk"}
    assert load_card(tmp_path / "out" / "card.yaml").plugins == ("tests",)
