"""What the columns of a table are: questions and answers, reports, labels, patients, splits, groups. By their names and
values; a role that the user gives comes first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm.archive.finders._folder import SPLITS, spoken
from medvlm.archive.tables.answer_choices import MAX_CHOICES, MIN_EACH, count_words, describe_answers
from medvlm.core.cell_values import is_nothing, is_number
from medvlm.core.errors import DataError, did_you_mean, list_some

Row = Mapping[str, str]
FINDINGS = "findings"
"""The question for all columns of yes and no."""
YES = ("yes", "y", "true", "1", "positive", "present")
NO = ("no", "n", "false", "0", "negative", "absent")
SHARE = 0.6
"""Of the values of a column of yes and no, at least so many are; the others say that it is not known."""
ALIKE = 0.95
"""Of the images with several rows, in so many all rows say the same of it, if it is about the image."""
UNSURE = "-1"
"""As in CheXpert: somebody thought of it and left it open."""
MAX_GRADE = 9
"""Whole numbers up to this one may be classes; larger ones, and others, are measurements."""
MAX_TEMPLATES = 20
"""With at most so many different questions, results are listed for each of them."""
MAX_LABELS = 30
CAPTION_WORDS = 5
"""Texts of at least so many words, by their median, that are mostly different, are captions whatever their column is
called."""

_NAMES = {
    "patient": "patient subject participant person pid mrn child",
    "question": "question query prompt instruction",
    "answer": "answer response reply",
    "captions": "caption report text description findings impression conclusion note notes clinical_notes",
    "group": (
        "sex gender age race ethnicity site hospital institution center centre location scanner manufacturer vendor"
        " device modality"
    ),
    "other": "license licence url link doi folder file filename path evaluation evaluated",
}
STRICT = ("patient", "question", "answer")
"""Roles that the whole name must say: `patient_age` is no patient."""
_WORDS = {role: frozenset(names.split()) for role, names in _NAMES.items()}


@dataclass(frozen=True)
class ColumnPlan:
    """reader: keys of a reader of rows: patient, report, groups, split, rename, questions. asks: what it asks, in
    words. unused: columns."""

    reader: dict[str, Any]
    asks: tuple[str, ...]
    unused: tuple[str, ...]
    patient: str = ""


@dataclass
class _Columns:
    rows: Sequence[Row]
    left: list[str]
    reader: dict[str, Any] = field(default_factory=dict)
    asks: list[str] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    rename: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)

    def values(self, name: str) -> list[str]:
        texts = (row.get(name, "") for row in self.rows)
        return [text for text in texts if re.search(r"\w", text) and not is_nothing(text)]

    def take(self, role: str, roles: Mapping[str, str]) -> str:
        """The column that has this role; it is no longer left."""
        name = roles.get(role) or next((each for each in self.left if self.is_called(each, role)), "")
        if name:
            self.left = [each for each in self.left if each != name]
        return name

    def is_called(self, name: str, role: str) -> bool:
        """Whether the name says this role: `patient_id`, `PatientID`; `clinical_notes`, but not `question_type`."""
        plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
        bare = re.sub(r"[\W_]*(id|number|no|nr|key|code)$", "", plain)
        said = {plain, bare} if role in STRICT else {plain, bare, *re.split(r"[\W_]+", plain)}
        return bool(said & _WORDS[role]) and bool(self.values(name))


def plan_columns(
    rows: Sequence[Row], without: Collection[str], roles: Mapping[str, str], of: Sequence[str] = ()
) -> ColumnPlan:
    """without: columns that are spoken for, such as that of the image. roles: role -> column, as the user says. of: the
    image of each row, if images have several rows. Raises DataError for a column that is not there."""
    names = list(rows[0]) if rows else []
    require_columns(names, roles)
    found = _Columns(rows, [name for name in names if name and name not in {*without, *roles.values()}])
    told = {role for role in ("question", "captions") if roles.get(role)}
    if patient := found.take("patient", roles):
        found.reader["patient"] = f"{{{patient}}}"
    _take_split(found)
    question, answer = found.take("question", roles), found.take("answer", roles)
    if question and answer and (not told or "question" in told):
        _ask_questions(found, question, answer)
        told.add("question")  # other columns are about the questions
    if not told or "captions" in told:
        _take_captions(found, roles)
    groups = [name for name in found.left if found.is_called(name, "group") and _is_group(found.values(name))]
    if groups:
        found.reader["groups"] = {_slug(name): f"{{{name}}}" for name in groups}
        found.left = [name for name in found.left if name not in groups]
    if not told:
        _ask_labels(found, of)
    parts: dict[str, Any] = {"rename": found.rename} if found.rename else {}
    parts |= {"missing": sorted(found.missing)} if found.missing else {}
    reader = {**found.reader, **parts, **({"questions": found.questions} if found.questions else {})}
    return ColumnPlan(reader, tuple(found.asks), tuple(found.left), patient)


def require_columns(names: Collection[str], roles: Mapping[str, str]) -> None:
    """Raises DataError for a role whose column is not there. It lists the columns."""
    for role, name in roles.items():
        if name not in names:
            raise DataError(f"--{role}: no column {name!r}{did_you_mean(name, names)}{list_names(names)}")


def list_names(names: Collection[str]) -> str:
    """` (columns: a, b)`, or only their number if they look like values: in a table without a header line they are
    patient data."""
    is_header = all(re.fullmatch(r"[^\W\d][\w /()%-]{0,40}", name) and not re.search(r"\d{3}", name) for name in names)
    if names and is_header and not {name.lower() for name in names} & {*YES, *NO}:
        return f" (columns: {list_some(names)})"
    return f" ({len(names)} columns, which do not look like names; the first line must have their names)"


def ask_class(column: str, text: str, classes: Sequence[str], lower: bool = False) -> list[dict[str, Any]]:
    """The question which class it is, once for an answer in words and once for a decoder."""
    asked = {"text": text, "answer": f"{{{column}}}"}
    more = {"lower": True} if lower else {}
    name = _slug(column)
    return [
        {**asked, "template": name, "choices": list(classes), **more},
        {**asked, "template": f"{name}_class", "task": {"kind": "labels", "classes": list(classes)}, **more},
    ]


def _take_split(found: _Columns) -> None:
    for name in list(found.left):
        values = set(found.values(name))
        if len(values) > 1 and {value.lower() for value in values} <= SPLITS.keys():
            found.reader["split"] = f"{{{name}}}"
            found.rename[name] = {value: SPLITS[value.lower()] for value in sorted(values)}
            found.left.remove(name)
            return


def _ask_questions(found: _Columns, question: str, answer: str) -> None:
    pairs = [(row[question], row[answer]) for row in found.rows if row.get(question) and row.get(answer)]
    asked: dict[str, Any] = {"text": f"{{{question}}}", "answer": f"{{{answer}}}"}
    if 1 < len({text for text, _ in pairs}) <= MAX_TEMPLATES:
        asked["template"] = f"{{{question}}}"
    found.questions.append(asked | describe_answers(pairs))
    found.asks.append(f"the questions in {question}, answered in {answer}")


def _take_captions(found: _Columns, roles: Mapping[str, str]) -> None:
    name = roles.get("captions", "")
    if not name:
        texts = {each: found.values(each) for each in found.left}
        long = [each for each, said in texts.items() if count_words(said) >= CAPTION_WORDS and _differ(said)]
        called = [each for each in found.left if found.is_called(each, "captions") and count_words(texts[each]) > 2]
        name = next(iter([*(each for each in long if each in called), *called, *long]), "")
    if name:
        found.left = [each for each in found.left if each != name]
        found.reader["report"] = f"{{{name}}}"
        found.questions.append({"text": "Write the report.", "answer": f"{{{name}}}", "task": "report"})
        found.asks.append(f"the texts in {name}")


def _differ(texts: list[str]) -> bool:
    return len(set(texts)) > len(texts) / 2


def _is_group(values: list[str]) -> bool:
    return 1 < len(set(values)) <= MAX_CHOICES


def _ask_labels(found: _Columns, of: Sequence[str]) -> None:
    yes_no: dict[str, str] = {}
    for name in list(found.left):
        counts = Counter(found.values(name))
        forms = {value: value.lower() for value in counts}
        if found.is_called(name, "other") or not _is_of_image(found.rows, name, of):
            continue
        said = {value: "yes" if form in YES else "no" for value, form in forms.items() if form in (*YES, *NO)}
        others = counts.keys() - said.keys() - {UNSURE}
        is_most = sum(counts[value] for value in said) >= SHARE * counts.total()
        if len(set(said.values())) == 2 and is_most and not any(map(is_number, others)):
            if any(value != word for value, word in said.items()):
                found.rename[name] = said
            found.missing |= others
            yes_no[name] = spoken(name)
        elif _are_classes(counts):
            lower = len(set(forms.values())) < len(forms)
            classes = sorted(set(forms.values()) if lower else counts)
            found.questions += ask_class(name, f"What is the {spoken(name)}?", classes, lower)
            found.asks.append(f"the classes in {name} ({', '.join(classes)})")
        else:
            continue
        found.left.remove(name)
        if len(yes_no) + len(found.asks) >= MAX_LABELS:
            break
    if yes_no:
        _ask_findings(found, yes_no)


def _ask_findings(found: _Columns, yes_no: Mapping[str, str]) -> None:
    """yes_no: column -> what it says, in words."""
    is_unsure = any(UNSURE in found.values(name) for name in yes_no)
    for name, words in yes_no.items():
        asked = {"text": f"Does this image show {words}?", "answer": f"{{{name}}}", "template": _slug(name)}
        found.questions.append({**asked, "choices": ["yes", "no"]})
    columns = {words: f"{{{name}}}" for name, words in yes_no.items()}
    labels = {"columns": columns, **({"uncertain": [UNSURE]} if is_unsure else {})}
    text = f"Which of these does this image show: {', '.join(yes_no.values())}?"
    found.questions.append({"text": text, "template": FINDINGS, "labels": labels})
    found.asks.append(f"yes or no of {list_some(yes_no)} (all in one question: {FINDINGS})")


def _is_of_image(rows: Sequence[Row], name: str, of: Sequence[str]) -> bool:
    """Whether the rows of an image say the same; otherwise they are about its objects or questions."""
    said: dict[str, set[str]] = {}
    for image, row in zip(of, rows, strict=False):
        said.setdefault(image, set()).add(row.get(name, ""))
    return sum(len(each - {""}) <= 1 for each in said.values()) >= ALIKE * len(said)


def _are_classes(counts: Counter[str]) -> bool:
    if not 2 <= len(counts) <= MAX_CHOICES or min(counts.values()) < MIN_EACH:
        return False
    return not any(map(is_number, counts)) or all(value.isdecimal() and int(value) <= MAX_GRADE for value in counts)


def _slug(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_") or "column"
