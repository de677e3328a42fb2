"""Reports found by an identifier that the images carry."""

import pytest

from medvlm.archive.tables.report_table import ReportTable
from medvlm.core.errors import DataError

TABLE = "study,findings,impression\n1.2,Clear lungs.,Normal.\n1.3,,Effusion.\n"


def table(root, text=TABLE):
    (root / "reports.csv").write_text(text)
    return ReportTable(file="reports.csv", column="study", holds="StudyInstanceUID")


def test_a_row_is_found_by_the_identifier_that_the_table_holds(tmp_path):
    reports = table(tmp_path).load(tmp_path, {"findings", "impression"})
    assert reports.find({"StudyInstanceUID": "1.2", "PatientID": "1.3"}) == {
        "study": "1.2",
        "findings": "Clear lungs.",
        "impression": "Normal.",
    }
    assert reports.find({"StudyInstanceUID": "1.4", "PatientID": "1.2"}) is None
    assert reports.empty == {"findings": "", "impression": ""}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TABLE + "1.2,Nodule.,Abnormal.\n", "record 4 has the StudyInstanceUID of an earlier one"),
        (TABLE.replace("findings", "finding"), "did you mean 'finding'"),
    ],
)
def test_a_table_that_says_two_things_or_lacks_a_column_is_refused(text, why, tmp_path):
    with pytest.raises(DataError, match=why):
        table(tmp_path, text).load(tmp_path, {"findings", "impression"})
