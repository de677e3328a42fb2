"""VoComni: VoCo on all volumes, with masks on those that have them and masks of its own on the others (Large-Scale 3D
Medical Image Pre-training with Geometric Context Priors, arXiv 2410.09890; Luffy03/Large-Scale-Medical,
Omni-supervised/voco_train.py and models/voco_head.py, at 1ad538b).

A decoder draws a mask of each crop. Where the volume has a mask, decoder and encoder learn from it (`masks`). From
`pseudo_from` on, the decoder alone learns on the other volumes what a copy of the network draws there (`pseudo`): the
copy is taken at that step and stays as it is, and the encoder's maps are cut off from the gradient.

Deviations from the code: the crops of VoCo are what is drawn, where the code cuts further crops of the labelled
volumes, nine of ten around a structure; convolutions on the encoder's maps are parts of the decoder, and learn from
both.

Axes: N volumes, C crops.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import nn

from medvlm.core.config import Slot, component
from medvlm.core.contracts import Features, Outputs
from medvlm.core.decoder_config import HEAD_LOSSES, MISSING, HeadLosses, WithTerms, reads_levels
from medvlm.core.errors import ShapeError
from medvlm.objectives.ssl._base import Moment, Tensors, encode, widen
from medvlm.objectives.ssl._views import Changes, change
from medvlm.objectives.ssl._voco import Voco, VocoConfig

if TYPE_CHECKING:
    import numpy as np

MASKS, PSEUDO = "masks", "pseudo"
PROJECTOR = "objective.project."
"""How names of its weights begin in a teacher."""


class Config(VocoConfig):
    averages_encoder: ClassVar[bool] = True
    hands_on_teacher: ClassVar[bool] = False
    kind: Literal["voco_omni"]
    decoder: Annotated[Any, Slot("decoders")]
    """What draws the masks, and of which questions they are (`answers`)."""
    losses: HeadLosses = Field(min_length=1)
    """Of the masks, as in the stage `heads`: kinds, or settings."""
    pseudo_from: float = Field(0.5, ge=0, le=1)
    """Share of the steps before volumes without a mask get masks of the network's own. 1: never. 0: by the weights that
    the stage begins with."""

    def scale_down(self) -> Self:
        """Two bases and one crop."""
        axes = len(self.bases or (1, 3, 3))
        small = {"bases": (*[1] * (axes - 1), 2), "crops": 1}
        return super().scale_down().model_copy(update=small)

    def find_decoder(self) -> Any:
        return self.decoder

    def explain_unfit(self) -> str:
        output = component("decoders", self.decoder.kind).OUTPUT
        if output != "maps" or not self.decoder.exclusive:
            return f"decoder: {self.decoder.kind} draws no exclusive classes; use one of masks with exclusive: true"
        for loss in self.losses:
            module = component(HEAD_LOSSES, loss.kind)
            if why := module.refuse(loss, self.decoder, output):
                return f"losses: {loss.kind} {why}"
            if getattr(module, "JOINT", False):
                return f"losses: {loss.kind} compares the samples of a batch, which masks here cannot be"
        return ""


def build(config: Config, encoder: Any) -> Omni:
    """Raises ShapeError for a number of bases, or a decoder, that does not fit the encoder, and for a decoder that adds
    losses of its own."""
    return Omni(config, encoder)


class Omni(Voco):
    config: Config

    def __init__(self, config: Config, encoder: Any):
        super().__init__(config, encoder)
        module: Any = component("decoders", config.decoder.kind)
        levels = {"levels": getattr(encoder, "levels", ())} if reads_levels(config.decoder) else {}
        self.decoder: nn.Module = module.build(
            config.decoder, encoder.width, encoder.grid, encoder.input_shape, **levels
        )
        if terms := getattr(self.decoder, "terms", ()):
            raise ShapeError(
                f"loss.decoder: {config.decoder.kind} has losses of its own ({', '.join(terms)}), which are not added"
                " here; set them to 0"
            )

    def draw(
        self, pixels: torch.Tensor, rng: np.random.Generator, labels: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """As VoCo, with `masks`, the labels of the crops, int64 [C, *size], and `has_mask`. labels: of the whole
        volume."""
        before = deepcopy(rng)
        found = super().draw(pixels, rng)
        if labels is None:
            labels = torch.full(tuple(pixels.shape[1:]), MISSING)
        own = []
        for start in self._choose(tuple(pixels.shape[1:]), before)[0]:
            own.append(self._cut_labels(labels, start, deepcopy(before)))
            self._cut(pixels, start, before)  # draws what the crop drew, up to the next one
        return {**found, "masks": torch.stack(own), "has_mask": (labels != MISSING).any()}

    def _cut_labels(self, labels: torch.Tensor, start: list[int], rng: np.random.Generator) -> torch.Tensor:
        """The labels of a crop, mirrored as its pixels are."""
        box = tuple(slice(at, at + side) for at, side in zip(start, self.size, strict=True))
        flips = Changes(flip=self.config.changes.flip)
        # As integers: a label may have a bit for each of 61 classes, which no float holds.
        return change(labels[box][None], flips, rng)[0]

    def forward(self, encoder: nn.Module, views: Tensors, own: Outputs | None = None) -> Outputs:
        """As VoCo, with `logits` [N * C, maps, *size]. Of the teacher, `drawn`: the classes that it draws, int64
        [N, C, *size]."""
        crops = views["crops"]
        if own is not None:
            features = encode(encoder, crops.flatten(0, 1))
            logits = self._decode(features, crops.flatten(0, 1))
            return {**super().forward(encoder, views, own), "drawn": logits.argmax(1).unflatten(0, crops.shape[:2])}
        count = crops.shape[1]
        every = torch.cat([crops, views["bases"]], 1)
        features = encode(encoder, every.flatten(0, 1))
        found = self._project(features.pooled.unflatten(0, every.shape[:2]))
        ours = self._take_crops(features, every.shape[:2], count, views["has_mask"])
        return {**found, "logits": self._decode(ours, crops.flatten(0, 1))}

    def _take_crops(self, features: Features, views: torch.Size, count: int, has_mask_N: torch.Tensor) -> Features:
        """Those of the crops, without a gradient where the volume has no mask."""
        learns = has_mask_N.repeat_interleave(count)

        def take(tensor: torch.Tensor) -> torch.Tensor:
            crops = tensor.unflatten(0, views)[:, :count].flatten(0, 1)
            return torch.where(learns.view(-1, *[1] * (crops.ndim - 1)), crops, crops.detach())

        levels = tuple(take(level) for level in features.levels)
        return replace(features, patches=take(features.patches), pooled=take(features.pooled), levels=levels)

    def _decode(self, features: Features, pixels: torch.Tensor) -> torch.Tensor:
        """The logits of the masks, without side outputs."""
        dtype = next(self.decoder.parameters()).dtype
        found = self.decoder(
            replace(
                features,
                patches=features.patches.to(dtype),
                pooled=features.pooled.to(dtype),
                levels=tuple(level.to(dtype) for level in features.levels),
                pixels=pixels.to(dtype),
            )
        )
        found = found.logits if isinstance(found, WithTerms) else found
        logits: torch.Tensor = found[0] if isinstance(found, list) else found
        return logits

    def weigh(self, views: Tensors) -> dict[str, float]:
        own, drawn = self._split_labels(views, torch.zeros_like(views["masks"]))
        found = super().weigh(views)
        for name, loss, module in self._list_losses():
            found[f"{MASKS}.{name}"] = module.weigh(loss, own, self.config.decoder)
            found[f"{PSEUDO}.{name}"] = module.weigh(loss, drawn, self.config.decoder)
        return found

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        logits, found = widen(own["logits"]), super().add_up(moment, views, own, taught)
        labels, drawn = self._split_labels(views, taught["drawn"])
        none = 0 * logits.sum()  # in the graph, whatever the labels are
        for name, loss, module in self._list_losses():
            of = partial(module.add_up, loss, logits, decoder=self.config.decoder)
            found[f"{MASKS}.{name}"] = loss.weight * of(labels) + none
            is_due = moment.done >= self.config.pseudo_from
            found[f"{PSEUDO}.{name}"] = loss.weight * of(drawn) + none if is_due else none
        return found

    def _split_labels(self, views: Tensors, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels [N * C, *size] of the masks, and of what was drawn where there are none; MISSING at other crops."""
        labels = views["masks"]
        has_mask = views["has_mask"].view(-1, *[1] * (labels.ndim - 1))
        return labels.flatten(0, 1), torch.where(has_mask, torch.full_like(drawn, MISSING), drawn).flatten(0, 1)

    def _list_losses(self) -> Iterator[tuple[str, Any, Any]]:
        for loss in self.config.losses:
            yield loss.kind.rpartition(".")[2], loss, component(HEAD_LOSSES, loss.kind)

    def find_momentum_of(self, name: str, done: float) -> float:
        """The projector follows as in VoCo. The network is copied until `pseudo_from`, and then stays."""
        if name.startswith(PROJECTOR):
            return self.find_momentum(done)
        return float(done >= self.config.pseudo_from)
