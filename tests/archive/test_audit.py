"""Planted faults are found, and nothing else is."""

import json

import numpy as np
import pytest

from medvlm.archive.audit.receipt import audits_of, read_audit, receipt_of
from medvlm.archive.audit.run import audit
from medvlm.archive.audit.scan import open_set
from medvlm.core.errors import DataError
from medvlm.core.run import write_json
from medvlm.io.images import encode_png
from tests.archive.audited import SECRET, Row, card, jpeg, picture, png, resized, shards, volume

LONG = "Is there an opacity in the lower zone of the left lung on this film?"


def clean(first: int = 0, n: int = 12) -> list[Row]:
    """Splits in turn, each with patients and images of its own."""
    return [
        Row(
            ("train", "train", "val", "test")[i % 4],
            f"{SECRET}-{first + i}",
            first + i,
            ("Is there a nodule?",),
            f"Film {i}.",
        )
        for i in range(n)
    ]


def found(*sets, against=()):
    """(kind, severity, between, count, of) of all but notes."""
    result = audit([open_set(s, {}) for s in sets], [open_set(s, {}) for s in against])
    return [(f.kind, f.severity, f.between, f.count, f.of) for f in result.findings if f.severity != "note"]


def notes(*sets, cards=()):
    given = {c.name: c for c in cards}
    return [f.text for f in audit([open_set(s, given) for s in sets]).findings if f.severity == "note"]


def test_clean_data_sets_have_no_findings(tmp_path):
    a, b = shards(tmp_path / "a", clean(), card("a")), shards(tmp_path / "b", clean(100), card("b"))
    assert found(a, b) == [] and notes(a, b) == []
    assert found(a, against=[b]) == []


# --- patients -------------------------------------------------------------------------------------


def test_one_shared_patient_within_a_data_set(tmp_path):
    rows = [*clean(), Row("test", f"{SECRET}-0", 50), Row("test", f"{SECRET}-0", 51)]
    a = shards(tmp_path / "a", rows, card("a"))
    assert found(a) == [("shared_patients", "error", ("a:train", "a:test"), 1, 4)]


def test_patients_shared_across_data_sets(tmp_path):
    """Of b, patient 100 trains and 103 tests; in a they are on the other sides."""
    a = shards(
        tmp_path / "a", [*clean(), Row("test", f"{SECRET}-100", 50), Row("train", f"{SECRET}-103", 51)], card("a")
    )
    b = shards(tmp_path / "b", clean(100), card("b"))
    assert found(a) == found(b) == []
    assert found(a, b) == [
        ("shared_patients", "error", ("a:train", "b:test"), 1, 3),
        ("shared_patients", "error", ("b:train", "a:test"), 1, 4),
    ]


def test_a_patient_may_be_in_the_same_split_of_two_data_sets(tmp_path):
    a = shards(tmp_path / "a", [*clean(), Row("train", f"{SECRET}-100", 50)], card("a"))
    assert found(a, shards(tmp_path / "b", clean(100), card("b"))) == []


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ({}, {"splits": {"salt": "two"}}, "hashed with different salts; pack both with the same"),
        ({"patient_issuer": "St. A"}, {"patient_issuer": "St. B"}, "numbered by St. A and by St. B"),
        ({}, {"access": "generated"}, "patients of generated data are made up"),
    ],
)
def test_what_cannot_be_compared_is_said_and_not_called_disjoint(tmp_path, a, b, why):
    rows = [Row("train", SECRET, 1), Row("test", "other", 2)]
    sets = [
        shards(tmp_path / "a", rows, card("a", **a)),
        shards(tmp_path / "b", [Row("test", SECRET, 3), Row("train", "third", 4)], card("b", **b)),
    ]
    assert found(*sets) == []
    (note,) = notes(*sets)
    assert note.startswith("patients of a and b were not compared: ") and why in note


@pytest.mark.parametrize("issuers", [("", ""), ("St. A", ""), ("St. A", "St. A")])
def test_one_salt_and_no_two_issuers_is_compared(tmp_path, issuers):
    a = shards(tmp_path / "a", [Row("train", SECRET, 1)], card("a", patient_issuer=issuers[0]))
    b = shards(tmp_path / "b", [Row("test", SECRET, 2)], card("b", patient_issuer=issuers[1]))
    assert [kind for kind, *_ in found(a, b)] == ["shared_patients"]


def test_a_card_that_is_given_counts_in_place_of_the_copy_beside_the_shards(tmp_path):
    a = shards(tmp_path / "a", [Row("train", SECRET, 1)], card("a", patient_issuer="St. A"))
    b = shards(tmp_path / "b", [Row("test", SECRET, 2)], card("b"))
    (note,) = notes(a, b, cards=[card("b", patient_issuer="St. B")])
    assert "numbered by St. A and by St. B" in note


