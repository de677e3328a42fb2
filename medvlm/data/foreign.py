"""Changes of intensities by classes of other libraries, such as MONAI's and torchvision's, named by their paths.

What they draw comes from a generator of the sample's position: MONAI's classes take a state, and random functions of
torch get a generator for the time of the call, in this thread alone. The global generators stay as they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from medvlm.core.config import Config
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.imports import import_path, require_path

if TYPE_CHECKING:
    import numpy as np
    import torch

OLDER = (
    "CenterCrop ElasticTransform FiveCrop Pad RandomAffine RandomCrop RandomHorizontalFlip RandomPerspective"
    " RandomResizedCrop RandomRotation RandomVerticalFlip Resize TenCrop"
)
MOVING = (
    "monai.transforms.spatial",
    "monai.transforms.croppad",
    "monai.transforms.smooth_field.array.RandSmoothDeform",
    "monai.transforms.utility.array.Transpose",
    "torchvision.transforms.v2._geometry",
    "torchvision.transforms.v2._auto_augment",
    "torchvision.transforms.autoaugment",
    *(f"torchvision.transforms.transforms.{name}" for name in OLDER.split()),
)
"""Classes that move pixels, or modules of them. Policies such as RandAugment also turn, shear and shift."""
_LOCK = threading.Lock()
"""MONAI's objects hold their state between drawing and changing."""


class Change(Config):
    path: str
    """PACKAGE.MODULE.NAME of a class, e.g. monai.transforms.RandGibbsNoise or torchvision.transforms.v2.ColorJitter.
    `plugins` of the recipe has the package. Each call gets a tensor [C, H, W] or [C, D, H, W], in shares of the range,
    and returns one of the same shape. It may change values, not their places. Of types without a full range, such as of
    CT, the extremes lie outside [0, 1], where most classes of torchvision cut off."""
    args: dict[str, Any] = Field({}, exclude_if=lambda args: not args)
    """What it is made with, e.g. {prob: 0.3}."""

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        return require_path(path)


def make(change: Change, key: str) -> Any:
    """The transform. key: of the recipe. Raises RecipeError for one that cannot be made, or that moves pixels."""
    return _make(change.path, json.dumps(change.args, sort_keys=True, default=str), key)


@lru_cache
def _make(path: str, args: str, key: str) -> Any:
    kind = import_path(path, key)
    try:
        made = kind(**json.loads(args))
    except Exception as reason:  # a class of another library raises anything
        raise RecipeError(f"{key}: {path} cannot be made of its args: {type(reason).__name__}: {reason}") from None
    for part in _list_parts(made):
        if any(f"{each.__module__}.{each.__qualname__}".startswith(MOVING) for each in type(part).__mro__):
            raise RecipeError(
                f"{key}: {type(part).__name__} moves pixels, and boxes, masks and words of sides would not follow; use"
                " flip, rotate90, rotate_deg, scale, crop, shift_px or elastic of `augment`"
            )
    return made


def _list_parts(transform: Any) -> Iterator[Any]:
    yield transform
    inner = getattr(transform, "transforms", ())
    for part in inner if isinstance(inner, list | tuple) else ():
        yield from _list_parts(part)


def apply(transform: Any, pixels: np.ndarray, rng: np.random.Generator, what: str) -> np.ndarray:
    """pixels: float32 [C, *size]. what: for messages. Raises RecipeError for a transform that cannot change such an
    array, and DataError for a result of another shape."""
    import numpy as np
    import torch

    seed = int(rng.integers(2**31))
    with _LOCK, _draw_with(torch.Generator().manual_seed(seed)):
        for number, part in enumerate(_list_parts(transform)):
            if hasattr(part, "set_random_state"):
                part.set_random_state(seed + number)  # with one seed, all parts would be applied to the same samples
        try:
            changed = np.asarray(transform(torch.from_numpy(pixels)), dtype=np.float32)
        except Exception as reason:  # a class of another library raises anything
            raise RecipeError(
                f"{what}: {type(transform).__name__} cannot change a tensor {list(pixels.shape)} ([C, H, W] or"
                f" [C, D, H, W], {type(reason).__name__}: {reason}); use another class"
            ) from reason
    if changed.shape != pixels.shape:
        raise DataError(f"{what} made {list(changed.shape)} of {list(pixels.shape)}; it may change values alone")
    return changed


def _draw_with(generator: torch.Generator) -> Any:
    """Random functions of torch in this thread draw from it."""
    import torch
    from torch.overrides import TorchFunctionMode

    take = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial}
    take |= {getattr(torch.Tensor, name) for name in ("uniform_", "normal_", "bernoulli_", "random_", "exponential_")}
    like = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}

    class Drawing(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in like:
                first = args[0]
                return like[func](first.shape, generator=generator, dtype=first.dtype, device=first.device)
            if func in take and kwargs.get("generator") is None:
                kwargs["generator"] = generator
            return func(*args, **kwargs)

    return Drawing()
