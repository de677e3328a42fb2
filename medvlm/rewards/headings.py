"""The headings of a structured report: which of them stand in it, each once, at the beginning of a line and with a
colon, in their order and with something said below.

`structure` is for the common sections of reports; this one takes the headings of a template, such as the regions of a
CT (`Lungs and airways:`). Source: the structured report of NV-Reason-CT (NVIDIA-Medtech/NV-Reason-CT at 2d08ec1,
train/vlm_rewards.py). Deviations: a heading that stands twice or has nothing below earns nothing, where it earns a part
there, and so does one that comes too early; numbers before the impressions are not looked for."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth

LONGEST = 20_000
"""Characters. A longer text earns nothing."""
EXAMPLE_SETTINGS = {"headings": ["Lungs", "Pleura", "Heart", "Impression"]}


class Config(RewardConfig):
    headings: tuple[str, ...] = Field(min_length=1)
    """In the order in which they stand in a report."""
    least_words: int = Field(2, gt=0)
    """Different words that stand below each of them."""

    @field_validator("headings")
    @classmethod
    def _check_names(cls, headings: tuple[str, ...]) -> tuple[str, ...]:
        names = [name.strip().casefold() for name in headings]
        if not all(names) or len(set(names)) < len(names):
            raise ValueError("expected different headings, such as Lungs")
        return tuple(name.strip() for name in headings)


def applies(truth: Truth, config: Config) -> bool:
    return True


def score(completion: str, truth: Truth, config: Config) -> float:
    """The share of the headings that are there as they should be. The same text below two of them counts once."""
    if len(completion) > LONGEST:
        return 0.0
    names = "|".join(re.escape(name) for name in sorted(config.headings, key=len, reverse=True))
    places = [name.casefold() for name in config.headings]
    found = re.finditer(rf"^[ \t]*({names})[ \t]*:", completion, re.IGNORECASE | re.MULTILINE)
    marks = [mark for mark in found if mark[1].casefold() in places]  # a dotless i is an i to the search alone
    if not marks:
        return 0.0
    ends = [*(mark.start() for mark in marks[1:]), len(completion)]
    said = [mark[1].casefold() for mark in marks]
    texts = [completion[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]
    seen, last, right = set[frozenset[str]](), -1, 0
    for name, text in zip(said, texts, strict=True):
        words = frozenset(re.findall(r"\w+", text.split("<")[0].casefold()))
        if said.count(name) > 1 or places.index(name) < last or len(words) < config.least_words or words in seen:
            continue
        seen.add(words)
        last = places.index(name)
        right += 1
    return right / len(places)


_REPORT = make_truth("report", "Clear lungs.")
_WHOLE = "Lungs: They are clear.\nPleura: No effusion is seen.\nHeart: Of normal size.\nImpression: A normal chest."

EXAMPLES = [
    (_WHOLE, _REPORT, 1.0),
    (_WHOLE.replace("\n", "\n\n").upper(), _REPORT, 1.0),
    ("Lungs: They are clear.\nImpression: A normal chest.", _REPORT, 0.5),
    ("The lungs are clear, the heart is of normal size.", _REPORT, 0.0),
    # Headings alone, all in one line, one of them twice, the same below all of them, another order, tags below.
    ("Lungs:\nPleura:\nHeart:\nImpression:", _REPORT, 0.0),
    ("Lungs: Pleura: Heart: Impression: they are clear", _REPORT, 0.25),
    (f"{_WHOLE}\n{_WHOLE}", _REPORT, 0.0),
    ("\n".join(f"{name}: no change" for name in ("Lungs", "Pleura", "Heart", "Impression")), _REPORT, 0.25),
    ("Impression: A normal chest.\nHeart: Of normal size.\nLungs: They are clear.", _REPORT, 0.25),
    ("Lungs: <answer>none at all</answer>", _REPORT, 0.0),
    (_WHOLE.replace("Impression", "\u0131mpression"), _REPORT, 0.75),
    ("", _REPORT, 0.0),
]
