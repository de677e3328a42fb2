"""Identifiers in DICOM headers: every attribute of PS3.15 Table E.1-1 at any depth, and attributes no table lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from medvlm.core.card import Checked
from medvlm.core.errors import DataError
from medvlm.io.dicom.dataset import read_whole, silence_pydicom
from medvlm.io.phi.dicom import check
from medvlm.io.phi.profile import REMOVED
from tests.io.phi.clean_files import make_clean, nest, put_deep, write

WORDS: tuple[Checked, ...] = get_args(Checked)
VALUES: dict[str, Any] = {
    "DA": "19370513",
    "TM": "131415",
    "DT": "19370513131415",
    "AS": "047Y",
    "DS": "71.37",
    "IS": "7137",
    "US": 7137,
    "UL": 7137,
    "SS": 7137,
    "SL": 7137,
    "FD": 71.37,
    "FL": 71.37,
    "OB": b"Kowalczyk1",
    "UN": b"Kowalczyk1",
    "OW": b"Kowalczyk1",
    "UI": "1.2.7137",
    "AT": 0x00100010,
    "SV": 7137,
    "UV": 7137,
    "CS": "KOWALCZYK1",
}


def value_of(vr: str) -> Any:
    if vr == "SQ":
        item = Dataset()
        item.CodeMeaning = "Kowalczyk1"
        return Sequence([item])
    return VALUES.get(vr, "Kowalczyk1")


def make_holding(tag: int) -> Dataset:
    """A data set with one element of the table, with VR UN for tags that pydicom doesn't know."""
    made = Dataset()
    vr = dictionary_VR(tag).split(" or ")[0] if keyword_for_tag(tag) else "UN"
    made.add(DataElement(Tag(tag), vr, value_of(vr)))
    return made


def reason_of(dataset: Dataset, checked: Iterable[Checked] = ()) -> str:
    """Why a header is refused; "" if it passes."""
    with silence_pydicom():
        try:
            check(dataset, tuple(checked))
        except DataError as reason:
            return str(reason)
    return ""


def test_a_de_identified_header_passes():
    assert reason_of(make_clean()) == ""


@pytest.mark.parametrize("depth", [0, 3])
def test_each_attribute_of_the_table_is_refused_at_any_depth_and_accepted_only_by_its_words(depth):
    assert len(REMOVED) > 580
    spoilt = make_clean()
    for tag, words in REMOVED.items():
        planted = nest(make_holding(tag), depth)
        spoilt.update(planted)
        said = reason_of(spoilt)
        assert f"({tag >> 16:04X},{tag & 0xFFFF:04X})" in said and keyword_for_tag(tag) in said, f"{tag:08X}"
        assert "owalczyk" not in said.lower() and "7137" not in said and "1937" not in said
        assert reason_of(spoilt, [word for word in WORDS if word not in words]) == said, f"{tag:08X}"
        for word in words:
            assert reason_of(spoilt, [word]) == "", f"{tag:08X} {word}"
        for element in planted:
            del spoilt[element.tag]
    assert reason_of(spoilt) == ""


def test_the_table_matches_an_excerpt_of_the_standard():
    """A hand-made excerpt of PS3.15 Table E.1-1, with the option of the profile that keeps each."""
    by_hand: dict[Checked, str] = {
        "pseudonyms": "PatientName PatientID AccessionNumber StudyID ClinicalTrialSubjectID",
        "identity": (
            "PatientBirthDate PatientAddress OtherPatientIDs OtherPatientNames PatientTelephoneNumbers"
            " PatientMotherBirthName MilitaryRank ReferringPhysicianName PerformingPhysicianName OperatorsName"
            " RequestingPhysician PersonName ContentCreatorName VerifyingObserverName OriginalAttributesSequence"
            " TextComments ResponsiblePerson CurrentPatientLocation AdmissionID PatientReligiousPreference"
            " DigitalSignaturesSequence NameOfPhysiciansReadingStudy OrderEnteredBy"
        ),
        "patient": "PatientSex PatientAge PatientWeight PatientSize EthnicGroup SmokingStatus PregnancyStatus",
        "dates": (
            "StudyDate SeriesDate AcquisitionDate ContentDate StudyTime AcquisitionDateTime InstanceCreationDate"
            " TimezoneOffsetFromUTC ScheduledProcedureStepStartDate"
        ),
        "descriptions": (
            "StudyDescription SeriesDescription ImageComments PatientComments AdditionalPatientHistory ProtocolName"
            " RequestedProcedureDescription RequestAttributesSequence DerivationDescription AcquisitionContextSequence"
            " AdmittingDiagnosesDescription Occupation"
        ),
        "institution": "InstitutionName InstitutionAddress InstitutionalDepartmentName",
        "device": "DeviceSerialNumber StationName PerformedStationAETitle DetectorID GantryID PlateID",
        "pixels": "IconImageSequence GraphicAnnotationSequence",
    }
    for word, keywords in by_hand.items():
        for keyword in keywords.split():
            tag = tag_for_keyword(keyword)
            assert tag is not None and REMOVED[tag][0] == word, keyword


