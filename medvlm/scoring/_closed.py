"""Which questions a rule calls closed."""

from __future__ import annotations

from medvlm.core.sample import Truth
from medvlm.core.tasks import is_scored
from medvlm.scoring._options import has_options

CLOSED, OPEN = "closed:", "open:"
"""How the templates of cards begin whose archive says which questions are closed (`answer_type`)."""


def is_short(template: str, truth: Truth) -> bool:
    """Whether a question without options, open or closed, is answered by a short text."""
    return is_scored(truth) and not has_options(truth)


def is_yes_or_no(template: str, truth: Truth) -> bool:
    """By the answer."""
    return truth.answer.strip().lower() in ("yes", "no") and is_short(template, truth)


def is_closed(template: str, truth: Truth) -> bool:
    """As the archive says; by the answer if it does not say."""
    if template.startswith((CLOSED, OPEN)):
        return template.startswith(CLOSED) and is_short(template, truth)
    return is_yes_or_no(template, truth)


def is_open(template: str, truth: Truth) -> bool:
    return is_short(template, truth) and not is_closed(template, truth)
