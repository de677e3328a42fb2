"""Vision transformers that see some of their patches, or a token in the place of some, in an input of any size.

Axes: N inputs, T patches, K patches that are kept, P tokens before them (class, registers), E width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from medvlm.core.contracts import Features, Masking
from medvlm.core.errors import ShapeError


@dataclass(frozen=True)
class Trunk:
    """The parts of a vision transformer.

    patch: sides of a patch in pixels. project(pixels) -> patches without positions [N, T, E]. place(patches, grid) ->
    the tokens before them [N, P, E], and the patches with positions. attend(tokens [N, P + K, E]) -> the same after
    each block; the last one is normed."""

    patch: tuple[int, ...]
    project: Callable[[torch.Tensor], torch.Tensor]
    place: Callable[[torch.Tensor, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]]
    attend: Callable[[torch.Tensor], list[torch.Tensor]]

    def encode(self, pixels: torch.Tensor, masking: Masking, takes_class: bool) -> Features:
        """takes_class: whether the first token before the patches stands for the whole input, and not their mean."""
        grid = find_grid(pixels, self.patch)
        tokens_NTE = hide(self.project(pixels), masking)
        prefix_NPE, placed_NTE = self.place(tokens_NTE, grid)
        states = self.attend(torch.cat([prefix_NPE, keep(placed_NTE, masking)], 1))
        return choose(states, prefix_NPE.shape[1], grid, masking, states[-1][:, 0] if takes_class else None)


def choose(
    states: Sequence[torch.Tensor], first: int, grid: tuple[int, ...], masking: Masking, pooled: torch.Tensor | None
) -> Features:
    """The Features of the chosen layers. states: after each block, the last one normed. first: number of tokens before
    the patches. pooled: None for the mean of the last patches.

    Raises ShapeError for a layer that the encoder does not have."""
    if beyond := [n for n in masking.layers if -n > len(states)]:
        raise ShapeError(f"loss.depths: layer {beyond[0]} does not exist: the encoder has {len(states)} blocks")
    last = states[-1][:, first:]
    chosen = [states[n][:, first:] for n in masking.layers]
    patches = torch.cat(chosen, -1) if chosen else last
    return Features(
        patches, last.mean(1) if pooled is None else pooled, grid if masking.kept_NK is None else (last.shape[1],)
    )


def choose_layers(states: Sequence[torch.Tensor], grid: tuple[int, ...], layers: tuple[int, ...]) -> Features:
    """The Features of an input that is seen whole. layers: none for the last; pooled is the mean of what is chosen."""
    found = choose(states, 0, grid, Masking(layers=layers), None)
    return Features(found.patches, found.patches.mean(1), grid) if layers else found


def find_grid(pixels: torch.Tensor, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Raises ShapeError if the patches do not tile the input."""
    size = tuple(pixels.shape[2:])
    if any(side % p for side, p in zip(size, patch, strict=True)):
        raise ShapeError(f"encoders: patches of {list(patch)} pixels do not tile an input of {list(size)}")
    return tuple(side // p for side, p in zip(size, patch, strict=True))


def hide(tokens_NTE: torch.Tensor, masking: Masking) -> torch.Tensor:
    """The tokens with `token_E` in the place of those that are hidden."""
    if masking.hidden_NT is None:
        return tokens_NTE
    assert masking.token_E is not None
    hidden_NT1 = masking.hidden_NT.to(tokens_NTE.device)[..., None]
    return torch.where(hidden_NT1, masking.token_E.to(tokens_NTE.dtype), tokens_NTE)


def keep(tokens_NTE: torch.Tensor, masking: Masking) -> torch.Tensor:
    """The tokens that are kept [N, K, E], in their order."""
    if masking.kept_NK is None:
        return tokens_NTE
    index_NK1 = masking.kept_NK.to(tokens_NTE.device)[..., None]
    return tokens_NTE.gather(1, index_NK1.expand(-1, -1, tokens_NTE.shape[-1]))


def resize_positions(positions_1TE: torch.Tensor, grid: tuple[int, ...], wanted: tuple[int, ...]) -> torch.Tensor:
    """Position embeddings of another grid: bicubic in 2D as in DINO, trilinear in 3D."""
    if grid == wanted:
        return positions_1TE
    maps = positions_1TE.transpose(1, 2).unflatten(2, grid).float()
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    resized = interpolate(maps, size=wanted, mode=mode, align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(positions_1TE.dtype)


# --- the networks ------------------------------------------------------------------------------------


def open_timm(tower: Any) -> Trunk | None:
    """None for other networks than plain vision transformers with learned positions: those of rotary positions are
    computed from the whole grid, and windows need it whole."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(tower, VisionTransformer) or tower.pos_embed is None or not hasattr(tower.patch_embed, "proj"):
        return None

    def project(pixels: torch.Tensor) -> torch.Tensor:
        embed = tower.patch_embed
        patches: torch.Tensor = embed.norm(embed.proj(pixels).flatten(2).transpose(1, 2))
        return patches

    def place(tokens_NTE: torch.Tensor, grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        own = tuple(tower.patch_embed.grid_size)
        first = tower.pos_embed.shape[1] - math.prod(own)
        placed = tokens_NTE + resize_positions(tower.pos_embed[:, first:], own, grid)
        before = [token for token in (tower.cls_token, tower.reg_token) if token is not None]
        prefix = torch.cat(before, 1) if before else placed.new_empty(1, 0, placed.shape[-1])
        prefix = prefix + tower.pos_embed[:, :first] if first else prefix
        drop = tower.pos_drop
        return drop(prefix.expand(len(placed), -1, -1)), drop(placed)

    def attend(tokens: torch.Tensor) -> list[torch.Tensor]:
        return run_blocks(tower, tower.norm_pre(tokens))

    return Trunk(tuple(tower.patch_embed.patch_size), project, place, attend)


def open_monai(tower: Any, patch: tuple[int, ...], own: tuple[int, ...]) -> Trunk:
    """own: the grid that its position embeddings are of."""
    embed = tower.patch_embedding

    def project(pixels: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = embed.patch_embeddings(pixels).flatten(2).transpose(1, 2)
        return patches

    def place(tokens_NTE: torch.Tensor, grid: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        placed = embed.dropout(tokens_NTE + resize_positions(embed.position_embeddings, own, grid))
        if not hasattr(tower, "cls_token"):
            return placed.new_empty(len(placed), 0, placed.shape[-1]), placed
        return tower.cls_token.expand(len(placed), -1, -1), placed

    return Trunk(patch, project, place, partial(run_blocks, tower))


def run_blocks(tower: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The tokens after each block, the last ones normed."""
    states = []
    for block in tower.blocks:
        tokens = block(tokens)
        states.append(tokens)
    return [*states[:-1], tower.norm(tokens)]


MASKED = ("vit", "deit", "dinov2", "dinov2_with_registers")
"""Model types of transformers whose `embeddings` give all tokens with their positions, and whose blocks take any."""


def run_masked(tower: nn.Module, patches: int, masking: Masking, run: Callable[[], Any]) -> Any:
    """What `run` returns when the embeddings of a tower of MASKED hide and leave out patches. patches: T."""
    embed: Any = tower.embeddings

    def leave_out(module: Any, args: Any, tokens: torch.Tensor) -> torch.Tensor:
        count = tokens.shape[1] - patches
        return torch.cat([tokens[:, :count], keep(tokens[:, count:], masking)], 1)

    with ExitStack() as hooks:
        for module, change in (
            (embed.patch_embeddings, lambda module, args, tokens: hide(tokens, masking)),
            (embed, leave_out),
        ):
            hooks.callback(partial(_remove, module.register_forward_hook(change)))
        return run()


def _remove(handle: Any) -> None:
    handle.remove()
