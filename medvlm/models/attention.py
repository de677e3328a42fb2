"""Computes the attention of a language model over packed rows, by a dense mask or by kernels that skip what it hides.

`dense` is the attention of the model's own family. `flex` is torch's FlexAttention, for rows of any structure. `varlen`
is torch.nn.attention.varlen, FlashAttention over documents of various lengths, for rows without shared prefixes.
transformers calls `attend` in the place of its own functions. Without a GPU both kernels are replaced by operations
that compute the same from the same structure: torch has no backward pass of FlexAttention on CPUs. `auto` goes by
documents there, and by branches where they are long.
Axes: B rows, H heads, T tokens, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Batch
from medvlm.models.masks import evaluate, make_rule

NAME = "medvlm_rows"
"""Of `attend` among transformers' attention functions."""
PARTS = "parts"
"""What `auto` uses on a CPU: one part of a document after the other, see RowMask.parts."""
SMALLEST_HEAD = 16
"""Width of a head that FlexAttention's kernels need."""


def make_mask(
    batch: Batch,
    dtype: torch.dtype,
    language: Any,
    kernels: Sequence[str] = ("dense",),
    blocks_BT: torch.Tensor | None = None,
    blocks_in_windows: bool = False,
) -> Any:
    """What a language model gets as `attention_mask`.

    A token attends to the earlier tokens of its document in the prefix and in its own branch. Padding attends to
    itself, because an empty row of softmax would be NaN. language: the config of the language model. Layers with a
    sliding window look back only that far; a model with both kinds of layers gets a mask for each.
    kernels: those that may compute the attention, the best one first. `dense` gets an
    additive [B, 1, T, T], or the usual [B, T] of ones and zeros when every row is one plain document; the others get
    RowMask.
    blocks_BT: tokens with the same number >= 0 attend to each other in both directions; in plain rows of a dense mask,
    the model itself does this. blocks_in_windows: they do so only in layers with a sliding window, and within it; for
    `dense` alone.
    Raises RecipeError if no kernel can compute the batch."""
    docs, positions = batch.docs_BT, batch.positions_BT
    has_branches, has_several = torch.stack([batch.branches_BT.any(), docs.max() > 0]).tolist()
    branches = batch.branches_BT if has_branches else None
    kernel = _choose(kernels, has_branches, blocks_BT is not None, batch.keys)
    if kernel == "dense" and not has_branches and not has_several:
        return (docs >= 0).long()

    def make(window: int | None) -> Any:
        rule = make_rule(docs, branches, positions, None if blocks_in_windows and window is None else blocks_BT, window)
        if kernel == "dense":
            allowed_BTT = evaluate(rule, docs)
            if blocks_in_windows and window is not None:
                allowed_BTT = allowed_BTT & (positions[:, :, None] - positions[:, None, :] < window)
            return _make_additive(allowed_BTT, dtype)
        from medvlm.models.row_mask import RowMask  # FlexAttention takes a second to import

        if kernel in ("varlen", PARTS):
            return RowMask.of_documents(docs, window, rule, branches)
        return RowMask.of_blocks(docs, branches, positions, blocks_BT, window, rule)

    window, types = getattr(language, "sliding_window", None), getattr(language, "layer_types", None) or ()
    if window is None or (types and "sliding_attention" not in types):
        return make(None)
    return {"full_attention": make(None), "sliding_attention": make(window)} if types else make(window)


def _choose(kernels: Sequence[str], has_branches: bool, has_blocks: bool, keys: Sequence[str]) -> str:
    unfit = {"varlen", PARTS} if has_blocks else {"varlen"} if has_branches else set()
    for kernel in kernels:
        if kernel not in unfit:
            return kernel
    raise RecipeError(
        f"engine.attention: varlen: samples {', '.join(keys[:3])}: several answers share a prompt, or tokens are read"
        " in both directions, which these kernels cannot express; use auto or flex"
    )


