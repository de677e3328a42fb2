"""What several tests of stages take from a stream."""

from __future__ import annotations

from typing import Any


def first(stage: Any, consumed: int = 0) -> list[Any]:
    """The prepared samples of the step that begins at this position."""
    batches = stage.batches(consumed)
    position, prepared = next(batches)
    assert position == consumed
    batches.close()
    return prepared  # type: ignore[no-any-return]
