"""Rewards from another process: what has no score is counted, and a run in which much has none is stopped."""

from __future__ import annotations

import sys
import threading
from collections import deque

from medvlm.core.errors import NoScore, RecipeError

LAST = 64
MOST = 0.5
"""Share of the last answers that may have no score."""


class Missing:
    """where: the section of the recipe, for messages. Several threads may call it."""

    def __init__(self, where: str):
        self.where = where
        self._lock, self._has_none = threading.Lock(), deque[bool](maxlen=LAST)
        self._is_told = False

    def count_score(self) -> None:
        with self._lock:
            self._has_none.append(False)

    def give_up(self, why: str) -> NoScore:
        """The error of an answer without a score. The first is printed. Raises RecipeError if there are too many."""
        with self._lock:
            self._has_none.append(True)
            none, self._is_told, is_told = sum(self._has_none), True, self._is_told
        if len(self._has_none) == LAST and none > MOST * LAST:
            raise RecipeError(
                f"{self.where}: {none} of the last {LAST} answers got no score ({why}); mend it and run again, which"
                " resumes"
            )
        if not is_told:
            print(
                f"warning: {self.where}: an answer got no score ({why}), so it does not count for the answers to its"
                " question; the log has their share as missing/NAME",
                file=sys.stderr,
                flush=True,
            )
        return NoScore(f"{self.where}: no score ({why})")
