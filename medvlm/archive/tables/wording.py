"""Chooses one of several wordings for a sample, always the same one for the same sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def choose(wordings: Sequence[str], *what: str) -> str:
    """Uniform over `what` (the sample's key, and which of its questions); independent of order and process."""
    digest = hashlib.blake2b(
        "\0".join(what).encode("utf-8", "surrogatepass"), digest_size=8, person=b"wording"
    ).digest()
    return wordings[int.from_bytes(digest, "big") % len(wordings)]
