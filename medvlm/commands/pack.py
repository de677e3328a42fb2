"""`medvlm data pack`: packs a data set into shards, as its data card says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medvlm.archive.packing.deal import read_salt
from medvlm.archive.packing.pack import PackReceipt
from medvlm.archive.packing.pack import pack as pack_card
from medvlm.core.card import load_card
from medvlm.core.errors import DataError
from medvlm.core.live import Live
from medvlm.recipe.load import find_card


def pack(
    card: str,
    root: Path | None,
    out: Path | str,
    salt_file: Path | None = None,
    max_bad: float = 0.01,
    workers: int | None = None,
    say: Callable[[str], None] | None = None,
) -> PackReceipt:
    """card: a file, or the name of a shipped card. root: folder of the original files, None for generated data.

    max_bad: accepted share of bad samples. workers: number of processes that decode, by default one per core. say:
    receives lines of progress, by default printed. Raises DataError for a card or data set that cannot be packed.
    """
    found = find_card(card)
    if found is None:
        raise DataError(f"{card}: there is no such data card; every data set needs one (see data_cards/ for examples)")
    loaded = load_card(found, card)
    if salt_file:
        loaded = loaded.add_secret(read_salt(salt_file))
    return pack_card(loaded, root, out, progress=say or Live(), max_bad=max_bad, workers=workers)