def test_a_salt_of_a_file_counts_more_than_the_card(tmp_path):
    """Packing with a secret salt leaves its fingerprint in the receipt."""
    sets = []
    for name, salt_id in (("a", "1"), ("b", "2"), ("c", "1")):
        folder = shards(tmp_path / name, [Row("train", name, ord(name))], card(name))
        listed = {
            tar.name: json.loads((folder / f"{tar.name}.index.json").read_text())["sha256"]
            for tar in folder.glob("*.tar")
        }
        (folder / "packed.json").write_text(json.dumps({"shards": listed, "salt_id": salt_id}))
        sets.append(folder)
    said = notes(*sets)
    assert len(said) == 2 and all("different salts" in note and "b" in note for note in said)


def test_samples_without_patients_are_counted(tmp_path):
    a = shards(tmp_path / "a", [*clean(), Row("train", "", 90)], card("a", splits={"by": "image", "salt": "one"}))
    assert notes(a) == [
        "a: 1 of 13 samples have no patient, the splits are by image: that no patient is on two sides is not proven"
    ]


def test_shards_without_a_card_are_in_doubt(tmp_path):
    a, b = (
        shards(tmp_path / "a", clean(), card("a")),
        shards(tmp_path / "b", [Row("train", SECRET, 60)], name="foreign"),
    )
    result = audit([open_set(a, {}), open_set(b, {})])
    assert [(f.severity, f.text) for f in result.findings] == [
        (
            "warning",
            "foreign: has no data card: its licence and access terms are not known, and nothing may be trained on it",
        ),
        (
            "note",
            (
                "patients of a and foreign were not compared: it is not known with which salt their patients were"
                " hashed (no card.yaml beside the shards); pack them with medvlm"
            ),
        ),
    ]


# --- images ---------------------------------------------------------------------------------------


def test_equal_images_across_splits(tmp_path):
    a = shards(tmp_path / "a", [*clean(), Row("test", "x", 0), Row("val", "y", 1)], card("a"))
    assert found(a) == [
        ("shared_images", "error", ("a:train", "a:val"), 1, 4),
        ("shared_images", "error", ("a:train", "a:test"), 1, 4),
    ]


def test_equal_images_in_one_split_are_nobodys_business(tmp_path):
    assert found(shards(tmp_path / "a", [*clean(), Row("train", "x", 0)], card("a"))) == []


@pytest.mark.parametrize(
    "copy",
    [
        encode_png(resized(picture(0), 60, 80)),
        jpeg(picture(0), 40),
        encode_png((picture(0).astype(int) + 25).clip(0, 255).astype(np.uint8)),
        encode_png(picture(0).astype(np.uint16) * 257),
    ],
    ids=["resized", "re-compressed", "brighter", "16 bits"],
)
def test_nearly_equal_images_across_data_sets(tmp_path, copy):
    a, b = (
        shards(tmp_path / "a", clean(), card("a")),
        shards(tmp_path / "b", [*clean(100), Row("test", "x", copy)], card("b")),
    )
    assert found(a, b) == [("shared_near_images", "warning", ("a:train", "b:test"), 1, 4)]


@pytest.mark.parametrize(
    "turn", [np.fliplr, np.flipud, np.rot90, np.transpose], ids=["mirrored", "upside down", "turned", "transposed"]
)
def test_mirrored_and_turned_images_across_data_sets(tmp_path, turn):
    copy = jpeg(np.ascontiguousarray(turn(picture(0))), 50)
    a, b = (
        shards(tmp_path / "a", clean(), card("a")),
        shards(tmp_path / "b", [*clean(100), Row("test", "x", copy)], card("b")),
    )
    assert found(a, b) == [("shared_turned_images", "warning", ("a:train", "b:test"), 1, 4)]