def test_uids_that_group_files_pass():
    """UIDs group files; PS3.15 replaces them, and they never reach a shard."""
    assert (
        not {
            tag_for_keyword(k)
            for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
        }
        & REMOVED.keys()
    )


@pytest.mark.parametrize(
    "value", ["", "  ", "\0\0", "ANONYMIZED", "anonymous", "Removed by CTP", "XXXX", "unknown", "NONE", "n/a", "^^^^"]
)
def test_empty_and_dummy_values_pass(value):
    assert reason_of(make_clean(PatientName=value, StudyDescription=value, InstitutionName=value)) == ""


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyTime", "000000.000"),
        ("StudyDate", "19000101"),
        ("PatientAge", "000Y"),
        ("ReferencedPatientAliasSequence", []),
    ],
)
def test_dummies_of_dates_times_ages_and_sequences_pass(keyword, value):
    assert reason_of(make_clean(**{keyword: value})) == ""


@pytest.mark.parametrize("value", ["ANONYMIZED Kowalczyk", "XKowalczyk", "19000102", "none of your business"])
def test_a_dummy_value_with_further_text_is_refused(value):
    assert "StudyDescription (0008,1030)" in reason_of(make_clean(StudyDescription=value))


@pytest.mark.parametrize("value", ["Kowalczyk^Ewa", "Ewa Kowalczyk", "KOWALCZYK"])
def test_a_name_is_not_accepted_as_a_pseudonym(value):
    for keyword in ("PatientName", "PatientID"):
        assert (
            reason_of(make_clean(**{keyword: value}), ["pseudonyms"])
            != ""
            == reason_of(make_clean(**{keyword: value}), ["identity"])
        )
    assert reason_of(make_clean(PatientName="LIDC-0007", PatientID="LIDC-0007"), ["pseudonyms"]) == ""


@pytest.mark.parametrize(
    ("age", "is_old"),
    [
        ("089Y", False),
        ("090Y", True),
        ("095Y", True),
        ("1079M", False),
        ("1081M", True),
        ("5000W", True),
        ("033D", False),
        ("95", True),
    ],
)
def test_an_age_above_89_identifies(age, is_old):
    assert (reason_of(make_clean(PatientAge=age), ["patient"]) != "") == is_old
    nested = Dataset()
    nested.PatientAge = age
    assert (reason_of(put_deep(nested, 2), ["patient"]) != "") == is_old


# --- attributes that no table lists ------------------------------------------------------------------


def make_private(
    creator: str, group: int, element: int, block: int = 0x10, value: Any = b"Kowalczyk1", vr: str = "OB"
) -> Dataset:
    made = Dataset()
    made.add_new((group, block), "LO", creator)
    made.add_new((group, (block << 8) | element), vr, value)
    return made


@pytest.mark.parametrize("depth", [0, 3])
@pytest.mark.parametrize(
    ("made", "is_safe"),
    [
        (make_private("SIEMENS MR HEADER", 0x0019, 0x0C), True),
        (make_private("SIEMENS MR HEADER", 0x0019, 0x0C, block=0x23), True),
        (make_private("GEMS_PARM_01", 0x0043, 0x39), True),
        (make_private("GEMS_PARM_01", 0x0043, 0x38), False),
        (make_private("SIEMENS CSA HEADER", 0x0029, 0x10), False),
        (make_private("Kowalczyk", 0x0019, 0x0C, block=0x11), False),
        (make_private("Kowalczyk", 0x0019, 0x0C), False),
        (make_private("Kowalczyk", 0x0019, 0x0C, value=b""), False),
        (make_private("SIEMENS MR HEADER", 0x0029, 0x0C), False),
    ],
)
def test_private_attributes_pass_only_if_creator_and_element_are_listed(made, is_safe, depth):
    spoilt = make_clean()
    spoilt.update(nest(made, depth))
    said = reason_of(spoilt)
    assert (said == "") == is_safe and "owalczyk" not in said and "SIEMENS" not in said
    assert reason_of(spoilt, ["private"]) == ""


