"""What methods without labels compute before their losses, against plain loops in float64, forward and gradient, in 2D
and 3D: the passes of student and teacher, the graph of LVM-Med, and the decoder of Hi-End-MAE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medvlm.core.contracts import Features, Masking
from medvlm.objectives.ssl import dino, hi_end_mae, lvm_med

N, WIDTH, PATCH = 4, 8, 2
GRIDS = [(4, 3), (2, 2, 3)]


def by_dimension(grid: tuple[int, ...]) -> str:
    return f"{len(grid)}D"


class Cells(nn.Module):
    """An encoder whose patch tokens are a linear map of the pixels of a patch; its pooled output is their mean."""

    can_mask = True

    def __init__(self, grid: tuple[int, ...]):
        super().__init__()
        torch.manual_seed(0)
        self.width, self.grid = WIDTH, grid
        self.input_shape = (1, *(PATCH * n for n in grid))
        self.embed = nn.Linear(PATCH ** len(grid), WIDTH)

    def read_patch(self, pixels: torch.Tensor, place: tuple[int, ...]) -> torch.Tensor:
        box = tuple(slice(PATCH * i, PATCH * (i + 1)) for i in place)
        found: torch.Tensor = self.embed(pixels[0][box].flatten())
        return found

    def forward(self, pixels: torch.Tensor, masking: Masking | None = None) -> Features:
        grid = tuple(side // PATCH for side in pixels.shape[2:])
        tokens = [torch.stack([self.read_patch(image, place) for place in np.ndindex(*grid)]) for image in pixels]
        patches = torch.stack(tokens)
        if masking is not None and masking.hidden_NT is not None:
            assert masking.token_E is not None
            patches = torch.where(masking.hidden_NT[..., None], masking.token_E.to(patches.dtype), patches)
        return Features(patches, patches.mean(1), grid)


def draw(objective: Any, encoder: Cells) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    seen = [objective.draw(torch.from_numpy(rng.normal(size=encoder.input_shape)), rng) for _ in range(N)]
    return {name: torch.stack([each[name] for each in seen]) for name in seen[0]}


def slopes(value: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(value, leaves, retain_graph=True))


def agree(found: torch.Tensor, expected: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    """Values, and gradients of a weighted sum of them."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(3))
    for mine, theirs in zip(slopes((found * weights).sum(), leaves), slopes((expected * weights).sum(), leaves),
                            strict=True):  # fmt: skip
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


def read_head(head: Any, vector: torch.Tensor) -> torch.Tensor:
    """Three layers with GELU, cosines with the prototypes."""
    for number, layer in enumerate(layer for layer in head.layers if isinstance(layer, nn.Linear)):
        if number:
            vector = vector * 0.5 * (1 + torch.erf(vector / math.sqrt(2)))
        vector = layer.weight @ vector + layer.bias
    unit = vector / vector.norm()
    return torch.stack([unit @ prototype / prototype.norm() for prototype in head.prototypes])


