"""What must fit together across the sections of a recipe. Each rule yields problems at their paths; none stops at the
first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from medvlm.core.card import Card
from medvlm.core.composition import composition_of_stage
from medvlm.core.document import KeyPath
from medvlm.core.errors import RecipeError, ShapeError, did_you_mean
from medvlm.core.problems import Problem
from medvlm.data.source import HELD_OUT
from medvlm.data.transforms import MediaTransform
from medvlm.recipe import shapes
from medvlm.recipe.decoders import check_decoders
from medvlm.recipe.graph import compositions, kinds_of_media, list_splits, serves, used_sources
from medvlm.recipe.schema import Recipe, Source
from medvlm.recipe.servers import not_taken
from medvlm.recipe.stage_rules import check_stage, describe_absent, list_names
from medvlm.recipe.targets import resolve

RESERVED = ("cards", "evaluate", "export", "hub", "tokenizer")
"""Folders of a run that no stage may take."""


def problems(recipe: Recipe, cards: Mapping[str, Card]) -> list[Problem]:
    """cards: source -> its data card."""
    rules = (_names, _blocks, _sources, _routes, _parts, check_decoders, _evaluation)
    found = [p for rule in rules for p in rule(recipe, cards)]
    for i in range(len(recipe.stages)):
        found += check_stage(recipe, i, cards)
    return found or [*shapes.problems(recipe, cards), *_export(recipe)]


def _export(recipe: Recipe) -> Iterator[Problem]:
    for target in recipe.export.targets:
        kind, _, reason = resolve(target, recipe.model, recipe.stages)
        for i, server in enumerate(recipe.export.serves):
            if not reason and (why := not_taken(server, kind)):
                yield Problem(("export", "serves", i), why)
        if reason:
            yield Problem(("export", "target"), f"{reason}; change it, or write `export: {{target: custom}}`")


# --- the sections ----------------------------------------------------------------------------------


def _names(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Names become folders, and all but the recipe's own become parts of dotted keys."""
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
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", recipe.name):
        yield Problem(
            ("name",),
            f"{recipe.name!r} cannot be a folder's name; expected letters, digits, dot, - and _, the first a letter or"
            " digit",
        )
    for i, stage in enumerate(recipe.stages):
        if stage.name in RESERVED:
            yield Problem(("stages", i, "name"), f"{stage.name!r} is a folder that every run has; choose another name")
        if stage.name in [s.name for s in recipe.stages[:i]]:
            yield Problem(("stages", i, "name"), f"two stages are called {stage.name!r}; give each its own name")


def _blocks(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """The modules that an engine's lines name are in some stage; that they have blocks is seen when it is built."""
    parts = sorted({part for composition in compositions(recipe) for part in composition.PARTS} - {"lora"})
    for line in ("recompute", "compile"):
        for j, pattern in enumerate(getattr(recipe.engine, line)):
            first = pattern.partition(".")[0]
            if parts and first not in parts and "*" not in first:
                yield Problem(
                    ("engine", line, j),
                    f"{first!r} is no part of any stage{did_you_mean(first, parts)} (accepts {', '.join(parts)})",
                )


def _sources(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    used = used_sources(recipe)
    for name, source in recipe.data.items():
        if name not in used:
            yield Problem(
                ("data", name),
                "nothing refers to this source; name it in a stage's `mix` or in evaluate.on, or remove it",
            )
        if source.root and source.shards:
            yield Problem(
                ("data", name, "shards"), "`root` is given too; give the original files or their shards, not both"
            )
        if "://" in source.shards and (
            "?" in source.shards or "@" in source.shards.partition("://")[2].partition("/")[0]
        ):
            yield Problem(
                ("data", name, "shards"),
                "holds a password or a signature, which a recipe must not; s3://, gs:// and https:// find credentials"
                " where they always do",
            )
        yield from _fold(name, source, cards[name])


def _fold(name: str, source: Source, card: Card) -> Iterator[Problem]:
    folds = card.splits.folds
    if folds and source.fold is None:
        yield Problem(
            ("data", name), f"its card is split into {folds} folds; say which one is the test set, e.g. fold: 0"
        )
    if folds and source.fold is not None and source.fold >= folds:
        yield Problem(("data", name, "fold"), f"expected 0 to {folds - 1}, the folds of its card, found {source.fold}")
    if not folds and source.fold is not None:
        yield Problem(
            ("data", name, "fold"), "its card has no folds; remove this line, or set splits.folds in a card of your own"
        )


def _routes(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """Every kind of media that is shown has exactly one encoder, and every encoder has something to encode."""
    served, used = serves(recipe), used_sources(recipe)
    present = {kind for name, card in cards.items() if name in used for kind in card.media}
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
                    f"{kind!r} is served by {owner[kind]!r} already; say with `serves: [...]` which encoder gets what",
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
                    f"no encoder serves its media of kind {kind!r}{near} (served are {list_names(owner)})",
                )


def _parts(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    """What an encoder sees, and what lies between it and the language model."""
    for name, encoder in recipe.model.encoders.items():
        path: KeyPath = ("model", "encoders", name)
        if recipe.model.language is not None and encoder.connector is None:
            yield Problem(path, "has no connector to the language model; add one, e.g. connector: {kind: mlp}")
        if recipe.model.language is None and encoder.connector is not None:
            yield Problem(
                (*path, "connector"), "leads to a language model, and there is none; remove it, or add model.language"
            )
        if "preprocess" in type(encoder).model_fields and encoder.preprocess is not None:
            try:
                MediaTransform(encoder.preprocess)
            except ShapeError as reason:
                yield Problem((*path, "preprocess"), str(reason))
    for i, stage in enumerate(recipe.stages):
        try:
            composition_of_stage(recipe.model, stage)
        except RecipeError as reason:
            yield Problem(("stages", i, "kind"), f"a {stage.kind} stage {reason}")


def _evaluation(recipe: Recipe, cards: Mapping[str, Card]) -> Iterator[Problem]:
    media = kinds_of_media(recipe)
    for i, (source, split) in enumerate(recipe.evaluate.pairs()):
        path: KeyPath = ("evaluate", "on", i)
        if source not in recipe.data:
            yield Problem(path, describe_absent("source", source, recipe.data, "data"))
            continue
        if split == HELD_OUT and recipe.data[source].hold_out is None:
            yield Problem(
                path, f"nothing is held out of this source; add data.{source}.hold_out, e.g. {{by: site, share: 0.1}}"
            )
        elif split != HELD_OUT and split not in list_splits(cards[source]):
            yield Problem(
                path, f"its card deals no samples to {split!r} (it has {list_names(list_splits(cards[source]))})"
            )
        if media and (unseen := set(cards[source].media) - media):
            yield Problem(
                path, f"no encoder serves its media of kind {list_names(unseen)} (served are {list_names(media)})"
            )
