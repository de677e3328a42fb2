"""Self-distillation over prototypes: DINO (arXiv 2104.14294), iBOT (2111.07832) and DINOv2 (2304.07193).

A teacher, the average of the student's weights, assigns each global view to prototypes. The student predicts this from
every other view (`whole`), and from an input with masked patches what the teacher assigns to each of them (`patches`).
`koleo` keeps the pooled features of different samples apart. The defaults are those of DINOv2: Sinkhorn and separate
heads; `centring: mean`, `koleo: 0` and `patch_weight: 0` is DINO.

Deviations: all terms are of the batch of all ranks together, KoLeo too, which DINOv2 computes within a rank; one of the
two global views of each sample is masked, where DINOv2 masks half of the views of a batch. Masked patches are drawn one
by one as in 3DINO, or with `mask_blocks` in blocks as in DINOv2. `optim.rests: {objective.head.prototypes: 0.01}` lets
the prototypes rest in the first steps, and `optim.weight_decay_end` lets the weight decay grow. `whole` and `koleo` are
of the pooled features that the encoder gives: its class token, or the mean of its patches (see `pool` of timm).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from medvlm.core.contracts import Outputs
from medvlm.objectives.ssl import _terms
from medvlm.objectives.ssl._base import Moment, Tensors, widen
from medvlm.objectives.ssl._distil import GLOBAL_VIEWS, Distillation, Distilled, Head

LEAST_INFORMATION = 1e-6
"""In nats; below, the teacher gives all images of a batch the same assignment."""


class Config(Distillation):
    kind: Literal["dino"]
    prototypes: int = Field(65536, gt=1)
    centring: Literal["sinkhorn", "mean", "none"] = "sinkhorn"
    """What keeps the teacher from giving all images the same prototypes: equal shares of the prototypes in a batch, or
    subtracting the running mean of its outputs. `none` shows the collapse that follows."""
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    """Share that the running mean keeps in a step."""
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """The first value rises to the second over `temperature_warmup` of the steps."""
    temperature_warmup: float = Field(0.3, gt=0, le=1)
    koleo: float = Field(0.1, ge=0)
    """Weight of the term that keeps samples apart, for each global view."""

    def scale_down(self) -> Config:
        return super().scale_down().model_copy(update={"prototypes": min(self.prototypes, 32)})


def build(config: Config, encoder: Any) -> Dino:
    """Raises ShapeError for an encoder whose patches cannot be masked, if there is a term of patches."""
    return Dino(config, encoder)


class Dino(Distilled):
    config: Config

    def __init__(self, config: Config, encoder: Any):
        super().__init__(config, encoder)
        self.head = Head(encoder.width, config.hidden, config.width, config.prototypes)
        if self.masks:
            self.patch_head = Head(encoder.width, config.hidden, config.width, config.prototypes)

    def weigh(self, views: Tensors) -> dict[str, float]:
        found = super().weigh(views)
        return found | ({"koleo": found["whole"]} if self.config.koleo else {})

    def start_memory(self) -> dict[str, torch.Tensor]:
        if self.config.centring != "mean":
            return {}
        names = ("whole", "patches") if self.masks else ("whole",)
        device = next(self.parameters()).device
        return {name: torch.zeros(self.config.prototypes, device=device) for name in names}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        config = self.config
        target_NGK = self._assign(moment, taught["head_NVK"])
        log_NVK = (widen(own["head_NVK"]) / config.student_temperature).log_softmax(-1)
        found = {"whole": -_terms.compare_views(target_NGK, log_NVK)}
        if self.masks:
            shares_NM = views["shares_M"].to(log_NVK.device)
            target_NMK = self._assign(moment, taught["patches_NMK"], "patches", shares_NM > 0)
            log_NMK = (widen(own["patches_NMK"]) / config.student_temperature).log_softmax(-1)
            found["patches"] = -config.patch_weight * ((target_NMK * log_NMK).sum(-1) * shares_NM).sum()
        if config.koleo:
            found["koleo"] = config.koleo * self._spread_out(moment, widen(own["pooled_NGE"]))
        return found

    def _assign(
        self, moment: Moment, logits: torch.Tensor, name: str = "whole", valid: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The teacher's probabilities of some rows [..., K]; in `moment.upcoming` the centre of the next step. valid:
        rows that count."""
        config, rows_BK = self.config, widen(logits).flatten(0, 1)
        temperature = _terms.rise(*config.teacher_temperature, config.temperature_warmup, moment.done)
        valid_B = rows_BK.new_ones(len(rows_BK)) if valid is None else valid.flatten().to(rows_BK.dtype)
        if config.centring == "sinkhorn":
            found_BK = _terms.sinkhorn(rows_BK, temperature, valid_B, moment.sum_rows)
        elif config.centring == "mean":
            mean_K = moment.sum_rows(rows_BK * valid_B[:, None]) / moment.sum_rows(valid_B[:, None])
            keep = config.centre_momentum
            moment.upcoming[name] = keep * moment.memory[name] + (1 - keep) * mean_K
            found_BK = _terms.centre(rows_BK, moment.memory[name], temperature)
        else:
            found_BK = (rows_BK / temperature).softmax(-1)
        return found_BK.view(logits.shape)

    def _spread_out(self, moment: Moment, pooled_NGE: torch.Tensor) -> torch.Tensor:
        every_BGE = moment.gather_one(pooled_NGE)
        first = moment.rank * len(pooled_NGE)
        each = [_terms.spread_out(pooled_NGE[:, g], every_BGE[:, g], first) for g in range(GLOBAL_VIEWS)]
        return torch.stack(each).sum()

    def diagnose(self, moment: Moment, own: Outputs, taught: Outputs) -> dict[str, tuple[float, float]]:
        every = moment.gather_one(self._assign(moment, taught["head_NVK"])[:, 0])
        information = _terms.measure_information(every)
        return super().diagnose(moment, own, taught) | {"information": (information, LEAST_INFORMATION)}
