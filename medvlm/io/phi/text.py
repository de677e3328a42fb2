"""Finds text in a report, a question or an answer that could identify a person. Findings are counted, never shown.

Follows 45 CFR 164.514(b)(2): names, addresses, dates with a day, ages above 89, telephone, record and account numbers,
e-mail addresses. Names are found by their context (a title, a label, a signature). Not found: a bare name in running
text, places, and other languages than English and the most common phrases of German, French, Spanish and Chinese."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache

from medvlm.core.card import Checked
from medvlm.io.phi.refusal import make_refusal

_MONTH = (
    # `may` and `march` are also words, and `oct` and `dec` abbreviations, so these count only if spelled like months.
    r"(?:(?-i:May|March|MAY|MARCH|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
    r"|January|February|April|June|July|August|September|October|November|December"
    r"|Januar|Februar|M[äa]rz|Mai|Juni|Juli|Oktober|Dezember"
    r"|janvier|f[ée]vrier|mars|avril|juin|juillet|ao[ûu]t|septembre|octobre|novembre|d[ée]cembre"
    r"|enero|febrero|marzo|abril|mayo|junio|julio|agosto|septiembre|octubre|noviembre|diciembre)"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_NAME = r"(?-i:[A-ZÀ-Þ][A-Za-zÀ-ÿ'’-]{1,40})"
"""Bounded like every pattern that can start within its own match: otherwise a long line of hyphens takes hours."""
_STATE = (  # without CT, which is a modality
    "A[LKZR]|C[AO]|D[EC]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[TA]|W[AVIY]"
)

_PATTERNS: dict[str, tuple[str, ...]] = {
    "date with a day": (
        rf"(?<![\w./-])(?:19|20)\d\d([-/.])(?:0?[1-9]|1[0-2])\1{_DAY}(?![\w/-]|\.\d)",
        rf"(?<![\w./-]){_DAY}([-/.]){_DAY}\1(?:19|20)\d\d(?![\w/-]|\.\d)",
        rf"(?<![\w./-])(?:{_DAY}/{_DAY}/\d\d|\d\d-\d\d-\d\d)(?![\w/-]|\.\d| ?[cm]m\b)",
        rf"(?<!\w){_DAY}[ -](?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)[ -](?:19|20)?\d\d(?!\w)",
        rf"(?<!\w){_MONTH} (?:the )?{_DAY}(?:st|nd|rd|th)?(?![\w%/]|[.-]\d|\s?[cm]m\b)",
        rf"(?<![\w.]){_DAY}(?:st|nd|rd|th)?(?: of| de)?[ -]{_MONTH}(?!\w)",
        (
            rf"(?<![\w.]){_DAY}\."
            r" (?:Januar|Februar|M[äa]rz|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember)(?!\w)"
        ),
        r"(?:\d{4}年)?\d{1,2}月\d{1,2}[日号]",
    ),
    "date of birth": (
        (
            r"\b(?:D\.?O\.?B\.?|date of birth|birth ?date|born(?: on)?|geb(?:oren)?\.?(?: am)?|n[ée]e? le"
            r"|fecha de nacimiento)\W{0,3}\d"
        ),
    ),
    "age above 89": (
        r"(?<![\d.,])(?:9\d|1[01]\d)[ -]?(?:years?|yrs?)[ -]?(?:old|of age)\b",
        r"(?<![\d.,])(?:9\d|1[01]\d) ?(?:yo|y/o|y\.o\.?|岁|(?:-?j[äa]hrig\w*))(?!\w)",
        r"\bage[ds]?:? (?:9\d|1[01]\d)(?!\d|[.,]\d| ?%)",
    ),
    "telephone number": (
        r"(?<![\w.+-])(?:\+?\d{1,3}[ .-])?(?:\(\d{2,5}\) ?|\d{3}[.-])\d{3}[ .-]\d{4}(?![\w-])",
        r"(?<!\w)\+\d{1,3}[ .-]?(?:\(\d+\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){2,4}(?!\w)",
        (
            r"\b(?:tel(?:ephone|efon|[ée]fono|[ée]phone)?|t[ée]l|phone|fax|pager|beeper|mobile|cell)\b\.?"
            r"(?: ?(?:no\.?|number|#))?[: ]{0,3}[+(]?\d[\d ()./-]{5,}"
        ),
    ),
    "e-mail address": (r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+",),
    "social security number": (r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",),
    "record number": (
        (
            r"\b(?:M\.?R\.?N\.?|(?:medical )?record|acc(?:ession)?|patient(?:en)?|pat\.?|hospital|exam(?:ination)?"
            r"|study|order|visit|encounter|account|case|folio|chart|NHS|SSN|insurance|policy|member|passport"
            r"|licen[cs]e)"
            r"\W{0,2}(?:(?:ID(?:entifier)?|no|nr|num(?:ber)?)[^\w\n]{1,4}|# ?)[A-Z]{0,5}[ -]?\d[\dA-Z-]{2,}(?!\w)"
        ),
        r"\b(?:MRN|accession|SSN)[^\w\n]{1,4}[A-Z]{0,5}[ -]?\d[\dA-Z-]{2,}(?!\w)",
    ),
    "long number": (r"(?<![\w.,-])(?!NCT|PMC|PMID|GSE|C\d{7}(?!\d))[A-Z]{0,3}\d{7,}(?!\w|[.,]\d)",),
    "UID": (r"(?<![\w.])[0-2](?:\.\d+){6,}(?!\w)",),
    "name after a title": (
        (
            r"(?<!\w)(?-i:Dr|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|Dra|Herrn?|Frau|Mme|Madame|Monsieur|Se[ñn]ora?)\b\.?"
            rf" {_NAME}"
        ),
        r"(?<!\w)(?-i:(?:DR|MRS?|MS|PROF)\. [A-Z][A-Z'’-]{2,})",
        rf"(?<!\w){_NAME},? (?-i:M\.?D\.?|D\.O\.|Ph\.?D\.?|R\.?N\.|FRCR|MBBS)(?!\w)",
    ),
    "name after a label": (
        (
            r"\b(?:(?:patient(?:'s)?|first|last|full|family|given|sur)[ -]?)?(?:name|nombre|nom|nachname|vorname)"
            rf" ?[:=] ?{_NAME}"
        ),
        (
            r"\b(?:patient|paciente|physician|doctor|radiologist|technologist|attending|resident|consultant|surgeon"
            rf"|mother|father|spouse|next of kin|contact) ?[:=] ?{_NAME},? {_NAME}"
        ),
        (
            r"\b(?:dictated|signed|transcribed|verified|approved|interpreted|reported|requested|ordered|read|reviewed)"
            rf"(?: electronically)? by ?: ?{_NAME}"
        ),
        rf"\b(?:dictated|signed|transcribed) by (?:the )?{_NAME}",
        rf"\b(?:courtesy of|credits? to|contributed by) {_NAME},? (?-i:[A-Z])",
        rf"\b(?:patient|man|woman|boy|girl|child|infant|baby|lady|gentleman)(?: (?:is|was))?,? named {_NAME}",
        r"(?:姓名|患者|病人|医生|医师) ?[:：] ?[\u4e00-\u9fff]{2,4}",
    ),
    "name with a caret": (r"(?<!\w)[^\W\d_]{2,40}\^[^\W\d_]",),
    "postal address": (
        (
            rf"(?<![\w.])\d{{1,5}}[A-Za-z]? (?:(?-i:[NSEW])\.? )?(?:{_NAME} ){{1,3}}"
            r"(?-i:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Highway|Hwy|Terrace|Square)(?!\w)"
        ),
        r"(?<!\w)(?-i:[A-ZÄÖÜ])[a-zäöüß-]{2,40}(?:stra(?:ße|sse)|str\.|weg|platz|allee|gasse) \d{1,4}\b",
        rf"(?<!\w){_NAME},? (?-i:{_STATE}),? \d{{5}}(?:-\d{{4}})?(?!\w)",
        r"\bP\.? ?O\.? ?Box \d+",
    ),
}

_KINDS = {
    kind: tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns) for kind, patterns in _PATTERNS.items()
}
_PLACEHOLDER = re.compile(r"\[\*\*[^\]\n]{0,80}\*\*\]")
"""Placeholders that MIMIC's de-identification writes instead of names and dates; the dates in them are shifted."""


