"""Checks that the cards of a recipe have what its stages and its evaluation need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.content import Content, find_content, list_media
from medvlm.core.errors import did_you_mean
from medvlm.core.needs import Needs
from medvlm.core.problems import Problem
from medvlm.core.protocols import ProtocolConfig, find_protocol, read_protocols
from medvlm.core.tasks import is_scored_task
from medvlm.recipe.graph import list_compositions
from medvlm.recipe.schema import Recipe


def check_feeding(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    for name, card in cards.items():
        for kind in sorted((find_content(card).media or frozenset()) - set(card.media)):
            near = did_you_mean(kind, card.media)
            yield Problem(
                ("data", name, "card"),
                f"its reader makes media of kind {kind!r}{near}, which `media` of the card ({_list(card.media)}) does"
                " not list; write the same name in both",
            )
    for i, stage in enumerate(recipe.stages):
        needs = stage.find_needs(recipe.model)
        for source in stage.mix:
            if source in cards and (why := explain_lack(needs, cards[source], recipe.data[source].card)):
                yield Problem(("stages", i, "mix", source), why)
    for i, (source, _) in enumerate(recipe.evaluate.pairs()):
        if source in cards and (why := explain_unmeasured(recipe, find_content(cards[source]))):
            yield Problem(("evaluate", "on", i), f"its card has {why}")


def explain_lack(needs: Needs, card: Card, file: str) -> str:
    """Why a card has no sample for a stage with these needs; "" if it has some, or might. file: the card."""
    content = find_content(card)
    wanted_tasks = needs.tasks
    if needs.media and not list_media(card):
        if not needs.texts:
            return (
                "its card has no media, which this stage shows; write `without_media: true` to train on texts beside"
                " images, or `shows: []` in a stage of its own"
            )
        wanted_tasks = needs.texts
    if needs.report and content.has_reports is False:
        return (
            f"its card has no reports, which this stage needs; set `report` of the reader in {file}, or remove it here"
        )
    if needs.steps and content.has_steps is False:
        return (
            "its questions have no `steps`, which this stage trains on (`rationale`); add them to the questions of the"
            f" reader in {file}, or remove `rationale` here"
        )
    if wanted_tasks is None or content.tasks is None or content.tasks & set(wanted_tasks or content.tasks):
        return ""
    asks = f"the questions of its card are of {_list(content.tasks)}" if content.tasks else "its card has no questions"
    wanted = f"this stage asks only those of {_list(wanted_tasks)}" if wanted_tasks else "this stage needs some"
    template = getattr(card.reader, "report", "")
    free = [task for task in wanted_tasks if is_scored_task(task, is_long=True)]
    if free and isinstance(template, str) and template:
        line = f"{{text: Write the report., answer: {json.dumps(template)}, task: {free[0]}}}"
        return f"{asks}, and {wanted}; to train on its reports, add to the reader in {file}: questions: [{line}]"
    return f"{asks}, and {wanted}; add `questions` to the reader in {file}, change `tasks`, or remove it here"


def explain_unmeasured(recipe: Recipe, content: Content) -> str:
    """What samples with this content lack to be evaluated; "" if they lack nothing, or perhaps."""
    asked = [find_protocol(config) for config in list_protocols(recipe)]
    if not asked or any(can_ask(protocol, content, recipe.model) for protocol in asked):
        return ""
    nothing = ", and ".join(protocol.NOTHING for protocol in asked)
    has = f"questions of {_list(content.tasks)}" if content.tasks else "no questions"
    return f"{nothing} (found {has}); evaluate another split or source, or set other `protocols`"


def can_ask(protocol: Any, content: Content, model: Any) -> bool:
    """Whether a protocol finds something in a card, or might."""
    return not hasattr(protocol, "can_ask") or bool(protocol.can_ask(content, model))


def list_protocols(recipe: Recipe) -> list[ProtocolConfig]:
    """Those of `evaluate.protocols` that the models of the recipe can serve."""
    can = {ability for composition in list_compositions(recipe) for ability in composition.CAN}
    return [each for each in read_protocols(recipe.evaluate.protocols) if find_protocol(each).NEEDS in can]


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
