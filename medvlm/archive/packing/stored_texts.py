"""The check that the texts of a sample must pass before they are stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.sample import Sample, Truth
from medvlm.core.text import MEDIUM
from medvlm.io.phi import text as phi

_NEXT = re.escape(bytes(range(0x80, 0xC0)).decode("cp1252", "ignore")) + "\x81\x8d\x8f\x90\x9d"
_MISREAD = re.compile(f"[\u00c2-\u00c5\u00ce-\u00d1][{_NEXT}]|[\u00e2-\u00e7][{_NEXT}]{{2}}")
"""Two or three bytes of UTF-8 as Windows-1252 shows them. Letters that may stand before quotation marks, such as
\u00c9 and \u00e9, are not searched for."""


def check_texts(raw: RawSample, card: Card) -> None:
    """Raises DataError for text that could identify a person, of all that goes into a shard."""
    sample, names, public = raw.sample, _identifiers_of(raw), _words_of(card)
    texts = [
        ("its report", sample.report),
        ("its concept", sample.concept),
        *(("a group", text) for group in sample.groups.items() for text in group),
        *(("the modality of a medium", medium.modality) for medium in sample.media),
    ]
    for question in sample.questions:
        texts += [
            ("a question", question.text.replace(MEDIUM, " ")),
            ("a system turn", question.system),
            ("a template", question.template),
            *(("a step", text) for step in question.steps.items() for text in step),
            *((f"`{name}` of a truth", text) for name, text in _list_texts(question.truth)),
        ]
    for what, text in texts:
        phi.check(what, text, card.phi.checked, names, public)


def looks_misread(sample: Sample) -> bool:
    """Whether a text of the sample looks like UTF-8 that was read as Windows-1252 and saved again."""
    texts = [sample.report, sample.concept]
    for question in sample.questions:
        texts += [
            question.text,
            question.system,
            *question.steps.values(),
            *(text for _, text in _list_texts(question.truth)),
        ]
    return any(map(_MISREAD.search, texts))


def _identifiers_of(raw: RawSample) -> set[str]:
    """What the archive calls the patient, the sample, its folders and its files."""
    key = PurePosixPath(raw.sample.key)
    found = {raw.sample.patient, raw.sample.key, *raw.identifiers}
    found |= {part for part in key.parts[:-1] if any(map(str.isdecimal, part))}  # other folders may be classes
    paths = [
        path for value in raw.files.values() for path in (value, *getattr(value, "args", ())) if isinstance(path, Path)
    ]
    return found | {path.name.partition(".")[0] for path in (key, *paths)} | {key.stem}


def _words_of(card: Card) -> frozenset[str]:
    """The words of the card's reader, in lower case: what it says of every sample identifies nobody."""
    return _split_words(json.dumps(card.reader.model_dump(mode="json"), ensure_ascii=False))


@lru_cache(maxsize=4)
def _split_words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]{4,}", text.casefold()))


def _list_texts(truth: Truth) -> Iterator[tuple[str, str]]:
    """Every text of a truth, whatever its task, with the name of its field."""
    waiting: list[tuple[str, Any]] = [(name, value) for name, value in truth.to_json().items() if name != "task"]
    while waiting:
        name, value = waiting.pop(0)
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            waiting += [(name, each) for item in value.items() for each in item]
        elif isinstance(value, list | tuple):
            waiting += [(name, each) for each in value]
