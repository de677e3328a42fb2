"""The head of a language model: logits, and what an objective reads from them, in chunks of bounded memory.

Axes: L trained tokens, C tokens of a chunk, W width of the language model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from medvlm.core.contracts import Outputs
from medvlm.models.parts import is_trained

Read = Callable[[torch.Tensor, torch.Tensor], Outputs]
"""(logits [C, V], targets [C]) -> named tensors [C]. A token's values depend on its own logits alone. One of them may
have a gradient; it comes first, because what follows it is not computed again in the backward pass."""

CHUNK_BYTES = 1 << 28
"""Of the float32 logits that exist at once. A step holds about three times this for them. Smaller chunks read the
weights of the head more often."""


def read_head(model: Any, hidden_LW: torch.Tensor, targets_L: torch.Tensor, read: Read | None) -> Outputs:
    """What `read` makes of the logits [L, ...]; `logits_LV` without it. model: of transformers, or shaped like one.

    Peak memory does not grow with L times V: the logits of a chunk are freed before the next, and in the backward pass
    are not needed (frozen head) or computed again (trained head). Each chunk is computed as if it was alone.
    """
    if read is None:
        return {"logits_LV": compute_logits(model, hidden_LW)}
    rows = max(1, CHUNK_BYTES // (4 * model.config.get_text_config().vocab_size))
    if len(hidden_LW) <= rows:
        return read(compute_logits(model, hidden_LW), targets_L)

    def read_chunk(hidden_CW: torch.Tensor, targets_C: torch.Tensor) -> Outputs:
        return read(compute_logits(model, hidden_CW), targets_C)

    compute: Callable[..., Outputs] = read_chunk
    if torch.is_grad_enabled() and is_trained(model.get_output_embeddings()):
        compute = partial(checkpoint, read_chunk, use_reentrant=False, preserve_rng_state=False)
    elif torch.is_grad_enabled():
        compute = partial(_keep_gradient, read_chunk)
    parts = [compute(*chunk) for chunk in zip(hidden_LW.split(rows), targets_L.split(rows), strict=True)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def compute_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of a transformers model, from its last hidden states."""
    config = model.config.get_text_config()
    if getattr(config, "scale_decoder_outputs", False):  # T5
        hidden = hidden * config.d_model**-0.5
    # Not called as a module: ZeRO-3 gathers weights at every call, and ranks have different numbers of chunks. It
    # gathers a parameter that is read elsewhere once, for the whole pass.
    logits: torch.Tensor = model.get_output_embeddings().forward(hidden)
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if scaling := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / scaling
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits


def _keep_gradient(read_chunk: Read, hidden_CW: torch.Tensor, targets_C: torch.Tensor) -> Outputs:
    """What `read_chunk` returns, with the gradient already computed. A token's value depends on its own hidden state
    alone, so the gradient of the sum holds that of every value, and the backward pass only scales it."""
    if not hidden_CW.requires_grad:
        with torch.no_grad():
            return read_chunk(hidden_CW, targets_C)
    alone_CW = hidden_CW.detach().requires_grad_()
    found = read_chunk(alone_CW, targets_C)
    (name,) = (name for name, value in found.items() if value.requires_grad)
    (slope_CW,) = torch.autograd.grad(found[name].sum(), alone_CW)
    return {**found, name: _Scaled.apply(hidden_CW, found[name].detach(), slope_CW)}


class _Scaled(torch.autograd.Function):
    """values_C, whose gradient in hidden_CW is slope_CW."""

    @staticmethod
    def forward(ctx: Any, hidden_CW: torch.Tensor, values_C: torch.Tensor, slope_CW: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(slope_CW)
        return values_C.clone()

    @staticmethod
    def backward(ctx: Any, grad_C: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slope_CW,) = ctx.saved_tensors
        return (slope_CW * grad_C[:, None]).to(slope_CW.dtype), None, None
