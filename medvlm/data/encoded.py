"""Documents for a model whose encoder reads the prompt and whose decoder writes the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from medvlm.data.dialogue import Span, TokenSequence


def split_prompts(document: TokenSequence, image_id: int, image_tokens: Mapping[str, int]) -> Iterator[TokenSequence]:
    """A document for each prompt, with the answers to it. What is asked before an answer is its prompt: the turns of a
    dialogue have one each, and equal prompts are one. Answers of weight 0 are read, but not written.

    image_id: the id of the placeholder. image_tokens: encoder -> tokens per medium. A document without answers is
    yielded as it is."""
    if not document.branches:
        yield document
        return
    answers: dict[tuple[int, ...], list[tuple[list[int], list[Span]]]] = {}
    for number, (ids, untrained) in enumerate(document.branches):
        spans = document.answers[number] if document.answers else [(untrained, len(ids), 1.0)]
        for start, end, weight in spans:
            if weight:
                prompt = (*document.prefix, *ids[:start])
                answers.setdefault(prompt, []).append((ids[start:end], [(0, end - start, weight)]))
    for prompt, own in answers.items():
        yield replace(
            document,
            prefix=list(prompt),
            branches=[(ids, 0) for ids, _ in own],
            answers=[spans for _, spans in own],
            media=list(_take_media(document, prompt.count(image_id), image_tokens)),
        )


def _take_media(document: TokenSequence, places: int, image_tokens: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """The first media, which fill so many placeholders."""
    for name, medium in document.media:
        if places <= 0:
            return
        places -= image_tokens[name]
        yield name, medium
