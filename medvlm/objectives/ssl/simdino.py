"""Self-distillation without prototypes, centring or temperatures: SimDINO and SimDINOv2 (arXiv 2502.10385).

The vectors of two views are alike (`whole`, minus the mean cosine of the teacher's and the student's views), those of
masked patches as well (`patches`, minus the mean cosine of SimDINOv2), and the coding rate of the batch is large
(`expansion`). The coding rate is of the vectors of all ranks together, which its code does by an option.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from medvlm.core.contracts import Outputs
from medvlm.objectives.ssl import _terms
from medvlm.objectives.ssl._base import Moment, Tensors, widen
from medvlm.objectives.ssl._distil import GLOBAL_VIEWS, Distillation, Distilled, Head


class Config(Distillation):
    kind: Literal["simdino"]
    epsilon: float = Field(0.05, gt=0)
    """Precision of the coding rate: 0.05 in SimDINOv2, 0.5 in SimDINO."""
    expands: Literal["student", "mean"] = "mean"
    """Whose vectors the coding rate is of: the student's, or the means of student and teacher."""
    expansion: float = Field(1.0, gt=0)
    """Weight of the coding rate."""


def build(config: Config, encoder: Any) -> SimDino:
    """Raises ShapeError for an encoder whose patches cannot be masked, if there is a term of patches."""
    return SimDino(config, encoder)


class SimDino(Distilled):
    config: Config

    def __init__(self, config: Config, encoder: Any):
        super().__init__(config, encoder)
        self.head = Head(encoder.width, config.hidden, config.width)
        if self.masks:
            self.patch_head = Head(encoder.width, config.hidden, config.width)

    def weigh(self, views: Tensors) -> dict[str, float]:
        found = super().weigh(views)
        return found | {"expansion": found["whole"]}

    def add_up(self, moment: Moment, views: Tensors, own: Outputs, taught: Outputs) -> dict[str, torch.Tensor]:
        student_NVK, teacher_NGK = widen(own["head_NVK"]), widen(taught["head_NVK"])
        found = {"whole": -_terms.compare_views(teacher_NGK, student_NVK)}
        if self.masks:
            cosine_NM = (widen(own["patches_NMK"]) * widen(taught["patches_NMK"])).sum(-1)
            found["patches"] = -self.config.patch_weight * (cosine_NM * views["shares_M"].to(cosine_NM.device)).sum()
        wide_NGK = student_NVK[:, :GLOBAL_VIEWS]
        if self.config.expands == "mean":
            wide_NGK = (wide_NGK + teacher_NGK) / 2
        every_BGK = moment.gather_one(wide_NGK)
        rates = [_terms.measure_coding_rate(every_BGK[:, g], self.config.epsilon) for g in range(GLOBAL_VIEWS)]
        # Every rank has the rate of the whole batch; as a sum, it counts once for each of its samples.
        found["expansion"] = -self.config.expansion * torch.stack(rates).mean() * len(student_NVK)
        return found
