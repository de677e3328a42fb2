"""Greedy and sampled generation. The prompt and its images are prefilled once for all answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch

from medvlm.core.sample import Batch

Draw = Callable[[int], Sequence[float]]
"""Token number -> one uniform number in [0, 1) for each copy of one prompt."""


class Answering(Protocol):
    """A model that continues prompts."""

    barred_ids: Sequence[int]
    """Tokens that stand for media. They are never generated."""
    has_encoder: bool
    """Whether an encoder reads the prompt, and a decoder writes the answer."""

    @property
    def language(self) -> Any:
        """The language model, with `config` and `generation_config`."""

    @property
    def decoder(self) -> Any:
        """The language model without its head, of transformers."""

    @property
    def cached(self) -> Any:
        """The transformers module that takes the cache."""

    def prefill(self, rows: Batch, cache: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first token of the answer to each row [B, V], and its position [B]. rows: one document each,
        padded on the left, or on the right for an encoder."""

    def step(
        self, tokens_B: torch.Tensor, seen_BT: torch.Tensor, at_B: torch.Tensor, cache: Mapping[str, Any]
    ) -> torch.Tensor:
        """Logits after one more token of each row [B, V]. seen_BT: 1 for every token so far, 0 for padding. at_B: its
        position."""


@torch.no_grad()
def generate(
    model: Answering,
    prompts: Batch,
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    copies: int = 1,
    temperature: float = 0.0,
    draws: Sequence[Draw] = (),
    worth: list[list[float]] | None = None,
    hear: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Token ids of `copies` continuations of each prompt, prompt by prompt, including the end token if it was reached.

    prompts: one document per row, no branches; rows may be padded on the right. temperature 0 is greedy;
    above it, tokens are drawn by inverting the cumulative distribution at `draws[row](token number)[copy]`, so that
    the result depends on the position of the prompt in the stream, not on its rank or batch. worth: an empty list, to
    which the log-probabilities of the tokens of each drawn continuation are added. hear: called with the number of a
    continuation and each of its tokens; what it raises ends the generation.
    """
    rows = prompts if model.has_encoder else _pad_left(prompts)
    seen = (rows.docs_BT >= 0).long()
    cache, remembered, attention = _make_cache(model, len(seen), copies)
    logits, places = model.prefill(rows, remembered)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        logits, seen, places = (x.repeat_interleave(copies, 0) for x in (logits, seen, places))

    answers: list[list[int]] = [[] for _ in range(len(seen))]
    if worth is not None:
        worth += [[] for _ in answers]
    running = list(range(len(seen)))  # answer of each row of the cache
    ends = torch.tensor(list(end_ids), device=seen.device)
    with attention:
        for number in range(max_new_tokens):
            logits = bar_words(logits, model.barred_ids)
            tokens = (
                logits.argmax(-1)
                if temperature == 0
                else _draw_tokens(logits / temperature, running, copies, number, draws)
            )
            for row, token in zip(running, tokens.tolist(), strict=True):
                answers[row].append(token)
                if hear is not None:
                    hear(row, token)
            if worth is not None:
                scaled = (logits / temperature).float()
                log_B = scaled.gather(-1, tokens[:, None])[:, 0] - scaled.logsumexp(-1)
                for row, value in zip(running, log_B.tolist(), strict=True):
                    worth[row].append(value)
            going = (~torch.isin(tokens, ends)).nonzero()[:, 0]  # rows whose answer has not ended
            if number + 1 == max_new_tokens or not len(going):
                break
            if len(going) < len(running):  # finished answers leave the batch
                cache.batch_select_indices(going)
                tokens, seen, places = tokens[going], seen[going], places[going]
                running = [running[i] for i in going.tolist()]
            seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
            logits, places = model.step(tokens, seen, places, remembered), places + 1
    return answers


def bar_words(logits: torch.Tensor, barred_ids: Sequence[int]) -> torch.Tensor:
    """Excludes words from the distribution: those that stand for media must never be generated."""
    return logits.index_fill(-1, torch.tensor(list(barred_ids), dtype=torch.long, device=logits.device), -torch.inf)


def find_end_ids(model: Answering, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: that of the tokenizer, and those in the generation config of the language model."""
    return list_end_ids(model.language.generation_config, tokenizer)


def list_end_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    declared = getattr(generation_config, "eos_token_id", None)
    declared = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in [tokenizer.eos_token_id, *declared] if i is not None})


def is_cut(ids: Sequence[int], max_new_tokens: int, end_ids: Sequence[int]) -> bool:
    """Whether an answer ended at the limit and not with an end token."""
    return len(ids) >= max_new_tokens and ids[-1] not in end_ids


def _make_cache(model: Answering, rows: int, copies: int) -> tuple[Any, dict[str, Any], AbstractContextManager[None]]:
    """A cache that forward fills in place, the keyword arguments to pass it, and the context of the steps after that.
    The name of the argument changed in transformers 5.24."""
    from medvlm.models.shared_cache import EncodedCache, RowCache, SharedCache, attending, can_share

    config = model.language.config
    is_shared = copies > 1 and not model.has_encoder and can_share(model.decoder, config)
    if model.has_encoder:
        cache: Any = EncodedCache(model.decoder.config)
    else:
        cache = SharedCache(config) if is_shared else RowCache(config, rows)
    name = "cache" if "cache" in inspect.signature(model.cached.forward).parameters else "past_key_values"
    return cache, {name: cache, "use_cache": True}, attending(config) if is_shared else nullcontext()


def _draw_tokens(
    logits: torch.Tensor, running: list[int], copies: int, number: int, draws: Sequence[Draw]
) -> torch.Tensor:
    uniform = torch.tensor(
        [draws[row // copies](number)[row % copies] for row in running], dtype=torch.float64, device=logits.device
    )
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return (
        torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None])
        .squeeze(1)
        .clamp(max=logits.shape[-1] - 1)
    )


def _pad_left(prompts: Batch) -> Batch:
    """Moves padding to the front, so that every row's last token is the one to continue."""
    pad = (prompts.docs_BT < 0).sum(1)
    if not pad.any():
        return prompts
    T = prompts.ids_BT.shape[1]
    places = (torch.arange(T, device=pad.device)[None] - pad[:, None]) % T

    def shift(x: torch.Tensor) -> torch.Tensor:
        return x.gather(1, places)

    return replace(
        prompts, ids_BT=shift(prompts.ids_BT), positions_BT=shift(prompts.positions_BT),
        docs_BT=shift(prompts.docs_BT), branches_BT=shift(prompts.branches_BT),
    )  # fmt: skip
