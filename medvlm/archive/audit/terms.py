"""What the licences and access terms of several data sets allow in combination, and what remains in doubt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medvlm.archive.audit.scan import AuditSet
from medvlm.core.card import Card, merge_licences

_ACCESS = ("generated", "open", "registration", "credentialed")
_PHI = ("synthetic", "none", "deidentified", "unknown")


def terms(
    sets: Iterable[AuditSet], more: Iterable[Card] = ()
) -> tuple[dict[str, Any], list[tuple[tuple[str, ...], str]]]:
    """The strictest of each term, and doubts: (names of the data sets concerned, sentence). more: cards without
    shards."""
    cards = {each.name: each.card for each in sets} | {card.name: card for card in more}
    known = [card for card in cards.values() if card]
    doubts: list[tuple[tuple[str, ...], str]] = []
    doubts += [
        (
            (name,),
            f"{name}: has no data card: its licence and access terms are not known, and nothing may be trained on it",
        )
        for name, card in cards.items()
        if not card
    ]
    doubts += [
        ((card.name,), f"{card.name}: its card does not know whether it holds patient data (phi.status: unknown)")
        for card in known
        if card.phi.status == "unknown"
    ]
    bound = {card.name: card.licence.id for card in known if card.licence.share_alike}
    if len(ids := sorted(set(bound.values()))) > 1:
        doubts.append(
            (
                tuple(bound),
                (
                    f"share-alike under {len(ids)} licences ({', '.join(ids)}): a model of all of them may have to"
                    " carry each, ask the owners"
                ),
            )
        )
    together: dict[str, Any] = merge_licences([card.licence for card in known]) if known else {}
    if known:
        together["access"] = max((card.access for card in known), key=_ACCESS.index)
        together["phi"] = max((card.phi.status for card in known), key=_PHI.index)
        together["terms"] = {card.name: card.terms.strip() for card in known if card.terms.strip()}
    return together, doubts
