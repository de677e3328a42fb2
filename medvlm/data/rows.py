"""Packs documents into a Batch, several per row if they fit. They do not attend to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from medvlm.core.mask_prompts import MaskPrompts
from medvlm.core.sample import Batch
from medvlm.data.dialogue import TokenSequence

Stacked = tuple[dict[str, torch.Tensor], list[list[int]]]
"""A batch's media, and for each document the indexes of its rows among all image tokens, in the order of its
placeholders."""


def collate(
    documents: Sequence[TokenSequence],
    image_tokens: Mapping[str, int],
    pad_id: int,
    pack: bool = True,
    stack: Callable[[Sequence[TokenSequence]], Stacked] | None = None,
    width: int = 0,
) -> Batch:
    """The batch of these documents. Targets come document by document, branch by branch.

    image_tokens: tokens that each encoder emits per medium. pack: fill rows up to the longest document; off for
    generation, where every row holds one prompt. stack: for media that are not pixels of one size. width: fill rows up
    to this number of tokens instead.
    """
    rows = assign_rows(documents, pack, width)
    width = max(sum(len(documents[d]) for d in row) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    positions, docs, branches = torch.zeros_like(ids), torch.full_like(ids, -1), torch.zeros_like(ids)
    targets: list[tuple[int, list[int], list[int], float]] = []  # answers: document, ids, places of the tokens before
    placeholders: list[tuple[int, int]] = []  # (document, flat place of its first token), in row-major order
    starts: dict[tuple[int, int], int] = {}  # (document, branch) -> flat place of its first token
    for r, row in enumerate(rows):
        at = 0
        for number, d in enumerate(row):
            document = documents[d]
            placeholders.append((d, r * width + at))
            end = at + len(document.prefix)
            ids[r, at:end] = torch.tensor(document.prefix, dtype=torch.long)
            positions[r, at:end] = torch.arange(len(document.prefix))
            before = end - 1  # the token that every branch follows
            docs[r, at : at + len(document)] = number
            at = end
            for b, (branch, untrained) in enumerate(document.branches):
                end, starts[d, b] = at + len(branch), r * width + at
                ids[r, at:end] = torch.tensor(branch, dtype=torch.long)
                positions[r, at:end] = torch.arange(len(branch)) + len(document.prefix)
                if len(document.branches) > 1:
                    branches[r, at:end] = b + 1
                for start, stop, weight in document.answers[b] if document.answers else [(untrained, len(branch), 1.0)]:
                    parents = [r * width + (before if i == 0 else at + i - 1) for i in range(start, stop)]
                    if weight:
                        targets.append((d, branch[start:stop], parents, weight))
                at = end
    targets.sort(key=lambda t: t[0])  # stable: branches stay in order
    media, features_of = stack(documents) if stack else _stack_media(documents, image_tokens)
    return Batch(
        ids_BT=ids,
        positions_BT=positions,
        docs_BT=docs,
        branches_BT=branches,
        targets_L=torch.tensor([i for _, tokens, *_ in targets for i in tokens], dtype=torch.long),
        from_L=torch.tensor([p for _, _, parents, _ in targets for p in parents], dtype=torch.long),
        answers_L=torch.tensor([a for a, (_, tokens, *_) in enumerate(targets) for _ in tokens], dtype=torch.long),
        feature_rows=torch.tensor([r for d, _ in placeholders for r in features_of[d]], dtype=torch.long),
        media=media,
        weights_L=_list_weights(targets),
        keys=tuple(d.key for d in documents),
        sources=tuple(documents[d].source for d, *_ in targets),
        drawn=_find_drawn(documents, starts),
    )


def _find_drawn(documents: Sequence[TokenSequence], starts: Mapping[tuple[int, int], int]) -> dict[str, MaskPrompts]:
    number, found = _number_media(documents), dict[str, list[tuple[int, int, torch.Tensor | None]]]()
    for d, document in enumerate(documents):
        for stroke in document.strokes:
            encoder, medium = document.media[0]
            at = starts[d, stroke.branch] + stroke.at
            found.setdefault(stroke.decoder, []).append((at, number[encoder][id(medium)], stroke.label))
    drawn = {}
    for name, strokes in found.items():
        places, rows, labels = zip(*strokes, strict=True)
        is_known = all(label is not None for label in labels)
        drawn[name] = MaskPrompts(torch.tensor(places), torch.tensor(rows), torch.stack(labels) if is_known else None)
    return drawn


def _list_weights(answers: Sequence[tuple[int, list[int], list[int], float]]) -> torch.Tensor | None:
    if all(weight == 1 for *_, weight in answers):
        return None
    return torch.tensor([weight for _, tokens, _, weight in answers for _ in tokens], dtype=torch.float32)


def assign_rows(documents: Sequence[TokenSequence], pack: bool = True, width: int = 0) -> list[list[int]]:
    """Which documents share a row, by first fit in the given order. A row is as wide as the longest document, or as
    `width` if that is more."""
    if not pack:
        return [[d] for d in range(len(documents))]
    width = max(width, *(len(d) for d in documents))
    rows: list[list[int]] = []
    room: list[int] = []
    for d, document in enumerate(documents):
        for r, left in enumerate(room):
            if len(document) <= left:
                rows[r].append(d)
                room[r] -= len(document)
                break
        else:
            rows.append([d])
            room.append(width - len(document))
    return rows


def _stack_media(documents: Sequence[TokenSequence], image_tokens: Mapping[str, int]) -> Stacked:
    """Pixels stacked by encoder, and for each document the rows of the stacked image tokens that are its own.

    A tensor that several documents share is one image, and is encoded once.
    """
    number = _number_media(documents)
    pixels: dict[str, list[torch.Tensor]] = {name: [] for name in number}
    for name, medium in (m for document in documents for m in document.media):
        if number[name][id(medium)] == len(pixels[name]):
            pixels[name].append(medium)
    start, base = {}, 0
    for name, stack in pixels.items():
        start[name] = base
        base += len(stack) * image_tokens[name]
    rows_of: list[list[int]] = []
    for document in documents:
        rows: list[int] = []
        for name, medium in document.media:
            first = start[name] + number[name][id(medium)] * image_tokens[name]
            rows += range(first, first + image_tokens[name])
        rows_of.append(rows)
    return {name: torch.stack(stack) for name, stack in pixels.items()}, rows_of


def _number_media(documents: Sequence[TokenSequence]) -> dict[str, dict[int, int]]:
    """Encoder -> id of the pixels -> their place in the stack of the encoder."""
    number: dict[str, dict[int, int]] = {}
    for name, medium in (m for document in documents for m in document.media):
        known = number.setdefault(name, {})
        known.setdefault(id(medium), len(known))
    return number
