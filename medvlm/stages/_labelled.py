"""A sample with the labels of its questions, and batches of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from medvlm.core.decoder_config import DecoderConfig
from medvlm.data.estimate import make_blank_labels
from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.models.decoding import Labelled, make_bags

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

MOST_AXES = 5
"""Of what ranks gather: rows of maps in volumes."""


@dataclass(frozen=True)
class LabelledSample:
    """The first medium of a sample. labels: decoder -> the labels of the questions that it answers. others: the labels
    of the sample that it is mixed with; it has `share` of the pixels itself. cut: the decoders whose masks
    are of both samples already. prompts: decoder -> what shows the object of each of its labels, of a decoder that
    takes prompts. further: the other media of the encoder, for decoders that read several; left_out: how many more the
    sample has."""

    key: str
    encoder: str
    pixels: torch.Tensor
    labels: dict[str, list[torch.Tensor]]
    source: str = ""
    others: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    share: float = 1.0
    cut: frozenset[str] = frozenset()
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)
    further: tuple[torch.Tensor, ...] = ()
    left_out: int = 0


def collate_labelled(items: list[LabelledSample], decoders: Mapping[str, Any]) -> Labelled:
    """Stacks samples. Those without a question for any decoder are left out."""
    media: dict[str, list[torch.Tensor]] = {}
    rows: dict[str, list[int]] = {}
    labels: dict[str, list[torch.Tensor]] = {}
    prompts: dict[str, list[Prompt]] = {}
    bags: dict[str, list[range]] = {}
    kept, numbers = [item for item in items if item.labels], list[range]()
    for item in kept:
        pixels = media.setdefault(item.encoder, [])
        numbers.append(range(len(pixels), len(pixels) + 1 + len(item.further)))
        pixels += item.pixels, *item.further
        for name, own in item.prompts.items():
            prompts.setdefault(name, []).extend(own)
    given = [(item.labels, number) for item, number in zip(kept, numbers, strict=True)]
    given += [(item.others, number) for item, number in zip(kept, numbers, strict=True)]
    for of_item, number in given:
        for name, found in of_item.items():
            rows.setdefault(name, []).extend([number[0]] * len(found))
            labels.setdefault(name, []).extend(found)
            if decoders[name].most_media > 1:
                bags.setdefault(name, []).extend([number] * len(found))
    others = Counter(name for item in kept for name, found in item.others.items() for _ in found)
    return Labelled(
        media={name: torch.stack(pixels) for name, pixels in media.items()},
        rows={name: torch.tensor(found) for name, found in rows.items()},
        labels={name: torch.stack(found) for name, found in labels.items()},
        keys=tuple(item.key for item in items),
        others=dict(others),
        share=kept[0].share if kept else 1.0,
        cut=kept[0].cut if kept else frozenset(),
        prompts={name: stack_prompts(own) for name, own in prompts.items()},
        bags={name: make_bags(own, decoders[name].most_media) for name, own in bags.items()},
    )


def gather_rows(
    engine: Engine, decoder: DecoderConfig, logits: torch.Tensor | None, labels: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """The logits and labels of a decoder of all ranks, in their order, and the rows of this rank. Ranks may have
    different numbers of them, or none. Called on every rank."""
    if logits is None:
        logits = torch.zeros(0, 0, device=engine.device)
    if labels is None:
        blank = torch.from_numpy(make_blank_labels(decoder, ()))
        labels = blank.new_empty(0, *blank.shape).to(logits.device)
    (every, labels_of_every), own = gather_uneven(engine, logits.float(), labels)
    return every, labels_of_every, own


def gather_uneven(engine: Engine, *tensors: torch.Tensor) -> tuple[list[torch.Tensor], slice]:
    """The rows of all ranks, in their order, and which of them are of this rank. All tensors of a rank have as many
    rows; a rank without any may give [0, 0]. Called on every rank."""
    rows = len(tensors[0])
    if tensors[0].is_meta:  # a plan has one process, and no values
        return list(tensors), slice(0, rows)
    shapes = [[rows, *each.shape[1:], *[0] * (MOST_AXES - each.ndim)] for each in tensors]
    (shapes_of_rank,) = engine.gather(torch.tensor([shapes], device=engine.device))
    counts, most = shapes_of_rank[:, 0, 0].tolist(), shapes_of_rank.amax(0).tolist()
    if not most[0][0]:
        return list(tensors), slice(0, 0)
    padded = []
    for each, (length, *rest) in zip(tensors, most, strict=True):
        shape = [side for side in rest if side]
        own = each if each.shape[1:].numel() else each.new_zeros(0, *shape)
        padded.append(torch.cat([own, own.new_zeros(length - rows, *shape)]))
    kept = torch.cat([number * most[0][0] + torch.arange(count) for number, count in enumerate(counts)])
    before = sum(counts[: engine.rank])
    return [each[kept.to(each.device)] for each in engine.gather(*padded)], slice(before, before + rows)
