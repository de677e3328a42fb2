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
    engine: Engine, decoder: DecoderConfig, logits: torch.Tensor, labels: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, slice]:
    """The logits and labels of a decoder of all ranks, in their order, and the rows of this rank. Ranks may have
    different numbers of them. Called on every rank."""
    if labels is None:
        blank = torch.from_numpy(make_blank_labels(decoder, ()))
        labels = blank.new_empty(0, *blank.shape).to(logits.device)
    if logits.is_meta:  # a plan has one process, and no values
        return logits.float(), labels, slice(0, len(labels))
    (count_of_rank,) = engine.gather(torch.tensor([len(labels)], device=engine.device))
    counts = count_of_rank.tolist()
    most, rank = max(counts), engine.rank
    if not most:
        return logits.float(), labels, slice(0, 0)
    padding = most - counts[rank]
    padded = [torch.cat([rows, rows.new_zeros(padding, *rows.shape[1:])]) for rows in (logits.float(), labels)]
    every, labels_of_every = engine.gather(*padded)
    kept = torch.cat([number * most + torch.arange(count) for number, count in enumerate(counts)])
    kept = kept.to(logits.device)
    return every[kept], labels_of_every[kept], slice(sum(counts[:rank]), sum(counts[: rank + 1]))
