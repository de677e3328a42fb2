"""What both forms of `medvlm init` write and say: the three files, the name of a recipe, the splits."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from medvlm.commands.first_splits import FirstSplits
from medvlm.core.errors import RecipeError


def require_free(to: Path) -> None:
    """Raises RecipeError if the folder has what would be written."""
    if to.exists() and any((to / name).exists() for name in ("recipe.yaml", "card.yaml", "salt")):
        raise RecipeError(f"{to}: already has a recipe, card or salt; choose another folder with --to, or remove them")


def write_first(to: Path, recipe: str, card: str) -> None:
    """Writes recipe.yaml, card.yaml, and a new secret `salt` that only its owner can read."""
    to.mkdir(parents=True, exist_ok=True)
    (to / "card.yaml").write_text(card, encoding="utf-8")
    (to / "recipe.yaml").write_text(recipe, encoding="utf-8")
    with os.fdopen(os.open(to / "salt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as secret:
        secret.write(secrets.token_hex(32) + "\n")


def make_name(stem: str) -> str:
    """A name for the run, from that of a file or folder."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem).strip("_-")
    return kept[:80] or "own_data"


def describe_splits(found: FirstSplits) -> str:
    counts = {"patients": found.patients, "images": found.images}
    said = [
        f"{what} per split: " + ", ".join(f"{split} {of[split]}" for split in found.splits.ratios)
        for what, of in counts.items()
        if of
    ]
    about = "" if found.is_exact else " (about; known once they are packed)"
    refused = f"; {found.unreadable} images cannot be read and will be quarantined" if found.unreadable else ""
    return "; ".join(said) + about + refused
