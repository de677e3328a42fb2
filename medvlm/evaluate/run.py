"""Evaluates a model on one split with its protocols and their baselines, and writes the files that the report reads."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import medvlm
from medvlm.compositions._opened import find
from medvlm.core.errors import DataError, RecipeError, list_some
from medvlm.core.protocols import (
    Judging,
    Place,
    Progress,
    ProtocolConfig,
    Record,
    Row,
    Shards,
    Split,
    find_no_split,
    find_protocol,
    ignore_progress,
    list_baselines,
    list_nothing,
    read_protocols,
    refuse_baseline,
)
from medvlm.core.run import RunFolder, hash_code
from medvlm.core.scoring import dump_rule
from medvlm.core.tasks import find_task
from medvlm.evaluate.measures import VERSION
from medvlm.evaluate.pieces import KeptPieces, hash_identity, open_pieces, remove_pieces
from medvlm.evaluate.protocols._groups import list_together
from medvlm.evaluate.ranks import compute_once, find_rank
from medvlm.evaluate.saved import save
from medvlm.rewards._compose import Composer
from medvlm.train.environment import describe_environment

MADE_BY = {"decoding": "greedy", "measures": VERSION, "medvlm": medvlm.__version__}


NOTHING_TOGETHER: Mapping[str, Sequence[str]] = {}


def say_nothing(line: str) -> None:
    pass


def evaluate(
    models: Sequence[Any],
    shards: Shards,
    *,
    dataset: str,
    split: str,
    places: Sequence[Place],
    training: Callable[[], Sequence[Place]],
    validation: Callable[[], Sequence[Place]] = list_nothing,
    out: RunFolder,
    protocols: Sequence[Any] = (),
    baselines: Sequence[str] | None = None,
    rewards: Mapping[str, Any] | None = None,
    groups: Sequence[str] = (),
    questions: Mapping[str, Sequence[str]] = NOTHING_TOGETHER,
    judges: Sequence[Judging] = (),
    scoring: Sequence[Any] = (),
    find_split: Callable[[str], Sequence[Place]] = find_no_split,
    limit: int = 0,
    resamples: int = 1000,
    seed: int = 0,
    recipe: str = "",
    progress: Progress = ignore_progress,
    say: Callable[[str], None] = say_nothing,
) -> list[Row]:
    """The rows of this split, added to the results of earlier splits in `out`. All ranks answer; only the first saves
    and has rows. What was answered before a stop is not asked again.

    models: a protocol asks the first one that can. training, validation: samples to fit baselines and choose
    operating points on. protocols, baselines: names or settings; by default all. rewards: by name. groups: of the
    samples, that get rows. questions: name -> patterns of templates that get rows together. scoring: of the card.
    find_split: the samples of another split. limit: of samples, or 0. Raises RecipeError for an unknown baseline or
    reward, DataError if there is nothing to evaluate.
    """
    known = read_protocols(protocols)
    names = list_baselines(known) if baselines is None else _require_baselines(baselines, known)
    some, fitted, folder = partial(_draw, limit=limit, seed=seed), _Once(training), out.answers.parent
    places = some(places)
    base = Split(
        shards, places, fitted, names, rewards or {}, seed, folder / "gallery", KeptPieces(folder), progress,
        partial(some, validation()), groups, judges, find_split=lambda name: some(find_split(name)),
    )  # fmt: skip
    asked = {c.kind: _Asking(c, model, base, f"{dataset}-{split}") for c, model in _pair(known, models)}
    records = {kind: each.ask() for kind, each in asked.items()}
    if find_rank()[0] > 0:
        return []
    settings = {
        "dataset": dataset,
        "split": split,
        "shards": _describe_shards(shards, places, fitted.places, limit),
        **_describe_asked(asked, recipe),
        "baselines": names,
        "left_out": _say_what_is_missing(f"{dataset}:{split}", records, asked, questions, say),
        **_describe_scoring(rewards, groups, questions, scoring, resamples, seed),
    }
    if not any(records.values()):
        raise DataError(f"{dataset}:{split}: {_explain(known, models)} ({len(places)} samples)")
    rows = save(out, settings, records)
    remove_pieces([each.pieces for each in asked.values()])
    return [row for row in rows if row["dataset"] == dataset and row["split"] == split]


def _describe_scoring(
    rewards: Mapping[str, Any] | None,
    groups: Sequence[str],
    questions: Mapping[str, Sequence[str]],
    scoring: Sequence[Any],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    return {
        "rewards": Composer(rewards).to_json() if rewards else None,
        "groups": list(groups),
        **({"questions": {name: list(of) for name, of in questions.items()}} if questions else {}),
        "scoring": [dump_rule(rule) for rule in scoring],
        "resamples": resamples,
        "seed": seed,
        **MADE_BY,
    }


def _require_baselines(names: Sequence[str], known: Sequence[ProtocolConfig]) -> list[str]:
    for reason in filter(None, (refuse_baseline(name, known) for name in names)):
        raise RecipeError(f"evaluate.baselines: {reason}")
    return list(names)


class _Asking:
    """A protocol on a split, with the model that it asks, and its kept pieces. of: data set and split."""

    def __init__(self, config: ProtocolConfig, model: Any, base: Split, of: str):
        self.config, self.model, self.protocol = config, model, find_protocol(config)
        baselines = [name for name in self.protocol.BASELINES if name in base.baselines]
        identity = {
            "model": compute_once(lambda: model.identity),
            "protocol": config.model_dump(mode="json"),
            "baselines": baselines,
            "rewards": Composer(base.rewards).to_json() if base.rewards else None,
            "shards": base.shards.fingerprint,
            "groups": list(base.groups),
            "places": hash_identity({"places": [base.places, base.validation()]}),
            "seed": base.seed,
            "code": hash_code(),
        }
        self.pieces = open_pieces(base.gallery.parent, f"{of}-{config.kind}", identity)
        self.split = replace(base, baselines=baselines, pieces=self.pieces, left_out=Counter(), notes=[])

    def ask(self) -> list[Record]:
        return list(self.protocol.ask(self.config, self.model, self.split))


def _describe_asked(asked: Mapping[str, _Asking], recipe: str) -> dict[str, Any]:
    """Who was asked by which protocols and where, and who judged."""
    described = [judge.describe() for each in asked.values() for judge in each.split.judges]
    failed = {what: why for one in described for what, why in one.pop("not_checked", {}).items()}
    return {
        "recipe": recipe or None,
        "environment": describe_environment(),
        "models": {kind: each.model.identity for kind, each in asked.items()},
        "protocols": [each.config.model_dump(mode="json") for each in asked.values()],
        **{name: what for one in described for name, what in one.items()},
        **({"not_checked": failed} if failed else {}),
    }


def _say_what_is_missing(
    where: str,
    records: Mapping[str, Sequence[Record]],
    asked: Mapping[str, _Asking],
    questions: Mapping[str, Sequence[str]],
    say: Callable[[str], None],
) -> dict[str, int]:
    """Returns reason -> number of questions that are left out for it."""
    left_out = {f"{kind}: {why}": n for kind, each in asked.items() for why, n in each.split.left_out.items()}
    for note in dict.fromkeys(note for each in asked.values() for note in each.split.notes):
        say(f"{where}: {note}")
    for reason, count in left_out.items():
        say(f"{where}: {count} questions are left out of {reason}")
    _say_what_is_empty(where, records, questions, say)
    cut = [record["task"] for of_kind in records.values() for record in of_kind if "answer" in record.get("cut", ())]
    long = sum(find_task(task).IS_LONG for task in cut)
    said = (record.get("answer") for of_kind in records.values() for record in of_kind)
    answers = [answer for answer in said if isinstance(answer, str)]
    if empty := sum(not answer.strip() for answer in answers):
        say(f"{where}: {empty} of {len(answers)} answers are empty")
    limit = "did not end within evaluate.max_new_tokens"
    if short := len(cut) - long:
        say(f"{where}: {short} answers {limit}; they count as no answer")
    if long:
        say(f"{where}: {long} long answers {limit}; what there is of them is compared; raise it")
    return left_out


def _say_what_is_empty(
    where: str,
    records: Mapping[str, Sequence[Record]],
    questions: Mapping[str, Sequence[str]],
    say: Callable[[str], None],
) -> None:
    asked = [record for of_kind in records.values() for record in of_kind if "template" in record]
    known = sorted({record["template"] for record in asked})
    for name in questions.keys() - {each.partition("=")[2] for each in list_together(asked, questions)}:
        say(f"{where}: evaluate.questions: no question has a template of {name!r} (there are {list_some(known)})")


def _describe_shards(shards: Shards, places: Sequence[Place], fitted_on: Sequence[Place], limit: int) -> dict[str, Any]:
    return {
        "fingerprint": shards.fingerprint,
        "splits": _list_splits(places),
        "train_splits": _list_splits(fitted_on),
        "samples": len(places),
        "limit": limit,
    }


class _Once:
    """The training samples, listed only when the first baseline is fitted."""

    def __init__(self, read: Callable[[], Sequence[Place]]):
        self.read = read
        self.places: Sequence[Place] = ()

    def __call__(self) -> Sequence[Place]:
        self.places = self.places or self.read()
        return self.places


def _pair(protocols: Sequence[ProtocolConfig], models: Sequence[Any]) -> list[tuple[ProtocolConfig, Any]]:
    """Each protocol with the first model that it can ask."""
    found = [(config, find(models, find_protocol(config).NEEDS)) for config in protocols]
    return [(config, model) for config, model in found if model is not None]


def _explain(protocols: Sequence[ProtocolConfig], models: Sequence[Any]) -> str:
    """Why there is nothing to evaluate."""
    asked = [find_protocol(config).NOTHING for config, _ in _pair(protocols, models)]
    needs = dict.fromkeys(find_protocol(config).NEEDS for config in protocols)
    cannot = [f"the model cannot {need}" for need in needs if find(models, need) is None]
    return f"{', and '.join([*asked, *cannot])}; evaluate another split, data set or model"


def _list_splits(places: Sequence[Place]) -> list[str]:
    return list(dict.fromkeys(split for split, _ in places))


def _draw(places: Sequence[Place], limit: int, seed: int) -> Sequence[Place]:
    if not limit or limit >= len(places):
        return places
    return [places[i] for i in sorted(random.Random(seed).sample(range(len(places)), limit))]
