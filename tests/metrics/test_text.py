"""BLEU, ROUGE-L and CIDEr against pycocoevalcap and torchmetrics, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge
from torchmetrics.functional.text import bleu_score, rouge_score

from medvlm.metrics.bootstrap import resample, value
from medvlm.metrics.text import bleu, count_bleu, find_common_length, fit_cider, rouge_l

WORDS = [
    "the",
    "a",
    "heart",
    "lung",
    "is",
    "not",
    "clear",
    "large",
    "small",
    "left",
    "right",
    "no",
    "of",
    "and",
    "pleural",
]


def draw_pairs(number: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """(text, reference) of 0 to 30 words, many of which they share."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(number):
        reference = list(rng.choice(WORDS, rng.integers(1, 30)))
        kept = [word for word in reference if rng.random() < 0.8]
        pairs.append((kept + list(rng.choice(WORDS, rng.integers(0, 5))), reference))
    return pairs


FIXED = [
    (["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e"]),
    (["a", "a", "a", "a"], ["a", "b"]),
    (["x"], ["a", "b", "c"]),
    (["a", "b"], ["a", "b", "c", "d", "e", "f", "g", "h"]),
    ([], ["a", "b"]),
]
SETS = {
    "drawn": draw_pairs(40),
    "few": draw_pairs(3, seed=1),
    "fixed": FIXED,
    "both": [*FIXED, *draw_pairs(20, seed=2)],
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("orders", [1, 4])
def test_bleu_is_that_of_pycocoevalcap(name: str, orders: int) -> None:
    scorer = BleuScorer(n=orders)
    for found, expected in SETS[name]:
        scorer += (" ".join(found), [" ".join(expected)])
    reference, _ = scorer.compute_score(option="closest")
    ours = value(np.array([count_bleu(found, expected, orders) for found, expected in SETS[name]]), bleu)
    assert ours == pytest.approx(reference[-1], abs=1e-9)


def test_bleu_is_that_of_torchmetrics_where_every_order_matches() -> None:
    pairs = SETS["drawn"]
    texts, references = [" ".join(found) for found, _ in pairs], [[" ".join(expected)] for _, expected in pairs]
    ours = value(np.array([count_bleu(found, expected, 4) for found, expected in pairs]), bleu)
    assert ours == pytest.approx(float(bleu_score(texts, references)), abs=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_rouge_l_is_that_of_pycocoevalcap(name: str) -> None:
    for found, expected in SETS[name]:
        reference = Rouge().calc_score([" ".join(found)], [" ".join(expected)])
        assert rouge_l(found, expected) == pytest.approx(reference, abs=1e-12)


def test_rouge_l_is_that_of_torchmetrics_where_recall_counts_as_precision() -> None:
    for found, expected in SETS["drawn"]:
        reference = rouge_score(" ".join(found), " ".join(expected), rouge_keys="rougeL")["rougeL_fmeasure"]
        assert rouge_l(found, expected, beta=1.0) == pytest.approx(float(reference), abs=1e-6)


def test_the_common_subsequence_is_that_of_the_table() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        a, b = (list(rng.choice(WORDS[:4], rng.integers(0, 80))) for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, one in enumerate(a):
            for j, other in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if one == other else max(table[i, j + 1], table[i + 1, j])
        assert find_common_length(a, b) == table[-1, -1]


@pytest.mark.parametrize("name", SETS)
def test_cider_is_that_of_pycocoevalcap(name: str) -> None:
    pairs = SETS[name]
    scorer = CiderScorer()
    for found, expected in pairs:
        scorer += (" ".join(found), [" ".join(expected)])
    _, reference = scorer.compute_score()
    score = fit_cider([expected for _, expected in pairs])
    assert [score(found, expected) for found, expected in pairs] == pytest.approx(list(reference), abs=1e-9)


def test_two_empty_texts_are_the_same_and_one_empty_text_is_not() -> None:
    assert rouge_l([], []) == 1.0 and rouge_l([], ["a"]) == rouge_l(["a"], []) == 0.0


def test_the_draws_of_bleu_are_those_of_the_repeated_texts() -> None:
    """BLEU of a corpus is no mean over texts: a draw sums their counts."""
    pairs = SETS["drawn"]
    columns = np.array([count_bleu(found, expected, 4) for found, expected in pairs])
    drawn = resample(columns, range(len(pairs)), bleu, resamples=20)
    assert drawn.std() > 0 and drawn.min() < value(columns, bleu) < drawn.max()
    assert value(np.concatenate([columns, columns]), bleu) == pytest.approx(value(columns, bleu))
    assert value(columns, bleu) != pytest.approx(np.mean([value(row[None], bleu) for row in columns]), abs=1e-3)
