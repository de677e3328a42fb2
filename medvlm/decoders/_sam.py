"""The prompt encoder and the mask decoder of SAM (arXiv 2304.02643, appendix A), of transformers, which several
decoders build on.

Only the first of SAM's masks is used, the one for prompts that leave no doubt. Masks are interpolated from four times
the grid to the pixels of the input. Axes: S prompts, T patches, C width, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderFacts, PromptedConfig
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import Prompts

SIDE, PATCH = 1024, 16
"""Pixels of SAM's own input and of its patches. Coordinates are scaled to it, so that published weights see theirs."""
SURE = 10.0
"""Logit of a mask that is given as a prompt."""
START = 2.0
"""Logit of a pixel within a box before training, with `fill_box`."""
IOU = "iou"


class SamConfig(PromptedConfig):
    """What decoders with the parts of SAM have in common."""

    width: int = Field(256, gt=0, multiple_of=16)
    """Number of channels; 256 in all published SAM and MedSAM."""
    layers: int = Field(2, gt=0)
    """Of the two-way transformer."""
    heads: int = Field(8, gt=0)
    mlp: int = Field(2048, gt=0)
    """Width of the feed-forward layers of the two-way transformer."""
    model: str = ""
    """Hub id or folder of a published SAM, e.g. wanglab/medsam-vit-base, whose prompt encoder and mask decoder are
    read."""
    weights: str = ""
    """The same from a file, .safetensors or .pth, in the layout of transformers or of segment-anything."""
    fill_box: bool = False
    """Gives a box as a mask too, filled in, and adds it to the logits with a learnt factor, so that training starts at
    the filled box. For decoders from random weights: they learn what to leave out of a box much sooner than to read its
    corners. Differs from SAM."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model and self.weights:
            raise ValueError("give `model` or `weights`, not both")
        return self


def scale_down(config: Any) -> Any:
    """At toy size, from random weights."""
    return config.model_copy(update={"width": 32, "heads": 2, "mlp": 32, "layers": 1, "model": "", "weights": ""})


def facts(
    config: SamConfig, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for volumes, and for heads that do not divide half the width."""
    if (grid is not None and len(grid) != 2) or (input_shape is not None and len(input_shape) != 3):
        raise ShapeError(
            f"{config.kind} marks objects in images, and its encoder takes volumes; use an encoder of images"
        )
    if config.width // 2 % config.heads:
        raise ShapeError(f"{config.heads} heads do not divide half the width, {config.width // 2}; change one of them")
    return DecoderFacts((1, *(input_shape or ())[1:]))


def standalone(config: Any) -> Any:
    return config.model_copy(update={"model": "", "weights": ""})


