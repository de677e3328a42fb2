"""SAM's decoder with prompts of what kind an image is and of what its box shows (MCP-MedSAM, arXiv 2412.05888; code
dong845/MCP-MedSAM at 04331e7).

Beside the box there are a token of the modality (a text about the kind of medium, `about`, and a learnt vector of that
kind), and a token of the content (what a frozen encoder, `crop`, sees in the box, cut out), and a small CNN on the same
cut is added to the image. Two of the decoder's own tokens are read again after it: one tells the modality
(`modality`, a cross-entropy), and the other is pulled to what the crop's encoder saw in this box and away from what it
saw in others (`content`, a symmetric InfoNCE without a temperature over the objects of a batch, of all processes).
`iou` is the squared error of the predicted IoU.

Differing from the code, cuts are of the pixels that the image encoder sees, so a crop is no sharper than the image; the
two tokens are learnt beside those of SAM, and any image encoder is read at its own grid.
Axes: M media, S objects, C width of SAM's parts, E width of the crop's encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import cross_entropy, gelu, grid_sample, interpolate, normalize

from medvlm.core.config import Slot
from medvlm.core.contracts import Features
from medvlm.core.errors import ShapeError
from medvlm.core.mask_prompts import ABOUT, Prompts, TextWidth
from medvlm.decoders._inner import build_inner, check_inner, leave_weights
from medvlm.decoders._sam import IOU, Sam, SamConfig, facts, find_iou, scale_down  # noqa: F401
from medvlm.decoders._sam_weights import read_published

OUTPUT = "maps"
READS_TEXTS = True
MODALITY, CONTENT, SEEN = "modality", "content", "seen"
JOINT_TERMS = {CONTENT: (CONTENT, SEEN)}
CUT = 64
"""Pixels of a cut along each side, for the CNN."""


class Config(SamConfig):
    kind: Literal["mcp_sam"]
    crop: Annotated[Any, Slot("encoders", brief=True)]
    """What sees a box cut out; leave it out of `trains` to keep it as it is."""
    modality_prompt: bool = True
    content_prompt: bool = True
    iou: float = Field(1.0, ge=0)
    modality: float = Field(0.01, ge=0)
    content: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _has_boxes(self) -> Self:
        if set(self.prompts) != {"box"}:
            raise ValueError("prompts: cuts are those of boxes; give [box]")
        if not self.about:
            raise ValueError("about: say of each kind of medium what it is, e.g. {slice: MR Image}")
        if self.fill_box:
            raise ValueError("fill_box: this decoder draws a box as a prompt alone; remove it")
        check_inner(self.crop, "crop")
        return self


def standalone(config: Config) -> Config:
    return config.model_copy(update={"model": "", "weights": "", "crop": leave_weights(config.crop)})


def build(
    config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], text_width: TextWidth
) -> nn.Module:
    """Raises ShapeError for what sam refuses, and for a crop's encoder of other channels."""
    facts(config, width, grid, input_shape)
    made = McpSam(config, width, tuple(grid), tuple(input_shape), text_width)
    if config.model or config.weights:
        read_published(made, config.model, config.weights)
    return made


def list_terms(config: Config) -> tuple[str, ...]:
    weights = {IOU: config.iou, MODALITY: config.modality, CONTENT: config.content}
    return tuple(name for name, weight in weights.items() if weight)


def weigh_term(config: Config, name: str, labels_S1: torch.Tensor, prompts: Prompts) -> float:
    return float(len(labels_S1))


def add_up_term(
    config: Config, name: str, outputs: Mapping[str, torch.Tensor], labels_S1: torch.Tensor, prompts: Prompts
) -> torch.Tensor:
    if name == IOU:
        return config.iou * (outputs[IOU][:, 0].float() - find_iou(outputs[""], labels_S1)).square().sum()
    assert prompts.kinds_S is not None
    return config.modality * cross_entropy(outputs[MODALITY].float(), prompts.kinds_S, reduction="sum")


def add_up_joint_term(config: Config, name: str, outputs: Mapping[str, torch.Tensor], own: slice) -> torch.Tensor:
    """The share of this process's objects in the sum over all of them."""
    told, seen = (normalize(outputs[each].float(), dim=1) for each in (CONTENT, SEEN))
    products_SS = told @ seen.T
    right_S = torch.arange(len(told), device=told.device)[own]
    by_told = cross_entropy(products_SS[own], right_S, reduction="sum")
    by_seen = cross_entropy(products_SS.T[own], right_S, reduction="sum")
    return config.content * (by_told + by_seen) / 2


