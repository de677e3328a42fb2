"""Two tasks of masks on one image that help each other, such as tissue and nuclei (Co-Seg++, arXiv 2506.17159): in a
first pass both tasks are drawn without help, and in a second one each decoder is prompted with what the other one drew.

A decoder has a token for each of its classes, which attend to the image and draw on four times its grid, as in SAM. A
prompt is the other task's maps: two convolutions bring them to the grid, and they ask the image, whose places a
selective scan has read in a row (section 3.2). The output is the second pass; in training the first one is a side
output. A loss of its own, `agreement`, is the symmetric divergence of both decoders' class tokens in the first pass, as
in the authors' code (xq141839/Co-Seg-Plus at 86bae4b).

Differing from both, any encoder of images is read, not SAM 2's alone, and its finer levels are not; instances are the
components of their mask: there are no maps of horizontal and vertical distances.
Axes: T places, C width, K classes of a task.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import gelu, interpolate, log_softmax, silu

from medvlm.core.contracts import Features
from medvlm.core.decoder_config import DecoderConfig, DecoderFacts, WithTerms
from medvlm.core.errors import ShapeError
from medvlm.core.selective_scan import Direction

OUTPUT = "maps"
AGREEMENT = "agreement"


class Config(DecoderConfig):
    kind: Literal["co_seg"]
    ALWAYS_EXCLUSIVE = False
    exclusive: bool = False
    second: tuple[str, ...] = Field(min_length=1)
    """The classes of the second task, e.g. those of nuclei; all other classes are of the first."""
    prompts: bool = True
    """Whether each task is drawn a second time, by what the first pass drew of the other one."""
    agreement: float = Field(10.0, ge=0)
    """Weight of the divergence of both decoders; 0 leaves it out."""
    width: int = Field(256, gt=0, multiple_of=16)
    heads: int = Field(8, gt=0)
    layers: int = Field(2, gt=0)

    @model_validator(mode="after")
    def _both_tasks_have_classes(self) -> Self:
        if unknown := sorted(set(self.second) - set(self.classes)):
            raise ValueError(f"second: {unknown[0]!r} is none of the classes ({', '.join(self.classes)})")
        if len(self.second) == len(self.classes):
            raise ValueError("second: all classes are of the second task; leave some to the first")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}; change one of them")
        return self

    def list_tasks(self) -> tuple[list[int], list[int]]:
        """The places in `classes` of both tasks."""
        is_second = [name in self.second for name in self.classes]
        return [n for n, is_it in enumerate(is_second) if not is_it], [n for n, is_it in enumerate(is_second) if is_it]


def scale_down(config: Config) -> Config:
    return config.model_copy(update={"width": 32, "heads": 2, "layers": 1})


def facts(
    config: Config, width: int | None, grid: tuple[int, ...] | None, input_shape: tuple[int, ...] | None
) -> DecoderFacts:
    """Raises ShapeError for volumes."""
    if (grid is not None and len(grid) != 2) or (input_shape is not None and len(input_shape) != 3):
        raise ShapeError("co_seg draws on images, and its encoder takes volumes; use an encoder of images")
    return DecoderFacts((len(config.classes), *(input_shape or ())[1:]))


def build(config: Config, width: int, grid: tuple[int, ...], input_shape: tuple[int, ...]) -> nn.Module:
    facts(config, width, grid, input_shape)
    return CoSeg(config, width, tuple(grid), tuple(input_shape[1:]))


class CoSeg(nn.Module):
    """Features -> logits [N, K of both, *size]; in training with the first pass as a side output, and `agreement`."""

    def __init__(self, config: Config, width: int, grid: tuple[int, ...], size: tuple[int, ...]):
        super().__init__()
        self.grid, self.size, self.config = grid, size, config
        tasks = config.list_tasks()
        order = [*tasks[0], *tasks[1]]
        self.back = [order.index(number) for number in range(len(order))]
        self.open = nn.Sequential(nn.Linear(width, config.width), nn.LayerNorm(config.width))
        self.places = nn.Parameter(0.02 * torch.randn(grid[0] * grid[1], config.width))
        self.unprompted = nn.Parameter(0.02 * torch.randn(2, config.width))
        self.draw = nn.ModuleList(MaskDecoder(config, len(task)) for task in tasks)
        self.prompt = (
            nn.ModuleList(PromptEncoder(config, len(task)) for task in reversed(tasks)) if config.prompts else None
        )
        self.sides = (size,) if config.prompts else ()
        self.terms = (AGREEMENT,) if config.agreement else ()

    def forward(self, features: Features) -> Any:
        seen_NTC = self.open(features.patches) + self.places
        firsts, tokens = zip(
            *(draw(seen_NTC + own, self.grid) for draw, own in zip(self.draw, self.unprompted, strict=True)),
            strict=True,
        )
        found, passes = firsts, [firsts]
        if self.prompt is not None:
            prompts = [encode(maps, seen_NTC) for encode, maps in zip(self.prompt, reversed(firsts), strict=True)]
            found = tuple(draw(seen_NTC + own, self.grid)[0] for draw, own in zip(self.draw, prompts, strict=True))
            passes = [found, firsts]
        if not self.training:
            return self._join(found)
        terms = {AGREEMENT: self.config.agreement * differ(*tokens)} if self.terms else {}
        return WithTerms([self._join(each) for each in passes], terms)

    def _join(self, maps: Any) -> torch.Tensor:
        """Maps of both tasks, in the order of the classes, at the size of the input."""
        joined = torch.cat(list(maps), 1)[:, self.back]
        return interpolate(joined, size=self.size, mode="bilinear", align_corners=False)


def differ(a_NKC: torch.Tensor, b_NKC: torch.Tensor) -> torch.Tensor:
    """[N]: half of the sum of both divergences of the mean class tokens as distributions over the width, divided by the
    width, as the code has it."""
    a, b = (log_softmax(each.float().mean(1), 1) for each in (a_NKC, b_NKC))
    return ((a.exp() * (a - b)).mean(1) + (b.exp() * (b - a)).mean(1)) / 2


class MaskDecoder(nn.Module):
    """Places [N, T, C] -> (maps [N, K, *4 grid], class tokens [N, K, C])."""

    def __init__(self, config: Config, count: int):
        super().__init__()
        width = config.width
        self.tokens = nn.Parameter(torch.randn(count, width))
        self.layers = nn.ModuleList(TwoWay(width, config.heads) for _ in range(config.layers))
        self.grow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(min(8, b // 2), b))
            for a, b in ((width, width // 4), (width // 4, width // 8))
        )
        self.name = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width // 8))

    def forward(self, seen_NTC: torch.Tensor, grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.tokens.expand(len(seen_NTC), -1, -1)
        for layer in self.layers:
            tokens, seen_NTC = layer(tokens, seen_NTC)
        maps = seen_NTC.transpose(1, 2).unflatten(2, grid)
        for step in self.grow:
            maps = gelu(step(interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)))
        return torch.einsum("nkc,nchw->nkhw", self.name(tokens), maps), tokens


class TwoWay(nn.Module):
    """Tokens and places attend to each other (SAM, arXiv 2304.02643, appendix A)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.among, self.to_seen, self.to_tokens = (
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(3)
        )
        self.mix = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm_among, self.norm_seen, self.norm_mixed, self.norm_places = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.norm_among(tokens + self.among(tokens, tokens, tokens, need_weights=False)[0])
        tokens = self.norm_seen(tokens + self.to_seen(tokens, seen, seen, need_weights=False)[0])
        tokens = self.norm_mixed(tokens + self.mix(tokens))
        return tokens, self.norm_places(seen + self.to_tokens(seen, tokens, tokens, need_weights=False)[0])


