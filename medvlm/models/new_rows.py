"""Makes the embedding rows of a few tokens separate parameters, to train new tokens while all other rows stay
bit-identical."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import embedding, linear

from medvlm.core import deferred
from medvlm.core.errors import RecipeError


def find_tables(language: Any) -> list[nn.Module]:
    """Its embeddings and, if it has one, its head."""
    found = (language.get_input_embeddings(), language.get_output_embeddings())
    return [each for each in found if each is not None]


def list_read(language: Any, ids: Sequence[int]) -> set[int]:
    """The rows of the tables that attach() reads."""
    rows = len(language.get_input_embeddings().weight)
    return {row % rows for id_ in ids for row in (id_, id_ + 1)}


def attach(language: Any, ids: Sequence[int]) -> None:
    """Makes the rows of these tokens separate parameters of the embeddings and, unless it is tied to them, of the head.

    The values do not change. Raises RecipeError for a model that computes its embeddings in an unknown way."""
    base, head = language.get_input_embeddings(), language.get_output_embeddings()
    places = torch.tensor(sorted(ids), device=base.weight.device)
    embeddings = Embeddings(base, places)
    if not base.weight.is_meta:
        with torch.no_grad():
            probe = torch.cat([places, (places + 1) % base.weight.shape[0]])[None]
            if not torch.equal(embeddings(probe), base(probe)):
                raise RecipeError(
                    f"lora.tokens: the embeddings of {type(language).__name__} are a {type(base).__name__}, whose rows"
                    " cannot be trained alone; leave out lora.tokens"
                )
    language.set_input_embeddings(embeddings)
    if head is not None:
        is_tied = head.weight is base.weight
        language.set_output_embeddings(
            Head(head, places, embeddings.lora_rows if is_tied else nn.Parameter(head.weight.detach()[places].clone()))
        )


def fold(model: nn.Module) -> None:
    """Writes separate rows back into their tables, if there are any."""
    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, (Embeddings, Head))]:
        weight, places = module.base_layer.weight, module.places
        rows = module.lora_rows.detach().to(weight.dtype, copy=True)
        if (source := deferred.source_of(weight)) is not None:
            deferred.redefine(weight, deferred.Replaced(source, places, rows))
        else:
            with torch.no_grad():
                weight[places] = rows
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.base_layer)


class Embeddings(nn.Module):
    """Token ids -> embeddings, those of `places` from `lora_rows`."""

    places: torch.Tensor
    slot: torch.Tensor

    def __init__(self, base: Any, places: torch.Tensor):
        super().__init__()
        self.base_layer = base
        self.lora_rows = nn.Parameter(base.weight.detach()[places].clone())
        self.register_buffer("places", places, persistent=False)
        slot = torch.full((base.weight.shape[0],), -1, device=base.weight.device)
        self.register_buffer(
            "slot", slot.index_copy(0, places, torch.arange(len(places), device=places.device)), persistent=False
        )
        self.scale = getattr(base, "embed_scale", None)  # Gemma's

    @property
    def weight(self) -> torch.Tensor:
        rows: torch.Tensor = self.base_layer.weight
        return rows

    @property
    def num_embeddings(self) -> int:
        return len(self.weight)

    @property
    def embedding_dim(self) -> int:
        return self.weight.shape[1]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        slots = self.slot[ids]
        own = embedding(slots.clamp_min(0), self.lora_rows).to(self.weight.dtype)
        if self.scale is not None:
            own = own * torch.as_tensor(self.scale, dtype=own.dtype, device=own.device)
        return torch.where((slots >= 0)[..., None], own, self.base_layer(ids))


class Head(nn.Module):
    """Hidden states -> logits, those of `places` from `lora_rows`."""

    places: torch.Tensor

    def __init__(self, base: Any, places: torch.Tensor, rows: nn.Parameter):
        super().__init__()
        self.base_layer, self.lora_rows = base, rows
        self.register_buffer("places", places, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        rows: torch.Tensor = self.base_layer.weight
        return rows

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        bias = None if self.base_layer.bias is None else self.base_layer.bias[self.places]
        own = linear(hidden, self.lora_rows, bias)
        logits: torch.Tensor = self.base_layer(hidden)
        return logits.index_copy(-1, self.places, own.to(logits.dtype))