def test_a_private_element_without_a_creator_is_refused():
    spoilt = make_clean()
    spoilt.add_new((0x0019, 0x100C), "LO", "Kowalczyk1")
    assert "private attributes of group 0019" in reason_of(spoilt)


def test_hundreds_of_private_attributes_are_one_finding():
    spoilt = make_clean()
    spoilt.add_new((0x2005, 0x0010), "LO", "Kowalczyk")
    for element in range(0x1000, 0x1100):
        spoilt.add_new((0x2005, element), "LO", "Kowalczyk1")
    assert "private attributes of group 2005 x 257" in reason_of(spoilt)


def test_unknown_attributes_are_refused():
    spoilt = make_clean()
    spoilt.add_new((0x0008, 0xFFF0), "LO", "Kowalczyk1")
    assert "an unknown attribute (0008,FFF0)" in reason_of(spoilt) and reason_of(spoilt, ["private"]) == ""


@pytest.mark.parametrize(
    ("tag", "vr", "value", "word"),
    [
        ((0x6000, 0x3000), "OB", b"\1" * 32, "pixels"),
        ((0x6002, 0x4000), "LT", "Kowalczyk1", "pixels"),
        ((0x5000, 0x3000), "OB", b"\1" * 32, "pixels"),
        ((0x0040, 0x0440), "SQ", None, None),
        ((0x0008, 0xFFF0), "DA", "19370513", "private"),
        ((0x0040, 0xA13B), "DT", "19370513131415", "private"),
        ((0x0018, 0x9080), "ST", "Kowalczyk1", "descriptions"),
        ((0x0008, 0xFFF0), "PN", "Kowalczyk^Ewa1", "private"),
        ((0xFFFC, 0xFFFC), "OB", b"\0" * 300 + b"Kowalczyk1", "identity"),
        ((0x0010, 0x0033), "LO", "Kowalczyk1", "identity"),
    ],
)
def test_overlays_curves_long_texts_and_padding_are_refused(tag, vr, value, word):
    spoilt = make_clean()
    if word is None:  # ProtocolContextSequence: its item has a text that the table doesn't name
        item = Dataset()
        item.add_new((0x0040, 0xA160), "UT", "Kowalczyk1")
        spoilt.add_new(tag, vr, Sequence([item]))
        word = "descriptions"
    else:
        spoilt.add_new(tag, vr, value)
    said = reason_of(spoilt)
    assert (
        said
        and "owalczyk" not in said
        and reason_of(spoilt, [word]) == ""
        and reason_of(spoilt, [w for w in WORDS if w != word]) != ""
    )


@pytest.mark.parametrize(
    ("keyword", "value", "word"),
    [
        ("DateOfGainCalibration", "19370513", "dates"),
        ("EvaluatorName", "Kowalczyk^Ewa1", "identity"),
        ("MetaboliteMapDescription", "Kowalczyk1", "descriptions"),
    ],
)
def test_names_dates_and_long_texts_are_recognised_by_their_vr(keyword, value, word):
    assert tag_for_keyword(keyword) not in REMOVED
    assert (
        keyword in reason_of(make_clean(**{keyword: value})) and reason_of(make_clean(**{keyword: value}), [word]) == ""
    )


def test_private_information_of_the_file_meta_group_is_refused():
    spoilt = make_clean()
    spoilt.file_meta.add_new((0x0002, 0x0102), "OB", b"Kowalczyk1")
    assert "PrivateInformation (0002,0102)" in reason_of(spoilt) and reason_of(spoilt, ["private"]) == ""


# --- the image as a whole ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["NO", "", "KOWALCZYK", None])
def test_patient_identity_removed_must_be_yes(value):
    spoilt = make_clean()
    if value is None:
        del spoilt.PatientIdentityRemoved
    else:
        spoilt.PatientIdentityRemoved = value
    assert "PatientIdentityRemoved (0012,0062) is not YES" in reason_of(spoilt)
    assert reason_of(spoilt, ["pseudonyms"]) == reason_of(spoilt, ["identity"]) == ""


@pytest.mark.parametrize(
    ("attributes", "passes"),
    [
        ({"Modality": "CT"}, True),
        ({"Modality": "MR"}, True),
        ({"Modality": "CR"}, True),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, False),
        *(({"Modality": m}, False) for m in ("US", "IVUS", "ES", "XC", "OT", "SC", "DX", "MG", "OP", "us")),
        *(({"Modality": m, "BurnedInAnnotation": "NO"}, True) for m in ("US", "ES", "XC", "OT", "DX", "MG")),
        ({"Modality": "US", "BurnedInAnnotation": "maybe"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, False),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, False),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, False),
        ({"RecognizableVisualFeatures": "YES"}, False),
        ({"RecognizableVisualFeatures": "NO"}, True),
    ],
)
def test_burned_in_text_must_be_denied_for_modalities_where_it_is_usual(attributes, passes):
    assert (reason_of(make_clean(**attributes)) == "") == passes
    assert reason_of(make_clean(**attributes), ["pixels"]) == ""


