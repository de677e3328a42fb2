"""Compares answers in distribution with answers out of distribution.

Which samples are out of distribution is said in one of two ways:

- `by` a group of the samples (`modality`, if they have no such group, is that of their first image), or the `template`
  of the question, whose values in `out` are out of distribution.
- `inside` names another split of the same data, which is in distribution, while all of the evaluated split is out of
  it: `inside: test` for the split `held_out` of data whose held-out groups were not trained on; `inside: val` for a
  test split of another hospital.

Rows of the group `shifted`, for each metric that is a mean of scores: `accuracy:in` and `accuracy:out`, compared with
the baselines of the protocol, and `rr_accuracy`, the relative robustness 1 - (P_in - P_out) / P_in, with that of the
baselines: a drop that a model without images has too is one of the questions. Source: Kahl et al. 2024 (SURE-VQA,
https://arxiv.org/abs/2411.19688).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from medvlm.core.content import Content
from medvlm.core.errors import RecipeError, list_some
from medvlm.core.protocols import Answerer, Pieces, Progress, ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Sample
from medvlm.core.tasks import is_scored_task
from medvlm.evaluate.pieces import hash_identity
from medvlm.evaluate.protocols import _questions, _robustness, _rows
from medvlm.evaluate.protocols._groups import UNKNOWN
from medvlm.evaluate.protocols._variants import is_asked
from medvlm.evaluate.rows import Part, make_row

NEEDS = "answer"
BASELINES = (_rows.BLIND, _rows.MAJORITY)
NOTHING = "no question that can be scored"
BY_NAME_ONLY = True
TEMPLATE, MODALITY = "template", "modality"
IN, OUT = "in", "out"


class FORM(_rows.TextRecord):
    """side: `in` or `out` of distribution."""

    side: str


class Config(ProtocolConfig):
    kind: Literal["shift"] = "shift"
    by: str = ""
    """A group of the samples, `modality`, or `template`."""
    out: tuple[str, ...] = ()
    """The values of `by` that are out of distribution."""
    inside: Literal["", "train", "val", "test"] = ""
    """Another split of the same data, which is in distribution."""

    @model_validator(mode="after")
    def _says_what_is_out(self) -> Self:
        if bool(self.by) == bool(self.inside) or bool(self.by) != bool(self.out):
            raise ValueError(
                "shift says in no way, or in two ways, what is out of distribution; give `by` and `out`, e.g. {kind:"
                " shift, by: modality, out: [X-Ray]}, or the split that is in distribution, e.g. {kind: shift,"
                " inside: val}"
            )
        return self


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(map(is_scored_task, content.tasks))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    inside = split.find_split(config.inside) if config.inside else ()
    if shared := set(inside) & set(split.places):
        raise RecipeError(
            f"shift.inside: {config.inside} is the split that is evaluated ({len(shared)} samples are both in and"
            " out of distribution); name another one, or evaluate another one with --on SOURCE:SPLIT"
        )
    places = [*inside, *split.places]
    read = [split.shards.read(*place)[0] for place in places]
    samples, own = {sample.key: sample for sample in read}, {sample.key for sample in read[len(inside) :]}
    # The pieces of an evaluation are those of its split; these are of two splits.
    pieces = _NamedPieces(split.pieces, hash_identity({"places": [list(inside)]}))
    whole = replace(split, places=places, pieces=pieces)
    found: dict[str, Counter[str]] = {IN: Counter(), OUT: Counter()}
    for record in _questions.ask_questions(model, whole, model.answer, is_asked):
        value = _find_value(config, samples[record["key"]], record["template"])
        is_out = record["key"] in own if config.inside else value in config.out
        side = OUT if is_out else IN
        found[side][value] += 1
        yield {**record, "side": side}
    _note_empty(config, split, found)


def _find_value(config: Config, sample: Sample, template: str) -> str:
    if config.by == TEMPLATE:
        return template
    known = sample.groups.get(config.by, "")
    if not known and config.by == MODALITY and sample.media:
        known = sample.media[0].modality
    return known or UNKNOWN


def _note_empty(config: Config, split: Split, found: Mapping[str, Counter[str]]) -> None:
    for side, words in ((IN, "in"), (OUT, "out of")):
        if not found[side] and any(found.values()):
            other = found[OUT if side == IN else IN]
            which = f"by {config.by!r}, they have {list_some(sorted(other))}" if config.by else f"of {config.inside!r}"
            split.notes.append(f"shift: no question is {words} distribution ({which}); no rows that compare them")


@dataclass(frozen=True)
class _NamedPieces:
    """Pieces whose work has a name of its own."""

    pieces: Pieces
    name: str

    def collect(self, what: str, sizes: Sequence[int], do: Callable[[int], Any], progress: Progress) -> list[Any]:
        def show(what: str, done: int, total: int) -> None:
            progress(what.removesuffix(f"-{self.name}"), done, total)

        return self.pieces.collect(f"{what}-{self.name}", sizes, do, show)


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    names = [name for name in BASELINES if name in settings["baselines"]]
    sides = {side: {n for n, record in enumerate(records) if record["side"] == side} for side in (IN, OUT)}
    rows = []
    for share in _robustness.list_shares(records, names, settings):
        parts = {side: share.part.keep(numbers) for side, numbers in sides.items()}
        measure = _robustness.make_measure(share.name, _robustness.SHIFTED)
        rows += [
            make_row(measure, f"{share.name}:{side}", [part], settings) for side, part in parts.items() if part.numbers
        ]
        if all(part.numbers for part in parts.values()) and parts[IN].columns["answer"][:, 0].sum() > 0:
            both = _join(parts[IN], parts[OUT])
            rows.append(_robustness.make_ratio_row(share.name, _robustness.SHIFTED, "", both, settings))
    return rows


def _join(inside: Part, outside: Part) -> Part:
    """Columns of both: score and count in distribution, then out of it."""
    columns = {
        who: np.vstack(
            [
                np.hstack([inside.columns[who], np.zeros_like(inside.columns[who])]),
                np.hstack([np.zeros_like(outside.columns[who]), outside.columns[who]]),
            ]
        )
        for who in inside.columns
        if who in outside.columns
    }
    numbers = [*inside.numbers, *outside.numbers]
    return Part(numbers, columns, [*inside.clusters, *outside.clusters])
