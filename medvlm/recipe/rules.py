"""What must fit together across the sections of a recipe. Each rule yields problems at their paths; none stops at the
first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from medvlm.core.card import Card
from medvlm.core.composition import Composition, composition_of_stage, name_of
from medvlm.core.document import KeyPath
from medvlm.core.errors import RecipeError, ShapeError, did_you_mean
from medvlm.core.problems import Problem
from medvlm.data.source import HELD_OUT
from medvlm.data.transforms import MediaTransform
from medvlm.recipe import shapes
from medvlm.recipe.decoders import check_decoders
from medvlm.recipe.origins import Origin, name_outside
from medvlm.recipe.schema import Recipe, Source
from medvlm.recipe.servers import not_taken
from medvlm.recipe.targets import resolve

RESERVED = ("cards", "evaluate", "export", "hub", "tokenizer")
"""Folders of a run that no stage may take."""


def problems(recipe: Recipe, cards: Mapping[str, Card]) -> list[Problem]:
    """cards: source -> its data card."""
    rules = (_names, _blocks, _sources, _routes, _parts, check_decoders, _evaluation)
    found = [p for rule in rules for p in rule(recipe, cards)]
    for i in range(len(recipe.stages)):
        found += _stage(recipe, i, cards)
    return found or [*shapes.problems(recipe, cards), *_export(recipe)]


def _export(recipe: Recipe) -> Iterator[Problem]:
    for target in recipe.export.targets:
        kind, _, reason = resolve(target, recipe.model, recipe.stages)
        for i, server in enumerate(recipe.export.serves):
            if not reason and (why := not_taken(server, kind)):
                yield Problem(("export", "serves", i), why)
        if reason:
            yield Problem(("export", "target"), f"{reason}; change it, or write `export: {{target: custom}}`")


def serves(recipe: Recipe) -> dict[str, tuple[str, ...] | None]:
    """Encoder -> the kinds of media it encodes, None for any kind."""
    found = [composition.serves(recipe.model) for composition in compositions(recipe)]
    return {name: media for served in found for name, media in served.items()}


def kinds_of_media(recipe: Recipe) -> set[str] | None:
    """The kinds of media that some encoder takes; None where any kind is taken."""
    served = list(serves(recipe).values())
    if any(media is None for media in served):
        return None
    return {kind for media in served if media is not None for kind in media}


def composition_at(recipe: Recipe, i: int) -> Composition | None:
    """Of stage i; None where no composition fits, which `_compositions` reports."""
    try:
        return composition_of_stage(recipe.model, recipe.stages[i])
    except RecipeError:
        return None


def compositions(recipe: Recipe) -> list[Composition]:
    """Those of the stages, each once."""
    found = (composition_at(recipe, i) for i in range(len(recipe.stages)))
    return list({name_of(composition): composition for composition in found if composition is not None}.values())


def used_sources(recipe: Recipe) -> set[str]:
    mixed = {source for stage in recipe.stages for source in stage.mix}
    return mixed | {source for source, _ in recipe.evaluate.pairs()}


def starts_from(recipe: Recipe, i: int) -> tuple[int, ...]:
    """Positions of the stages that stage i takes weights from; unknown names are left out."""
    names = [stage.name for stage in recipe.stages[:i]]
    given = recipe.stages[i].from_
    if not given:
        return (i - 1,) if i else ()
    wanted = {given} if isinstance(given, str) else set(given.values())
    return tuple(names.index(name) for name in sorted(wanted) if name in names)


def outside_origins(recipe: Recipe, i: int) -> dict[str, Origin]:
    """Module ("" = all others) -> what stage i starts from outside of its run."""
    names = [stage.name for stage in recipe.stages[:i]]
    given = recipe.stages[i].from_
    named = {"": given} if isinstance(given, str) else given
    outside = {module: text for module, text in named.items() if text and text not in names}
    found = {module: name_outside(text, module) for module, text in outside.items()}
    return {module: origin for module, origin in found.items() if origin is not None}


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
            f"no data set in use has media of kind {kind!r}{did_you_mean(kind, present)} (they have {_list(present)})",
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
                path, f"no data set in use has media of kind {_list(media)}{near} (they have {_list(present)})"
            )
    for i, stage in enumerate(recipe.stages if served else ()):
        for source in stage.mix if stage.shows_media() else ():
            for kind in sorted(set(cards[source].media if source in cards else ()) - set(owner)):
                near = did_you_mean(kind, owner)
                yield Problem(
                    ("stages", i, "mix", source),
                    f"no encoder serves its media of kind {kind!r}{near} (served are {_list(owner)})",
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
            yield Problem(path, _absent("source", source, recipe.data, "data"))
            continue
        if split == HELD_OUT and recipe.data[source].hold_out is None:
            yield Problem(
                path, f"nothing is held out of this source; add data.{source}.hold_out, e.g. {{by: site, share: 0.1}}"
            )
        elif split != HELD_OUT and split not in _splits(cards[source]):
            yield Problem(path, f"its card deals no samples to {split!r} (it has {_list(_splits(cards[source]))})")
        if media and (unseen := set(cards[source].media) - media):
            yield Problem(path, f"no encoder serves its media of kind {_list(unseen)} (served are {_list(media)})")


def _splits(card: Card) -> tuple[str, ...]:
    """The splits that a card deals samples to; for a column of the archive only the archive knows."""
    if card.splits.folds:
        return ("train", "test")
    if card.splits.by == "column":
        return ("train", "val", "test")
    return tuple(split for split, ratio in card.splits.ratios.items() if ratio > 0)


# --- one stage ---------------------------------------------------------------------------------------


def _stage(recipe: Recipe, i: int, cards: Mapping[str, Card]) -> Iterator[Problem]:
    stage, path = recipe.stages[i], ("stages", i)
    for source in stage.mix:
        if source not in recipe.data:
            yield Problem((*path, "mix", source), _absent("source", source, recipe.data, "data"))
            continue
        splits = _splits(cards[source])
        if "train" not in splits:
            yield Problem((*path, "mix", source), f"its card deals no samples to 'train' (it has {_list(splits)})")
        if stage.validate_ is not None and "val" not in splits:
            yield Problem(
                (*path, "validate"),
                f"{source} has no samples to validate on (its card has {_list(splits)}); remove `validate`, or change"
                " its splits",
            )
    composition = composition_at(recipe, i)
    may_reduce = composition is None or composition.TAKES_ANY_SIZE
    if stage.reduces_images() and not may_reduce:
        yield Problem(
            (*path, "overlong"),
            "the encoders of this model take images of one size, so none can be reduced; use drop or error",
        )
    for what, named in (("epochs", stage.sampling.epochs), ("balance", stage.sampling.balance)):
        for source in named:
            if source not in stage.mix:
                yield Problem(
                    (*path, "sampling", what, source), _absent("source", source, stage.mix, "this stage's mix")
                )
    if stage.accumulate != "auto" and stage.batch % stage.accumulate:
        yield Problem((*path, "accumulate"), f"batch {stage.batch} is not divisible by accumulate {stage.accumulate}")
    if stage.keep == "best" and stage.validate_ is None:
        yield Problem(
            (*path, "keep"),
            "`best` is chosen by validation, and there is none; add validate: {every: ...}, or keep: last",
        )
    own = {source: cards[source] for source in stage.mix if source in cards}
    yield from (replace(each, path=(*path, *each.path)) for each in stage.check(recipe.model, own))
    yield from _origin(recipe, i)
    for j, pattern in enumerate(stage.trains):
        yield from _pattern(recipe, i, pattern, (*path, "trains", j))
    for pattern in stage.optim.lr_of:
        yield from _pattern(recipe, i, pattern, (*path, "optim", "lr_of", pattern))
    yield from _lora(recipe, i)
    yield from _spread(recipe, i)


def _origin(recipe: Recipe, i: int) -> Iterator[Problem]:
    stage, earlier = recipe.stages[i], [s.name for s in recipe.stages[:i]]
    given = {"": stage.from_} if isinstance(stage.from_, str) else stage.from_
    for module, name in given.items():
        path: KeyPath = ("stages", i, "from", *([module] if module else []))
        if module:
            yield from _pattern(recipe, i, module, path)
        is_later = name not in earlier and name in [s.name for s in recipe.stages]
        if name and name not in earlier and (is_later or name_outside(name) is None):
            why = "this stage itself or a later one" if is_later else f"no stage{did_you_mean(name, earlier)}"
            yield Problem(
                path,
                f"{name!r} is {why}; expected an earlier stage (there is {_list(earlier) or 'none'}), a stage of"
                " another run (RUN_FOLDER:STAGE), a folder of safetensors (./FOLDER), a hub id (OWNER/NAME), or no"
                " `from` to start from the model",
            )


def _pattern(recipe: Recipe, i: int, pattern: str, path: KeyPath) -> Iterator[Problem]:
    """What a name in `trains` or `lr_of` can mean; that it matches parameters is seen when the model is built."""
    stage, composition = recipe.stages[i], composition_at(recipe, i)
    first, *rest = pattern.split(".")
    if "*" in first or composition is None:
        return
    parts, encoders = composition.PARTS, tuple(composition.serves(recipe.model))
    if first not in parts:
        yield Problem(
            path,
            f"{first!r} is no part of a {stage.kind} stage{did_you_mean(first, parts)} (accepts {', '.join(parts)})",
        )
    elif first == "decoders" and rest and not any(fnmatchcase(name, rest[0]) for name in recipe.model.decoders):
        yield Problem(path, _absent("decoder", rest[0], recipe.model.decoders, "model.decoders"))
    elif first in ("encoders", "connectors") and rest and not any(fnmatchcase(name, rest[0]) for name in encoders):
        yield Problem(path, _absent("encoder", rest[0], encoders, "model.encoders"))


def _lora(recipe: Recipe, i: int) -> Iterator[Problem]:
    stage = recipe.stages[i]
    trains_lora = any(pattern.split(".")[0] == "lora" for pattern in stage.trains)
    if stage.lora is not None and not trains_lora:
        yield Problem(
            ("stages", i, "lora"),
            f"adapters are asked for, but `trains` ({_list(stage.trains)}) has no lora; add it, or remove `lora`",
        )
    if trains_lora and stage.lora is None and not _has_adapters(recipe, i):
        yield Problem(
            ("stages", i, "trains"),
            "has lora, but neither this stage nor one before it says which; add lora: {rank: 16}",
        )


def _spread(recipe: Recipe, i: int) -> Iterator[Problem]:
    """What an engine cannot do with a stage."""
    stage, engine = recipe.stages[i], recipe.engine.kind
    path: KeyPath = ("stages", i, "optim", "kind")
    optimizers = stage.optimizers()
    kinds = {optim.kind for optim in optimizers.values()}
    if engine.startswith("zero") and len(optimizers) > 1:
        others = [name for name in optimizers if name]
        yield Problem(
            ("stages", i, "kind"),
            f"a {stage.kind} stage has optimizers of its own ({_list(others)}), and {engine} gives all parameters to"
            " one; use engine.kind: ddp or fsdp2",
        )
    if engine.startswith("zero") and "muon" in kinds:
        yield Problem(
            path,
            f"muon needs whole matrices, and {engine} gives the optimizer runs of a flat tensor; use adamw, or"
            " engine.kind: fsdp2",
        )
    if (engine == "fsdp2" or engine.startswith("zero")) and "adamw8bit" in kinds:
        yield Problem(
            path, f"adamw8bit cannot step what {engine} shards; use adamw (sharded over the ranks, it is small already)"
        )
    if (engine == "fsdp2" or engine.startswith("zero")) and stage.accumulate == "auto":
        why = (
            f"with {engine}, ranks wait for each other within a pass, so that one which runs out of memory would leave"
            " the others waiting"
        )
        yield Problem(("stages", i, "accumulate"), f"{why}; give a number")


def _has_adapters(recipe: Recipe, i: int) -> bool:
    """Whether a stage that this one starts from has put adapters in, or may have: another run may be elsewhere."""
    if any(recipe.stages[j].lora is not None or _has_adapters(recipe, j) for j in starts_from(recipe, i)):
        return True
    return any(origin.find_problem() or origin.find_adapters() for origin in outside_origins(recipe, i).values())


def _absent(what: str, name: str, accepted: Iterable[str], where: str) -> str:
    accepted = list(accepted)
    return f"there is no {what} {name!r}{did_you_mean(name, accepted)} ({where} has {_list(accepted) or 'none'})"


def _list(names: Any) -> str:
    return ", ".join(sorted(names))
