"""Encoders with decoders, which give class scores and masks of media, without a language model; and decoders that a
language model draws with.

Axes: N media of an encoder, Q questions of a decoder, K its classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from medvlm.core.config import component
from medvlm.core.contracts import Features, Outputs
from medvlm.core.decoder_config import Bag, WithTerms, find_encoder, list_texts, reads_levels, spread
from medvlm.core.errors import RecipeError
from medvlm.core.mask_prompts import ABOUT, ASKED, MaskPrompts, Prompts, ReadTexts, Texts, TextWidth
from medvlm.models.parts import build_encoders, build_seeded, complete_media, encode, is_trained


@dataclass
class Labelled:
    """Media with their labels. media: encoder -> pixels [N, ...]. rows: decoder -> for each of its questions, the index
    of the medium of its encoder, int64 [Q]. labels: decoder -> int64 [Q] or [Q, *size] for exclusive classes, else [Q,
    K] or [Q, K, *size] (see core/decoder_config.py). keys: of the samples, for messages. others: decoder -> how many of
    its labels, the last ones, are of samples that are mixed into the media, each of which has `share` of itself.
    cut: the decoders whose masks are of both samples already.
    prompts: decoder -> what shows the object of each of its rows, of a decoder that takes prompts.
    bags: decoder -> the media of each of its rows, int64 [Q, V], -1 for none, of a decoder that reads several."""

    media: dict[str, torch.Tensor]
    rows: dict[str, torch.Tensor]
    labels: dict[str, torch.Tensor] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    others: dict[str, int] = field(default_factory=dict)
    share: float = 1.0
    cut: frozenset[str] = frozenset()
    prompts: dict[str, Prompts] = field(default_factory=dict)
    bags: dict[str, torch.Tensor] = field(default_factory=dict)

    def list_shares(self, decoder: str) -> list[tuple[float, slice]]:
        """The factors of the labels of a decoder, and which of them have it."""
        if self.share == 1 or decoder in self.cut:
            return [(1.0, slice(None))]
        own = len(self.labels[decoder]) - self.others.get(decoder, 0)
        return [(self.share, slice(own)), (1 - self.share, slice(own, None))]

    def to(self, device: torch.device) -> Labelled:
        media, rows, labels, bags = (
            {name: tensor.to(device) for name, tensor in tensors.items()}
            for tensors in (self.media, self.rows, self.labels, self.bags)
        )
        prompts = {name: each.to(device) for name, each in self.prompts.items()}
        return replace(self, media=media, rows=rows, labels=labels, prompts=prompts, bags=bags)


def build_decoding(
    encoders: Mapping[str, Any], decoders: Mapping[str, Any], seed: int, text: Any = None, tokenizer: Any = None
) -> Decoding:
    """text: the config of the text tower, tokenizer: its own. Raises ShapeError for a decoder that cannot read its
    encoder, RecipeError for one that does not name it."""
    towers, tower = build_encoders(encoders, seed), None
    if text is not None:
        tower = build_seeded(seed, "text", lambda: component("texts", text.kind).build(text, tokenizer))
    return Decoding(towers, *build_decoders(encoders, towers, decoders, seed, tower), tower)


def build_decoders(
    encoders: Mapping[str, Any],
    towers: nn.ModuleDict,
    decoders: Mapping[str, Any],
    seed: int,
    text: Any = None,
    **given: int,
) -> tuple[nn.ModuleDict, dict[str, str]]:
    """The decoders, and decoder -> encoder. text: the tower of those that read texts. given: further arguments of their
    build()."""
    reads = {name: find_encoder(name, config, encoders) for name, config in decoders.items()}

    def build(name: str) -> nn.Module:
        config, tower = decoders[name], towers[reads[name]]
        module = component("decoders", config.kind)
        own: dict[str, Any] = {"levels": getattr(tower, "levels", ())} if reads_levels(config) else {}
        if list_texts(config):
            if text is None:
                raise RecipeError(f"model.decoders.{name} reads texts, and its stage has no `text`, a text tower")
            own["text_width"] = TextWidth(text.width, text.word_width)
        made: nn.Module = module.build(config, tower.width, tower.grid, tower.input_shape, **own, **given)
        return made

    return nn.ModuleDict(
        {name: build_seeded(seed, f"decoders.{name}", partial(build, name)) for name in decoders}
    ), reads


def name_output(decoder: str, side: int | str = 0) -> str:
    """Where the logits of a decoder are in the Outputs. side: 1 for its first side output, and so on; or the name of
    what else a decoder that takes prompts gives."""
    return f"decoders.{decoder}.{side}" if side else f"decoders.{decoder}"


def name_presence(decoder: str) -> str:
    """The same for whether there is something to draw."""
    return f"{name_output(decoder)}.presence"


def draw_masks(
    name: str, decoder: nn.Module, features: Features, hidden_NW: torch.Tensor, drawn: MaskPrompts | None
) -> Outputs:
    """Logits of masks [S, 1, *size], and logits of whether there is anything to mark [S, 1].

    hidden_NW: of all tokens of the batch. Without a token that draws, the decoder still reads one, so that it is in the
    graph and no rank waits for its gradient."""
    count = 0 if drawn is None else len(drawn.from_S)
    blank = torch.zeros(1, dtype=torch.long, device=hidden_NW.device)
    from_S, rows_S = (drawn.from_S, drawn.rows_S) if drawn is not None and count else (blank, blank)
    chosen = _choose(features, rows_S, decoder)
    masks, presence = decoder(chosen, hidden_NW[from_S].to(chosen.patches.dtype))
    return {name_output(name): masks[:count], name_presence(name): presence[:count]}


def _choose(features: Features, rows: torch.Tensor, decoder: nn.Module) -> Features:
    """Features of these media, in the precision of a decoder."""
    dtype = next(decoder.parameters()).dtype
    assert features.pixels is not None
    return Features(
        features.patches[rows].to(dtype),
        features.pooled[rows].to(dtype),
        features.grid,
        tuple(level[rows].to(dtype) for level in features.levels),
        features.pixels[rows].to(dtype),
        None if features.heads is None else features.heads[rows].to(dtype),
    )


def _gather(features: Features, order_QV: torch.Tensor, decoder: nn.Module) -> Bag:
    """The media of each row as one input, in the precision of a decoder."""
    dtype, is_there_QV = next(decoder.parameters()).dtype, order_QV >= 0
    media_QVE = features.pooled[order_QV.clamp(min=0)].to(dtype) * is_there_QV[..., None]
    mean_QE = media_QVE.sum(1) / is_there_QV.sum(1, keepdim=True)
    return Bag(media_QVE, mean_QE, (order_QV.shape[1],), is_there_NV=is_there_QV)


def make_bags(bags: Sequence[Sequence[int]], most: int) -> torch.Tensor:
    """At most `most` indices of each bag, [Q, V], filled up with -1. Of more, which another decoder reads, those at
    equal distances."""
    kept = [torch.tensor([bag[n] for n in spread(len(bag), most)]) for bag in bags]
    return nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=-1)


def make_box_prompt(device: torch.device, width: float = 1.0, height: float = 1.0) -> Prompts:
    """A box of this size in the corner of an input, of the first class, and the first word of a tokenizer for decoders
    that read texts."""
    zeros = partial(torch.zeros, device=device)
    box_14, number = torch.tensor([[0.0, 0.0, width, height]], device=device), zeros(1).long()
    word = Texts(zeros(1, 1).long(), zeros(1, 1).long() + 1, number)
    texts = {ASKED: word, ABOUT: word}
    return Prompts((("box",),), (0,), box_14, zeros(1, 0, 2), zeros(1, 0).long(), number, texts=texts, kinds_S=number)


class Decoding(nn.Module):
    """forward(labelled) -> Outputs: `decoders.NAME`, logits [Q, K] or [Q, K, *size], and `decoders.NAME.1` ... for the
    side outputs of a decoder in training, and `decoders.NAME.TERM` for its own losses, [Q]. A decoder that takes
    prompts gives nothing without them. reads: decoder -> encoder. text: the tower that reads their texts."""

    runs_all = False
    """Whether towers without a medium run too, as needed if ranks gather sharded weights from each other."""

    def __init__(
        self,
        encoders: nn.ModuleDict,
        decoders: nn.ModuleDict,
        reads: Mapping[str, str],
        text: nn.Module | None = None,
    ):
        super().__init__()
        self.encoders, self.decoders, self.reads = encoders, decoders, dict(reads)
        if text is not None:
            self.text: Any = text

    def forward(self, batch: Labelled) -> Outputs:
        device = next(self.parameters()).device
        media = complete_media(self.encoders, batch.media, self._is_needed, device, least=1)
        features = {name: encode(self.encoders[name], pixels, name) for name, pixels in media.items()}
        features = {name: replace(each, pixels=media[name]) for name, each in features.items()}
        outputs: Outputs = {}
        for name, decoder in self.decoders.items():
            if self.reads[name] in features:
                shown, prompts, bags = batch.rows.get(name), batch.prompts.get(name), batch.bags.get(name)
                found = self._decode(decoder, features[self.reads[name]], shown, prompts, bags)
                outputs |= {name_output(name, side): logits for side, logits in found.items()}
        return outputs

    def _decode(
        self,
        decoder: nn.Module,
        features: Features,
        rows: torch.Tensor | None,
        prompts: Prompts | None,
        bags: torch.Tensor | None,
    ) -> dict[int | str, torch.Tensor]:
        """Logits of the questions of a decoder, its side outputs, and its own losses. Without a question it still reads
        one medium, and its output is dropped, so that the decoder is in the graph and no rank waits for its
        gradient."""
        count = 0 if rows is None else len(rows)
        takes_prompts = getattr(decoder, "TAKES_PROMPTS", False)
        if takes_prompts and prompts is None:
            if not torch.is_grad_enabled():
                return {}
            count, prompts = 0, make_box_prompt(features.patches.device)
        if rows is None or not count:
            rows = torch.zeros(1, dtype=torch.long, device=features.patches.device)
        found: Any
        if takes_prompts:
            assert prompts is not None
            found = self._mark(decoder, features, rows, prompts)
        elif bags is not None and count:
            found = decoder(_gather(features, bags, decoder))
        else:
            found = decoder(_choose(features, rows, decoder))
        if isinstance(found, WithTerms):
            found = {**dict(enumerate(found.logits)), **found.terms}
        named = found if isinstance(found, dict) else dict(enumerate(found if isinstance(found, list) else [found]))
        return {side: logits[:count] for side, logits in named.items()}

    def _mark(self, decoder: nn.Module, features: Features, rows_S: torch.Tensor, prompts: Prompts) -> Any:
        """What a decoder that takes prompts gives, with its texts read."""
        if reads := getattr(decoder, "reads_texts", ()):
            dtype = next(decoder.parameters()).dtype
            prompts = replace(prompts, read={what: self._read(prompts.texts[what], dtype) for what in reads})
        if getattr(decoder, "SHARES_MEDIA", False):
            seen, own_S = torch.arange(len(features.patches), device=rows_S.device), rows_S
            if not rows_S.is_meta:  # a plan does not know which media are asked for, so it reads all
                seen, own_S = rows_S.unique(return_inverse=True)
            return decoder(_choose(features, seen, decoder), replace(prompts, rows_S=own_S))
        return decoder(_choose(features, rows_S, decoder), prompts)

    def _read(self, texts: Texts, dtype: torch.dtype) -> ReadTexts:
        words_BTE, pooled_BE = self.text.read(texts.ids_BT, texts.is_token_BT)
        words_BTE = words_BTE * texts.is_token_BT[:, :, None]
        every = ReadTexts(pooled_BE.to(dtype), words_BTE.to(dtype), texts.is_token_BT)
        return every.take(texts.rows_S)

    def _is_needed(self, name: str) -> bool:
        own = (self.decoders[decoder] for decoder, encoder in self.reads.items() if encoder == name)
        return self.runs_all or (torch.is_grad_enabled() and any(map(is_trained, (self.encoders[name], *own))))