class PromptEncoder(nn.Module):
    """Maps of the other task [N, K, h, w] and places [N, T, C] -> what is added to the places [N, T, C]."""

    def __init__(self, config: Config, count: int):
        super().__init__()
        width = config.width
        self.first, self.second = nn.Conv2d(count, width // 4, 3, padding=1), nn.Conv2d(width // 4, width, 3, padding=1)
        self.norm = nn.GroupNorm(1, width // 4)
        self.among, self.ask = (nn.MultiheadAttention(width, config.heads, batch_first=True) for _ in range(2))
        self.narrow, self.widen = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.scan, self.close = Direction(width // 2, width, 16, 4, recompute=True), nn.LayerNorm(width // 2)

    def forward(self, maps: torch.Tensor, seen_NTC: torch.Tensor) -> torch.Tensor:
        side = round((seen_NTC.shape[1] * maps.shape[2] / maps.shape[3]) ** 0.5)
        grid = side, seen_NTC.shape[1] // side
        small = interpolate(maps, size=grid, mode="bilinear", align_corners=False)
        marked = self.second(gelu(self.norm(self.first(small)))).flatten(2).transpose(1, 2)
        marked = marked + self.among(marked, marked, marked, need_weights=False)[0]
        read = self.widen(self.close(self.scan(silu(self.narrow(seen_NTC)))))
        prompted: torch.Tensor = marked + self.ask(marked, read, read, need_weights=False)[0]
        return prompted
