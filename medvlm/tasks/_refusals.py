"""Whether a text refuses to answer, by a table of phrases.

A text refuses if its first or its last sentence has one of the phrases, and if its task reads no answer in it. What
hedges and answers (`I am not sure, but it looks like pneumonia`) does not refuse, nor does a finding that is denied (`I
cannot see an effusion`, `a fracture cannot be excluded`).

Phrases are English, with a few German, Spanish, French and Chinese ones. In another language the rule finds no refusal.
Known limit: a longer free answer that ends with what cannot be assessed counts as a refusal.
"""

from __future__ import annotations

import re

from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task

_PICTURE = r"(?:image|picture|photo|scan|x-?ray|radiograph|file|attachment|study)s?"
_KIND = r"(?:x-?ray|radiograph|ct|mri|mr|ultrasound|mammogram|photograph|pathology slide|histology slide)"
_CANNOT = (
    r"(?:cannot|can not|can't|could not|couldn't|unable to|not able to|(?<!not )impossible to|not possible to|no way to"
    r"|(?:insufficient|not enough|no) (?:information|data|evidence|context|detail) (?:here )?(?:to|for))"
)
_DO = (
    r"(?:be )?(?:reliably |safely |properly |really |definitively |accurately )?"
    r"(?:answer|determin|tell|told|say|said|assess|judg|decid|conclud|ascertain|evaluat|interpret|comment|know)"
)
_PHRASES = "|".join(
    (
        rf"{_CANNOT} {_DO}(?!\w* (?:no|yes)\b)",
        rf"{_CANNOT} (?:be )?(?:see|view|access|open|find|receive|process|provide|give) (?:\w+ ){{0,2}}"
        rf"(?:{_PICTURE}|answer|diagnosis)",
        rf"(?:no|without an?|without any) {_PICTURE} (?:is |was |has been |have been )?"
        r"(?:here|provided|attached|available|given|uploaded|to look at)",
        r"there (?:is|was) no (?:image|picture|photo)\b",
        rf"{_PICTURE} (?:is|are|was|were|has|have)(?: not|n't) (?:been )?"
        r"(?:provided|attached|available|given|uploaded)",
        rf"please (?:provide|upload|attach|share|send) (?:\w+ ){{0,3}}{_PICTURE}",
        rf"{_PICTURE} (?:does not|doesn't|do not|don't) (?:match|fit|correspond|allow|permit|belong"
        r"|(?:contain|provide|give|have) (?:enough|sufficient|the necessary|the required))",
        rf"(?:this|it|{_PICTURE}) (?:is|appears to be|seems to be) not an? (?:\w+ ){{0,3}}{_KIND}\b",
        rf"\b{_KIND},? (?:and )?not an? (?:\w+ ){{0,3}}{_KIND}\b",
        r"(?:unanswerable|not answerable|not applicable|n/a\b)",
        r"(?:i|we) (?:do not|don't) (?:know|have (?:access|enough|sufficient))",
        r"(?:i am|i'm|we are|we're) not sure",
        r"kann nicht (?:beantwortet|beurteilt|bestimmt|festgestellt) werden",
        r"(?:kann|lässt) (?:ich |sich )?(?:\w+ ){0,3}nicht (?:beantworten|beurteilen|bestimmen|sagen)",
        r"no (?:se puede|puedo|es posible) (?:responder|determinar|evaluar|saber)",
        r"(?:ne peux pas|ne peut pas|impossible de|n'est pas possible de) (?:être )?(?:répondre|dire|détermin[eé]\w*)",
        r"(?:无法|不能)(?:回答|判断|确定|评估)",
    )
)
_REFUSES = re.compile(rf"(?<!not )(?<!n't )(?:{_PHRASES})", re.IGNORECASE)
_GOES_ON = re.compile(r"[,;]?\s*\b(?:but|however|although|nevertheless|still)\b\W+\w+", re.IGNORECASE)
_END = re.compile(r"(?<!\b\w)[.!?]+(?=\s|$)|\n|[。！？]")


def is_refusal(text: str, truth: Truth) -> bool:
    """truth: of the question, whose task may read an answer in the text."""
    sentences = [part.strip() for part in _END.split(text.replace("\u2019", "'")) if part.strip()]
    if not any(map(_refuses, {*sentences[:1], *sentences[-1:]})):
        return False
    task = find_task(truth.task)
    return task.FREE_TEXT or task.parse(text, truth) is None


def _refuses(sentence: str) -> bool:
    found = _REFUSES.search(sentence)
    return found is not None and not _GOES_ON.search(sentence, found.end())
