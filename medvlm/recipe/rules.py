"""What must fit together across the sections of a recipe. Each rule yields all the problems it finds, with their
paths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from medvlm.core.card import Card, require_folder_name
from medvlm.core.composition import composition_as_is, composition_of_stage
from medvlm.core.content import list_media, list_splits
from medvlm.core.document import KeyPath
from medvlm.core.errors import RecipeError, ShapeError, did_you_mean, list_some
from medvlm.core.problems import Problem
from medvlm.data.source import HELD_OUT
from medvlm.data.transforms import MediaTransform
from medvlm.recipe import shapes
from medvlm.recipe.config_keys import check_config_keys
from medvlm.recipe.decoders import check_decoders
from medvlm.recipe.feeding import check_feeding
from medvlm.recipe.graph import list_compositions, list_media_kinds, list_served_media, list_used_sources
from medvlm.recipe.schema import Recipe, Source
from medvlm.recipe.servers import explain_refusal
from medvlm.recipe.stage_rules import check_stage, describe_absent, list_names
from medvlm.recipe.targets import EVERY, resolve

RESERVED = ("cards", "evaluate", "export", "hub", "ranks", "rl-check", "tokenizer")
"""Folders of every run. No stage may have one of these names."""
RESERVED_RUNS = ("cache", "shards")
"""Folders beside the runs. No recipe may have one of these names."""


def find_problems(recipe: Recipe, cards: Mapping[str, Card]) -> list[Problem]:
    """cards: source -> its data card."""
    rules = (
        _check_names,
        _check_blocks,
        _check_sources,
        _check_routes,
        _check_parts,
        check_decoders,
        check_feeding,
        check_config_keys,
        _check_evaluation,
    )
    found = [p for rule in rules for p in rule(recipe, cards)]
    for i in range(len(recipe.stages)):
        found += check_stage(recipe, i, cards)
    if not recipe.stages:
        return found
    return found or [*shapes.find_problems(recipe, cards), *_check_export(recipe)]


def _check_export(recipe: Recipe) -> Iterator[Problem]:
    for target in recipe.export.targets:
        kind, _, reason = resolve(target, recipe.model, recipe.stages)
        for i, server in enumerate(recipe.export.serves):
            if not reason and (why := explain_refusal(server, kind)):
                yield Problem(("export", "serves", i), why)
        if reason:
            is_held = not resolve(EVERY, recipe.model, recipe.stages)[2]
            instead = f"; change it, or write `export: {{target: {EVERY}}}`" if is_held else ""
            yield Problem(("export", "target"), f"{reason}{instead}")


# --- the sections ----------------------------------------------------------------------------------


def _check_names(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Names become folders. All except the recipe's own also become parts of dotted keys, so they may hold no dot."""
    named: list[tuple[KeyPath, str]] = [(("model", "encoders", name), name) for name in recipe.model.encoders]
    named += [(("model", "decoders", name), name) for name in recipe.model.decoders]
    named += [(("data", name), name) for name in recipe.data]
    named += [(("stages", i, "name"), stage.name) for i, stage in enumerate(recipe.stages)]
    for path, name in named:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
            yield Problem(
                path,
                f"{name!r} cannot be a folder's name; expected letters, digits, - and _, the first a letter or digit",
            )
    try:
        require_folder_name(recipe.name)
    except ValueError as reason:
        yield Problem(("name",), str(reason))
    if recipe.name.lower() in RESERVED_RUNS:
        yield Problem(("name",), f"{recipe.name!r} is a folder that all runs share; choose another name")
    for i, stage in enumerate(recipe.stages):
        if stage.name.lower() in RESERVED:
            yield Problem(("stages", i, "name"), f"{stage.name!r} is a folder that every run has; choose another name")
        if stage.name in [s.name for s in recipe.stages[:i]]:
            yield Problem(("stages", i, "name"), f"two stages are called {stage.name!r}; give each its own name")


