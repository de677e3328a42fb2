"""The prompt encoder and the mask decoder of SAM 2 for images (arXiv 2408.00714, appendix D), of transformers; SAM 3's
for boxes, points and masks are the same. Of its masks only the first is used, also where it is unstable, and the score
of whether the object is there is not. What stands for no memory is added to the coarsest of the three levels, as in SAM
2; transformers' class of SAM 3 (5.24) adds it to a fourth one, which nothing reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medvlm.core.contracts import Features, Level
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import Prompts
from medvlm.decoders._sam import Sam, SamConfig, list_settings


class Sam2(Sam):
    """fine: projections of the two finer levels to its width, of encoders of another one."""

    def __init__(self, config: SamConfig, levels: tuple[Level, ...], size: tuple[int, ...]):
        wanted = [tuple(4 // 2**number * side for side in levels[-1].grid) for number in range(3)] if levels else []
        grids = [tuple(level.grid) for level in levels]
        if not levels or grids != wanted:
            raise ShapeError(
                f"sam of version 2 reads three levels, each twice as fine as the next, and its encoder has {grids};"
                " use an encoder of kind sam_levels, or list three `levels`, e.g. [-3, -2, -1]"
            )
        super().__init__(config, levels[-1].width, grids[-1], size)
        C = config.width
        self.fine = nn.ModuleList(
            nn.Identity() if level.width == C else nn.Conv2d(level.width, C, 1) for level in levels[:2]
        )
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, C))

    def _make_parts(self, config: SamConfig) -> None:
        from transformers.models.sam2.configuration_sam2 import Sam2Config
        from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder, Sam2PromptEncoder

        given = list_settings(config)
        given["mask_decoder_config"]["dynamic_multimask_via_stability"] = False
        settings: Any = Sam2Config(**given)
        settings.mask_decoder_config._attn_implementation = "sdpa"
        self.prompt_encoder = Sam2PromptEncoder(settings.prompt_encoder_config)
        self.mask_decoder = Sam2MaskDecoder(settings.mask_decoder_config)

    def _see(self, features: Features) -> tuple[torch.Tensor, ...]:
        finest, middle, coarse = features.levels
        tokens_STC = self.reduce(coarse.flatten(2).transpose(1, 2)) + self.no_memory_embedding
        own = self.mask_decoder
        fine = own.conv_s0(self.fine[0](finest)), own.conv_s1(self.fine[1](middle))
        return (tokens_STC.transpose(1, 2).unflatten(2, self.grid), *fine)

    def _draw(self, seen: Sequence[torch.Tensor], prompted: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        coarse, *fine = seen
        masks, iou, _, is_there = self.mask_decoder(
            coarse, *prompted, multimask_output=False, high_resolution_features=fine
        )
        return masks[:, 0], iou[:, 0] + 0 * is_there[:, 0].sum()

    def _encode(self, prompts: Prompts, form: tuple[str, ...]) -> torch.Tensor | None:
        """Prompts that show no place have a point that is none, as in SAM 2."""
        if {"box", "point"} & set(form):
            return super()._encode(prompts, form)
        point_S12 = prompts.boxes_S4.new_zeros(len(prompts), 1, 1, 2)
        nowhere: torch.Tensor = self.prompt_encoder(point_S12, -torch.ones_like(point_S12[..., 0]).long(), None, None)[
            0
        ]
        named = super()._encode(prompts, form) if "class" in form else None
        return nowhere if named is None else torch.cat([nowhere, named], 2)
