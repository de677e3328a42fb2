"""Kernels for the attention of packed rows, and operations that compute the same on devices without them.

Axes: B rows, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from medvlm.core.errors import RecipeError
from medvlm.models.masks import evaluate, make_rule
from medvlm.models.row_mask import RowMask

GRAPHS = 64
"""At most so many variants of FlexAttention are compiled: with and without gradients, branches, windows, and for one or
several rows and blocks. torch's own limit of 8 is below that. Lengths of rows make no further variants."""
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Relative to the largest element, of a trial. float32 allows for TF32. A wrong mask differs by its whole size."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers. query: [B, H, T, D]. Returns [B, T, H, D].

    softcap: scores are softcap * tanh(score / softcap). s_aux: [H], the score of a sink that every query sees.
    Raises RecipeError for what a family adds to its attention that is not known here."""
    if isinstance(attention_mask, RowMask):
        _refuse_unknown(module, dropout, others)
        query, key, value = _unify(query, key, value)
        out = compute(query, key, value, attention_mask, scaling, softcap, s_aux)
        return out.transpose(1, 2).contiguous(), None
    if softcap is None and s_aux is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return plain
    if attention_mask is None:
        T, S = query.shape[2], key.shape[2]
        attention_mask = torch.ones(T, S, dtype=torch.bool, device=query.device).tril(S - T)
    out = compute_densely(query, key, value, attention_mask, scaling, softcap, s_aux)
    return out.transpose(1, 2).contiguous(), None


def _refuse_unknown(module: torch.nn.Module, dropout: float, others: dict[str, Any]) -> None:
    """Tensors that a family passes to its attention may change the scores, as biases and sparse indices do."""
    unknown = [
        n for n, x in others.items() if isinstance(x, torch.Tensor) and n not in ("position_ids", "cache_position")
    ]
    if dropout or unknown:
        what = f"dropout of {dropout}" if dropout else f"{', '.join(unknown)}, which is not known here"
        raise RecipeError(
            f"engine.attention: the attention of {type(module).__name__} has {what}; use engine.attention: dense"
        )


def _unify(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In the type of autocast, which does not know these kernels, or else in that of the values: families compute norms
    and rotations of queries and keys in float32."""
    kind = given[0].device.type
    lowers = not given[0].is_meta and torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if lowers else given[-1].dtype
    return tuple(x.to(dtype) for x in given)


