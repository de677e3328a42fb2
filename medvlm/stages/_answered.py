"""Whether the sources of a stage have questions that a decoder answers, as far as their cards say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medvlm.core.content import list_answered
from medvlm.core.decoder_config import find_form
from medvlm.core.errors import did_you_mean
from medvlm.core.tasks import find_task


def explain_unanswered(name: str, decoder: Any, cards: Mapping[str, Any]) -> str:
    """Why no source can train a decoder, as far as the cards say; "" if a source can, or might."""
    template, offers = decoder.answers or name, [list_answered(card) for card in cards.values()]
    if None in offers:
        return ""
    found = [each[template] for each in offers if each is not None and template in each]
    if not found:
        asked = sorted({other for each in offers if each is not None for other in each})
        near = did_you_mean(template, asked)
        return (
            f"no source of `mix` asks {template!r}{near} (their questions for decoders: {', '.join(asked) or 'none'});"
            f" set model.decoders.{name}.answers to one of them"
        )
    form = find_form(decoder)
    for offer in found:
        by = find_task(offer.task).ANSWERED_BY
        if by != form:
            return f"gives {form}, and {template!r} is a question of task {offer.task}, which takes {by}"
    classes = {known for offer in found for known in offer.classes}
    for each in decoder.classes:
        if each not in classes:
            near = did_you_mean(each, classes)
            known = ", ".join(sorted(classes))
            return f"model.decoders.{name}.classes: no card has the class {each!r}{near} (they have {known})"
    return ""
