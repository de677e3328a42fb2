"""Greedy answers are those of transformers' own generate; drawn answers are drawn from the model's distribution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.sample import Batch
from medvlm.data.dialogue import TokenSequence
from medvlm.models.generate import bar_words, find_end_ids, generate, is_cut
from medvlm.models.vlm import VLM
from tests.models.tiny import END_ID, IMAGE_ID, PAD_ID, WINDOWED, batch_of, document, language, spread, vlm

ENDS = list(range(END_ID, 64, 4))
"""Several, so that answers of random weights end at different lengths."""


def prompts(
    media: Sequence[Sequence[str]] = ((), ("film",), ("film", "volume"), ("film", "film", "film"), ()),
) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(3)
    return [document(generator, kinds, 2 + 3 * n, []) for n, kinds in enumerate(media)]


def stock_answer(model: VLM, prompt: TokenSequence, max_new_tokens: int) -> list[int]:
    batch = batch_of([prompt], pack=False)
    out: Any = model.language.generate(  # type: ignore[operator]
        inputs_embeds=model.embed(batch),
        attention_mask=torch.ones_like(batch.ids_BT),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=ENDS,
        pad_token_id=PAD_ID,
        suppress_tokens=[IMAGE_ID],
    )
    return out[0].tolist()


def families() -> dict[str, Callable[[], VLM]]:
    def windowed() -> VLM:
        model = vlm()
        model.language = language("gemma2", **WINDOWED["gemma2"])
        return model

    return {"qwen2": lambda: vlm("qwen2"), "gpt2": lambda: vlm("gpt2"), "gemma2 that looks back 3 tokens": windowed}


@pytest.mark.parametrize("family", families())
def test_greedy_answers_are_those_of_transformers_token_for_token(family: str) -> None:
    """Prompts of different lengths in one batch, padded on the right, with images of both encoders and without."""
    model = families()[family]()
    spread(model.language)
    made = prompts()
    with torch.no_grad():
        got = generate(model, batch_of(made, pack=False), max_new_tokens=12, end_ids=ENDS)
        expected = [stock_answer(model, prompt, 12) for prompt in made]
    assert got == expected
    assert len({len(a) for a in got}) > 1, "all answers are alike long: early stopping is not shown"
    assert all(a[-1] in ENDS for a in got if len(a) < 12) and not any(token in ENDS for a in got for token in a[:-1])


def test_copies_of_a_greedy_answer_are_alike_and_stand_prompt_by_prompt() -> None:
    model, batch = vlm(), batch_of(prompts(), pack=False)
    spread(model.language)
    once = generate(model, batch, max_new_tokens=6, end_ids=ENDS)
    assert generate(model, batch, max_new_tokens=6, end_ids=ENDS, copies=3) == [a for a in once for _ in range(3)]


def uniform(seed: int, copies: int, tokens: int) -> Callable[[int], Sequence[float]]:
    drawn = torch.rand(tokens, copies, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lambda number: drawn[number].tolist()


def excess(counts: Counter[int], probabilities: torch.Tensor) -> float:
    """Pearson's chi-square against these probabilities, in standard deviations above its mean; cells below 5 are put
    together."""
    total = sum(counts.values())
    expected = probabilities.double() * total
    found = torch.tensor([counts.get(i, 0) for i in range(len(expected))], dtype=torch.float64)
    large = expected >= 5
    cells = [
        *zip(found[large].tolist(), expected[large].tolist(), strict=True),
        (float(found[~large].sum()), float(expected[~large].sum())),
    ]
    square = sum((f - e) ** 2 / e for f, e in cells if e > 0)
    freedom = len(cells) - 1
    return (square - freedom) / (2 * freedom) ** 0.5


def test_drawn_tokens_have_the_frequencies_of_the_softmax_at_the_temperature() -> None:
    model, prompt, copies, temperature = vlm(), prompts()[1], 4000, 0.7
    spread(model.language.get_output_embeddings(), by=15)  # type: ignore[operator]
    batch = batch_of([prompt], pack=False)
    answers = generate(
        model,
        batch,
        max_new_tokens=2,
        end_ids=[],
        copies=copies,
        temperature=temperature,
        draws=[uniform(0, copies, 2)],
    )
    with torch.no_grad():
        logits = bar_words(model.language(inputs_embeds=model.embed(batch)).logits[0, -1:], [IMAGE_ID])[0]
    first = (logits / temperature).softmax(-1)
    assert excess(Counter(a[0] for a in answers), first) < 4
    assert excess(Counter(a[0] for a in answers), logits.softmax(-1)) > 20, "the test cannot tell temperatures apart"

    # The second token, after the first that came most often: the cache of each copy is its own.
    common = Counter(a[0] for a in answers).most_common(1)[0][0]
    longer = TokenSequence(prompt.key, [*prompt.prefix, common], [], prompt.media)
    with torch.no_grad():
        logits = bar_words(
            model.language(inputs_embeds=model.embed(batch_of([longer], pack=False))).logits[0, -1:], [IMAGE_ID]
        )[0]
    assert excess(Counter(a[1] for a in answers if a[0] == common), (logits / temperature).softmax(-1)) < 4


def test_what_is_drawn_does_not_depend_on_the_batch_it_is_drawn_in() -> None:
    model, made = vlm(), prompts()
    spread(model.language, by=4)
    draws = [uniform(seed, 3, 8) for seed in range(len(made))]

    def drawn(batch: Batch, own: list[Any]) -> list[list[int]]:
        return generate(model, batch, max_new_tokens=8, end_ids=ENDS, copies=3, temperature=1.0, draws=own)

    together = drawn(batch_of(made, pack=False), draws)
    apart = [a for prompt, own in zip(made, draws, strict=True) for a in drawn(batch_of([prompt], pack=False), [own])]
    assert together == apart
    assert len({tuple(a) for a in together}) > len(made), "copies are alike: nothing was drawn"


def test_an_image_placeholder_is_never_said() -> None:
    model = vlm()
    head: Any = model.language.get_output_embeddings()  # type: ignore[operator]
    head.bias = nn.Parameter(torch.zeros(head.out_features).index_fill(0, torch.tensor([IMAGE_ID]), 50.0))
    batch = batch_of(prompts(), pack=False)
    greedy = generate(model, batch, max_new_tokens=4, end_ids=[])
    drawn = generate(
        model,
        batch,
        max_new_tokens=4,
        end_ids=[],
        copies=20,
        temperature=1.0,
        draws=[uniform(n, 20, 4) for n in range(5)],
    )
    assert all(IMAGE_ID not in answer for answer in greedy + drawn)


def test_an_answer_ends_at_the_tokenizers_end_and_at_those_the_model_declares() -> None:
    class Tokenizer:
        eos_token_id = 5

    model = vlm()
    model.language.generation_config.eos_token_id = [9, 5, 8]  # type: ignore[union-attr]
    assert find_end_ids(model, Tokenizer()) == [5, 8, 9]
    model.language.generation_config.eos_token_id = None  # type: ignore[union-attr]
    assert find_end_ids(model, Tokenizer()) == [5]


@pytest.mark.parametrize(
    ("ids", "cut"), [([5, 6, 7], True), ([5, 6, 2], False), ([5, 2], False), ([5, 6], False), ([5, 6, 3], False)]
)
def test_an_answer_is_cut_where_it_is_as_long_as_it_may_be_and_has_no_end(ids: list[int], cut: bool) -> None:
    assert is_cut(ids, 3, [2, 3]) == cut
