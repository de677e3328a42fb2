"""DICOM files anywhere in a folder, by their content, and the table that has texts or labels for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from medvlm.archive.finders._columns import ColumnPlan, plan_columns
from medvlm.archive.finders._folder import KINDS, Folder, Found, suffix_of
from medvlm.archive.finders._rows import read_rows
from medvlm.core.cell_values import identify
from medvlm.core.errors import DataError, list_some
from medvlm.io.dicom.header import SHOWN, SLICED, Header
from medvlm.io.dicom.scan import scan
from medvlm.io.dicom.units import NUCLEAR

ORDER = 3.5
SNIFFED = 50
"""Files without a known suffix that are opened to see whether a folder holds DICOM."""
SHARE = 0.5
"""Of the rows of a table, at least so many must be about a file."""
READ = frozenset(("report", "questions", "rename"))
"""What the reader takes of a table."""
CT_WINDOW = (-1000.0, 1000.0)
IDENTIFIERS: dict[str, Callable[[Header], str]] = {
    "StudyInstanceUID": lambda header: header.study,
    "SeriesInstanceUID": lambda header: header.series,
    "AccessionNumber": lambda header: header.accession,
    "PatientID": lambda header: header.patient,
}


def find(folder: Folder) -> Iterator[Found]:
    if not _has_dicom(folder):
        return
    headers = [header for _, header in scan(folder.root) if isinstance(header, Header)]
    if not headers:
        return
    groups = {
        "volume": [h for h in headers if h.modality in SLICED],
        "image": [h for h in headers if h.modality in SHOWN],
    }
    kind = max(groups, key=lambda each: len(groups[each]))
    taken = groups[kind]
    if not taken:
        return
    modalities = sorted({header.modality for header in taken})
    medium: dict[str, Any] = {"kind": kind, "modality": modalities}
    unknown = []
    if units := Counter(header.units for header in taken if header.modality in NUCLEAR and header.units):
        medium["units"] = [units.most_common(1)[0][0]]
        unknown.append(f"which units of PET are meant: {dict(units)}; {medium['units'][0]} is taken")
    if left := Counter(header.modality for header in headers if header not in taken):
        unknown.append(f"whether {_list(left)} are needed too: they are left out")
    accept, told = _choose_accepted(taken)
    patients = {header.patient for header in taken} - {""}
    reader: dict[str, Any] = {"kind": "dicom_tree", "media": [medium], **({"accept": accept} if accept else {})}
    reader["patient"] = "{PatientID}" if len(patients) > 1 else "{StudyInstanceUID}"
    if len(patients) < 2:
        unknown.append(
            "who the patients are: PatientID is missing or the same in all files, so each study counts as one"
        )
    words = f"{len(taken)} DICOM files ({_list(Counter(header.modality for header in taken))}) of"
    words += f" {len({header.study for header in taken})} studies and {len(patients)} patients"
    table = _find_table(folder, taken)
    if table is not None:
        name, column, holds, plan, unread = table
        reader |= {"reports": {"file": name, "column": column, "holds": holds}, **plan.reader}
        reader["sample"] = "study" if "report" in plan.reader and holds != "SeriesInstanceUID" else "medium"
        words += f"; {name}, whose column {column} has the {holds}: {'; '.join(plan.asks)}"
        unknown += unread
    yield Found(
        words,
        reader,
        len(taken) if kind == "image" else len({header.series for header in taken}),
        kind,
        patient="PatientID" if len(patients) > 1 else "the study",
        unknown=(*unknown, *told),
        window=CT_WINDOW if modalities == ["CT"] else (),
    )


def _has_dicom(folder: Folder) -> bool:
    if folder.ending(".dcm", ".dicom") or any(name.rpartition("/")[2] == "DICOMDIR" for name in folder.files):
        return True
    others = [name for name in folder.files if suffix_of(name) not in KINDS][:SNIFFED]
    for name in others:
        with (folder.root / name).open("rb") as file:
            if file.read(132)[128:] == b"DICM":
                return True
    return False


def _choose_accepted(headers: list[Header]) -> tuple[list[str], list[str]]:
    """Settings with which the card accepts the files, and what the user should check because of each of them."""
    accept, told = [], []
    if any(not header.study or not header.series for header in headers):
        accept.append("no_uids")
        told.append("which files belong together: some have no UIDs, so each folder is taken as a series (no_uids)")
    counts = Counter(concern for header in headers for concern in header.frames[0].concerns)
    for concern, count in sorted(counts.items()):
        if count == len(headers) and concern != "mosaic":
            accept.append(concern)
            told.append(f"whether `{concern}` images are meant: all are, so the card accepts them")
        else:
            told.append(f"whether the {count} `{concern}` images are needed: they are left out (reader.accept)")
    return accept, told


def _find_table(folder: Folder, headers: list[Header]) -> tuple[str, str, str, ColumnPlan, list[str]] | None:
    """The table that is about these files: its name, the column that identifies them, which identifier it holds, its
    other columns, and what is not read of it."""
    known = {name: {_identify(read(header)) for header in headers} - {""} for name, read in IDENTIFIERS.items()}
    for name in [folder.table] if folder.table else folder.ending(".csv", ".tsv", ".jsonl", ".json"):
        rows = read_rows(folder, name)
        for holds, values in known.items():
            for column in rows[0] if rows else ():
                if sum(_identify(row.get(column, "")) in values for row in rows) < SHARE * len(rows):
                    continue
                if len({row.get(column) for row in rows}) < len(rows):
                    continue  # several rows for one: the reader takes one text each
                roles = {role: said for role, said in folder.roles.items() if role not in ("image", "patient")}
                plan = plan_columns(rows, [column], roles)
                if not plan.asks:
                    continue
                kept = {key: value for key, value in plan.reader.items() if key in READ}
                unread = [*plan.unused, *plan.reader.get("groups", {})]
                said = [f"what these columns are for, which are not read: {list_some(unread)}"] if unread else []
                return name, column, holds, ColumnPlan(kept, plan.asks, plan.unused), said
    return None


def _identify(text: str) -> str:
    try:
        return identify(text)
    except DataError:
        return text


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
