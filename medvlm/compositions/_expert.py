"""Opens another model for a tool, and imports what it takes no earlier than a tool asks."""

from __future__ import annotations

from typing import Any


def open_expert(where: str) -> Any:
    """See _open.open_expert."""
    from medvlm.compositions._open import open_expert as open_model

    return open_model(where)