@pytest.mark.parametrize("grid", GRIDS, ids=by_dimension)
def test_the_student_sees_masked_patches_and_the_teacher_the_whole_views(grid: tuple[int, ...]) -> None:
    encoder = Cells(grid).double()
    settings: Any = {"prototypes": 7, "hidden": 12, "width": 6, "local_views": 2, "mask_blocks": True}
    objective = dino.build(dino.Config(kind="dino", **settings), encoder).double()
    with torch.no_grad():
        objective.mask_token.normal_()  # it starts at 0, which the heads map to no direction
    views = draw(objective, encoder)
    views = {name: each.double() if each.is_floating_point() else each for name, each in views.items()}
    own = objective(encoder, views)
    taught = objective(encoder, views, own)
    places = list(np.ndindex(*grid))
    for teaches, found in ((False, own), (True, taught)):
        heads, patches, pooled = [], [], []
        for n in range(N):
            tokens = [[encoder.read_patch(view, place) for place in places] for view in views["globals"][n]]
            if not teaches:
                hidden = views["hidden_GT"][n]
                tokens = [
                    [objective.mask_token if hidden[g, t] else token for t, token in enumerate(of_view)]
                    for g, of_view in enumerate(tokens)
                ]
            whole = [torch.stack(of_view).mean(0) for of_view in tokens]
            pooled.append(torch.stack(whole))
            if not teaches:
                small = tuple(side // PATCH for side in views["locals"].shape[3:])
                whole += [
                    torch.stack([encoder.read_patch(view, place) for place in np.ndindex(*small)]).mean(0)
                    for view in views["locals"][n]
                ]
            heads.append(torch.stack([read_head(objective.head, each) for each in whole]))
            flat = [token for of_view in tokens for token in of_view]
            patches.append(torch.stack([read_head(objective.patch_head, flat[m]) for m in views["masked_M"][n]]))
        leaves = [encoder.embed.weight, objective.head.layers[0].weight, objective.head.prototypes]
        agree(found["head_NVK"], torch.stack(heads), leaves)
        agree(found["patches_NMK"], torch.stack(patches), [encoder.embed.weight, objective.patch_head.prototypes])
        agree(found["pooled_NGE"], torch.stack(pooled), [encoder.embed.weight])
    assert bool(views["hidden_GT"].any()) and own["head_NVK"].shape[1] == 4 and taught["head_NVK"].shape[1] == 2


@pytest.mark.parametrize("grid", [(4, 2), (2, 2, 4)], ids=by_dimension)
def test_the_parts_of_a_graphs_images_are_means_of_their_patches(grid: tuple[int, ...]) -> None:
    encoder = Cells(grid).double()
    given: Any = {"kind": "lvm_med", "width": 6, "hidden": 8, "parts": 2, "neighbours": 2}
    objective = lvm_med.build(lvm_med.Config.model_validate(given), encoder).double()
    views = draw(objective, encoder)
    own = objective(encoder, {**views, "views": views["views"].double()})
    parts, nodes = [], []
    for pair in views["views"].double():
        for view in pair:
            token = {place: encoder.read_patch(view, place) for place in np.ndindex(*grid)}
            nodes.append(objective.project(torch.stack(list(token.values())).mean(0)))
            for part in np.ndindex(*[2] * len(grid)):
                inside = [
                    each for place, each in token.items()
                    if all(p * n // 2 <= i < (p + 1) * n // 2 for i, p, n in zip(place, part, grid, strict=True))
                ]  # fmt: skip
                vector = objective.project_parts(torch.stack(inside).mean(0))
                parts.append(vector / vector.norm())
    expected = torch.stack(parts).view(N, 2, 2 ** len(grid), 6)
    agree(own["parts_NVPK"], expected, [encoder.embed.weight, objective.project_parts[0].weight])
    agree(own["nodes_NVK"], torch.stack(nodes).view(N, 2, 6), [encoder.embed.weight, objective.project[0].weight])
    agree(own["told_NVK"], own["nodes_NVK"] @ objective.near.weight.T, [encoder.embed.weight, objective.near.weight])


def norm(layer: Any, vector: torch.Tensor) -> torch.Tensor:
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + layer.eps).sqrt() * layer.weight + layer.bias


def attend(layer: Any, asking: list[torch.Tensor], told: list[torch.Tensor], heads: int) -> list[torch.Tensor]:
    """Softmax of q . k / sqrt(width of a head), one query, one head and one key at a time."""
    width = len(asking[0])
    of_head = width // heads
    q_w, k_w, v_w = layer.in_proj_weight.split(width)
    q_b, k_b, v_b = layer.in_proj_bias.split(width)
    keys, values = [k_w @ each + k_b for each in told], [v_w @ each + v_b for each in told]
    found = []
    for each in asking:
        query, read = q_w @ each + q_b, []
        for head in range(heads):
            at = slice(head * of_head, (head + 1) * of_head)
            scores = torch.stack([query[at] @ key[at] / math.sqrt(of_head) for key in keys])
            shares = torch.exp(scores) / torch.exp(scores).sum()
            read.append(sum(share * value[at] for share, value in zip(shares, values, strict=True)))
        found.append(layer.out_proj.weight @ torch.cat(read) + layer.out_proj.bias)
    return found


def widen_and_narrow(block: Any, vector: torch.Tensor) -> torch.Tensor:
    hidden = block.linear1.weight @ vector + block.linear1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    found: torch.Tensor = block.linear2.weight @ hidden + block.linear2.bias
    return found


def add(tokens: list[torch.Tensor], more: list[torch.Tensor]) -> list[torch.Tensor]:
    return [one + other for one, other in zip(tokens, more, strict=True)]


@pytest.mark.parametrize("grid", GRIDS, ids=by_dimension)
def test_hi_end_mae_decodes_by_attention_to_itself_and_to_one_depth_after_the_other(grid: tuple[int, ...]) -> None:
    """The paper's section 3.2: a decoder that begins with the last tokens and mask tokens, whose further blocks ask the
    visible tokens of ever shallower depths."""
    encoder, heads = Cells(grid), 2
    settings: Any = {"width": 12, "heads": heads, "layers": 1, "depths": (-2, -3)}
    objective = hi_end_mae.build(hi_end_mae.Config(kind="hi_end_mae", **settings), encoder).double().eval()
    with torch.no_grad():
        for name, parameter in objective.named_parameters():  # norms and biases that show where they are forgotten
            if parameter.ndim == 1 and name != "mask_token":
                parameter.add_(0.3 * torch.randn_like(parameter))
    total, kept = math.prod(grid), objective.kept
    kept_NK = torch.stack([torch.randperm(total, generator=torch.Generator().manual_seed(n))[:kept] for n in range(2)])
    seen = torch.randn(2, kept, 3 * WIDTH, dtype=torch.float64, requires_grad=True)
    expected = []
    for n in range(2):
        depths = [
            [embed.weight @ row[WIDTH * d : WIDTH * (d + 1)] + embed.bias for row in seen[n]]
            for d, embed in enumerate(objective.embeds)
        ]
        tokens = [objective.mask_token for _ in range(total)]
        for place, token in zip(kept_NK[n].tolist(), depths[0], strict=True):
            tokens[place] = token
        tokens = [token + at for token, at in zip(tokens, objective.positions_TD.double(), strict=True)]
        (block,) = objective.blocks
        normed = [norm(block.norm1, each) for each in tokens]
        tokens = add(tokens, attend(block.self_attn, normed, normed, heads))
        tokens = add(tokens, [widen_and_narrow(block, norm(block.norm2, each)) for each in tokens])
        for block, told in zip(objective.cross_blocks, depths[1:], strict=True):
            normed = [norm(block.norm1, each) for each in tokens]
            tokens = add(tokens, attend(block.self_attn, normed, normed, heads))
            tokens = add(
                tokens, attend(block.multihead_attn, [norm(block.norm2, each) for each in tokens], told, heads)
            )
            tokens = add(tokens, [widen_and_narrow(block, norm(block.norm3, each)) for each in tokens])
        expected.append(torch.stack(tokens))
    leaves = [seen, objective.mask_token, *(embed.weight for embed in objective.embeds)]
    leaves += [block.multihead_attn.in_proj_weight for block in objective.cross_blocks]
    agree(objective.decode(seen, kept_NK), torch.stack(expected), leaves)
