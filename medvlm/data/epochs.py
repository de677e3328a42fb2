"""How many steps the epochs of a stage are."""

from __future__ import annotations

from fractions import Fraction

from medvlm.core.errors import RecipeError
from medvlm.core.stage_config import StageConfig
from medvlm.data.stream import Stream


def count_steps(config: StageConfig, stream: Stream) -> StageConfig:
    """The settings with `steps`. Raises RecipeError if they need more samples than `sampling.epochs` allows."""
    steps, size = config.steps, stream.size
    if config.epochs is not None:
        steps = find_steps(config.epochs, size, config.batch)
    if stream.length is not None and stream.length < steps * config.batch:
        used = f"{steps} steps of {config.batch} samples are {steps * config.batch}"
        if config.epochs is None:
            key, most = "steps", f"{stream.length // config.batch} steps"
        else:
            key, most = "epochs", f"{stream.length / size:g} epochs"
            used = f"{config.epochs:g} epochs of {size} samples are {used}"
        raise RecipeError(
            f"stages.{config.name}.{key}: {used}, and sampling.epochs allows {stream.length}; use at most {most},"
            " or raise sampling.epochs"
        )
    return config.model_copy(update={"steps": steps})


def find_steps(epochs: float, size: int, batch: int) -> int:
    """Whole steps that these epochs of `size` samples have samples for, at least one. Exact: 0.29 epochs of 100 samples
    are 29 samples, although 0.29 * 100 is less than 29."""
    return max(1, int(Fraction(str(epochs)) * size) // batch)
