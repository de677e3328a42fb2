"""Says how well the features of an encoder tell labels apart, while it is trained without them.

Axes: N labelled training samples, M samples of `val`, E width of the encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import normalize

from medvlm.core.config import Config
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.core.tasks import find_task
from medvlm.data.source import SourceView
from medvlm.models.parts import encode, evaluating
from medvlm.objectives.ssl._base import measure_rank, measure_spread
from medvlm.train.terms import Term, Terms

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

TEMPERATURE = 0.07
"""As the evaluation protocol knn: neighbours vote with exp(cosine / temperature), Wu et al. 2018, arXiv 1805.01978."""

SPLITS = ("train", "val")
See = Callable[[Sample, dict[str, bytes]], torch.Tensor]
"""A sample and its files -> the encoder's input."""


class Probe(Config):
    """`probe` of a stage: at each validation, samples of `val` get the label of their nearest neighbours among those of
    `train`, and the accuracy goes into metrics.jsonl with the effective rank of the features."""

    source: str
    """A source with a question that has few different answers. It need not be in `mix`."""
    template: str
    """The template of that question."""
    samples: int = Field(512, gt=1)
    """Maximum number of samples of each of the two splits, at equal distances."""
    neighbours: int = Field(20, gt=0)


def require_answers(probe: Probe, view: SourceView, split: str) -> None:
    """Raises DataError if fewer than two samples that would be looked at have the question."""
    found = (read_answer(probe, view.read(place)[0]) for place in _spread(probe, view, 1))
    if len(list(islice(filter(None, found), 2))) < 2:
        raise DataError(
            f"probe: {probe.source} has fewer than two samples in {split!r} with a question of template"
            f" {probe.template!r}; name another template or source"
        )


def measure(probe: Probe, views: Sequence[SourceView], encoder: nn.Module, see: See, engine: Engine) -> Terms:
    """views: of SPLITS. Called on every rank; each encodes its share of the samples."""
    known_NE, answers_N = _embed(probe, views[0], encoder, see, engine)
    asked_ME, truths_M = _embed(probe, views[1], encoder, see, engine)
    found_M = vote(known_NE, answers_N, asked_ME, probe.neighbours)
    hits_M = (found_M == truths_M).double()
    each = [hits_M[truths_M == answer].mean() for answer in truths_M.unique()]
    most = answers_N.mode().values
    values = {
        "probe.accuracy": float(hits_M.mean()),
        "probe.balanced_accuracy": float(torch.stack(each).mean()),
        "probe.majority": float((truths_M == most).double().mean()),
        "probe.rank": measure_rank(asked_ME),
        "probe.spread": measure_spread(asked_ME),
    }
    return {name: Term(value, 1.0) for name, value in values.items()}


def vote(known_NE: torch.Tensor, answers_N: torch.Tensor, asked_ME: torch.Tensor, neighbours: int) -> torch.Tensor:
    """The answer [M] with the largest weight among the nearest neighbours, of vectors around the mean of those that are
    known."""
    mean_E = known_NE.mean(0)
    cosine_MN = normalize(asked_ME - mean_E, dim=1) @ normalize(known_NE - mean_E, dim=1).T
    likeness_MK, nearest_MK = cosine_MN.topk(min(neighbours, len(known_NE)), dim=1)
    names_A, place_N = answers_N.unique(return_inverse=True)
    weights_MA = cosine_MN.new_zeros(len(asked_ME), len(names_A))
    weights_MA.scatter_add_(1, place_N[nearest_MK], ((likeness_MK - 1) / TEMPERATURE).exp())
    return names_A[weights_MA.argmax(1)]


def read_answer(probe: Probe, sample: Sample) -> str:
    """ "" if the sample lacks the question."""
    asked = (q for q in sample.questions if q.template == probe.template)
    return next((find_task(q.truth.task).summarise(q.truth) for q in asked), "")


def _embed(
    probe: Probe, view: SourceView, encoder: nn.Module, see: See, engine: Engine
) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [n, E] in float64 and the number of each one's answer [n], of all ranks. Samples without the question are
    left out."""
    vectors, numbers = [], []
    for place in _spread(probe, view, engine.world)[engine.rank :: engine.world]:
        sample, files = view.read(place)
        with evaluating(encoder):
            vectors.append(encode(encoder, see(sample, files)[None].to(engine.device), probe.source).pooled[0].float())
        answer = read_answer(probe, sample)
        # The same on every rank; 7 bytes fit into int64.
        numbers.append(
            int.from_bytes(hashlib.blake2b(answer.encode(), digest_size=7).digest(), "big") if answer else -1
        )
    every, labels = engine.gather(torch.stack(vectors), torch.tensor(numbers, device=vectors[0].device))
    return every[labels >= 0].double().cpu(), labels[labels >= 0].cpu()


def _spread(probe: Probe, view: SourceView, world: int) -> list[int]:
    """Places at equal distances, as many for each rank."""
    count = min(len(view), probe.samples) // world * world
    return [i * len(view) // count for i in range(count)]