def cut_boxes(pixels_S: torch.Tensor, boxes_S4: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """What lies in boxes (left, top, right, bottom, in pixels), [S, channels, *size], by bilinear interpolation at the
    centres of the cut's pixels."""
    height, width = pixels_S.shape[2:]
    y, x = ((torch.arange(n, device=pixels_S.device, dtype=boxes_S4.dtype) + 0.5) / n for n in size)
    left, top, right, bottom = (each[:, None] for each in boxes_S4.unbind(1))
    columns_SX, rows_SY = (left + (right - left) * x) / width, (top + (bottom - top) * y) / height
    shape = (len(pixels_S), len(y), len(x))
    places = torch.stack([columns_SX[:, None].expand(shape), rows_SY[:, :, None].expand(shape)], -1)
    return grid_sample(pixels_S, 2 * places.to(pixels_S.dtype) - 1, align_corners=False, padding_mode="border")


class McpSam(Sam):
    """Features, boxes and texts -> {"": logits of a mask for each [S, 1, *size], "iou": [S, 1], "modality": [S, kinds],
    "content", "seen": [S, C]}."""

    SHARES_MEDIA = False

    def __init__(
        self, config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...], text_width: TextWidth
    ):
        channels, *size = input_shape
        super().__init__(config, width, grid, tuple(size))
        C, kinds = config.width, len(config.about)
        self.reads_texts = config.list_texts()
        self.crop: Any = build_inner(config.crop, "crop")
        if self.crop.input_shape[0] != channels:
            raise ShapeError(
                f"decoders: crop takes {self.crop.input_shape[0]} channels and the encoder gives {channels}; set"
                " preprocess.channels of both alike"
            )
        self.see_content = nn.Sequential(nn.Linear(self.crop.width, 2 * C), nn.GELU(), nn.Linear(2 * C, C))
        self.kinds = nn.Embedding(kinds, C)
        self.say = nn.Sequential(nn.Linear(text_width.pooled + C, 2 * C), nn.GELU(), nn.Linear(2 * C, C))
        self.uses = config.modality_prompt, config.content_prompt
        self.dense = nn.Sequential(
            nn.Conv2d(channels, C // 4, 3, padding=1),
            nn.GroupNorm(1, C // 4),
            nn.GELU(),
            nn.Conv2d(C // 4, C, 3, padding=1),
        )
        self.own = nn.Embedding(2, C)
        self.tell = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, kinds))
        self.match = nn.Sequential(nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C))

    def forward(  # type: ignore[override]
        self, features: Features, prompts: Prompts
    ) -> dict[str, torch.Tensor]:
        assert features.pixels is not None and prompts.kinds_S is not None
        pixels = features.pixels
        cuts = cut_boxes(pixels, prompts.boxes_S4, self.crop.input_shape[1:])
        seen_SC = self.see_content(self.crop(cuts).pooled.to(pixels.dtype))
        told_SC = self.say(torch.cat([prompts.read[ABOUT].pooled_SE, self.kinds(prompts.kinds_S)], 1))
        uses_modality, uses_content = self.uses
        own_S2C = self.own.weight.expand(len(pixels), -1, -1)
        tokens_STC = torch.cat([own_S2C, uses_modality * told_SC[:, None], uses_content * seen_SC[:, None]], 1)
        small = self.dense(interpolate(cuts, size=(CUT, CUT), mode="bilinear", align_corners=False))
        image_SC = self._see(features)[0] + uses_content * interpolate(small, size=self.grid, mode="bilinear")
        dense_SC = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1).expand_as(image_SC)
        sparse_S1TC = self._encode(prompts, ("box",))
        assert sparse_S1TC is not None
        sparse_S1TC = torch.cat([tokens_STC[:, None], sparse_S1TC.to(tokens_STC.dtype)], 2)
        masks_S1, iou_S1, read_STC = self._draw_and_read(image_SC + dense_SC, sparse_S1TC)
        masks_S1 = interpolate(masks_S1, size=self.size, mode="bilinear", align_corners=False)
        modality_SK, content_SC = self.tell(read_STC[:, 0]), self.match(read_STC[:, 1])
        masks_S1 = masks_S1 + self._reach_all(iou_S1, modality_SK, content_SC)
        return {"": masks_S1, IOU: iou_S1, MODALITY: modality_SK, CONTENT: content_SC, SEEN: seen_SC}

    def _draw_and_read(
        self, image_SC: torch.Tensor, sparse_S1TC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the library's decoder, whose tokens are given too: the mask at four times the grid [S, 1, ...], its IoU
        [S, 1], and what becomes of the two tokens in front of the prompts [S, 2, C]."""
        own, count = self.mask_decoder, len(image_SC)
        first_TC = torch.cat([own.iou_token.weight, own.mask_tokens.weight])
        prompts = torch.cat([first_TC.expand(count, 1, -1, -1), sparse_S1TC], 2)
        places = self._locate_patches().to(image_SC.dtype).expand(count, -1, -1, -1)
        read, seen = own.transformer(prompts, image_SC, places, attention_similarity=None)
        maps = seen[:, 0].transpose(1, 2).unflatten(2, self.grid)
        maps = gelu(own.upscale_layer_norm(own.upscale_conv1(maps)))
        maps = gelu(own.upscale_conv2(maps))
        # All are computed, so that none is without a gradient; the first is used.
        networks = enumerate(own.output_hypernetworks_mlps, 1)
        weights_SF = torch.stack([network(read[:, 0, number]) for number, network in networks], 1)[:, 0]
        masks_S1 = torch.einsum("sf,sfhw->shw", weights_SF, maps)[:, None]
        at = len(first_TC)
        return masks_S1, own.iou_prediction_head(read[:, 0, 0])[:, :1], read[:, 0, at : at + 2]
