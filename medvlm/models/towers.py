"""A dual encoder: image and text towers with a linear head each, or without heads as in SigLIP, compared by cosine.

Axes: N images with K texts each, B texts, T tokens, P width of the shared space. With one image encoder this is exactly
what transformers' VisionTextDualEncoderModel computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.config import component
from medvlm.core.contracts import Outputs
from medvlm.core.errors import ShapeError
from medvlm.core.joint import Seen
from medvlm.models.parts import build_encoders, build_seeded, complete_media, encode, is_trained


@dataclass
class Pairs:
    """Media with their texts. media: encoder name -> pixels. order_NV: the rows of the views of each pair in the
    stacked media of all encoders, -1 for none. ids_BT, mask_BT: the texts, those of a pair one after the other.
    concepts_NK: of each text; equal numbers mark pairs with the same findings. cache: of the first pass, if the batch
    is one of several, see stages/_gradient_cache.py. read: name of a further loss -> what it needs of the samples."""

    media: dict[str, torch.Tensor]
    order_NV: torch.Tensor
    ids_BT: torch.Tensor
    mask_BT: torch.Tensor
    concepts_NK: torch.Tensor
    keys: tuple[str, ...] = field(default=())
    cache: Any = None
    read: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def to(self, device: torch.device) -> Pairs:
        moved = {k: v.to(device) for k, v in vars(self).items() if hasattr(v, "to")}
        read = {name: {k: v.to(device) for k, v in own.items()} for name, own in self.read.items()}
        return replace(self, **moved, media={k: v.to(device) for k, v in self.media.items()}, read=read)


def build_dual(
    encoders: Mapping[str, Any],
    text: Any,
    tokenizer: Any,
    width: int | None,
    log_scale: float,
    bias: float | None,
    seed: int,
) -> DualEncoder:
    towers = build_encoders(encoders, seed)
    text_tower = build_seeded(seed, "text", lambda: component("texts", text.kind).build(text, tokenizer))
    return build_seeded(seed, "heads", lambda: DualEncoder(towers, text_tower, width, log_scale, bias))


class DualEncoder(nn.Module):
    """forward(pairs) -> unit embeddings `media_NP` and `texts_NP`, `log_scale`, and `bias` where there is one; and what
    further losses need, as `NAME.KEY`. terms: the parts of these losses by name, which read one encoder."""

    terms: nn.ModuleDict | None
    runs_all = False
    """Whether towers without a medium run too, as needed if ranks gather sharded weights from each other."""

    def __init__(
        self, encoders: nn.ModuleDict, text: nn.Module, width: int | None, log_scale: float, bias: float | None
    ):
        """width: of the shared space, None for no heads. Raises ShapeError for towers of different widths without
        heads."""
        super().__init__()
        self.encoders, self.text, self.terms = encoders, text, None
        widths: dict[str, Any] = {**{name: e.width for name, e in encoders.items()}, "text": text.width}
        if width is None and len(set(widths.values())) > 1:
            raise ShapeError(
                f"a dual encoder without heads (width: null) needs towers of one width, found {widths}; give it a width"
            )
        self.width: int = text.width if width is None else width  # type: ignore[assignment]
        heads = {
            name: nn.Identity() if width is None else nn.Linear(each, width, bias=False)
            for name, each in widths.items()
        }
        self.heads = nn.ModuleDict({**heads, "scale": Scale(log_scale, bias)})

    def forward(self, pairs: Pairs) -> Outputs:
        if self.terms:
            outputs = self._see_more(pairs, self.terms)
        else:
            outputs = {
                "media_NP": join_views(self.embed_media(pairs.media), pairs.order_NV),
                "texts_NP": self.embed_texts(pairs.ids_BT, pairs.mask_BT),
            }
        log_scale, bias = self.heads["scale"]()
        return {**outputs, "log_scale": log_scale, **({} if bias is None else {"bias": bias})}

    def _see_more(self, pairs: Pairs, terms: nn.ModuleDict) -> Outputs:
        """The embeddings, and the outputs of the further losses, from one pass of each tower."""
        ((name, pixels),) = pairs.media.items()
        features = encode(self.encoders[name], pixels, name)
        words_BTE, pooled_BE = self.text.read(pairs.ids_BT, pairs.mask_BT)
        outputs = {
            "media_NP": normalize(self.heads[name](features.pooled), dim=-1),
            "texts_NP": normalize(self.heads["text"](pooled_BE), dim=-1),
        }
        first = slice(None, None, len(pairs.ids_BT) // len(pixels))
        texts = words_BTE[first], pooled_BE[first], pairs.ids_BT[first], pairs.mask_BT[first]
        seen = Seen(
            features.patches,
            features.pooled,
            *texts,
            features.grid,
            self.text,
            lambda ids, mask: self.text.read(ids, mask)[0],
            pixels,
            partial(self.encoders[name], pixels.to(features.patches.dtype)),
        )
        for key, term in terms.items():
            outputs |= {f"{key}.{k}": tensor for k, tensor in term(seen, pairs.read.get(key, {})).items()}
        return outputs

    def embed_media(self, media: Mapping[str, torch.Tensor]) -> torch.Tensor:
        device = next(iter(media.values())).device
        run = complete_media(self.encoders, media, self._is_needed, device)
        embedded = {
            name: normalize(self.heads[name](encode(self.encoders[name], pixels, name).pooled), dim=-1)
            for name, pixels in run.items()
        }
        unused = [embedded[name].sum() for name in run if name not in media]
        stacked = torch.cat([embedded[name] for name in media])
        return stacked + 0 * torch.stack(unused).sum() if unused else stacked

    def _is_needed(self, name: str) -> bool:
        return self.runs_all or (
            torch.is_grad_enabled() and (is_trained(self.encoders[name]) or is_trained(self.heads[name]))
        )

    def embed_texts(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return normalize(self.heads["text"](self.text(ids_BT, mask_BT)), dim=-1)


def join_views(views_BP: torch.Tensor, order_NV: torch.Tensor) -> torch.Tensor:
    """[N, P]: the mean of the views of each study, of length 1 again. order_NV: their rows, -1 for none."""
    if order_NV.shape[1] == 1:
        return views_BP[order_NV[:, 0]]
    views_NVP = views_BP[order_NV.clamp(min=0)]
    return normalize((views_NVP * (order_NV >= 0)[..., None]).sum(1), dim=-1)


class Scale(nn.Module):
    """The learned log of the similarity's scale and, for the sigmoid loss, its bias."""

    def __init__(self, log_scale: float, bias: float | None):
        super().__init__()
        # Shape [1], because sharded parameters need an axis.
        self.log_scale = nn.Parameter(torch.tensor([log_scale]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        # Squeezed, because DDP takes a parameter that is itself an output for unused, and then fails at its gradient.
        return self.log_scale.squeeze(0), None if self.bias is None else self.bias.squeeze(0)
