"""Checks that packed data have what the stages and the evaluation of a recipe need, before the first stage begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from medvlm.core.content import Content, find_content
from medvlm.core.errors import DataError
from medvlm.data.source import HELD_OUT, HoldOut, find_group, make_filter
from medvlm.io.shards import Entry
from medvlm.recipe.feeding import explain_unmeasured
from medvlm.recipe.schema import Recipe
from medvlm.recipe.sources import OpenSource


def require_samples(recipe: Recipe, sources: Mapping[str, OpenSource], stages: Iterable[int]) -> None:
    """Raises DataError if the packed data have no sample that one of these stages can use. A later stage would notice
    it only when it begins."""
    for stage in (recipe.stages[i] for i in stages):
        needs = stage.find_needs(recipe.model)
        keep = make_filter(needs.tasks, needs.report, (lambda kind: True) if needs.media else None, needs.texts)
        for name in stage.mix:
            key = f"stages.{stage.name}.mix.{name}"
            if not _has_sample(_list_entries(sources[name], "train", key), keep):
                raise DataError(
                    f"{key}: its shards have no sample in 'train' that this stage can use"
                    f" (found {_describe_entries(sources[name])}); remove it there, or change its card and pack again"
                )
        if stage.validate_ is None:
            continue
        key = f"stages.{stage.name}.validate"
        checked = [_has_sample(_list_entries(sources[name], "val", f"{key}: {name}"), keep) for name in stage.mix]
        if not any(checked):
            raise DataError(
                f"{key}: the shards of {', '.join(stage.mix)} have no sample in 'val' that this stage can use; remove"
                " `validate`, or put some samples into val"
            )


def require_evaluation(recipe: Recipe, sources: Mapping[str, OpenSource]) -> None:
    """Raises DataError if the packed data do not have a split of `evaluate.on`, or nothing to evaluate in it.
    Evaluation would notice it only after the last stage."""
    for name, split in recipe.evaluate.pairs():
        key = f"evaluate.on: {name}:{split}"
        content = _find_content(sources[name], _list_entries(sources[name], split, key))
        if content is None:
            raise DataError(f"{key}: its shards have no sample in {split!r}; evaluate another split, or pack more data")
        if why := explain_unmeasured(recipe, content):
            raise DataError(f"{key}: its shards have {why}")
        rule = sources[name].hold_out
        if split == HELD_OUT and rule is not None and rule.related and recipe.stages:
            _require_parts(rule, _list_entries(sources[name], "train", key), key)


def _require_parts(rule: HoldOut, training: Iterable[Entry], key: str) -> None:
    """Raises DataError if a value of a combination is in no other one: then nothing can be combined."""
    missing = set(rule.combination.items())
    for entry in training:
        missing -= {(name, find_group(entry, name)) for name in rule.combination}
    if missing:
        named = ", ".join(f"{name} {value!r}" for name, value in sorted(missing))
        raise DataError(
            f"{key}: no training sample has {named}, which the held-out combination is made of; hold out another"
            " one, or set related: false for a control without any of its values"
        )


def _find_content(source: OpenSource, entries: Iterable[Entry]) -> Content | None:
    """What the samples have; None without samples. Which decoders their questions are for is known from the card."""
    found = list(entries)
    if not found:
        return None
    tasks = frozenset(task for entry in found for task in entry.tasks)
    answered = find_content(source.card).answered
    return Content(
        tasks=tasks,
        media=frozenset(kind for entry in found for kind in entry.media),
        has_reports=any(entry.has_report for entry in found),
        answered=answered and {name: offer for name, offer in answered.items() if offer.task in tasks},
    )


def _has_sample(entries: Iterable[Entry], keep: Callable[[Entry], bool]) -> bool:
    return any(map(keep, entries))


def _list_entries(source: OpenSource, split: str, key: str) -> Iterator[Entry]:
    """key: the line of the recipe that asks for them. Raises DataError if the shards have no such split."""
    try:
        view = source.view(split)
    except DataError as reason:
        raise DataError(f"{key}: {reason}") from None
    return (view.entry(i) for i in range(len(view)))


def _describe_entries(source: OpenSource) -> str:
    view = source.view("train")
    found = [view.entry(i) for i in range(min(len(view), 1000))]
    tasks = sorted({task for entry in found for task in entry.tasks})
    media = sorted({kind for entry in found for kind in entry.media})
    reports = "reports" if any(entry.has_report for entry in found) else "no reports"
    return f"questions of {', '.join(tasks) or 'none'}, media {', '.join(media) or 'none'}, {reports}"