def test_the_files_own_deidentification_method_is_not_trusted():
    """113107: retain longitudinal temporal information with modified dates."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = (
        "113107",
        "DCM",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    )
    assert "StudyDate" in reason_of(make_clean(StudyDate="19370513", DeidentificationMethodCodeSequence=[code]))


# --- bytes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_encoding_gives_the_same_findings(tmp_path, syntax):
    item = Dataset()
    item.PatientBirthDate, item.PatientComments = "19370513", "Kowalczyk1"
    spoilt = put_deep(item, 3)
    spoilt.update(make_private("Kowalczyk", 0x0019, 0x0C))
    expected = reason_of(spoilt)
    spoilt.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        spoilt["PixelData"].VR = "OW"
    path = write(spoilt, tmp_path / "a.dcm")
    with silence_pydicom(), pytest.raises(DataError) as refused:
        read_whole(path, check)
    assert str(refused.value) == expected and "PatientBirthDate" in expected


def test_a_sequence_stored_as_unknown_bytes_is_searched():
    """As some gateways write them: VR UN, with implicit little endian content (PS3.5 6.2.2)."""
    name = b"\x10\x00\x10\x00\x0c\x00\x00\x00Kowalczyk^Ew"
    item = b"\xfe\xff\x00\xe0" + len(name).to_bytes(4, "little") + name
    spoilt = make_clean()
    # AnatomicRegionSequence
    spoilt[0x00082218] = RawDataElement(Tag(0x00082218), "UN", len(item), item, 0, False, True)
    assert "PatientName (0010,0010)" in reason_of(spoilt)


def test_a_deferred_value_is_checked(tmp_path):
    path = write(make_clean(PatientComments="Kowalczyk1 " * 99), tmp_path / "a.dcm")
    with silence_pydicom():
        assert "PatientComments (0010,4000)" in reason_of(dcmread(path, defer_size=256))


def test_a_sequence_that_cannot_be_read_is_refused_without_its_bytes():
    spoilt = make_clean()
    spoilt[0x00082218] = RawDataElement(Tag(0x00082218), "SQ", 3, b"Kow", 0, False, True)
    said = reason_of(spoilt)
    assert "AnatomicRegionSequence (0008,2218) cannot be read" in said and "Kow" not in said


def test_a_thousand_nested_sequences_are_searched():
    item = Dataset()
    item.PatientBirthDate = "19370513"
    assert "PatientBirthDate" in reason_of(put_deep(item, 1000))


# --- real files -------------------------------------------------------------------------------------------


def test_a_published_file_passes_only_with_the_words_for_what_was_retained(real_data):
    """ACRIN-FLT-Breast of TCIA retains patient characteristics, shifted dates and descriptions; TCIA adds private
    attributes."""
    with silence_pydicom():
        dataset = read_whole(real_data / "dicom_series/dicom/testdata/1.dcm", None)
    kept: tuple[Checked, ...] = ("pseudonyms", "dates", "descriptions", "patient", "private", "pixels")
    assert reason_of(dataset, kept) == ""
    for word in kept:
        assert reason_of(dataset, [w for w in kept if w != word]) != "", word


def test_real_files_are_refused_without_words_and_errors_show_no_value(real_data):
    seen = 0
    for folder in sorted(
        {p.parent for name in ("dicom_series", "dicom_pydicom") for p in (real_data / name).rglob("*") if p.is_file()}
    ):
        for path in sorted(p for p in folder.iterdir() if p.is_file() and p.stat().st_size < 1 << 20)[:2]:
            with silence_pydicom():
                try:
                    dataset = read_whole(path, None)
                except DataError:
                    continue
                values = {
                    str(e.value)
                    for e in (*dataset.group_dataset(0x0008), *dataset.group_dataset(0x0010))
                    if e.VR in ("PN", "LO", "SH", "DA", "TM", "ST", "LT")
                }
            said = reason_of(dataset)
            assert "may identify a person" in said, path.name
            assert reason_of(dataset, WORDS) == "", path.name
            assert not [
                value
                for value in values
                if len(value) > 3 and value != "Patient" and re.search(rf"\b{re.escape(value)}\b", said)
            ], path.name
            seen += 1
    assert seen > 40
