"""A ready vision-language model, computed by its own transformers classes, with medvlm's interface for stages.

Parameters are named by part: `encoders.image`, `connectors.image`, `language`, and below those as in the family's own
modules, so that `trains`, adapters, checkpoints and proofs work as for a composed model.
Axes: B rows, T tokens, W width of the language model, V vocabulary, L trained tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from medvlm.core.contracts import Outputs
from medvlm.core.families import IMAGE, Family, family_of
from medvlm.core.sample import Batch
from medvlm.models.attention import make_mask
from medvlm.models.grouping import ModuleGroup, exclude, group_connector
from medvlm.models.head import Read, compute_logits, read_head
from medvlm.models.isolation import check_isolated
from medvlm.models.parts import get_deal, is_trained
from medvlm.models.pictures import (
    join_pictures,
    list_features,
    list_tensors,
    place_features,
    restore_features,
    split_pictures,
)


class NativeVLM(nn.Module):
    """forward(batch) -> `logits_LV` of the trained tokens; forward(batch, read) -> what `read` makes of them, see
    models/head.py.

    stock: the family's ForConditionalGeneration. It is not registered as a module: its parts are, each once.
    blank: processor key -> tensor, for one small picture, so that a trained tower also runs in micro-batches without
    media. barred_ids: tokens that stand for media, in addition to the image placeholder; they are never generated."""

    runs_all = False
    """Whether the tower runs without media too, as needed if ranks gather sharded weights from each other."""
    kernels: tuple[str, ...] = ("dense",)
    """What may compute the attention of the language model, see models/attention.py."""
    only_dense = ""
    """Why no other kernel can, or ""."""
    has_encoder = False
    """Whether an encoder reads the prompt, and a decoder writes the answer."""

    def __init__(self, stock: Any, blank: Mapping[str, torch.Tensor], barred_ids: Sequence[int] = ()):
        super().__init__()
        self.family: Family = family_of(stock.config.model_type)
        self.__dict__["stock"] = stock
        self.blank = dict(blank)
        self._in_windows = bool(self.family.whole_in_windows and self.family.whole_in_windows(stock.config))
        if not self.family.shares_rows:
            self.only_dense = "gets one text per row, for which its own class computes the attention"
        elif self._in_windows:
            self.only_dense = "sees whole pictures within windows, which other kernels do not know"
        self.encoders = nn.ModuleDict({IMAGE: exclude(stock.model, self.family.tower, self.family.connectors)})
        self.connectors = nn.ModuleDict({IMAGE: group_connector(stock.model, self.family.connectors)})
        self._bare = [
            path for path in self.family.connectors if isinstance(getattr(stock.model, path, None), nn.Parameter)
        ]
        kept = {path: part for path in self.family.unread if (part := getattr(stock.model, path, None)) is not None}
        if kept:
            self.unread = nn.ModuleDict(kept)
        self.language = ModuleGroup()
        self.language.add_module("model", stock.model.get_submodule(self.family.language))
        self.language.add_module("lm_head", stock.lm_head)
        self.language.config, self.language.generation_config = stock.config.get_text_config(), stock.generation_config
        self.image_token_id: int = stock.config.image_token_id
        words = stock.get_input_embeddings().num_embeddings  # a tokenizer may have more
        self.barred_ids = tuple(sorted({self.image_token_id, *(i for i in barred_ids if i < words)}))
        # Families write features in the precision of their first parameter among the embeddings of words, whose table
        # may be held in another one: frozen weights in bfloat16, trained ones in float32.
        stock.get_input_embeddings().register_forward_hook(lambda _, __, words: words.to(stock.dtype))
        assert {id(p) for p in stock.parameters()} == {id(p) for p in self.parameters()}, (
            f"{type(stock).__name__} has parameters outside its parts"
        )
        assert {id(b) for b in stock.buffers()} == {id(b) for b in self.buffers()}, (
            f"{type(stock).__name__} has buffers outside its parts"
        )

    def check(self) -> None:
        """Raises ShapeError if shared rows change the outputs of the stock model."""
        types = self.family.types if self.family.reads_prompt_both_ways else ""
        check_isolated(self, self.stock, types, self.family.shares_rows)

    def forward(self, batch: Batch, read: Read | None = None) -> Outputs:
        inputs, unused = self._make_inputs(batch)
        hidden_BTW = self.stock.model(**inputs, use_cache=False).last_hidden_state
        hidden_LW = hidden_BTW.flatten(0, 1)[batch.from_L] + unused
        return read_head(self.stock, hidden_LW, batch.targets_L, read)

    def compute_all_logits(self, batch: Batch) -> torch.Tensor:
        """Logits at every position [B, T, V], for comparisons."""
        return compute_logits(
            self.stock, self.stock.model(**self._make_inputs(batch)[0], use_cache=False).last_hidden_state
        )

    @property
    def reads_both_ways(self) -> bool:
        """Whether some tokens attend to later ones."""
        return self.family.sees_whole_pictures or self.family.reads_prompt_both_ways

    @property
    def cached(self) -> Any:
        return self.stock.model

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.language.model

    def prefill(self, rows: Batch, cache: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the token after each row [B, V], and its position [B]. rows: one document each, padded on the
        left."""
        inputs, _ = self._make_inputs(rows, ("dense",))  # a plain mask, with which the cache goes on
        places = inputs["position_ids"].reshape(-1, *rows.ids_BT.shape)
        last_B = places.masked_fill(rows.docs_BT < 0, -1).amax((0, 2))
        hidden_BTW = self.stock.model(**inputs, **cache).last_hidden_state
        return compute_logits(self.stock, hidden_BTW[:, -1]), last_B + 1

    def step(
        self, tokens_B: torch.Tensor, seen_BT: torch.Tensor, at_B: torch.Tensor, cache: Mapping[str, Any]
    ) -> torch.Tensor:
        """Logits after one more token of each row [B, V]. seen_BT: 1 for every token so far, 0 for padding. at_B: its
        position."""
        axes = self.family.position_axes
        places = at_B[:, None].expand(axes, -1, 1) if axes > 1 else at_B[:, None]
        hidden_BTW = self.stock.model(
            input_ids=tokens_B[:, None], attention_mask=seen_BT, position_ids=places, **cache
        ).last_hidden_state
        return compute_logits(self.stock, hidden_BTW[:, -1])

    def embed_images(self, media: Mapping[str, torch.Tensor]) -> Any:
        """The output of the family's get_image_features for every picture of `media`. Keeps no activations for the
        backward pass if encoder and connector are frozen."""
        pixels = self._select_pixels(media)
        trained = is_trained(self.encoders) or is_trained(self.connectors)
        for name in self._bare:  # sharding engines replace the parameter in the registered module only
            self.stock.model._parameters[name] = self.connectors[IMAGE]._parameters[name]
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            return self.stock.model.get_image_features(**pixels, return_dict=True)

    def _select_pixels(self, media: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the tower reads, in the precision of its weights."""
        dtype = next(self.encoders.parameters()).dtype
        read = {k: v for k, v in media.items() if k not in self.family.of_positions}
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in read.items()}

    def _embed_batch(self, batch: Batch) -> tuple[Any, torch.Tensor | float]:
        """embed_images() of the pictures of a batch, None without them; and 0 in the graph of what this rank computes
        beside them.

        A tower that is trained or sharded runs on every rank in every micro-batch, or ranks would wait for its
        gradients or its weights."""
        deal = get_deal(self.encoders[IMAGE])
        if len(batch.feature_rows) and deal is None:
            return self.embed_images(batch.media), 0.0
        blank = {k: v.to(batch.ids_BT.device) for k, v in self.blank.items()}
        if deal is not None:
            return self._deal_pictures(batch.media if len(batch.feature_rows) else {}, blank, deal)
        if self.runs_all or (torch.is_grad_enabled() and (is_trained(self.encoders) or is_trained(self.connectors))):
            return None, 0 * sum(t.sum() for t in list_tensors(self.embed_images(blank)))
        return None, 0.0

    def _deal_pictures(
        self, media: Mapping[str, torch.Tensor], blank: Mapping[str, torch.Tensor], deal: Any
    ) -> tuple[Any, torch.Tensor]:
        """_embed_batch() where the pictures of all ranks are dealt over them."""
        made: list[Any] = []

        def run(pieces: Sequence[Mapping[str, torch.Tensor]]) -> list[torch.Tensor]:
            made.append(self.embed_images(join_pictures(pieces)))
            return list_features(made[0], pieces)

        own, (least, *_) = (split_pictures(self._select_pixels(m), self.family.tiles_alone) for m in (media, blank))
        found, unused = deal.deal_pieces(run, own, least)
        return restore_features(made[0], found), unused

    def _make_inputs(
        self, batch: Batch, kernels: tuple[str, ...] | None = None
    ) -> tuple[dict[str, Any], torch.Tensor | float]:
        """Arguments of the family's model, and 0 connected to the graph of parameters that a rank without media must
        include. kernels: by default those of the model."""
        is_image_BT = (batch.ids_BT == self.image_token_id) & (batch.docs_BT >= 0)
        inputs: dict[str, Any] = {"input_ids": batch.ids_BT, "position_ids": self._compute_positions(batch)}
        sees_whole = self.family.sees_whole_pictures or self._in_windows
        blocks_BT = _number_runs(is_image_BT) if sees_whole else None
        if self.family.reads_prompt_both_ways:
            inputs[self.family.types] = self._mark_answers(batch)
            blocks_BT = inputs[self.family.types].where(inputs[self.family.types] == 0, -1)
        elif self.family.types:
            inputs[self.family.types] = is_image_BT.long()
        kernels = ("dense",) if self.only_dense else kernels or self.kernels
        inputs["attention_mask"] = make_mask(
            batch, self.stock.dtype, self.language.config, kernels, blocks_BT, self._in_windows
        )
        features, unused = self._embed_batch(batch)
        if len(batch.feature_rows):
            inputs["mm_encoder_outputs"] = {"image": place_features(features, batch.feature_rows, self.stock.dtype)}
        return inputs, unused

    def _mark_answers(self, batch: Batch) -> torch.Tensor:
        """[B, T]: 1 for answer tokens and padding, 0 for the prompt, which is read in both directions."""
        types = (batch.docs_BT < 0).long()
        types.view(-1)[batch.from_L + 1] = 1
        return types

    def _compute_positions(self, batch: Batch) -> torch.Tensor:
        """[B, T], or [axes, B, T] where the family places image tokens in a grid."""
        plain_BT = batch.positions_BT + self.family.first_position
        return self.family.positions(plain_BT, batch, self.stock.config) if self.family.positions else plain_BT


def _number_runs(is_image_BT: torch.Tensor) -> torch.Tensor:
    """For each token, the number of its run of image tokens; -1 for other tokens."""
    before = torch.nn.functional.pad(is_image_BT[:, :-1], (1, 0))
    return torch.where(is_image_BT, (is_image_BT & ~before).cumsum(1), -1)
