"""The identity of a stage: a hash of everything that determines its result. A stage is resumed or reused only if its
identity is unchanged.

Settings with default values are not hashed, so that a release may add settings. Releases up to 0.1 hashed every
setting; runs of those releases are recognised by the recipe in their folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from medvlm.commands.initial_weights import Origins, Starts, find_starts
from medvlm.core.errors import UserError
from medvlm.core.run import RunFolder, write_json
from medvlm.core.stage_config import StageConfig
from medvlm.core.stored import read_object
from medvlm.core.tool_config import Environment
from medvlm.knowledge._contract import describe_context
from medvlm.recipe.graph import find_teachers
from medvlm.recipe.load import LoadedRecipe, load_run
from medvlm.recipe.origins import StageOrigin
from medvlm.recipe.sources import OpenSource
from medvlm.tools._episode import describe_files

FILE = "identities.json"
FORM = "2-"
"""Prefix of every identity. Those of releases up to 0.1 have none."""
UNDECIDED = ("save_every", "keep_last", "keep_every", "on_nan", "rollout_log")
"""Settings of a stage that do not change its result."""


def identify(config: StageConfig, loaded: LoadedRecipe, sources: Mapping[str, OpenSource], starts: Starts) -> str:
    """The identity of a stage, from its settings, the model, its data, its starting weights, the seed and the
    precision."""
    stage = {key: value for key, value in drop_defaults(config).items() if key not in (*UNDECIDED, "from")}
    return FORM + _hash(
        {
            "stage": stage,
            "model": drop_defaults(loaded.recipe.model),
            "seed": loaded.recipe.seed,
            "sources": {name: _identify_source(loaded, sources[name]) for name in config.mix},
            "starts": _describe_origins(starts[0][1])
            if len(starts) == 1
            else [[share, _describe_origins(origins)] for share, origins in starts],
            "precision": loaded.recipe.engine.precision,
            **(_describe_environment(loaded.recipe.environment) if config.acts() else {}),
            **({"context": describe_context(loaded.recipe.context)} if loaded.recipe.context else {}),
            **({"teachers": teachers} if (teachers := describe_teachers(config)) else {}),
        }
    )


def describe_teachers(config: StageConfig) -> dict[str, str]:
    """Key -> the model that the stage learns from, for lineage."""
    return {key: origin.describe() for key, origin in find_teachers(config).items()}


def _describe_environment(environment: Environment | None) -> dict[str, Any]:
    """The tools that answers may call, with what they read from files."""
    if environment is None:
        return {}
    files = describe_files(environment)
    return {"environment": drop_defaults(environment), **({"files": files} if files else {})}


def _describe_origins(origins: Origins) -> dict[str, list[str]]:
    return {module: [origin.digest for origin in chain] for module, chain in origins.items()}


def drop_defaults(value: Any) -> Any:
    """A config as plain JSON types, without the keys that have their default value, at any depth."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        given = {name: getattr(value, name) for name in fields}
        return {
            fields[name].alias or name: drop_defaults(inner)
            for name, inner in given.items()
            if fields[name].is_required() or inner != fields[name].get_default(call_default_factory=True)
        }
    if isinstance(value, Mapping):
        return {str(key): drop_defaults(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [drop_defaults(inner) for inner in value]
    return value


def recognise(loaded: LoadedRecipe, sources: Mapping[str, OpenSource], run: RunFolder) -> None:
    """Records in the run folder which stages have an identity of the first release, and their present identity.

    Call it on the first rank, before the recipe in the folder is overwritten: the old identity is computed from it.
    """
    stored = {stage.name: found for stage in loaded.recipe.stages if (found := _read_stored(run.stage(stage.name)))}
    known = read_aliases(run)
    unknown = {name: left for name, found in stored.items() if (left := found - known.get(name, {}).keys())}
    if not unknown or not run.recipe.is_file():
        return
    try:
        before = load_run(run.root)
        raw: dict[str, Any] = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    except (UserError, yaml.YAMLError):  # this release cannot read that recipe, so nothing of the run can be resumed
        return
    for i, config in enumerate(before.recipe.stages):
        if config.name not in unknown or not set(config.mix) <= sources.keys():
            continue
        try:
            starts = find_starts(config, i, before, run)
        except UserError:  # an earlier stage was removed
            continue
        try:
            old = _identify_as_first_release(raw, i, sources, starts[0][1])  # that release merged no models
        except KeyError:  # a recipe that lacks settings was not saved by that release
            continue
        if old in unknown[config.name]:
            known.setdefault(config.name, {})[old] = identify(config, before, sources, starts)
    write_json(run.root / FILE, known)


def read_aliases(run: RunFolder) -> dict[str, dict[str, str]]:
    """Stage -> identity that an earlier release gave it -> present identity of the same settings."""
    path = run.root / FILE
    if not path.exists():
        return {}
    remedy = "copy it again; it lets stages of an early release be resumed"
    aliases: dict[str, dict[str, str]] = read_object(path, dict[str, dict[str, str]], remedy)
    return aliases


def find_aliases(run: RunFolder, stage: str, identity: str) -> tuple[str, ...]:
    """The identities that earlier releases gave to the same settings."""
    return tuple(old for old, now in read_aliases(run).get(stage, {}).items() if now == identity)


def _read_stored(stage_folder: Path) -> set[str]:
    """The identities of the first release with which a stage was finished or saved."""
    states = [stage_folder / "stage.json", *stage_folder.glob("step-*/state.json")]
    found = set()
    for path in states:
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # damaged ones are set aside later
            found.add(str(json.loads(path.read_text())["identity"]))
    return {identity for identity in found if not identity.startswith(FORM)}


def _identify_as_first_release(
    raw: Mapping[str, Any], i: int, sources: Mapping[str, OpenSource], origins: Origins
) -> str:
    """The hash over every setting, including defaults. raw: the recipe that a run of that release saved."""
    stage, data = raw["stages"][i], raw["data"]

    def identify_source(name: str) -> list[Any]:
        settings = [data[name].get(key) for key in ("fold", "augment", "order", "hold_out")]
        return [sources[name].shards.fingerprint, *settings]

    return _hash(
        {
            "stage": {key: value for key, value in stage.items() if key not in UNDECIDED},
            "model": raw["model"],
            "seed": raw["seed"],
            "sources": {name: identify_source(name) for name in stage["mix"]},
            "starts": {
                chain[0].stage: chain[0].digest
                for chain in origins.values()
                if chain and isinstance(chain[0], StageOrigin)
            },
            "precision": raw["engine"]["precision"],
        }
    )


def _identify_source(loaded: LoadedRecipe, source: OpenSource) -> list[Any]:
    settings = loaded.recipe.data[source.name]
    parts = [drop_defaults(part) for part in (settings.augment, settings.order, settings.hold_out)]
    return [source.shards.fingerprint, source.fold, *parts]


def _hash(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