class Sam(nn.Module):
    """Features and prompts -> {"": logits of a mask for each [S, 1, *size], "iou": what its IoU may be [S, 1]}."""

    TAKES_PROMPTS = True

    def __init__(self, config: SamConfig, width: int, grid: tuple[int, ...], size: tuple[int, ...]):
        super().__init__()
        C = config.width
        self.grid, self.size = grid, size
        self.reduce: nn.Module = nn.Identity()
        if width != C:
            self.reduce = nn.Sequential(nn.Linear(width, C), nn.LayerNorm(C))
        self.prompt_encoder: Any
        self.mask_decoder: Any
        self._make_parts(config)
        self.classes = nn.Embedding(len(config.classes), C) if "class" in config.prompts else None
        self.from_box = nn.Parameter(torch.tensor(START)) if config.fill_box else None

    def _make_parts(self, config: SamConfig) -> None:
        from transformers.models.sam.configuration_sam import SamConfig
        from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPromptEncoder

        C = config.width
        settings: Any = SamConfig(
            vision_config={"num_pos_feats": C // 2, "scale": 1.0, "output_channels": C}, **list_settings(config)
        )
        settings.mask_decoder_config._attn_implementation = "sdpa"
        self.prompt_encoder = SamPromptEncoder(settings)
        places = self.prompt_encoder.shared_embedding
        frequencies = places.positional_embedding.detach()
        del places.positional_embedding
        places.register_buffer("positional_embedding", frequencies)
        self.mask_decoder = SamMaskDecoder(settings.mask_decoder_config)

    def _see(self, features: Features) -> tuple[torch.Tensor, ...]:
        """Maps of the image [S, C, ...], those of the grid first."""
        return (self.reduce(features.patches).transpose(1, 2).unflatten(2, self.grid),)

    def _draw(self, seen: Sequence[torch.Tensor], prompted: Sequence[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Masks at four times the grid [S, 1, ...], and what their IoU may be [S, 1]. prompted: position, sparse and
        dense prompts, as the library's decoder takes them."""
        masks, iou = self.mask_decoder(seen[0], *prompted, multimask_output=False)
        return masks[:, 0], iou[:, 0]

    def forward(
        self, features: Features, prompts: Prompts, tokens_STC: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """tokens_STC: further prompts of each object, of decoders that are built on this one."""
        seen = self._see(features)
        masks, ious, order = [], [], list[int]()
        for form, rows in prompts.group():
            found, iou = self._mark(
                [each[rows] for each in seen],
                prompts.take(rows),
                form,
                None if tokens_STC is None else tokens_STC[rows],
            )
            masks.append(found)
            ious.append(iou)
            order += rows
        back = torch.tensor(order, device=seen[0].device).argsort()
        masks_S1, iou_S1 = torch.cat(masks)[back], torch.cat(ious)[back]
        masks_S1 = interpolate(masks_S1, size=self.size, mode="bilinear", align_corners=False)
        if self.from_box is not None:
            has_box = torch.tensor(["box" in form for form in prompts.forms], device=masks_S1.device)
            filled_S1 = (2 * self._fill(prompts.boxes_S4, self.size) - 1) * has_box[:, None, None, None]
            masks_S1 = masks_S1 + self.from_box * filled_S1.to(masks_S1.dtype)
        return {"": masks_S1 + self._reach_all(iou_S1), IOU: iou_S1}

    def _mark(
        self, seen: Sequence[torch.Tensor], prompts: Prompts, form: tuple[str, ...], tokens_STC: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of _draw(), of prompts of one form."""
        seen_SC = seen[0]
        dense_SC = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(seen_SC)
        if "rough_mask" in form:
            assert prompts.masks_S1 is not None
            size = tuple(4 * side for side in self.grid)
            coarse = interpolate(prompts.masks_S1.to(seen_SC.dtype), size=size, mode="bilinear", antialias=True)
            dense_SC = self.prompt_encoder.mask_embed(SURE * (2 * coarse - 1))
        elif "box" in form and self.from_box is not None:
            coarse = self._fill(prompts.boxes_S4, [4 * side for side in self.grid]).to(seen_SC.dtype)
            dense_SC = self.prompt_encoder.mask_embed(SURE * (2 * coarse - 1))
        sparse_S1TC = self._encode(prompts, form)
        if tokens_STC is not None:
            parts = [tokens_STC[:, None]] if sparse_S1TC is None else [sparse_S1TC, tokens_STC[:, None]]
            sparse_S1TC = torch.cat(parts, 2)
        position_1C = self._locate_patches().to(seen_SC.dtype).expand(len(seen_SC), -1, -1, -1)
        if sparse_S1TC is not None:
            sparse_S1TC = sparse_S1TC.to(seen_SC.dtype)
        return self._draw(seen, (position_1C, sparse_S1TC, dense_SC))

    def _encode(self, prompts: Prompts, form: tuple[str, ...]) -> torch.Tensor | None:
        """Box, points and class as tokens, [S, 1, T, C]; None without one."""
        scale = prompts.boxes_S4.new_tensor([SIDE / self.size[1], SIDE / self.size[0]])
        points = labels = boxes = None
        if "point" in form:  # SAM counts from the centre of the first pixel, and adds 0.5 itself
            points, labels = (prompts.points_SP2 * scale - 0.5)[:, None], prompts.inside_SP[:, None]
        if "box" in form:  # from the centre of its first pixel to that of its last one
            within = prompts.boxes_S4 + prompts.boxes_S4.new_tensor([0.5, 0.5, -0.5, -0.5])
            boxes = (within * scale.repeat(2) - 0.5)[:, None]
        sparse: torch.Tensor | None = self.prompt_encoder(points, labels, boxes, None)[0]
        if "class" in form:
            assert self.classes is not None
            own = self.classes(prompts.classes_S)[:, None, None]
            sparse = own if sparse is None else torch.cat([sparse, own], 2)
        return sparse

    def _fill(self, boxes_S4: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """The share of each cell that lies in a box, [S, 1, *size]; cells divide the input evenly."""
        shares = []
        for low, high, pixels, cells in zip(boxes_S4.T[:2], boxes_S4.T[2:], self.size[::-1], size[::-1], strict=True):
            side = pixels / cells
            start = torch.arange(cells, device=boxes_S4.device) * side
            inner = torch.minimum(high[:, None], start + side) - torch.maximum(low[:, None], start)
            shares.append(inner.clamp(min=0) / side)
        across, down = shares
        return (down[:, :, None] * across[:, None])[:, None]

    def _locate_patches(self) -> torch.Tensor:
        """The codes of the centres of the patches, [1, C, *grid]."""
        y, x = ((torch.arange(n, device=self.mask_decoder.iou_token.weight.device) + 0.5) / n for n in self.grid)
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
        return self.prompt_encoder.shared_embedding(places).permute(2, 0, 1)[None]  # type: ignore[no-any-return]

    def _reach_all(self, *told: torch.Tensor) -> torch.Tensor:
        """0, with a gradient of 0 for what these prompts do not reach, so that no rank waits for it. told: what losses
        may read that can be off."""
        parts = [self.prompt_encoder, *([] if self.classes is None else [self.classes])]
        unreached = [p.sum() for part in parts for p in part.parameters() if p.requires_grad]
        return 0 * torch.stack([*unreached, *(each.sum() for each in told)]).sum()


def list_settings(config: SamConfig) -> dict[str, Any]:
    """What the library's configs of all versions have in common."""
    C = config.width
    return {
        "prompt_encoder_config": {"hidden_size": C, "image_size": SIDE, "patch_size": PATCH},
        "mask_decoder_config": {
            "hidden_size": C,
            "mlp_dim": config.mlp,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "iou_head_hidden_dim": C,
        },
    }


def find_iou(logits_S1: torch.Tensor, labels_S1: torch.Tensor) -> torch.Tensor:
    """[S]: of what is marked with the labels. Pixels without a label do not count."""
    is_there, is_known = (labels_S1 == 1).flatten(1), (labels_S1 >= 0).flatten(1)
    is_found = (logits_S1 > 0).flatten(1) & is_known
    shared, either = (is_found & is_there).sum(1), (is_found | is_there).sum(1)
    return shared / either.clamp(min=1)
