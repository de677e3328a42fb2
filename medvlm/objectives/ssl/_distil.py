"""What methods with several views and a teacher share: views, masks, heads, and the pass of student and teacher.

Axes: N samples, G global views, L local views, T patches, M masked patches of a sample, E width of the encoder, K width
of a head's output.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.contracts import Masking, Outputs
from medvlm.objectives.ssl import _terms
from medvlm.objectives.ssl._base import Objective, SslLoss, Tensors, encode, find_patch, require_masking
from medvlm.objectives.ssl._masks import draw_blocks, scatter
from medvlm.objectives.ssl._views import Changes, Share, make_view, require_order

if TYPE_CHECKING:
    import numpy as np

GLOBAL_VIEWS = 2


class Distillation(SslLoss):
    """Base of the settings of these methods."""

    has_teacher: ClassVar[bool] = True
    joins_samples: ClassVar[bool] = True
    global_crop: tuple[Share, Share] = (0.32, 1.0)
    """[low, high]: each of the two global views shows a random share of the area or volume."""
    local_views: int = Field(8, ge=0)
    local_crop: tuple[Share, Share] = (0.05, 0.32)
    """The same for the small local views, which only the student sees."""
    local_size: tuple[int, ...] = ()
    """Size of the local views, by default about 3/7 of the encoder's input in whole patches (96 of 224)."""
    changes: Changes = Changes(gain=0.4, brightness=0.4, blur=0.5)
    patch_weight: float = Field(1.0, ge=0)
    """Weight of the term of masked patches (iBOT, arXiv 2111.07832). 0: none, and the encoder need not be a ViT."""
    masked: tuple[Share, Share] = (0.1, 0.5)
    """[low, high]: share of the patches that are masked in one of the two global views."""
    mask_blocks: bool = False
    """Masks blocks of patches as in DINOv2, and not each patch by itself as in 3DINO."""
    momentum: float = Field(0.994, ge=0, le=1)
    """Share that the teacher keeps of its weights in the first step; rises to 1 along half a cosine."""
    hidden: int = Field(2048, gt=0)
    """Width of the hidden layers of the heads."""
    width: int = Field(256, gt=0)
    """Width of the vectors that the heads compare."""

    @field_validator("global_crop", "local_crop", "masked")
    @classmethod
    def _shares_are_in_order(cls, crop: tuple[float, float]) -> tuple[float, float]:
        return require_order(crop)

    @model_validator(mode="after")
    def _views_suffice(self) -> Self:
        if self.local_size and not self.local_views:
            raise ValueError("local_size is set, but local_views is 0; remove it")
        return self

    def scale_down(self) -> Self:
        return self.model_copy(update={"hidden": 32, "width": 16, "local_views": min(self.local_views, 2)})


class Distilled(Objective):
    """head, patch_head: of the whole image and of patches; subclasses set them."""

    head: nn.Module
    patch_head: nn.Module

    def __init__(self, config: Any, encoder: Any):
        super().__init__()
        self.config, self.size = config, tuple(encoder.input_shape[1:])
        self.masks = config.patch_weight > 0
        self.local_size = config.local_size or tuple(side * 3 // 7 for side in self.size)
        if self.masks:
            require_masking(encoder, config.kind)
            self.mask_token = nn.Parameter(torch.zeros(encoder.width))
        if getattr(encoder, "can_mask", False):
            patch, self.grid, self.total = find_patch(encoder), tuple(encoder.grid), math.prod(encoder.grid)
            if not config.local_size:
                pairs = zip(self.local_size, patch, strict=True)
                self.local_size = tuple(max(1, round(side / p)) * p for side, p in pairs)
            self.most = max(1, round(self.total * config.masked[1]))

    def draw(self, pixels: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        config = self.config
        wide = [make_view(pixels, self.size, config.global_crop, config.changes, rng) for _ in range(GLOBAL_VIEWS)]
        found = {"globals": torch.stack(wide)}
        if config.local_views:
            narrow = range(config.local_views)
            local = [make_view(pixels, self.local_size, config.local_crop, config.changes, rng) for _ in narrow]
            found["locals"] = torch.stack(local)
        return found | (self._draw_mask(rng) if self.masks else {})

    def _draw_mask(self, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """`hidden_GT`: true for masked patches. `masked_M`: their places in G * T, filled up with 0, and `shares_M`,
        the share of each in the mean of its view, 0 where filled up."""
        count = max(1, round(self.total * rng.uniform(*self.config.masked)))
        view = int(rng.integers(GLOBAL_VIEWS))
        hidden = torch.zeros(GLOBAL_VIEWS, self.total, dtype=torch.bool)
        hidden[view] = (draw_blocks if self.config.mask_blocks else scatter)(self.grid, count, rng)
        places, shares = torch.zeros(self.most, dtype=torch.long), torch.zeros(self.most)
        found = hidden.flatten().nonzero()[:, 0]
        places[: len(found)], shares[: len(found)] = found, 1 / len(found)
        return {"hidden_GT": hidden, "masked_M": places, "shares_M": shares}

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """`pooled_NGE` of the global views and `pooled_NE` of the first; `head_NVK` of all views, the global ones
        first, and `patches_NMK` of the masked patches. The teacher sees the global views whole, and nothing else."""
        teaches, count = own is not None, len(views["globals"])
        masking = Masking()
        if self.masks and not teaches:
            masking = Masking(hidden_NT=views["hidden_GT"].flatten(0, 1), token_E=self.mask_token)
        seen = encode(encoder, views["globals"].flatten(0, 1), masking)
        pooled = [seen.pooled.unflatten(0, (count, -1))]
        if "locals" in views and not teaches:
            pooled.append(encode(encoder, views["locals"].flatten(0, 1)).pooled.unflatten(0, (count, -1)))
        found = {"pooled_NGE": pooled[0], "pooled_NE": pooled[0][:, 0], "head_NVK": self.head(torch.cat(pooled, 1))}
        if self.masks:
            patches = seen.patches.unflatten(0, (count, -1)).flatten(1, 2)
            index = views["masked_M"].to(patches.device)[..., None].expand(-1, -1, patches.shape[-1])
            found["patches_NMK"] = self.patch_head(patches.gather(1, index))
        return found

    def weigh(self, views: Tensors) -> dict[str, float]:
        count = float(len(views["globals"]))
        return {"whole": count} | ({"patches": count} if self.masks else {})

    def find_momentum(self, done: float) -> float:
        return _terms.follow_cosine(self.config.momentum, 1.0, done)


class Head(nn.Module):
    """Three layers with GELU to unit vectors, and cosines with `prototypes` unit vectors if there are any (the last
    layer of DINO with its norms fixed at 1)."""

    def __init__(self, width: int, hidden: int, out: int, prototypes: int = 0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, out)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.randn(prototypes, out) / out**0.5) if prototypes else None

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        unit = normalize(self.layers(vectors.to(self.layers[0].weight.dtype)), dim=-1, eps=1e-6)
        return unit if self.prototypes is None else unit @ normalize(self.prototypes, dim=-1).T.to(unit.dtype)