def _check_blocks(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Modules named under `engine` exist in some stage. Whether they have blocks is checked when the model is built."""
    parts = sorted({part for composition in list_compositions(recipe) for part in composition.PARTS} - {"lora"})
    for line in ("recompute", "compile"):
        for j, pattern in enumerate(getattr(recipe.engine, line)):
            first = pattern.partition(".")[0]
            if parts and first not in parts and "*" not in first:
                yield Problem(
                    ("engine", line, j),
                    f"{first!r} is not a part of any stage{did_you_mean(first, parts)} (accepts {list_some(parts)})",
                )


def _check_sources(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    used = list_used_sources(recipe)
    for name, source in recipe.data.items():
        if name not in used:
            yield Problem(
                ("data", name),
                "nothing uses this source; name it in a stage's `mix` or in evaluate.on, or remove it",
            )
        if source.root and source.shards:
            yield Problem(("data", name, "shards"), "`root` is set too; give either the original files or their shards")
        if "://" in source.shards and (
            "?" in source.shards or "@" in source.shards.partition("://")[2].partition("/")[0]
        ):
            yield Problem(
                ("data", name, "shards"),
                "contains a password or a signature, which a recipe must not; s3://, gs:// and https:// use the"
                " credentials of this machine",
            )
        yield from _check_fold(name, source, cards[name])


def _check_fold(name: str, source: Source, card: Card) -> Iterator[Problem]:
    folds = card.splits.folds
    if folds and source.fold is None:
        yield Problem(("data", name), f"its card has {folds} folds; choose the one to test on, e.g. fold: 0")
    if folds and source.fold is not None and source.fold >= folds:
        yield Problem(("data", name, "fold"), f"expected 0 to {folds - 1}, the folds of its card, found {source.fold}")
    if not folds and source.fold is not None:
        yield Problem(
            ("data", name, "fold"), "its card has no folds; remove this line, or set splits.folds in a card of your own"
        )


def _check_routes(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Every kind of media in use has exactly one encoder, and every encoder has something to encode."""
    served, used = list_served_media(recipe), list_used_sources(recipe)
    present = {kind for name, card in cards.items() if name in used for kind in list_media(card)}
    for kind in sorted(set(recipe.model.views) - present):
        yield Problem(
            ("model", "views", kind),
            f"no data set in use has media of kind {kind!r}{did_you_mean(kind, present)} (they have"
            f" {list_names(present)})",
        )
    owner: dict[str, str] = {}
    for encoder, media in served.items():
        if media is None:
            return
        path: KeyPath = ("model", "encoders", encoder)
        for kind in media:
            if owner.setdefault(kind, encoder) != encoder:
                yield Problem(
                    path,
                    f"{kind!r} is already served by {owner[kind]!r}; use `serves: [...]` to say which encoder gets it",
                )
        if present and not present & set(media):
            near = "".join(did_you_mean(kind, present) for kind in media)
            yield Problem(
                path,
                f"no data set in use has media of kind {list_names(media)}{near} (they have {list_names(present)})",
            )
    for i, stage in enumerate(recipe.stages if served else ()):
        for source in stage.mix if stage.shows_media() else ():
            for kind in sorted(set(cards[source].media if source in cards else ()) - set(owner)):
                near = did_you_mean(kind, owner)
                yield Problem(
                    ("stages", i, "mix", source),
                    f"no encoder serves its media of kind {kind!r}{near} (the encoders serve {list_names(owner)})",
                )


def _check_parts(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """The preprocessing and connector of each encoder, and the composition of each stage."""
    for name, encoder in recipe.model.encoders.items():
        path: KeyPath = ("model", "encoders", name)
        if recipe.model.language is not None and encoder.connector is None:
            yield Problem(path, "has no connector; add one to the language model, e.g. connector: {kind: mlp}")
        if recipe.model.language is None and encoder.connector is not None:
            yield Problem(
                (*path, "connector"), "there is no language model to connect to; remove it, or add model.language"
            )
        if "preprocess" in type(encoder).model_fields and encoder.preprocess is not None:
            try:
                MediaTransform(encoder.preprocess)
            except ShapeError as reason:
                yield Problem((*path, "preprocess"), str(reason))
    for i, stage in enumerate(recipe.stages):
        try:
            composition = composition_of_stage(recipe.model, stage)
        except RecipeError as reason:
            yield Problem(("stages", i, "kind"), f"a {stage.kind} stage {reason}")
        else:
            if not composition.PARTS:
                yield Problem(
                    ("model", "composition"), f"is {composition.NOUN}, which cannot be trained; remove `stages`"
                )
    if recipe.stages and recipe.evaluate.spread:
        yield Problem(("evaluate", "spread"), "is for published models that are evaluated as they are, without stages")
    if not recipe.stages:
        try:
            composition_as_is(recipe.model)
        except RecipeError as reason:
            yield Problem(("stages",), str(reason))
        if not recipe.evaluate.on:
            yield Problem(
                ("evaluate", "on"), "is empty, and there is no stage either; say what to evaluate the model on"
            )


def _check_evaluation(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    media = list_media_kinds(recipe)
    for i, (source, split) in enumerate(recipe.evaluate.pairs()):
        path: KeyPath = ("evaluate", "on", i)
        if source not in recipe.data:
            yield Problem(path, describe_absent("source", source, recipe.data, "data"))
            continue
        if split == HELD_OUT and recipe.data[source].hold_out is None:
            yield Problem(
                path, f"this source holds nothing out; add data.{source}.hold_out, e.g. {{by: site, share: 0.1}}"
            )
        elif split != HELD_OUT and split not in list_splits(cards[source]):
            yield Problem(
                path, f"its card has no samples in {split!r} (it has {list_names(list_splits(cards[source]))})"
            )
        if media and (unseen := set(cards[source].media) - media):
            yield Problem(
                path,
                f"no encoder serves its media of kind {list_names(unseen)} (the encoders serve {list_names(media)})",
            )
