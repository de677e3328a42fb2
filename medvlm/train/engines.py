"""The engine that a recipe asks for."""

from __future__ import annotations

from medvlm.core.engine_config import EngineConfig
from medvlm.train.engine import Engine


def make_engine(config: EngineConfig) -> Engine:
    """Raises RecipeError for what was not started as asked, or needs a package that is not there."""
    if config.kind == "fsdp2":
        from medvlm.train.engine_fsdp2 import Fsdp2

        return Fsdp2(config)
    if config.kind in ("zero1", "zero2", "zero3"):
        from medvlm.train.engine_zero import Zero

        return Zero(config)
    return Engine(config)
