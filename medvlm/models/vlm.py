"""Encoders, connectors and a causal language model spliced into one vision-language model, which may draw masks.

Axes: B rows, T tokens, N media, E encoder width, W language-model width, V vocabulary, L trained tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from medvlm.core.contracts import Features, Outputs
from medvlm.core.sample import Batch
from medvlm.models.attention import make_mask
from medvlm.models.decoding import draw_masks
from medvlm.models.deepstack import StackedConnector, find_layers, inject
from medvlm.models.head import Read, read_head
from medvlm.models.isolation import check_isolated
from medvlm.models.parts import complete_media, encode, is_trained

NO_DECODERS: Mapping[str, str] = {}


class VLM(nn.Module):
    """forward(batch) -> `logits_LV` of the trained tokens; forward(batch, read) -> what `read` makes of them, see
    models/head.py. new_token_ids: tokens that the recipe adds to the language model. barred_ids: tokens that stand for
    media, in addition to the image placeholder; they are never generated. depth: number of layers of the language model
    that get tokens of `deepstack`. decoders: those that read hidden states of the language model, each with its encoder
    in `reads`; forward() also returns their outputs, see models/decoding.draw_masks."""

    runs_all = False
    """Whether towers without a medium run too, as needed if ranks gather sharded weights from each other."""
    kernels: tuple[str, ...] = ("dense",)
    """What may compute the attention of the language model, see models/attention.py."""
    only_dense = ""
    """Why no other kernel can, or ""."""
    reads_both_ways = False
    """Whether some tokens attend to later ones."""
    has_encoder = False
    """Whether an encoder reads the prompt, and a decoder writes the answer."""

    def __init__(
        self,
        encoders: nn.ModuleDict,
        connectors: nn.ModuleDict,
        language: nn.Module,
        image_token_id: int,
        new_token_ids: tuple[int, ...] = (),
        barred_ids: tuple[int, ...] = (),
        decoders: nn.ModuleDict | None = None,
        reads: Mapping[str, str] = NO_DECODERS,
    ):
        super().__init__()
        self.decoders, self.reads = decoders or nn.ModuleDict(), dict(reads)
        self.new_token_ids = new_token_ids
        self.encoders, self.connectors, self.language = encoders, connectors, language
        self.image_token_id = image_token_id
        self.depth = max((each.depth for each in connectors.values() if isinstance(each, StackedConnector)), default=0)
        if self.depth:
            find_layers(language, self.depth)
        words = language.get_input_embeddings().num_embeddings  # a tokenizer may have more
        self.barred_ids = tuple(sorted({image_token_id, *(i for i in barred_ids if i < words)}))

    def check(self) -> None:
        """Raises ShapeError if a batch gives other logits than the language model alone."""
        check_isolated(self)

    def forward(self, batch: Batch, read: Read | None = None) -> Outputs:
        features = self.see(batch)
        embeds_BTW, deep = self._splice(batch, features)
        with deep:
            hidden_BTW = self.decoder(
                inputs_embeds=embeds_BTW,
                attention_mask=make_mask(batch, embeds_BTW.dtype, self.language.config, self.kernels),
                position_ids=batch.positions_BT,
                use_cache=False,
            ).last_hidden_state
        hidden_NW = hidden_BTW.flatten(0, 1)
        found = read_head(self.language, hidden_NW[batch.from_L], batch.targets_L, read)
        return {**found, **self._draw(batch, hidden_NW, features)} if self.decoders else found

    @property
    def cached(self) -> nn.Module:
        return self.language

    def prefill(self, rows: Batch, cache: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the token after each row [B, V], and its position [B]. rows: one document each, padded on the
        left."""
        seen_BT = rows.docs_BT >= 0
        embeds_BTW, deep = self._splice(rows, self.see(rows))
        with deep:
            out = self.language(
                inputs_embeds=embeds_BTW,
                attention_mask=seen_BT.long(),
                position_ids=rows.positions_BT,
                logits_to_keep=1,
                **cache,
            )
        return out.logits[:, -1], seen_BT.sum(1)

    def step(
        self, tokens_B: torch.Tensor, seen_BT: torch.Tensor, at_B: torch.Tensor, cache: Mapping[str, Any]
    ) -> torch.Tensor:
        """Logits after one more token of each row [B, V]. seen_BT: 1 for every token so far, 0 for padding. at_B: its
        position."""
        logits: torch.Tensor = self.language(
            input_ids=tokens_B[:, None], attention_mask=seen_BT, position_ids=at_B[:, None], **cache
        ).logits[:, -1]
        return logits

    def embed(self, batch: Batch) -> torch.Tensor:
        """[B, T, W]: token embeddings, with placeholders replaced by image tokens."""
        return self._splice(batch, self.see(batch))[0]

    def _splice(
        self, batch: Batch, features: Mapping[str, Features]
    ) -> tuple[torch.Tensor, AbstractContextManager[None]]:
        """The embeddings, and a context in which layers of the language model get the tokens of `deepstack`."""
        embeds_BTW = self.language.get_input_embeddings()(batch.ids_BT)  # type: ignore[operator]
        image_tokens = self._embed_images(batch, features)
        if len(batch.feature_rows):
            here_BT = batch.ids_BT == self.image_token_id
            own, *deep = image_tokens[batch.feature_rows].to(embeds_BTW.dtype).chunk(1 + self.depth, -1)
            layers = find_layers(self.language, self.depth) if deep else []
            return embeds_BTW.index_put((here_BT,), own), inject(layers, here_BT, deep)
        # A trained tower runs on every rank in every micro-batch, or ranks would wait for its gradients.
        return embeds_BTW + 0 * image_tokens.sum() if image_tokens.requires_grad else embeds_BTW, nullcontext()

    def see(self, batch: Batch) -> dict[str, Features]:
        """The features of the media of each encoder, in the order of the encoders."""
        least = int(bool(self.decoders))  # which read one medium even if a batch has none
        media = complete_media(self.encoders, batch.media, self._is_needed, batch.ids_BT.device, least)
        return {
            name: replace(encode(self.encoders[name], pixels, name), pixels=pixels) for name, pixels in media.items()
        }

    def _embed_images(self, batch: Batch, features: Mapping[str, Features]) -> torch.Tensor:
        """[sum of tokens over all media, (1 + depth) * W], encoder by encoder in the order of batch.media. An encoder
        with less depth adds zeros."""
        tokens = {name: self.connectors[name](each.patches).flatten(0, 1) for name, each in features.items()}
        widest = max((each.shape[-1] for each in tokens.values()), default=0)
        tokens = {name: pad(each, (0, widest - each.shape[-1])) for name, each in tokens.items()}
        stacked = [tokens[name] for name in (*batch.media, *(name for name in features if name not in batch.media))]
        return torch.cat(stacked) if stacked else torch.zeros(0, 1, device=batch.ids_BT.device)

    def _draw(self, batch: Batch, hidden_NW: torch.Tensor, features: Mapping[str, Features]) -> Outputs:
        outputs: Outputs = {}
        for name, decoder in self.decoders.items():
            if name in batch.drawn or (torch.is_grad_enabled() and is_trained(decoder)) or self.runs_all:
                outputs |= draw_masks(name, decoder, features[self.reads[name]], hidden_NW, batch.drawn.get(name))
        return outputs

    def _is_needed(self, name: str) -> bool:
        own = [self.decoders[decoder] for decoder, encoder in self.reads.items() if encoder == name]
        parts = (self.encoders[name], self.connectors[name], *own)
        return self.runs_all or (torch.is_grad_enabled() and any(map(is_trained, parts)))

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        decoder: nn.Module = self.language.base_model
        return decoder
