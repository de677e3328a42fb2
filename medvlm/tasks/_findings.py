"""Which findings of an ontology an answer names: a list, JSON, or sentences in which some are denied.

A denial reaches to the end of its part of the sentence: to a comma, unless the list goes on with `or`, or to a word
such as `but`. Longer prose, with history, sides and change, is for rules of its kind of report (see tasks/report.py).
"""

from __future__ import annotations

import json
import re
from typing import Any

from medvlm.tasks._clauses import Clause, Sentence, split_sentences
from medvlm.tasks._negation import compile_phrases, denies_alone, find_denials
from medvlm.tasks._ontology import SEPARATORS, Flat
from medvlm.tasks._phrases import DENIALS
from medvlm.tasks._words import normalise

_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_JOINT = re.compile(r"(?:and|or|nor|/)?")
_ALTERNATIVE = re.compile(r"\b(?:or|nor)\b")
_OF = r"(?:of|for|to|that|which|in|on|at|suggest\w*|consistent|compatible|concerning|specific|typical)\b"
"""What makes `no finding` a denial of something."""
_YES = frozenset({"true", "yes", "present", "positive", "1"})


def read_list(text: str, ontology: Flat) -> frozenset[str] | None:
    """The findings of a list of names. None if an item is no name, or says that there is none beside a finding."""
    forms = [normalise(item) for item in SEPARATORS.split(text) if item.strip()]
    found = {ontology.by_form[form] for form in forms if form in ontology.by_form}
    says_nothing = any(form in ontology.nothing_forms for form in forms)
    is_known = all(form in ontology.by_form or form in ontology.nothing_forms for form in forms)
    return frozenset(found) if forms and is_known and bool(found) != says_nothing else None


def read_findings(text: str, ontology: Flat) -> frozenset[str] | None:
    """The findings that a text names and does not deny; empty if it says that there is none, or only denies some.

    None if it does none of this, and if it says that there is none beside a finding. A finding that is denied in one
    place and named in another is named, and so is a doubtful one.
    """
    items = _list_items(text)
    named, denied = set[str](), False
    says_nothing = not items
    for item in items:
        before: set[str] = set()
        for sentence in split_sentences(item):
            if denies_alone(sentence.plain):  # `effusion: absent`
                named, denied, before = named - before, True, set()
                continue
            before, has_denied = _read_sentence(sentence, ontology)
            named, denied = named | before, denied or has_denied
            says_nothing = says_nothing or any(_says_nothing(part, ontology) for part in sentence.parts)
    if named:
        return None if says_nothing else frozenset(named)
    return frozenset() if says_nothing or denied else None


def _list_items(text: str) -> list[str]:
    """The strings of a JSON list, `no NAME` for a name that JSON calls absent, or the text as it is."""
    fenced = _FENCE.search(text)
    inner = fenced[1] if fenced else text.strip()
    if not inner.startswith(("[", "{")):
        return [inner]
    try:
        value = json.loads(inner)
    except (ValueError, RecursionError):
        return [inner]
    return _list_strings(value)


def _list_strings(value: Any) -> list[str]:
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    if not isinstance(value, dict):
        return [str(value)]
    if lists := [each for each in value.values() if isinstance(each, list)]:
        return [string for each in lists for string in _list_strings(each)]
    return [name if str(said).lower() in _YES else f"no {name}" for name, said in value.items()]


def _read_sentence(sentence: Sentence, ontology: Flat) -> tuple[set[str], bool]:
    """The findings that it names, and whether it denies any."""
    alternatives = [at for at, part in enumerate(sentence.parts) if _ALTERNATIVE.search(part.plain)]
    named, has_denied, is_carried = set[str](), False, False
    for at, part in enumerate(sentence.parts):
        is_carried = is_carried and not part.is_new and any(other >= at for other in alternatives)
        denials = [end for _, end in find_denials(part.plain)]
        found = _judge(part.plain, [0, *denials] if is_carried else denials, ontology)
        named |= {name for name, is_denied in found if not is_denied}
        has_denied = has_denied or any(is_denied for _, is_denied in found)
        is_carried = is_carried or bool(denials)
    return named, has_denied


def _judge(plain: str, denials: list[int], ontology: Flat) -> list[tuple[str, bool]]:
    """Each finding of a part, and whether it is denied. denials: where they end; what follows is denied."""
    spans = [match.span() for match in ontology.pattern.finditer(plain)]
    names = [ontology.find_name(plain[start:end]) for start, end in spans]
    is_denied = [any(end <= start for end in denials) for start, _ in spans]
    for at in reversed(range(len(spans))):
        is_last = at + 1 == len(spans)
        behind = plain[spans[at][1] : None if is_last else spans[at + 1][0]].strip()
        ends = denies_alone(behind) and (is_last or " " in behind)  # a single `no` denies what follows it
        joins = not is_last and bool(_JOINT.fullmatch(behind)) and is_denied[at + 1]
        is_denied[at] = is_denied[at] or ends or joins
    return list(zip(names, is_denied, strict=True))


def _says_nothing(part: Clause, ontology: Flat) -> bool:
    """`Normal.`, or `no finding` anywhere, but not `no findings of`."""
    denials = (re.escape(form) for form in ontology.nothing_forms if compile_phrases(DENIALS).match(form))
    anywhere = rf"(?<!\S)(?:{'|'.join(denials)})(?! {_OF})(?!\S)"
    return part.plain in ontology.nothing_forms or re.search(anywhere, part.plain) is not None
