"""Checks that packed data have what the stages of a recipe need, before the first one begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from medvlm.core.errors import DataError
from medvlm.data.source import make_filter
from medvlm.io.shards import Entry
from medvlm.recipe.schema import Recipe
from medvlm.recipe.sources import OpenSource


def require_samples(recipe: Recipe, sources: Mapping[str, OpenSource], stages: Iterable[int]) -> None:
    """Raises DataError if the packed data have no sample that one of these stages can use. A later stage would notice
    it only when it begins."""
    for stage in (recipe.stages[i] for i in stages):
        needs = stage.find_needs(recipe.model)
        keep = make_filter(needs.tasks, needs.report, (lambda kind: True) if needs.media else None)
        for name in stage.mix:
            if not _has_sample(sources[name], "train", keep):
                raise DataError(
                    f"stages.{stage.name}.mix.{name}: its shards have no sample in 'train' that this stage can use"
                    f" (found {_describe_entries(sources[name])}); remove it there, or change its card and pack again"
                )
        checked = [_has_sample(sources[name], "val", keep) for name in stage.mix if stage.validate_ is not None]
        if checked and not any(checked):
            raise DataError(
                f"stages.{stage.name}.validate: the shards of {', '.join(stage.mix)} have no sample in 'val' that this"
                " stage can use; remove `validate`, or put some samples into val"
            )


def _has_sample(source: OpenSource, split: str, keep: Callable[[Entry], bool]) -> bool:
    """Raises DataError if the shards have no such split."""
    try:
        view = source.view(split)
    except DataError as reason:
        raise DataError(f"{source.name}: {reason}") from None
    return any(keep(view.entry(i)) for i in range(len(view)))


def _describe_entries(source: OpenSource) -> str:
    view = source.view("train")
    found = [view.entry(i) for i in range(min(len(view), 1000))]
    tasks = sorted({task for entry in found for task in entry.tasks})
    media = sorted({kind for entry in found for kind in entry.media})
    reports = "reports" if any(entry.has_report for entry in found) else "no reports"
    return f"questions of {', '.join(tasks) or 'none'}, media {', '.join(media) or 'none'}, {reports}"
