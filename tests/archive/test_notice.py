"""Packing ends with what it left out or did not take as written, and why."""

import csv
from pathlib import Path

import numpy as np
import pytest

from medvlm.archive.packing import pack as packing
from medvlm.archive.packing.notice import APART, ONE, Notices, list_reasons
from medvlm.archive.packing.pack import read_receipt
from medvlm.archive.packing.stored_texts import looks_misread
from medvlm.cli import main
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.sample import Question, Sample, make_truth
from medvlm.io.images import encode_png
from medvlm.io.opening import open_shards

CARD = """
name: made
title: Made
summary: Made for a test.
access: open
media: [film]
licence: {id: MIT, commercial: true}
phi: {status: synthetic}
splits: {by: patient, ratios: {train: 0.34, val: 0.33, test: 0.33}}
reader:
  kind: table
  file: t.csv
  media: [{file: "{file}", kind: film}]
  patient: "{patient}"
  report: "{report}"
  join: [{file: more.csv, on: [patient]}]
  questions: [{text: "Which side?", answer: "{side}", template: side}]
"""


@pytest.fixture(autouse=True)
def one_decoder(monkeypatch):
    monkeypatch.setattr(packing, "num_decoders", lambda: 1)


def archive(root: Path, rows: list[tuple[str, str]]) -> Path:
    """rows: (patient, report)."""
    root.mkdir()
    for i in range(len(rows)):
        (root / f"{i}.png").write_bytes(encode_png(np.full((4, 4), i, np.uint8)))
    with (root / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "patient", "report"), *((f"{i}.png", *row) for i, row in enumerate(rows))])
    (root / "more.csv").write_text("patient,side\n12,left\n")
    (root / "card.yaml").write_text(CARD)
    return root


def test_packing_ends_with_a_table_of_reasons(tmp_path, capsys):
    rows = [("12", "Clear."), ("12.0", "nan"), ("0012", "Mass."), ("A1", "Clear."), ("a1", ""), ("13", "x")]
    root = archive(tmp_path / "root", rows)
    (root / "5.png").unlink()
    out = tmp_path / "out"
    main(["data", "pack", str(root / "card.yaml"), "--root", str(root), "--out", str(out), "--max-bad", "0.5"])
    told = capsys.readouterr().out
    lines = [line.strip() for line in told[told.index("left out, or not as written") :].splitlines()]
    assert lines == [
        "left out, or not as written:",
        "3  row without a partner in more.csv",
        "2  no text or no answer for the question side",
        "2  sample without a report",
        "1  cell of report with a word for nothing (nan, NULL, None ...), taken as missing",
        f"1  {APART}",
        f"1  {ONE}",
        "quarantined samples (quarantine.jsonl lists them):",
        "1  its file is not there",
    ]
    assert read_receipt(out).reasons == {"its file is not there": 1}
    shards = open_shards(out)
    of_patient: dict[str, set[str]] = {}
    for split in shards.splits:
        for i in range(shards.count(split)):
            of_patient.setdefault(shards.read(split, i)[0].patient, set()).add(split)
    assert len(of_patient) == 3 and all(len(splits) == 1 for splits in of_patient.values())


def test_an_archive_of_which_nothing_is_left_out_has_no_table(tmp_path, capsys):
    root = archive(tmp_path / "root", [("12", "Clear."), ("12", "Mass.")])
    main(["data", "pack", str(root / "card.yaml"), "--root", str(root), "--out", str(tmp_path / "out")])
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        (["1", "2", "3"], {}),
        (["1", "1", "01"], {ONE: 1}),
        (["1", "1.0", "2", "002", "2.00"], {ONE: 2}),
        (["P1", "p1", "P 1"], {APART: 1}),
        (["P1", "P01"], {}),
        (["", ""], {}),
    ],
)
def test_patients_in_several_forms_are_noticed(patients, expected):
    notices = Notices()
    items = [RawSample(Sample(str(i), "", "", patient=patient), {}) for i, patient in enumerate(patients)]
    assert list(notices.watch([*items, LeftOut("x", 2)])) == items
    assert notices.count() == {"x": 2, **expected}


def test_only_the_commonest_reasons_are_listed():
    lines = list(list_reasons({f"reason {i}": i + 1 for i in range(40)}, {}))
    assert lines[1].strip() == "40  reason 39" and lines[-1].strip() == "... and 10 more reasons, in packed.json"


@pytest.mark.parametrize("text", ["Läsion", "1 µm, 37 °C", "“No change”", "naïve – Ménière", "肺炎", "Очаг", "Żółć"])
@pytest.mark.parametrize("field", ["report", "question", "answer", "choice"])
def test_text_that_was_read_in_another_encoding_is_noticed(text, field):
    damaged = text.encode().decode("cp1252", "replace").replace("\ufffd", "")

    def made(told: str) -> Sample:
        if field == "report":
            return Sample("a", "", "", report=told)
        is_answer = make_truth("open", told if field == "answer" else "no")
        truth = make_truth("choice", "no", choices=(told, "no")) if field == "choice" else is_answer
        return Sample("a", "", "", questions=(Question(told if field == "question" else "Which?", truth, "q"),))

    assert looks_misread(made(damaged)) and not looks_misread(made(text))


@pytest.mark.parametrize(
    "text", ["«SANTÉ»", "„donné…”", "»ÄRZTE«", "Â", "ÃO", "5 Å", "5 Å wide", "É", "Ünal’s", "∅ – ×"]
)
def test_other_letters_are_not_taken_for_it(text):
    assert not looks_misread(Sample("a", "", "", report=text))