@pytest.mark.parametrize(
    "change", [lambda p: p, lambda p: np.minimum(p, 200), lambda p: p // 2 + 40], ids=["as it is", "clipped", "flatter"]
)
def test_negatives_across_data_sets(tmp_path, change):
    """A film stored as MONOCHROME1 by one data set and as MONOCHROME2 by another."""
    copy = jpeg(np.ascontiguousarray(255 - change(picture(0))), 50)
    a, b = (
        shards(tmp_path / "a", clean(), card("a")),
        shards(tmp_path / "b", [*clean(100), Row("test", "x", copy)], card("b")),
    )
    assert found(a, b) == [("shared_inverted_images", "warning", ("a:train", "b:test"), 1, 4)]


def test_the_keys_of_both_samples_are_named(tmp_path):
    sets = [open_set(shards(tmp_path / "a", [*clean(), Row("test", "x", 4)], card("a")), {})]
    (finding,) = audit(sets).findings
    shards_ = sets[0].shards
    train = [shards_.read("train", i) for i in range(shards_.count("train"))]
    key = next(s.key for s, files in train if files["0.png"] == png(4))
    assert finding.examples == ((key, shards_.entry("test", shards_.count("test") - 1).key),)
    assert all(k in finding.text for k in finding.examples[0])


def test_second_images_and_volumes_are_looked_at(tmp_path):
    rows = [
        Row("train", "p", 1, more=[png(2), volume(1)]),
        Row("test", "q", 3, more=[png(2)]),
        Row("test", "r", volume(1)),
        Row("val", "s", volume(2)),
    ]
    assert found(shards(tmp_path / "a", rows, card("a"))) == [("shared_images", "error", ("a:train", "a:test"), 2, 3)]


def test_blank_images_are_no_duplicates(tmp_path):
    blank = encode_png(np.zeros((40, 40), np.uint8))
    a = shards(tmp_path / "a", [*clean(), Row("train", "x", blank), Row("test", "y", blank)], card("a"))
    assert found(a) == []
    assert notes(a) == ["a: 2 images of one value each were not compared: they are all alike"]


def test_one_data_set_twice_under_two_names(tmp_path):
    """Dealt anew: 6 of its 12 images are trained on under one name and held out under the other."""
    again = [
        Row({"train": "test", "test": "train", "val": "val"}[row.split], row.patient, row.image) for row in clean()
    ]
    a, b = shards(tmp_path / "a", clean(), card("a")), shards(tmp_path / "b", again, card("b", splits={"salt": "two"}))
    assert sorted(found(a, b)) == [
        ("shared_images", "error", ("a:train", "b:test"), 6, 6),
        ("shared_images", "error", ("b:train", "a:test"), 3, 3),
    ]


# --- benchmarks -----------------------------------------------------------------------------------


def test_a_benchmark_in_training_is_found_by_patient_image_and_question(tmp_path):
    bench = shards(
        tmp_path / "bench",
        [Row("test", "p", 200, (LONG,)), Row("test", "q", 201), Row("test", "r", 202), Row("train", "s", 203)],
        card("bench"),
    )
    a = shards(
        tmp_path / "a",
        [
            *clean(),
            Row("train", "p", 90),
            Row("val", "u", 201),
            Row("train", "v", jpeg(picture(202), 50), (LONG.lower(),)),
        ],
        card("a"),
    )
    assert sorted(found(a, against=[bench])) == [
        ("benchmark_images", "error", ("a:val", "bench:test"), 1, 3),
        ("benchmark_near_images", "warning", ("a:train", "bench:test"), 1, 3),
        ("benchmark_patients", "error", ("a:train", "bench:test"), 1, 3),
        ("benchmark_questions", "warning", ("a:train", "bench:test"), 1, 1),
    ]


def test_the_own_test_split_may_be_the_benchmark(tmp_path):
    bench = shards(tmp_path / "bench", [Row("test", "p", 200, (LONG,))], card("bench"))
    assert found(shards(tmp_path / "a", [*clean(), Row("test", "p", 200, (LONG,))], card("a")), against=[bench]) == []


def test_short_questions_and_those_of_a_template_prove_nothing(tmp_path):
    """Of the eight words of the first, two are articles."""
    asks = [
        ("Is there a mass in the right lung?",),
        (LONG,),
        (LONG, "Where is the tip of the endotracheal tube in relation to the carina?"),
    ]
    bench = shards(tmp_path / "bench", [Row("test", f"p{i}", 200 + i, a) for i, a in enumerate(asks)], card("bench"))
    a = shards(tmp_path / "a", [*clean(), Row("train", "v", 90, (LONG,)), Row("train", "w", 91, asks[0])], card("a"))
    assert found(a, against=[bench]) == []
    again = shards(tmp_path / "again", [Row("train", "v", 90, asks[2])], card("again"))
    assert found(again, against=[bench]) == [("benchmark_questions", "warning", ("again:train", "bench:test"), 1, 1)]


# --- what cannot be audited -------------------------------------------------------------------------


def test_the_same_shards_twice_are_refused(tmp_path):
    a = shards(tmp_path / "a", clean(), card("a"))
    with pytest.raises(DataError, match="a: the same shards are given twice"):
        found(a, a)


def test_two_data_sets_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="two data sets are called a"):
        found(shards(tmp_path / "1", clean(), card("a")), shards(tmp_path / "2", clean(100), card("a")))


def test_a_damaged_image_ends_the_audit(tmp_path):
    bad = shards(tmp_path / "a", [*clean()], card("a"))
    tar = bad / "train-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    tar.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"train-000000.tar: sample \w+: 0.png has crc32"):
        found(bad)


