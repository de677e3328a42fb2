"""What of a text is the answer, where a model writes down its thoughts first.

The form is that of reasoning models (`<think>...</think>` and then the answer) and of those that are taught to put the
answer in a tag too (`<think>...</think><answer>...</answer>`, as in DeepSeek-R1, arXiv 2501.12948)."""

from __future__ import annotations

import re
from typing import Any

from medvlm.core.ask import CutAnswer
from medvlm.core.sample import Truth
from medvlm.core.tasks import find_task

_ANSWER = re.compile(r"<answer>(.*)</answer>", re.DOTALL | re.IGNORECASE)
_THOUGHTS_END = re.compile(r"</think>", re.IGNORECASE)


def find_final(said: Any, truth: Truth) -> Any:
    """What stands in `<answer>`, or without it behind `</think>`. Unchanged where a tag stands twice or is not closed,
    so that two answers are read as two; for an answer that was cut; and for tasks that read the thoughts."""
    if not isinstance(said, str) or isinstance(said, CutAnswer) or find_task(truth.task).READS_THOUGHTS:
        return said
    folded = said.lower()
    opened, closed = folded.count("<answer>"), folded.count("</answer>")
    if opened == closed == 1 and (found := _ANSWER.search(said)):
        return found[1].strip()
    parts = _THOUGHTS_END.split(said)
    if opened == closed == 0 and len(parts) == 2:
        return parts[1].strip()
    return said
