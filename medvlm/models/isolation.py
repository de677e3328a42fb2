"""Checks that a new model computes the same for texts that share a row or a prompt as for each text alone."""

from __future__ import annotations

from itertools import count, islice
from typing import Any

import torch

from medvlm.core.deferred import present
from medvlm.core.errors import ShapeError
from medvlm.core.sample import Batch
from medvlm.models.attention import find_misfit
from medvlm.models.parts import evaluating

TOLERANCE = 5e-5
"""Relative to the largest logit. With random weights in float32, supported families differ by 1e-6, others by 1e-3 or
more."""


def check_isolated(model: Any, stock: Any = None, types: str = "", shares_rows: bool = True) -> None:
    """Compares 16 tokens of a VLM, two texts in one row and the first with two continuations, with the stock model on
    each text.

    stock: the transformers model to compare with, by default the language model. types: the argument
    that marks answer (1) and prompt (0), for a model that reads its prompt in both directions. shares_rows: whether
    texts may share a row; if not, the 16 tokens are one text.
    Also notes in `model.only_dense` whether other kernels than the dense attention can compute the model.
    Raises ShapeError if they differ: because of ALiBi, recurrent layers, or a head that changes logits in a way that
    `compute_logits` does not know."""
    stock = stock or model.language
    size = stock.get_input_embeddings().num_embeddings
    ids = list(islice((i for k in count() if (i := (7 * k + 5) % size) != model.image_token_id), 16))
    prefix, first, second, other = (ids[i : i + 4] for i in range(0, 16, 4))
    row = Batch(
        ids_BT=torch.tensor([ids]),
        positions_BT=torch.tensor([[*range(8), *range(4, 8), *range(4)] if shares_rows else [*range(16)]]),
        docs_BT=torch.tensor([[0] * 12 + [1] * 4 if shares_rows else [0] * 16]),
        branches_BT=torch.tensor([[0] * 4 + [1] * 4 + [2] * 4 + [0] * 4 if shares_rows else [0] * 16]),
        targets_L=torch.zeros(15, dtype=torch.long),
        from_L=torch.arange(15),
        answers_L=torch.zeros(15, dtype=torch.long),
        feature_rows=torch.zeros(0, dtype=torch.long),
    )
    family = f"model: {type(stock).__name__}"
    with evaluating(model), present(model, ids):
        try:
            shared = model(row)["logits_LV"]
        except Exception as error:
            raise ShapeError(
                f"{family} cannot read several texts in one row ({type(error).__name__}: {error}); choose another"
                " language model"
            ) from error
        texts = (prefix + first, prefix + second, other) if shares_rows else (ids,)
        given = {types: torch.tensor([[0] + [1] * 15])} if types else {}
        model.only_dense = model.only_dense or find_misfit(model, lambda: model(row)["logits_LV"], shared, TOLERANCE)
        alone = [stock(input_ids=torch.tensor([text]), use_cache=False, **given).logits[0] for text in texts]
    expected = (torch.cat([alone[0], alone[1][4:], alone[2]]) if shares_rows else alone[0])[:15]
    off = float((shared - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise ShapeError(
            f"{family} gives other logits for a text that shares its row than for the text alone (off by {off:.2%} of"
            " the largest): its attention or what follows its head is of a kind that rows do not support; choose"
            " another language model"
        )


def check_encoded(model: Any, stock: Any = None) -> None:
    """Compares a VLM with an encoder and a decoder with the stock model on each answer alone, for two prompts of
    unequal length with two answers and one.

    stock: the transformers model to compare with, by default the language model.

    Raises ShapeError if they differ: because of a head that changes logits in a way that `compute_logits` does not
    know, or of positions that depend on padding."""
    stock = stock or model.language
    size = stock.get_input_embeddings().num_embeddings
    ids = list(islice((i for k in count() if (i := (7 * k + 5) % size) != model.image_token_id), 16))
    prompts, answers = (ids[:5], ids[5:8]), (ids[8:11], ids[11:13], ids[13:16])
    rows = [prompts[0] + answers[0] + answers[1], prompts[1] + answers[2]]
    T = len(rows[0])
    batch = Batch(
        ids_BT=torch.tensor([rows[0], rows[1] + ids[:4]]),
        positions_BT=torch.tensor([[*range(8), 5, 6], [*range(T)]]),
        docs_BT=torch.tensor([[0] * T, [0] * 6 + [-1] * 4]),
        branches_BT=torch.tensor([[0] * 5 + [1] * 3 + [2] * 2, [0] * T]),
        targets_L=torch.tensor([i for answer in answers for i in answer]),
        from_L=torch.tensor([4, 5, 6, 4, 8, T + 2, T + 3, T + 4]),
        answers_L=torch.tensor([0] * 3 + [1] * 2 + [2] * 3),
        feature_rows=torch.zeros(0, dtype=torch.long),
    )
    family = f"model: {type(stock).__name__}"
    with evaluating(model), present(model, [*ids, *model.start_ids]):
        try:
            found = model(batch)["logits_LV"]
        except Exception as error:
            raise ShapeError(
                f"{family} cannot read prompts of unequal length ({type(error).__name__}: {error}); choose another"
                " language model"
            ) from error
        alone = [
            stock(
                input_ids=torch.tensor([prompts[number]]),
                decoder_input_ids=torch.tensor([[*model.start_ids, *answer[:-1]]]),
                use_cache=False,
            ).logits[0, len(model.start_ids) - 1 :]
            for number, answer in zip((0, 0, 1), answers, strict=True)
        ]
    expected = torch.cat(alone)
    off = float((found - expected).abs().max() / expected.abs().max())
    if not off <= TOLERANCE:
        raise ShapeError(
            f"{family} gives other logits for an answer in a batch than for the answer alone (off by {off:.2%} of the"
            " largest): its positions or what follows its head are of a kind that is not supported; choose another"
            " language model"
        )