def _make_additive(allowed_BTT: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(allowed_BTT.shape, dtype=dtype, device=allowed_BTT.device).masked_fill(
        ~allowed_BTT, torch.finfo(dtype).min
    )[:, None]


def use_attention(model: Any, engine: EngineConfig, device: torch.device) -> str:
    """Chooses the kernels of a model that a stage trains. Returns why `auto` does without one, or "".

    A model on the meta device is planned for a GPU. Models that do not read packed rows stay as they are.
    Raises RecipeError if what the recipe asks for cannot compute this model here."""
    if not hasattr(model, "kernels"):
        return ""
    asked, decoder = engine.attention, model.decoder
    is_meta = next(decoder.parameters()).is_meta
    on_gpu = engine.device != "cpu" and (device.type == "cuda" or is_meta)
    model.kernels = ("dense",)
    if asked == "dense":
        return ""
    dtype = torch.float32 if engine.precision == "32-true" else torch.bfloat16
    usable, refused = [], []
    # Without a GPU flex computes the same as dense, and torch.compile would break its graphs at every document.
    tried = ("varlen", "flex") if on_gpu else () if engine.compile else (PARTS,)
    for kernel in tried if asked == "auto" else (asked,):
        why = _explain_unfit(kernel, model, dtype, on_gpu) or (
            _try(kernel, decoder.config, dtype, device) if on_gpu and not is_meta else ""
        )
        if why and asked != "auto":
            raise RecipeError(f"engine.attention: {asked}: {why}; use dense, or auto")
        usable += [] if why else [kernel]
        refused += [f"{kernel}: {why}"] if why else []
    if usable:
        register(decoder)
    model.kernels = (*usable, "dense") if asked == "auto" else tuple(usable)
    return f"attention is dense ({'; '.join(refused)})" if on_gpu and "flex" not in usable and asked == "auto" else ""


def register(decoder: Any) -> None:
    """Makes the layers of a transformers model call `attend`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    from medvlm.models.kernels import attend

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)  # for rows of one plain text: answers are drawn from them
    decoder.set_attn_implementation(NAME)


def find_misfit(model: Any, run: Callable[[], torch.Tensor], expected: torch.Tensor, tolerance: float) -> str:
    """Why only the dense attention computes a new model, or "". run: computes `expected` again with the kernels that
    are set. tolerance: relative to the largest number."""
    if not _is_replaceable(model.decoder):
        return ""  # said where kernels are chosen
    try:
        with attending(model, "flex"):
            found = run()
    except Exception as error:  # of a family that does not know such masks
        return f"cannot use its kernels ({type(error).__name__}: {str(error).strip().splitlines()[0][:200]})"
    off = float((found - expected).abs().max() / expected.abs().max())
    return "" if off <= tolerance else f"computes other numbers with them (off by {off:.2%} of the largest)"


@contextmanager
def attending(model: Any, *kernels: str) -> Iterator[None]:
    """Within this context, the model computes with these kernels."""
    decoder, before = model.decoder, model.kernels
    name = decoder.config._attn_implementation
    if kernels != ("dense",):
        register(decoder)
    model.kernels = kernels
    try:
        yield
    finally:
        model.kernels = before
        decoder.set_attn_implementation(name)


# --- what fits ------------------------------------------------------------------------------------


def _explain_unfit(kernel: str, model: Any, dtype: torch.dtype, on_gpu: bool) -> str:
    """Why a kernel cannot compute the attention of a model, or ""."""
    config, name = model.decoder.config, type(model.decoder).__name__
    if model.only_dense:
        return f"{name} {model.only_dense}"
    if not _is_replaceable(model.decoder):
        return f"{name} computes its attention in a way of its own"
    if any(getattr(config, key, 0) for key in ("attention_dropout", "attn_pdrop", "attn_dropout")):
        return f"{name} has dropout in its attention, which these kernels lack"
    heads, _, width = _measure_heads(config)
    if kernel == "flex":
        return (
            f"its heads are {width} wide, and FlexAttention needs {SMALLEST_HEAD}"
            if on_gpu and (width < SMALLEST_HEAD)
            else ""
        )
    if model.reads_both_ways:
        return f"{name} reads tokens in both directions"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{name} caps its attention scores"
    if any(n.endswith("sinks") for n, _ in model.decoder.named_parameters()):
        return f"{name} has attention sinks"
    if on_gpu and dtype == torch.float32:
        return "these kernels compute in 16 bits (engine.precision: bf16-mixed)"
    if on_gpu and width > 256:
        return f"its {heads} heads are {width} wide, and FlashAttention allows 256"
    return ""


def _is_replaceable(decoder: Any) -> bool:
    """Whether a model asks transformers for its attention function."""
    return bool(hasattr(decoder, "_can_set_attn_implementation") and decoder._can_set_attn_implementation())


def _measure_heads(config: Any) -> tuple[int, int, int]:
    """Heads of queries, heads of keys, and their width."""
    heads: int = config.num_attention_heads
    return (
        heads,
        getattr(config, "num_key_value_heads", None) or heads,
        getattr(config, "head_dim", None) or config.hidden_size // heads,
    )


def _try(kernel: str, config: Any, dtype: torch.dtype, device: torch.device) -> str:
    """Why a kernel fails on this device with small rows of random numbers, or ""."""
    from medvlm.models.kernels import TOLERANCE, try_kernel

    try:
        off = try_kernel(
            kernel, *_measure_heads(config), getattr(config, "attn_logit_softcapping", None), dtype, device
        )
    except Exception as reason:  # compilers and drivers raise anything
        return f"it does not run on this device ({type(reason).__name__}: {str(reason).strip().splitlines()[0][:200]})"
    return f"it computes wrong numbers on this device (off by {off:.1%})" if not off <= TOLERANCE[dtype] else ""
