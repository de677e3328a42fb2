"""Creates the engine that a recipe names."""

from __future__ import annotations

from medvlm.core.engine_config import EngineConfig
from medvlm.train.engine import Engine
from medvlm.train.heap import return_freed_memory


def make_engine(config: EngineConfig) -> Engine:
    """Raises RecipeError if the processes do not match `kind`, or if a package is missing."""
    engine = _make_engine(config)
    if engine.is_sharded and engine.steps_on.type == "cpu":
        return_freed_memory()
    return engine


def _make_engine(config: EngineConfig) -> Engine:
    if config.kind == "fsdp2":
        from medvlm.train.engine_fsdp2 import Fsdp2

        return Fsdp2(config)
    if config.kind in ("zero1", "zero2", "zero3"):
        from medvlm.train.engine_zero import Zero

        return Zero(config)
    return Engine(config)