# --- terms and receipt ------------------------------------------------------------------------------


def test_the_strictest_terms_are_those_of_all(tmp_path):
    a = shards(tmp_path / "a", clean(), card("a", access="registration", terms="Ask A."))
    b = shards(
        tmp_path / "b",
        clean(100),
        card("b", licence={"id": "CC-BY-NC-4.0", "commercial": False}, phi={"status": "unknown"}),
    )
    result = audit([open_set(a, {}), open_set(b, {})])
    assert result.terms == {
        "ids": ["CC-BY-NC-4.0", "MIT"],
        "commercial": False,
        "share_alike": False,
        "redistribute": True,
        "access": "registration",
        "phi": "unknown",
        "terms": {"a": "Ask A."},
    }
    assert [f.text for f in result.findings] == [
        "b: its card does not know whether it holds patient data (phi.status: unknown)"
    ]


def test_two_share_alike_licences_are_in_doubt(tmp_path):
    rows = (("a", "CC-BY-SA-4.0"), ("b", "ODbL-1.0"))
    sets = [
        open_set(
            shards(tmp_path / n, clean(100 * i), card(n, licence={"id": x, "commercial": True, "share_alike": True})),
            {},
        )
        for i, (n, x) in enumerate(rows)
    ]
    (finding,) = audit(sets).findings
    assert finding.severity == "warning" and finding.text.startswith(
        "share-alike under 2 licences (CC-BY-SA-4.0, ODbL-1.0)"
    )


def test_the_receipt_counts(tmp_path):
    rows = [
        Row("train", "p", 1, ("One two?", "One two three four?"), "A b c."),
        Row("train", "p", 2, ("One?",)),
        Row("test", "", 3),
    ]
    source = receipt_of(audit([open_set(shards(tmp_path / "a", rows, card("a")), {})]))["sources"]["a"]
    assert source["splits"]["train"] == {
        "samples": 2,
        "patients": 1,
        "without_patient": 0,
        "images": 2,
        "blank_images": 0,
        "questions": {"choice": 3},
        "words": {
            "question": {"median": 2, "p95": 4, "max": 4},
            "answer": {"median": 1, "p95": 1, "max": 1},
            "report": {"median": 3, "p95": 3, "max": 3},
        },
        "labels": {"q": {"yes": 3}},
    }
    assert source["splits"]["test"]["without_patient"] == 1


def test_the_receipt_is_the_same_each_time_and_holds_no_name(tmp_path):
    rows = [*clean(), Row("test", f"{SECRET}-0", 50, (f"Is {SECRET} the name on the film that you see?",), SECRET)]
    a = shards(tmp_path / "a", rows, card("a"))
    first, second = (receipt_of(audit([open_set(a, {})], [])) for _ in range(2))
    assert first == second and not first["passed"]
    text = json.dumps(first)
    patient = next(s.patient for s in (open_set(a, {}).shards.read("train", i)[0] for i in range(6)))
    assert SECRET not in text and patient not in text and str(tmp_path) not in text


def test_a_changed_receipt_is_refused(tmp_path):
    receipt = receipt_of(
        audit([open_set(shards(tmp_path / "a", [*clean(), Row("test", f"{SECRET}-0", 50)], card("a")), {})])
    )
    write_json(tmp_path / "audit.json", receipt)
    assert read_audit(tmp_path / "audit.json") == receipt
    write_json(tmp_path / "audit.json", {**receipt, "passed": True})
    with pytest.raises(DataError, match="not a receipt of an audit, or changed since"):
        read_audit(tmp_path / "audit.json")


def test_a_recipe_finds_the_receipt_that_covers_most_of_its_sources(tmp_path):
    a, b = (
        shards(tmp_path / "a", [*clean(), Row("test", f"{SECRET}-0", 50)], card("a")),
        shards(tmp_path / "b", clean(100), card("b")),
    )
    sets = [open_set(a, {}), open_set(b, {})]
    together, alone = receipt_of(audit(sets)), receipt_of(audit(sets[:1]))
    write_json(a / "audit.json", alone)
    write_json(b / "audit.json", together)
    prints = {"films": sets[0].shards.fingerprint, "more": sets[1].shards.fingerprint, "other": "0"}
    got = audits_of(prints, [a / "audit.json", b / "audit.json", tmp_path / "none.json"])
    assert set(got) == {"films", "more"}
    assert (got["films"]["hash"], got["films"]["passed"], got["films"]["compared_with"]) == (
        together["hash"],
        False,
        ["more"],
    )
    assert (got["more"]["passed"], got["more"]["findings"]) == (True, [])
    assert audits_of(prints, [a / "audit.json"])["films"]["compared_with"] == []
