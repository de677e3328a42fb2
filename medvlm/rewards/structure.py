"""The structure of a report: which of its sections stand in it, each once, in order, and with something in it.

What the sections say does not matter, so this belongs beside a reward for their content. A heading is one of the
common names with a colon (tasks/_sections)."""

from __future__ import annotations

from pydantic import Field, field_validator

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tasks import find_task
from medvlm.tasks._sections import KINDS, SECTIONS, list_sections

LONGEST = 20_000
"""Characters. A longer text earns nothing."""


class Config(RewardConfig):
    sections: tuple[str, ...] = SECTIONS
    """Sections that a report must have, in this order."""
    least_words: int = Field(3, gt=0)
    """Different words that each of them must have."""

    @field_validator("sections")
    @classmethod
    def _check_sections(cls, sections: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in sections if name not in KINDS] or ([] if sections else ["none"]):
            raise ValueError(f"{unknown[0]!r} is no section that is recognised (these are: {', '.join(KINDS)})")
        return sections


def applies(truth: Truth, config: Config) -> bool:
    return find_task(truth.task).IS_LONG


def score(completion: str, truth: Truth, config: Config) -> float:
    """The share of the sections that are there as they should be, 0 if one stands twice or another order."""
    if len(completion) > LONGEST:
        return 0.0
    found = [(kind, text) for kind, text in list_sections(completion) if kind in config.sections]
    kinds = [kind for kind, _ in found]
    if kinds != [kind for kind in config.sections if kind in kinds]:
        return 0.0
    words = [frozenset(text.casefold().split()) for _, text in found]
    filled = [w for at, w in enumerate(words) if len(w) >= config.least_words and w not in words[:at]]
    return len(filled) / len(config.sections)


_REPORT = make_truth("report", "Findings: Clear lungs. Impression: Normal chest.")
_LUNGS, _NORMAL = "The lungs are clear without effusion.", "No acute disease is seen."

EXAMPLES = [
    (f"Findings: {_LUNGS}\nImpression: {_NORMAL}", _REPORT, 1.0),
    (f"FINDINGS:\n{_LUNGS}\n\nIMPRESSION:\n{_NORMAL}", _REPORT, 1.0),
    (f"Findings: {_LUNGS}", _REPORT, 0.5),
    (f"{_LUNGS} {_NORMAL}", _REPORT, 0.0),
    # Headings alone, one of them twice, the wrong order, the same text in both, one word many times.
    ("Findings:\nImpression:", _REPORT, 0.0),
    (f"Findings: {_LUNGS}\nImpression: {_NORMAL}\nFindings: {_LUNGS}", _REPORT, 0.0),
    (f"Impression: {_NORMAL}\nFindings: {_LUNGS}", _REPORT, 0.0),
    (f"Findings: {_LUNGS}\nImpression: {_LUNGS}", _REPORT, 0.5),
    ("Findings: clear clear clear clear\nImpression: clear clear clear clear", _REPORT, 0.0),
]