def compute(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: RowMask,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """[B, H, T, D] by the kernel that `rows` were made for. keys and values may have fewer heads."""
    if rows.ends is not None:
        if softcap is not None or sinks is not None:
            raise RecipeError("engine.attention: varlen cannot cap scores and has no sinks; use auto or flex")
        run = _run_varlen if query.is_cuda else _run_by_part
        return run(query, key, value, rows, scale)
    if query.is_cuda and not _is_watched():
        return _run_flex(query, key, value, rows, scale, softcap, sinks)
    return compute_densely(query, key, value, rows.seen[:, None], scale, softcap, sinks)


def _is_watched() -> bool:
    """Whether the operations of this step are counted, for which FlexAttention cannot be compiled."""
    return not torch.compiler.is_compiling() and is_in_torch_dispatch_mode()


def _run_flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: RowMask,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    def cap(score: torch.Tensor, *_: Any) -> torch.Tensor:
        return cap_scores(score, softcap)

    given: dict[str, Any] = {
        "score_mod": None if softcap is None else cap,
        "block_mask": rows,
        "scale": scale,
        "enable_gqa": query.shape[1] != key.shape[1],
    }
    if sinks is not None:
        given["return_aux"] = AuxRequest(lse=True)
    if torch.compiler.is_compiling():
        found = flex_attention(query, key, value, **given)
    else:
        # Scale and cap are constants of a kernel. torch would make inputs of them once they differ between models.
        with torch._dynamo.config.patch(recompile_limit=GRAPHS, specialize_float=True):
            found = _compile_flex()(query, key, value, **given)
    if sinks is None:
        return found  # type: ignore[no-any-return]
    out, aux = found
    # A sink adds exp(sink) to the denominator, whose logarithm is `lse`.
    share: torch.Tensor = torch.sigmoid(aux.lse - sinks[None, :, None])
    return out * share[..., None].to(out.dtype)


@cache
def _compile_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    # fullgraph: beyond the limit of variants torch would go on with a slow path that stores all scores.
    return torch.compile(flex_attention, fullgraph=True)


def _run_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: RowMask, scale: float | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    given: dict[str, Any] = {"scale": scale, "window_size": (-1 if rows.window is None else rows.window - 1, 0)}
    if query.shape[1] != key.shape[1]:
        if _groups_heads():
            given["enable_gqa"] = True
        else:
            key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    out: Any = varlen_attn(q, k, v, rows.ends, rows.ends, rows.longest, rows.longest, **given)  # type: ignore[arg-type]
    found: torch.Tensor = out.unflatten(0, (len(query), -1)).transpose(1, 2)
    return found


@cache
def _groups_heads() -> bool:
    """Whether torch's function takes fewer heads of keys than of queries: from 2.12 on."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _run_by_part(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: RowMask, scale: float | None
) -> torch.Tensor:
    """One part of a document after the other."""
    sizes = [part.size for part in rows.parts]
    # Not slices: the gradient of each would be as large as the rows.
    queries, keys, values = (x.transpose(0, 1).flatten(1, 2).split(sizes, 1) for x in (query, key, value))
    groups, found = query.shape[1] != key.shape[1], []
    for number, part in enumerate(rows.parts):
        k, v = (_join([x[i] for i in (*part.earlier, number)])[None] for x in (keys, values))
        how: dict[str, Any] = {"is_causal": part.seen is None, "scale": scale, "enable_gqa": groups}
        found.append(F.scaled_dot_product_attention(queries[number][None], k, v, part.seen, **how))
    return torch.cat(found, 2)[0].unflatten(1, (len(query), -1)).transpose(0, 1)


def _join(pieces: list[torch.Tensor]) -> torch.Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def compute_densely(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    seen: torch.Tensor,
    scale: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """seen: bool, broadcast to [B, H, T of queries, T of keys]."""
    groups = query.shape[1] // key.shape[1]
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(query, key, value, seen, scale=scale, enable_gqa=groups > 1)
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    scores = cap_scores(scores, softcap).float().masked_fill(~seen, torch.finfo(torch.float32).min)
    sinks = None if sinks is None else sinks[:, None, None]
    return find_shares(scores, sinks).to(value.dtype) @ value


def cap_scores(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """softcap * tanh(scores / softcap): no score is larger than the cap. None: unchanged."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def find_shares(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """The share of each key, [..., keys]. sinks: scores of something that every query sees too, but that has no value;
    broadcast to [..., 1]."""
    if sinks is None:
        return scores.softmax(-1)
    sinks = sinks.float().expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]


# --- a trial --------------------------------------------------------------------------------------


def try_kernel(
    kernel: str, heads: int, key_heads: int, width: int, cap: float | None, dtype: torch.dtype, device: torch.device
) -> float:
    """The largest difference of outputs and gradients from the dense attention in float32, relative to the largest
    number of each."""
    lengths, T = (70, 190, 77), 400  # the rest is padding
    docs = torch.full((1, T), -1)
    docs[0, : sum(lengths)] = torch.arange(3).repeat_interleave(torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in (*lengths, T - sum(lengths))])[None]
    branches = torch.zeros_like(docs)
    branches[0, 120:180], branches[0, 180:260] = 1, 2
    docs, positions = docs.to(device), positions.to(device)
    given = None if kernel == "varlen" else branches.to(device)
    rule = make_rule(docs, given, positions, None, None)
    rows = (
        RowMask.of_documents(docs, None, rule)
        if kernel == "varlen"
        else RowMask.of_blocks(docs, given, positions, None, None, rule)
    )
    random = torch.Generator().manual_seed(0)
    q, k, v, weight = (
        torch.randn(1, n, T, width, generator=random).to(device, dtype) for n in (heads, key_heads, key_heads, heads)
    )
    scale, found = width**-0.5, []
    seen = evaluate(rule, docs)[:, None]
    runs: list[tuple[Callable[..., torch.Tensor], Any, torch.dtype]] = [
        (compute, rows, dtype),
        (compute_densely, seen, torch.float32),
    ]
    for run, given_mask, kind in runs:
        inputs = [x.detach().to(kind).requires_grad_() for x in (q, k, v)]
        out = run(*inputs, given_mask, scale, cap, None)
        found.append([out.detach(), *torch.autograd.grad((out * weight).sum(), inputs)])
    # Padding predicts nothing.
    return max(
        float((a[:, :, : sum(lengths)] - b[:, :, : sum(lengths)]).abs().max() / b.abs().max())
        for a, b in zip(*found, strict=True)
    )
