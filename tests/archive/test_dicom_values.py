"""What DICOM headers say of a view and of the units of PET, in every form in which they say it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medvlm.archive.media_file import FileOptions, media_of
from medvlm.archive.readers.dicom_tree import Config, DicomMedium, read
from medvlm.core.contracts import LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Decoded
from tests.io.dicom.series import image, save, slices


def views(code: str, *modifiers: str) -> Sequence:
    found = Dataset()
    found.CodeValue, found.CodingSchemeDesignator = code, "SRT"
    found.ViewModifierCodeSequence = Sequence(views(each)[0] for each in modifiers)
    return Sequence([found])


def film(root: Path, **header: Any) -> list[Any]:
    save([image(np.arange(16).reshape(4, 4), modality="DX", Modality="MG", ImageLaterality="L", **header)], root / "a")
    media = [{"kind": "film", "modality": ["MG"]}]
    settings = {"sample": "medium", "report": "View {ImageLaterality} {ViewPosition}.", "media": media}
    return list(read(Config.model_validate({"kind": "dicom_tree", **settings}), root))


@pytest.mark.parametrize(
    ("header", "view"),
    [
        ({"ViewCodeSequence": views("R-10242")}, "CC"),
        ({"ViewCodeSequence": views("399162004")}, "CC"),
        ({"ViewCodeSequence": views("R-10226")}, "MLO"),
        ({"ViewCodeSequence": views("R-102D0")}, "SIO"),
        ({"ViewCodeSequence": views("R-1024A")}, "XCCL"),
        ({"ViewCodeSequence": views("R-10242", "R-102D5"), "ViewPosition": "CC"}, "CCID"),
        ({"ViewCodeSequence": views("399368009", "399209000")}, "MLOID"),
        ({"ViewCodeSequence": views("R-10242", "R-102D6", "R-102D7")}, "MSCC"),
        ({"ViewPosition": "CCID"}, "CCID"),
        ({"ViewPosition": "cc"}, "CC"),
        ({"ViewPosition": "MLO", "ViewCodeSequence": views("R-10226")}, "MLO"),
        ({"ViewPosition": "AP"}, "AP"),
    ],
)
def test_a_view_is_read_from_its_code_and_from_its_term(tmp_path, header, view):
    (raw,) = film(tmp_path, **header)
    assert raw.sample.report == f"View L {view}."


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"ViewPosition": "Mrs Miller"},
        {"ViewPosition": "CCMiller"},
        {"ViewCodeSequence": views("R-00000")},
        {"ViewCodeSequence": views("R-10242"), "ViewPosition": "MLO"},
        {"ViewCodeSequence": views("R-10242", "R-00000"), "ViewPosition": "CC"},
        {"ViewCodeSequence": views("399127006"), "ViewPosition": "CC"},
    ],
)
def test_a_view_that_is_not_certain_leaves_the_report_empty_and_is_counted(tmp_path, header):
    raw, left_out = film(tmp_path, **header)
    assert raw.sample.report == ""
    assert left_out == LeftOut("report: ViewPosition is missing in an image, or no known term", 1)


def test_an_attribute_that_is_no_known_term_is_counted(tmp_path):
    save(
        [image(np.arange(16).reshape(4, 4), modality="DX", Modality="MG", BodyPartExamined="BREAST L")], tmp_path / "a"
    )
    settings = {"report": "{BodyPartExamined}", "media": [{"kind": "film", "modality": ["MG"]}]}
    raw, left_out = read(Config.model_validate({"kind": "dicom_tree", **settings}), tmp_path)
    assert isinstance(raw, RawSample) and left_out == LeftOut(
        "report: BodyPartExamined is missing in an image, or no known term", 1
    )


def pet(root: Path, *series: dict[str, Any], units: list[str] | None = None) -> list[Any]:
    for number, header in enumerate(series):
        save(slices(modality="PT", **header), root / str(number))
    media = [{"kind": "pet", "modality": ["PT"], "units": units or []}]
    return list(read(Config.model_validate({"kind": "dicom_tree", "sample": "medium", "media": media}), root))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"Units": "BQML"}, {"Units": "GML"}),
        ({"Units": "GML"}, {"Units": "GML", "SUVType": "LBM"}),
        ({"Units": "GML", "SUVType": "BSA"}, {"Units": "GML", "SUVType": "BW"}),
        ({"Units": "BQML"}, {}),
        ({"Units": "CNTS"}, {"Units": "CNTS"}),
        ({"Units": "BQML"}, {"Units": "MRS MILLER"}),
    ],
)
def test_pet_in_several_units_or_in_counts_is_refused(tmp_path, one, other):
    with pytest.raises(DataError, match=r"several units, or in counts .*units: \[BQML\]") as refusal:
        pet(tmp_path, one, other)
    assert "MILLER" not in str(refusal.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"Units": "BQML"}, {"Units": "bqml"}),
        ({"Units": "GML"}, {"Units": "GML", "SUVType": "BW"}),
        ({"Units": "GML", "SUVType": "LBM"}, {"Units": "GML", "SUVType": "LBM"}),
        ({}, {}),
    ],
)
def test_pet_in_one_unit_is_read(tmp_path, one, other):
    assert [type(item) for item in pet(tmp_path, one, other)] == [RawSample, RawSample]


@pytest.mark.parametrize("units", [["BQML"], ["GML"], ["CNTS"], ["BQML", "GML"]])
def test_a_card_chooses_the_units_of_pet(tmp_path, units):
    series = [{"Units": name} for name in ("BQML", "GML", "CNTS")]
    *found, left_out = pet(tmp_path, *series, units=units)
    assert len(found) == len(units)
    reason = "in units that the card does not name (reader.media.units)"
    assert left_out == LeftOut(reason, (3 - len(units)) * len(slices()))


def pet_file(root: Path, units: list[str] | None, **header: Any) -> Decoded:
    """A PET file that a table names, as packing loads it."""
    made = image(np.arange(16).reshape(4, 4), modality="PT", **header)
    made.save_as(root / "a.dcm", enforce_file_format=True)
    (file,) = media_of(root / "a.dcm", FileOptions(units=tuple(units or ())), None)
    assert callable(file)
    return file()


@pytest.mark.parametrize(
    ("header", "units"),
    [
        ({"Units": "BQML"}, None),
        ({"Units": "BQML"}, ["GML"]),
        ({"Units": "GML", "SUVType": "LBM"}, ["GML"]),
        ({"Units": "GML"}, ["GML/BSA", "BQML"]),
        ({"Units": "CNTS"}, ["BQML"]),
        ({"Units": "MRS MILLER"}, ["BQML"]),
        ({}, ["BQML"]),
    ],
)
def test_a_pet_file_of_a_table_in_units_that_its_card_does_not_name_is_refused(tmp_path, header, units):
    with pytest.raises(DataError, match=r"^PET (in|without known) Units .* units: \[") as refusal:
        pet_file(tmp_path, units, **header)
    assert "MILLER" not in str(refusal.value)


@pytest.mark.parametrize(
    ("header", "units"),
    [
        ({"Units": "BQML"}, ["BQML"]),
        ({"Units": "gml", "SUVType": "BW"}, ["GML"]),
        ({"Units": "GML", "SUVType": "BSA"}, ["GML/BSA"]),
        ({"Units": "CNTS"}, ["CNTS"]),
        ({"Modality": "NM"}, None),
        ({"Modality": "MR"}, None),
    ],
)
def test_a_pet_file_of_a_table_in_units_that_its_card_names_is_read(tmp_path, header, units):
    assert pet_file(tmp_path, units, **header).unit == "raw"


@pytest.mark.parametrize("units", ["SUV", "Bq/ml", "bqml", "GML/BW", ""])
def test_units_that_dicom_does_not_have_are_refused_in_the_card(units):
    with pytest.raises(ValueError, match=r"unknown units of PET .*BQML is Bq/ml"):
        FileOptions(units=(units,))
    with pytest.raises(ValueError, match="unknown units of PET"):
        DicomMedium(kind="pet", modality=("PT",), units=(units,))