def count_findings(text: str, identifiers: Iterable[str] = ()) -> Counter[str]:
    """Kind of finding -> number. identifiers: of the sample in its archive, which its text must not contain."""
    found = Counter(_count_by_pattern(text))
    found["identifier of the archive"] = sum(
        _is_distinctive(each) and re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text, re.I) is not None
        for each in set(identifiers)
    )
    return +found


@lru_cache(maxsize=1024)  # many questions share a few wordings
def _count_by_pattern(text: str) -> dict[str, int]:
    text = _PLACEHOLDER.sub(" ", text)
    return {kind: sum(1 for pattern in patterns for _ in pattern.finditer(text)) for kind, patterns in _KINDS.items()}


def check(what: str, text: str, checked: Collection[Checked] = (), identifiers: Iterable[str] = ()) -> None:
    """Raises DataError with kinds and counts for a text that could identify a person. what: the name of the text in the
    error, e.g. `its report`."""
    if "text" not in checked and (found := count_findings(text, identifiers)):
        raise make_refusal(what, found, {"text"}, "de-identify it, e.g. with presidio or philter")


def _is_distinctive(identifier: str) -> bool:
    """Whether an identifier would not occur in a text by chance, as a number of a few digits, a plain word, or a stain
    such as Ki-67 would."""
    return len(identifier) >= 5 and re.search(r"(?:\d\D*){3}|[\s^,]", identifier) is not None
