"""What the licences and access terms of several data sets allow together, and where they leave doubts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medvlm.archive.audit_scan import AuditSet
from medvlm.core.card import Card, strictest

_ACCESS = ("generated", "open", "registration", "credentialed")
_PHI = ("synthetic", "none", "deidentified", "unknown")


def terms(sets: Iterable[AuditSet], more: Iterable[Card] = ()) -> tuple[dict[str, Any], list[str]]:
    """The strictest of each, and doubts in sentences. more: cards without shards."""
    cards = {each.name: each.card for each in sets} | {card.name: card for card in more}
    known = [card for card in cards.values() if card]
    doubts = [f"{name}: has no data card: its licence and access terms are not known, and nothing may be trained on it" for name, card in cards.items() if not card]
    doubts += [f"{card.name}: its card does not know whether it holds patient data (phi.status: unknown)" for card in known if card.phi.status == "unknown"]
    if len(bound := sorted({card.licence.id for card in known if card.licence.share_alike})) > 1:
        doubts.append(f"share-alike under {len(bound)} licences ({', '.join(bound)}): a model of all of them may have to carry each, ask the owners")
    together: dict[str, Any] = strictest([card.licence for card in known]) if known else {}
    if known:
        together["access"] = max((card.access for card in known), key=_ACCESS.index)
        together["phi"] = max((card.phi.status for card in known), key=_PHI.index)
        together["terms"] = {card.name: card.terms.strip() for card in known if card.terms.strip()}
    return together, doubts
