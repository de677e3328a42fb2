"""Models whose language model has an encoder and a decoder, such as T5.

The encoder reads a prompt with its images; the decoder writes the answer. A row holds one prompt, followed by the
answers to it, each of which the decoder gets as a row of its own.
Axes: B prompts, T tokens, A answers, U tokens of the longest answer, W width of the language model, L trained tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medvlm.core.contracts import Outputs
from medvlm.core.errors import ShapeError
from medvlm.core.sample import Batch
from medvlm.models.head import Read, compute_logits, read_head
from medvlm.models.isolation import check_encoded
from medvlm.models.vlm import VLM


class EncoderDecoder:
    """What composed and ready models with an encoder and a decoder share. Every token of an answer is a target.

    seq2seq: the model of transformers that has the encoder, the decoder and the words. headed: what has its head.
    start_ids: tokens that start every answer: they are given to the decoder, and never trained."""

    only_dense = "reads prompts with an encoder, which has a mask of its own"
    reads_both_ways = True
    has_encoder = True
    seq2seq: Any
    headed: Any
    start_ids: tuple[int, ...]

    def check(self) -> None:
        check_encoded(self, self.headed)

    def splice(self, prompts: Batch) -> tuple[torch.Tensor, AbstractContextManager[None]]:
        """The embeddings of prompts with their images, and a context for the encoder to read them in."""
        raise NotImplementedError

    def forward(self, batch: Batch, read: Read | None = None) -> Outputs:
        rows_A, places_L = find_answers(batch)
        states_BTW, seen_BT = self._encode(cut_answers(batch))
        words_AU = self._shift(batch, len(rows_A), places_L)
        hidden_AUW = self._decode(words_AU, states_BTW[rows_A], seen_BT[rows_A], use_cache=False)
        hidden_LW = hidden_AUW[batch.answers_L, places_L + len(self.start_ids) - 1]
        return read_head(self.headed, hidden_LW, batch.targets_L, read)

    @property
    def cached(self) -> nn.Module:
        return self.decoder

    @property
    def decoder(self) -> nn.Module:
        decoder: nn.Module = self.seq2seq.get_decoder()
        return decoder

    def prefill(self, rows: Batch, cache: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the first token of the answer to each row [B, V], and its position [B]. rows: one prompt each,
        padded on the right."""
        held = _find_cache(cache)
        held.states_BTW, held.seen_BT = self._encode(rows)
        starts_BU = rows.ids_BT.new_tensor(self.start_ids).expand(len(rows.ids_BT), -1)
        hidden_BUW = self._decode(starts_BU, held.states_BTW, held.seen_BT, **cache)
        return compute_logits(self.headed, hidden_BUW[:, -1]), torch.full_like(starts_BU[:, 0], len(self.start_ids))

    def step(
        self, tokens_B: torch.Tensor, seen_BT: torch.Tensor, at_B: torch.Tensor, cache: Mapping[str, Any]
    ) -> torch.Tensor:
        """Logits after one more token of each row [B, V]. The cache knows what came before."""
        held = _find_cache(cache)
        hidden_BUW = self._decode(tokens_B[:, None], held.states_BTW, held.seen_BT, **cache)
        return compute_logits(self.headed, hidden_BUW[:, -1])

    def _encode(self, prompts: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden states [B, T, W], and which tokens are no padding [B, T]."""
        embeds_BTW, deep = self.splice(prompts)
        seen_BT = (prompts.docs_BT >= 0).long()
        encoder = self.seq2seq.get_encoder()
        with deep:
            return encoder(inputs_embeds=embeds_BTW, attention_mask=seen_BT).last_hidden_state, seen_BT

    def _decode(self, words_AU: torch.Tensor, states: torch.Tensor, seen: torch.Tensor, **options: Any) -> torch.Tensor:
        """The last hidden states [A, U, W]. states, seen: of the prompt of each answer."""
        hidden_AUW: torch.Tensor = self.decoder(
            inputs_embeds=self.seq2seq.get_input_embeddings()(words_AU),
            encoder_hidden_states=states,
            encoder_attention_mask=seen,
            **options,
        ).last_hidden_state
        return hidden_AUW

    def _shift(self, batch: Batch, answers: int, places_L: torch.Tensor) -> torch.Tensor:
        """The answers [A, U] behind the tokens that start them, without their last ones. What follows a shorter one is
        not seen by it, since a token sees earlier ones only."""
        starts = batch.targets_L.new_tensor(self.start_ids)
        room = starts.new_zeros(int(places_L.max()) + 1)
        words = torch.cat([starts, room]).repeat(answers, 1)
        return words.index_put((batch.answers_L, places_L + len(starts)), batch.targets_L)[:, :-1]


class EncoderDecoderVLM(EncoderDecoder, VLM):
    """Composed of encoders, connectors and a language model. Raises ShapeError for a language model that does not say
    which token starts an answer."""

    def __init__(self, encoders: nn.ModuleDict, connectors: nn.ModuleDict, language: Any, *ids: Any):
        super().__init__(encoders, connectors, language, *ids)
        self.start_ids = find_start(language, "model.language")

    @property
    def seq2seq(self) -> Any:  # type: ignore[override]
        return self.language

    @property
    def headed(self) -> Any:  # type: ignore[override]
        return self.language

    def splice(self, prompts: Batch) -> tuple[torch.Tensor, AbstractContextManager[None]]:
        return self._splice(prompts, self.see(prompts))


def find_start(language: Any, where: str) -> tuple[int, ...]:
    """The tokens that a model of transformers starts every answer with: one that says so, and one that it always writes
    first (`forced_bos_token_id`: BART), if there is one.

    where: the key of the model in the recipe. Raises ShapeError if there is none."""
    settings = (language.generation_config, language.config.get_text_config(), language.config)

    def find(name: str) -> int | None:
        known = (getattr(each, name, None) for each in settings)
        return next((found for found in known if found is not None), None)

    start, forced = find("decoder_start_token_id"), find("forced_bos_token_id")
    if start is None:
        raise ShapeError(
            f"{where}: the config of {type(language).__name__} has no decoder_start_token_id, the token that starts an"
            " answer; add it there"
        )
    return (start,) if forced is None else (start, forced)


def _find_cache(given: Mapping[str, Any]) -> Any:
    from medvlm.models.shared_cache import EncodedCache  # transformers takes a second to import

    (found,) = (each for each in given.values() if isinstance(each, EncodedCache))
    return found


def find_answers(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The row of the prompt of each answer [A], and the place of each trained token in its answer [L]."""
    counts_A = batch.answers_L.bincount()
    starts_A = counts_A.cumsum(0) - counts_A
    rows_L = batch.from_L // batch.ids_BT.shape[1]
    places_L = torch.arange(len(rows_L), device=rows_L.device) - starts_A[batch.answers_L]
    return torch.zeros_like(counts_A).index_put((batch.answers_L,), rows_L), places_L


def cut_answers(batch: Batch) -> Batch:
    """The prompts. They end with the token that the first token of each answer follows."""
    T = batch.ids_BT.shape[1]
    lengths_B = (batch.docs_BT >= 0).sum(1)
    lengths_B = lengths_B.scatter_reduce(0, batch.from_L // T, batch.from_L % T + 1, "amin")
    longest = int(lengths_B.max())
    is_prompt_BT = torch.arange(longest, device=lengths_B.device) < lengths_B[:, None]
    return replace(
        batch,
        ids_BT=batch.ids_BT[:, :longest],
        docs_BT=batch.docs_BT[:, :longest].masked_fill(~is_prompt_BT, -1),
        positions_BT=batch.positions_BT[:, :longest],
        branches_BT=batch.branches_BT[:, :longest],
    )
