"""A ready vision-language model of an encoder and a decoder, such as Florence-2, computed by its own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from medvlm.core.sample import Batch
from medvlm.models.encoder_decoder import EncoderDecoder, find_start
from medvlm.models.head import compute_logits
from medvlm.models.native import NativeVLM
from medvlm.models.pictures import place_features


class NativeEncoderDecoder(EncoderDecoder, NativeVLM):
    """The family's own forward takes no features that were computed before, so they are put into the prompt here, in
    the same places."""

    def __init__(self, stock: Any, blank: Mapping[str, torch.Tensor], barred_ids: Sequence[int] = ()):
        super().__init__(stock, blank, barred_ids)
        self.only_dense = EncoderDecoder.only_dense
        settings = stock.generation_config
        if self.family.begins_answers and settings.forced_bos_token_id is None:
            settings.forced_bos_token_id = stock.config.get_text_config().bos_token_id
        self.start_ids = find_start(stock, "model.pretrained")

    @property
    def seq2seq(self) -> Any:  # type: ignore[override]
        return self.language.model

    @property
    def headed(self) -> Any:  # type: ignore[override]
        return self.stock

    def splice(self, prompts: Batch) -> tuple[torch.Tensor, AbstractContextManager[None]]:
        embeds_BTW = self.seq2seq.get_input_embeddings()(prompts.ids_BT)
        features, unused = self._embed_batch(prompts)
        if not len(prompts.feature_rows):
            return embeds_BTW + unused, nullcontext()
        is_image_BT = (prompts.ids_BT == self.image_token_id) & (prompts.docs_BT >= 0)
        placed = place_features(features, prompts.feature_rows, embeds_BTW.dtype).pooler_output
        return embeds_BTW.index_put((is_image_BT,), placed) + unused, nullcontext()

    def compute_all_logits(self, batch: Batch) -> torch.Tensor:
        """Logits of a decoder that writes the words of the prompts, for comparisons: [B, 1 + words, V]. All prompts
        have as many words."""
        states_BTW, seen_BT = self._encode(batch)
        words_BU = batch.ids_BT[seen_BT.bool() & (batch.ids_BT != self.image_token_id)].view(len(batch.ids_BT), -1)
        starts_B1 = words_BU.new_full((len(words_BU), 1), self.start_ids[0])
        hidden_BUW = self._decode(torch.cat([starts_B1, words_BU], 1), states_BTW, seen_BT, use_cache=False)
        return compute_logits(self.headed, hidden_BUW)
