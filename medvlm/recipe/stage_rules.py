"""What must fit together in one stage of a recipe. Each rule yields problems with their paths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from medvlm.core.card import Card
from medvlm.core.content import list_splits
from medvlm.core.document import KeyPath
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.lora_config import read_adapter_name
from medvlm.core.problems import Problem
from medvlm.core.stage_config import RANDOM, Merge
from medvlm.recipe.graph import (
    find_composition,
    find_kept_adapters,
    find_outside_origins,
    find_start_adapters,
    find_start_stages,
)
from medvlm.recipe.origins import StageOrigin, name_outside
from medvlm.recipe.schema import Recipe


def check_stage(recipe: Recipe, i: int, cards: Mapping[str, Card]) -> Iterator[Problem]:
    stage, path = recipe.stages[i], ("stages", i)
    for source in stage.mix:
        if source not in recipe.data:
            yield Problem((*path, "mix", source), describe_absent("source", source, recipe.data, "data"))
            continue
        splits = list_splits(cards[source])
        if "train" not in splits:
            yield Problem((*path, "mix", source), f"its card has no samples in 'train' (it has {list_names(splits)})")
        if stage.validate_ is not None and "val" not in splits:
            yield Problem(
                (*path, "validate"),
                f"{source} has no samples to validate on (its card has {list_names(splits)}); remove `validate`, or"
                " change its splits",
            )
    yield from _check_beside(recipe, i, cards)
    composition = find_composition(recipe, i)
    may_reduce = composition is None or composition.TAKES_ANY_SIZE
    if stage.reduces_images() and not may_reduce:
        yield Problem(
            (*path, "overlong"),
            "the encoders of this model take images of one size, so images cannot be reduced; use drop or error",
        )
    if stage.max_pixels and not may_reduce:
        yield Problem(
            (*path, "max_pixels"),
            "the encoders of this model take images of one size; set it with preprocess.size of the encoder",
        )
    for what, named in (("epochs", stage.sampling.epochs), ("balance", stage.sampling.balance)):
        for source in named:
            if source not in stage.mix:
                yield Problem(
                    (*path, "sampling", what, source), describe_absent("source", source, stage.mix, "this stage's mix")
                )
    if stage.accumulate != "auto" and stage.batch % stage.accumulate:
        yield Problem((*path, "accumulate"), f"batch {stage.batch} is not divisible by accumulate {stage.accumulate}")
    if stage.keep == "best" and stage.validate_ is None:
        yield Problem(
            (*path, "keep"),
            "validation chooses the `best` checkpoint, and there is none; add validate: {every: ...}, or set keep:"
            " last",
        )
    own = {source: cards[source] for source in stage.mix if source in cards}
    yield from (replace(each, path=(*path, *each.path)) for each in stage.check(recipe.model, own))
    yield from _check_origin(recipe, i)
    for j, pattern in enumerate(stage.trains):
        yield from _check_pattern(recipe, i, pattern, (*path, "trains", j))
    for key, patterns in (("lr_of", stage.optim.lr_of), ("rests", stage.optim.rests)):
        for pattern in patterns:
            yield from _check_pattern(recipe, i, pattern, (*path, "optim", key, pattern))
    yield from _check_lora(recipe, i)
    yield from _check_engine(recipe, i)


def _check_beside(recipe: Recipe, i: int, cards: Mapping[str, Card]) -> Iterator[Problem]:
    for key, source in recipe.stages[i].list_beside().items():
        path: KeyPath = ("stages", i, *key)
        if source not in recipe.data:
            yield Problem(path, describe_absent("source", source, recipe.data, "data"))
        elif lacks := sorted({"train", "val"} - set(splits := list_splits(cards[source]))):
            yield Problem(path, f"its card has no samples in {lacks[0]!r} (it has {list_names(splits)})")


def _check_origin(recipe: Recipe, i: int) -> Iterator[Problem]:
    stage, earlier = recipe.stages[i], [s.name for s in recipe.stages[:i]]
    if isinstance(stage.from_, Merge) and _is_quantized(recipe):
        yield Problem(
            ("stages", i, "from"),
            "merged weights are not those that were quantized; leave out `quantize`, or start from one model",
        )
    for key, where in stage.list_teachers().items():
        if where != RANDOM and name_outside(where) is None:
            yield Problem(
                ("stages", i, key),
                f"{where!r} is no model outside of this run; expected a stage of another run (RUN_FOLDER:STAGE), a"
                " folder of safetensors (./FOLDER), or a hub id (OWNER/NAME)",
            )
    for below, name in stage.list_starts().items():
        path: KeyPath = ("stages", i, "from", *below)
        if isinstance(stage.from_, dict):
            yield from _check_pattern(recipe, i, below[0], path)
        is_later = name not in earlier and name in [s.name for s in recipe.stages]
        if name and name not in earlier and (is_later or name_outside(name) is None):
            why = "this stage itself or a later one" if is_later else f"no stage{did_you_mean(name, earlier)}"
            yield Problem(
                path,
                f"{name!r} is {why}; expected an earlier stage (there is {list_names(earlier) or 'none'}), a stage of"
                " another run (RUN_FOLDER:STAGE), a folder of safetensors (./FOLDER), or a hub id (OWNER/NAME); remove"
                " `from` to start from the model itself",
            )


def _check_pattern(recipe: Recipe, i: int, pattern: str, path: KeyPath) -> Iterator[Problem]:
    """What a name in `trains`, `lr_of` or `rests` can mean. Whether it matches parameters is checked when the model is
    built."""
    stage, composition = recipe.stages[i], find_composition(recipe, i)
    first, *rest = pattern.split(".")
    if "*" in first or composition is None:
        return
    parts, encoders = composition.PARTS, tuple(composition.serves(recipe.model))
    if first not in parts:
        yield Problem(
            path,
            f"{first!r} is not a part of a {stage.kind} stage{did_you_mean(first, parts)} (accepts {list_some(parts)})",
        )
    elif first == "decoders" and rest and not any(fnmatchcase(name, rest[0]) for name in recipe.model.decoders):
        yield Problem(path, describe_absent("decoder", rest[0], recipe.model.decoders, "model.decoders"))
    elif first in ("encoders", "connectors") and rest and not any(fnmatchcase(name, rest[0]) for name in encoders):
        yield Problem(path, describe_absent("encoder", rest[0], encoders, "model.encoders"))


def _check_lora(recipe: Recipe, i: int) -> Iterator[Problem]:
    stage = recipe.stages[i]
    trains_lora = any(pattern.split(".")[0] == "lora" for pattern in stage.trains)
    yield from _check_adapter_names(recipe, i)
    if stage.lora is not None and not trains_lora:
        yield Problem(
            ("stages", i, "lora"),
            f"`trains` ({list_names(stage.trains)}) does not have lora; add it to train adapters, or remove this key",
        )
    if trains_lora and stage.lora is None and not _has_adapters(recipe, i):
        yield Problem(
            ("stages", i, "trains"),
            "has lora, but neither this stage nor an earlier one defines the adapters; add lora: {rank: 16}",
        )


def _check_adapter_names(recipe: Recipe, i: int) -> Iterator[Problem]:
    stage, own, start = recipe.stages[i], recipe.stages[i].find_adapter(), find_start_adapters(recipe, i)
    patterns: list[tuple[KeyPath, str]] = [(("trains", j), pattern) for j, pattern in enumerate(stage.trains)]
    patterns += [(("optim", "lr_of", pattern), pattern) for pattern in stage.optim.lr_of]
    for path, pattern in patterns:
        if (name := read_adapter_name(pattern)) and name != own:
            meant = f"the adapter of this stage is {own!r}" if own else "lora.name gives the adapter no name"
            yield Problem(("stages", i, *path), f"{pattern!r}: {meant}; a stage trains one adapter")
    if stage.lora is None:
        is_known = not own or find_kept_adapters(recipe, i, own) is not None
        if not is_known and not any(o.find_problem() for o in find_outside_origins(recipe, i).values()):
            yield Problem(
                ("stages", i, "trains"), f"no stage before this one has an adapter {own!r}; add lora: {{name: {own}}}"
            )
        return
    if own and (kept := find_kept_adapters(recipe, i, own)) and kept != stage.lora:
        yield Problem(
            ("stages", i, "lora"),
            f"the adapter {own!r} of an earlier stage has other settings; leave out `lora` to go on with it, or choose"
            " another name",
        )
    if not own and start is not None and start.name and not isinstance(stage.from_, Merge):
        yield Problem(
            ("stages", i, "lora"),
            f"the stage starts from a model with the adapter {start.name!r}, which is kept apart; give these adapters a"
            " name too, or start `from` a stage before",
        )


def _check_engine(recipe: Recipe, i: int) -> Iterator[Problem]:
    """What an engine cannot do with a stage."""
    stage, engine = recipe.stages[i], recipe.engine.kind
    if recipe.engine.attention == "varlen" and stage.shares_prompts():
        yield Problem(
            ("engine", "attention"),
            f"varlen computes rows of plain documents, and in stage {stage.name} several answers share a prompt; use"
            " auto or flex",
        )
    if stage.ema is not None and recipe.engine.precision == "bf16-true":
        yield Problem(
            ("stages", i, "ema"),
            "weights in bfloat16 cannot hold the small moves of an average; use engine.precision: bf16-mixed",
        )
    if stage.ema is not None and engine.startswith("zero"):
        yield Problem(
            ("stages", i, "ema"), f"averages have not been tried with {engine}; use engine.kind: ddp or fsdp2"
        )
    path: KeyPath = ("stages", i, "optim", "kind")
    optimizers = stage.list_optimizers()
    kinds = {optim.kind for optim in optimizers.values()}
    if engine.startswith("zero") and len(optimizers) > 1:
        others = [name for name in optimizers if name]
        yield Problem(
            ("stages", i, "kind"),
            f"a {stage.kind} stage has optimizers of its own ({list_names(others)}), but {engine} supports only one;"
            " use engine.kind: ddp or fsdp2",
        )
    if engine.startswith("zero") and "muon" in kinds:
        yield Problem(
            path,
            f"muon needs whole matrices, but {engine} gives the optimizer pieces of a flat tensor; use adamw, or"
            " engine.kind: fsdp2",
        )
    if engine == "zero3" and _is_quantized(recipe):
        yield Problem(
            ("engine", "kind"),
            "with zero3, bitsandbytes holds the gathered weights of every 4-bit layer until the backward pass, so that"
            " each rank would have all of them; use engine.kind: fsdp2",
        )
    if (engine == "fsdp2" or engine.startswith("zero")) and "adamw8bit" in kinds:
        yield Problem(
            path,
            f"adamw8bit cannot update parameters that {engine} shards; use adamw (its state is sharded over the ranks"
            " too)",
        )
    if (engine == "fsdp2" or engine.startswith("zero")) and stage.accumulate == "auto":
        why = (
            f"with {engine}, ranks wait for each other within a pass, so a rank that runs out of memory would block"
            " the others"
        )
        yield Problem(("stages", i, "accumulate"), f"{why}; give a number")
    if recipe.engine.deal_media and stage.accumulate == "auto":
        why = (
            "with engine.deal_media, ranks wait for each other within a pass, so a rank that runs out of memory would"
            " block the others"
        )
        yield Problem(("stages", i, "accumulate"), f"{why}; give a number")


def _is_quantized(recipe: Recipe) -> bool:
    return bool(recipe.model.quantize or getattr(recipe.model.language, "quantize", None))


def _has_adapters(recipe: Recipe, i: int) -> bool:
    """Whether a stage that this one starts from has adapters, or may have. The files of another run may not be on this
    machine, so it gets the benefit of the doubt."""
    if isinstance(recipe.stages[i].from_, Merge):
        return False  # they are folded in
    if any(recipe.stages[j].lora is not None or _has_adapters(recipe, j) for j in find_start_stages(recipe, i)):
        return True
    outside = list(find_outside_origins(recipe, i).values())
    if any(origin.find_problem() for origin in outside):
        return True
    # Of another run, the language model may be that of a stage before the one that is named.
    before = [each for origin in outside if isinstance(origin, StageOrigin) for each in origin.list_stages_before()]
    return any(origin.find_adapters() for origin in (*outside, *before))


def describe_absent(what: str, name: str, accepted: Iterable[str], where: str) -> str:
    accepted = list(accepted)
    return f"there is no {what} {name!r}{did_you_mean(name, accepted)} ({where} has {list_names(accepted) or 'none'})"


def list_names(names: Any) -> str:
    return list_some(sorted(names))
