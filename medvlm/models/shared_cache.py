"""Keys and values of prompts, kept once for all answers to a prompt, and the attention of one more token per answer.

A cache of transformers repeats a prompt for each of its answers, copies all of it at every token, and reads it once for
each answer. Here the answers to a prompt read it together.
Axes: R answers (rows), P prompts, G most answers of a prompt, H heads of queries, K heads of keys, D width of a head,
S tokens of a prompt, T tokens of an answer so far.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    EncoderDecoderCache,
    get_layer_types_and_kwargs,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from medvlm.models.kernels import cap_scores, find_shares

NAME = "medvlm_answers"
"""Of `attend` among transformers' attention functions."""


def can_share(decoder: Any, config: Any) -> bool:
    """Whether all layers of a language model keep keys and values of every token, and attend by transformers' attention
    functions. Layers with a sliding window keep all here too; their mask hides what is too far. Latent attention
    (kv_lora_rank: DeepSeek, Mistral 4) changes keys and values between the cache and these functions."""
    types, _ = get_layer_types_and_kwargs(config.get_text_config())
    if getattr(config.get_text_config(), "kv_lora_rank", None):
        return False
    return set(types) <= {"full_attention", "sliding_attention"} and bool(decoder._can_set_attn_implementation())


class RowCache(DynamicCache):
    """Each answer has its own copy of the prompt. Also for layers with a state, which DynamicCache reorders but cannot
    repeat. rows: prompts."""

    def __init__(self, config: Any, rows: int):
        super().__init__(config=config)
        self.rows = rows

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.batch_select_indices(torch.arange(self.rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.reorder_cache(indices)


class EncodedCache(EncoderDecoderCache):
    """Of a decoder, with what the encoder made of each prompt.

    states_BTW: its last hidden states. seen_BT: 1 for tokens, 0 for padding. Both are set by a forward pass over the
    prompts, and follow the rows from then on."""

    states_BTW: torch.Tensor
    seen_BT: torch.Tensor

    def __init__(self, config: Any):
        super().__init__(DynamicCache(config=config), DynamicCache(config=config))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.states_BTW, self.seen_BT = (x.repeat_interleave(repeats, 0) for x in (self.states_BTW, self.seen_BT))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        self.states_BTW, self.seen_BT = self.states_BTW[indices], self.seen_BT[indices]


class SharedCache(Cache):
    """Filled by a forward pass over the prompts; once it is repeated, by one token of every answer at a time."""

    def __init__(self, config: Any):
        super().__init__(layers=[_Layer() for _ in get_layer_types_and_kwargs(config.get_text_config())[0]])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """From here on, rows are answers: `repeats` of each prompt, prompt by prompt."""
        prompts = torch.arange(len(self.layers[0].keys), device=self.layers[0].keys.device)
        self.groups = Groups(prompts.repeat_interleave(repeats))
        for layer in self.layers:
            layer.share(self.groups)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps these answers. A prompt without any is dropped."""
        self.groups.select(indices)
        for layer in self.layers:
            layer.batch_select_indices(indices)


class Groups:
    """Which prompt each answer belongs to."""

    def __init__(self, prompt_of_R: torch.Tensor):
        self._set(prompt_of_R)

    def select(self, indices: torch.Tensor) -> None:
        self.kept, prompt_of_R = self.prompt_of_R[indices].unique(return_inverse=True)
        self._set(prompt_of_R)

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[R, K, N, X] of answers as [P, K, G * N, X] of prompts. Where a prompt has fewer than G, another answer is
        repeated."""
        P, G = self.row_of_PG.shape
        return x[self.row_of_PG.flatten()].unflatten(0, (P, G)).transpose(1, 2).flatten(2, 3)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        """[P, K, G * N, X] of prompts as [R, K, N, X] of answers."""
        G = self.row_of_PG.shape[1]
        return x.unflatten(2, (G, -1)).transpose(1, 2).flatten(0, 1)[self.place_of_R]

    def _set(self, prompt_of_R: torch.Tensor) -> None:
        """prompt_of_R: in order."""
        self.prompt_of_R = prompt_of_R
        counts = prompt_of_R.bincount()
        within_R = torch.arange(len(prompt_of_R), device=counts.device) - (counts.cumsum(0) - counts)[prompt_of_R]
        G = int(counts.max())
        self.place_of_R = prompt_of_R * G + within_R
        self.row_of_PG = torch.zeros(len(counts) * G, dtype=torch.long, device=counts.device)
        self.row_of_PG[self.place_of_R] = torch.arange(len(prompt_of_R), device=counts.device)
        self.row_of_PG = self.row_of_PG.view(-1, G)


class _Layer(DynamicLayer):
    """keys, values: of the prompts, and after `share` of the answers."""

    keys: Any
    values: Any
    prompts: tuple[torch.Tensor, torch.Tensor] | None = None
    groups: Groups
    is_read = True

    def share(self, groups: Groups) -> None:
        self.prompts, self.groups = (self.keys, self.values), groups
        rows = len(groups.prompt_of_R)
        self.keys, self.values = [x.new_zeros(rows, x.shape[1], 0, x.shape[3]) for x in self.prompts]

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        assert self.is_read, "a layer of the language model does not attend by transformers' attention functions"
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if self.prompts is not None:
            keys.layer, self.is_read = self, False  # `attend` reads the prompt from it
        return keys, values

    def get_seq_length(self) -> int:
        return super().get_seq_length() + (self.prompts[0].shape[2] if self.prompts else 0)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        super().batch_select_indices(indices)
        if self.prompts and len(self.groups.kept) < len(self.prompts[0]):
            self.prompts = tuple(x[self.groups.kept] for x in self.prompts)  # type: ignore[assignment]


@contextmanager
def attending(config: Any) -> Iterator[None]:
    """Within this context, the layers of the language model with this config call `attend`."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
    before, config._attn_implementation = config._attn_implementation, NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers, for one token of each answer. query: [R, H, 1, D]; key, value: of the
    answers, [R, K, T, D]. Returns [R, 1, H, D].

    attention_mask: bool or additive, [R, 1, 1, S + T]. softcap: scores are softcap * tanh(score / softcap). s_aux: [H],
    the score of a sink that every query sees."""
    layer: _Layer = key.layer  # type: ignore[attr-defined]
    layer.is_read = True
    prompt_keys, prompt_values = layer.prompts  # type: ignore[misc]
    groups, S = layer.groups, prompt_keys.shape[2]
    R, H, _, D = query.shape
    query_RKND = query.reshape(R, key.shape[1], -1, D)
    asked = groups.spread(groups.gather(query_RKND) @ prompt_keys.mT)
    scores = torch.cat([asked, query_RKND @ key.mT], -1).float() * (D**-0.5 if scaling is None else scaling)
    scores = cap_scores(scores, softcap)
    if attention_mask is not None:
        is_bool = attention_mask.dtype == torch.bool
        scores = scores.masked_fill(~attention_mask, -torch.inf) if is_bool else scores + attention_mask
    sinks = None if s_aux is None else s_aux.view(key.shape[1], -1, 1)
    shares = find_shares(scores, sinks).to(value.dtype)
    out = groups.spread(groups.gather(shares[..., :S]) @ prompt_values) + shares[..., S:] @ value
    return out.reshape(R, 1, H, D), None
