"""The losses that decoders compute themselves, of what only they see (core/decoder_config.WithTerms)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medvlm.core.contracts import Outputs
from medvlm.models.decoding import Labelled, name_output
from medvlm.train.terms import Loss


def _list(modules: Any, decoders: Iterable[str]) -> Iterator[tuple[str, str]]:
    """modules: decoder -> what computes. decoders: those that are trained."""
    for name in decoders:
        yield from ((name, term) for term in getattr(modules[name], "terms", ()))


def weigh_terms(modules: Any, decoders: Iterable[str], micro: Labelled) -> dict[str, float]:
    """Each question counts once."""
    return {f"{name}.{term}": float(len(micro.rows.get(name, ()))) for name, term in _list(modules, decoders)}


def add_up_terms(
    modules: Any, decoders: Iterable[str], outputs: Outputs, weights: Mapping[str, float]
) -> dict[str, Loss]:
    """Only training has them."""
    return {
        f"{name}.{term}": Loss(outputs[name_output(name, term)].float().sum(), weights[f"{name}.{term}"])
        for name, term in _list(modules, decoders)
        if name_output(name, term) in outputs
    }
