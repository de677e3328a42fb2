"""A sample with the labels of its questions, and batches of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from medvlm.data.prompts import Prompt, stack_prompts
from medvlm.models.decoding import Labelled


@dataclass(frozen=True)
class LabelledSample:
    """The first medium of a sample. labels: decoder -> the labels of the questions that it answers. others: the labels
    of the sample that it is mixed with; it has `share` of the pixels itself. cut: the decoders whose masks
    are of both samples already. prompts: decoder -> what shows the object of each of its labels, of a decoder that
    takes prompts."""

    key: str
    encoder: str
    pixels: torch.Tensor
    labels: dict[str, list[torch.Tensor]]
    source: str = ""
    others: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    share: float = 1.0
    cut: frozenset[str] = frozenset()
    prompts: dict[str, list[Prompt]] = field(default_factory=dict)


def collate_labelled(items: list[LabelledSample], decoders: Mapping[str, Any]) -> Labelled:
    """Stacks samples. Those without a question for any decoder are left out."""
    media: dict[str, list[torch.Tensor]] = {}
    rows: dict[str, list[int]] = {}
    labels: dict[str, list[torch.Tensor]] = {}
    prompts: dict[str, list[Prompt]] = {}
    kept, numbers = [item for item in items if item.labels], list[int]()
    for item in kept:
        pixels = media.setdefault(item.encoder, [])
        numbers.append(len(pixels))
        pixels.append(item.pixels)
        for name, own in item.prompts.items():
            prompts.setdefault(name, []).extend(own)
    given = [(item.labels, number) for item, number in zip(kept, numbers, strict=True)]
    given += [(item.others, number) for item, number in zip(kept, numbers, strict=True)]
    for of_item, number in given:
        for name, found in of_item.items():
            rows.setdefault(name, []).extend([number] * len(found))
            labels.setdefault(name, []).extend(found)
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
    )
