"""What decides the result of a stage, as a hash: a stage is resumed and reused only under the same one.

Settings at their default are no part of it, so that a release may add settings. Releases up to 0.1 hashed every
setting; runs of these are recognised by the recipe that they keep.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from medvlm.core.errors import UserError
from medvlm.core.run import RunFolder, write_json
from medvlm.core.stage_config import StageConfig
from medvlm.recipe import LoadedRecipe, load_run
from medvlm.sources import OpenSource
from medvlm.starts import Origins, find_origins
from medvlm.train import checkpoint

UNDECIDED = ("save_every", "keep_last", "keep_every", "on_nan")
"""Settings of a stage that change nothing in its result."""


def identify(
    config: StageConfig, loaded: LoadedRecipe, sources: Mapping[str, OpenSource], origins: Origins
) -> str:
    """What decides a stage's result: its settings, the model, its data, where it starts, the seed, the precision."""
    stage = {key: value for key, value in drop_defaults(config).items() if key not in (*UNDECIDED, "from")}
    return _hash(
        {
            "stage": stage,
            "model": drop_defaults(loaded.recipe.model),
            "seed": loaded.recipe.seed,
            "sources": {name: _identify_source(loaded, sources[name]) for name in config.mix},
            "starts": {module: [origin.digest for origin in chain] for module, chain in origins.items()},
            "precision": loaded.recipe.engine.precision,
        }
    )


def drop_defaults(value: Any) -> Any:
    """A config as JSON has it, without the keys that are at their default, at any depth."""
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


def _identify_source(loaded: LoadedRecipe, source: OpenSource) -> list[Any]:
    settings = loaded.recipe.data[source.name]
    parts = [drop_defaults(part) for part in (settings.augment, settings.order, settings.hold_out)]
    return [source.shards.fingerprint, source.fold, *parts]


def _hash(decides: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
