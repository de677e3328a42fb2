"""Recipes that `medvlm init --data` writes for what a card has: answers, captions, labels or masks, on small networks
or on a pretrained model. Their parts and settings are in first/GOAL.yaml, those with small pretrained parts in
first/real/GOAL.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlm.commands.first_recipe import PAIRED, make_pairing, make_tuning
from medvlm.core.card import Card
from medvlm.core.config import kinds
from medvlm.core.content import Content, Offer, find_content
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.tasks import find_task
from medvlm.recipe.known import Known

FORMS = {"maps": "masks", "scores": "labels"}
"""What decoders are trained on, by the form of their answers -> the goal."""
GOALS = ("masks", "labels", "answers", "captions")
"""What a model can learn, in the order in which it is chosen for small networks. For a model that is named, the order
depends on it."""
SOURCE = "data"
EPOCHS = 3
CHECKS = 5
"""Validations of a stage."""


def list_goals(card: Card) -> list[str]:
    """What a model can learn from such data."""
    content = find_content(card)
    found = {FORMS[find_task(offer.task).ANSWERED_BY] for offer in _list_offers(content).values()}
    tasks = {kind for kind in content.tasks or () if find_task(kind).ANSWERED_BY == "text"}
    is_written = bool(getattr(card.reader, "report", ""))
    found |= {"answers"} if tasks else set()
    found |= {"captions"} if is_written else set()
    return [goal for goal in GOALS if goal in found]


def choose_goal(goals: list[str], wanted: str, known: Known | None, parts: str = "") -> str:
    """parts: see make_first_recipe(). Raises RecipeError for a goal that the data or the model do not serve."""
    family = known.config.get("model_type") if known else None
    if parts:
        able, who = [goal for goal in GOALS if _find_settings(goal, parts).is_file()], "medvlm demo --real"
    elif known is None:
        able, who = list(GOALS), "small networks"
    elif family in kinds("families"):
        able, who = ["answers"], known.model
    elif family in PAIRED:
        able, who = ["captions", "labels", "masks"], known.model
    else:
        able, who = ["labels", "masks"], known.model
    if wanted and wanted not in goals:
        raise RecipeError(f"--for {wanted}: the data have nothing for it (they have {', '.join(goals) or 'nothing'})")
    fitting = [goal for goal in ([wanted] if wanted else GOALS if known is None else able) if goal in goals]
    fitting = [goal for goal in fitting if goal in able]
    if not fitting:
        told = (
            f"learns {', '.join(able)}, and {'--for is ' + wanted if wanted else 'the data have ' + ', '.join(goals)}"
        )
        raise RecipeError(f"{who} {told}; leave out --model for small networks, or choose another one")
    return fitting[0]


def make_first_recipe(
    name: str,
    card: Card,
    goal: str,
    window: tuple[float, ...],
    counts: Mapping[str, int],
    known: Known | None,
    parts_folder: str = "",
) -> dict[str, Any]:
    """counts: split -> its images. window: as `preprocess.window`; () for none. known: a pretrained model,
    None for small networks. parts_folder: of small pretrained parts, see real_parts.py; "" for random weights. Raises
    RecipeError for media that they do not take."""
    medium, train = card.media[0], counts.get("train", 0)
    family = known.config.get("model_type") if known else None
    if known is not None and family in kinds("families"):
        return make_tuning(name, known, train, SOURCE)
    if known is not None and goal == "captions":
        return make_pairing(name, known, medium, train, SOURCE)
    parts = _fill_in(read_yaml(_find_settings(goal, parts_folder)).data, parts_folder)
    if medium not in parts:
        raise RecipeError(f"the small pretrained parts take pictures, and the data are media of kind {medium!r}")
    encoder = dict(parts[medium])
    if known is not None:
        encoder = {"kind": "transformers", "model": known.folder or known.model}
    elif medium == "volume":
        scale = {"window": list(window)} if window else {"percentiles": [0.5, 99.5]}
        encoder["preprocess"] = {**encoder["preprocess"], **scale}
    decoders = _make_decoders(parts, card, goal)
    steps = max(parts["steps"], -(-EPOCHS * train // parts["stage"]["batch"]))
    stage = {**parts["stage"], "mix": {SOURCE: 1}, "steps": steps}
    if decoders:
        losses = parts["losses"]
        stage["losses"] = {each: losses["exclusive" if of["exclusive"] else "several"] for each, of in decoders.items()}
    if counts.get("val"):
        stage |= {"validate": {"every": max(1, steps // CHECKS)}, "keep": "best"}
    target = parts["target"]
    return {
        "name": name,
        "seed": 0,
        "model": {
            "encoders": {medium: encoder},
            **({"decoders": decoders} if decoders else {}),
            **{key: parts[key] for key in ("language", "boxes") if key in parts},
        },
        "data": {SOURCE: {"augment": parts["augment"][medium]}},
        "stages": [stage],
        "evaluate": {"on": [f"{SOURCE}:test"], **_list_groups(card)},
        "export": {"target": target if isinstance(target, str) else target[medium]},
    }


def is_stage_for(goal: str, stage: str, parts_folder: str) -> bool:
    """Whether the first stage of such a recipe has this name. goal: "" for any."""
    settings = _find_settings(goal, parts_folder)
    return not goal or (settings.is_file() and read_yaml(settings).data["stage"]["name"] == stage)


def _find_settings(goal: str, parts_folder: str) -> Path:
    return Path(__file__).with_name("first") / ("real" if parts_folder else "") / f"{goal}.yaml"


def _fill_in(value: Any, parts_folder: str) -> Any:
    """Settings, with the folder in place of PARTS at the beginning of a path."""
    if isinstance(value, Mapping):
        return {key: _fill_in(each, parts_folder) for key, each in value.items()}
    if isinstance(value, str) and value.startswith("PARTS/"):
        return f"{parts_folder}/{value.removeprefix('PARTS/')}"
    return value


def _make_decoders(parts: Mapping[str, Any], card: Card, goal: str) -> dict[str, dict[str, Any]]:
    """A decoder for each question that one can answer."""
    several = {asked.template for asked in getattr(card.reader, "questions", ()) if asked.labels}
    made: dict[str, dict[str, Any]] = {}
    for template, offer in _list_offers(find_content(card)).items():
        if "decoder" not in parts or FORMS[find_task(offer.task).ANSWERED_BY] != goal:
            continue
        name = re.sub(r"\W+", "_", template)
        more = {"exclusive": template not in several, **({} if name == template else {"answers": template})}
        made[name] = {**parts["decoder"], "classes": list(offer.classes), **more}
    return made


def _list_offers(content: Content) -> dict[str, Offer]:
    found = content.answered or {}
    return {template: offer for template, offer in found.items() if find_task(offer.task).ANSWERED_BY in FORMS}


def _list_groups(card: Card) -> dict[str, list[str]]:
    groups = list(getattr(card.reader, "groups", {}))
    return {"groups": groups} if groups else {}
