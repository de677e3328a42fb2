"""What every stage gets, and the base class with the parts that all kinds of stages share."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from medvlm.core.composition import Assembly, Composition
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Sample
from medvlm.core.stage_config import Optim, StageConfig
from medvlm.core.tool_config import Environment
from medvlm.data.augment import Augment, augment
from medvlm.data.epochs import count_steps
from medvlm.data.order import Order, draw, draw_below
from medvlm.data.parts import make_parts
from medvlm.data.pixels import decode
from medvlm.data.row_plan import RowPlanner
from medvlm.data.source import SourceView, make_filter
from medvlm.data.stream import SUBSTITUTES, Item, Stream, make_loader
from medvlm.io.masks import decode_mask, masks_of
from medvlm.io.shards import Entry
from medvlm.models.attention import use_attention
from medvlm.models.parts import group_of, matches, set_modes
from medvlm.train.accumulate import Update
from medvlm.train.terms import Measured, OfSource, Term, Terms

if TYPE_CHECKING:
    from medvlm.train.engine import Engine

Wants = Callable[[Entry], bool]


@dataclass(frozen=True, kw_only=True)
class Setup(Assembly):
    """composition: of the stage's model. open_source(source, `train` or `val` or `test`, wants) -> the samples of the
    source that the stage wants. augments: source -> its augmentation. quarantine: called with shard, sample key and
    reason for every sample that cannot be used. folder: of the stage in the run folder, for what is stored beside
    checkpoints; None in a plan. environment: the tools that answers may call; None for none."""

    composition: Composition
    open_source: Callable[[str, str, Wants], SourceView]
    augments: Mapping[str, Augment | None]
    engine: Engine
    workers: int
    quarantine: Callable[[str, str, str], None]
    folder: Path | None = None
    environment: Environment | None = None
    orders: Mapping[str, Order] = field(default_factory=dict)


class Base:
    """Stream, augmentation and parameter names, with one optimizer that makes one update per step.

    train/stage.py documents the methods that the loop calls. A subclass defines model, prepare_sample,
    make_micros, weigh, compute_loss and validate.
    """

    model: Any
    own_updates: tuple[str, ...] = ()
    views: int = 1
    """How many media of a sample are augmented, the first ones."""
    row_planner: RowPlanner | None = None
    """Spreads the samples over steps and ranks. By default each rank takes its share of consecutive samples."""

    def __init__(self, config: StageConfig, setup: Setup):
        self.config, self.setup, self.engine = config, setup, setup.engine
        self._dropped = Counter[str]()

    def begin(self) -> None:
        """Called once the model with its starting weights is on the device, before a checkpoint is loaded."""

    def list_optimizers(self) -> Mapping[str, Optim]:
        return self.config.list_optimizers()

    def make_extra_models(self) -> dict[str, nn.Module]:
        return {}

    def make_micros(self, prepared: list[Any], count: int) -> list[Any]:
        raise NotImplementedError

    def count_tokens(self, item: Any) -> int:
        """The number of text tokens of a prepared sample, 0 if it has no text."""
        return 0

    def make_heaviest(self, items: list[Any]) -> Any:
        """The largest micro-batch that these prepared samples can lead to. `medvlm plan` measures it."""
        return self.make_micros(items, 1)[0]

    def choose_heaviest(self, items: list[Any]) -> list[Any]:
        """The samples of the largest micro-batch that samples like these can make up, if the settings bound it; else
        none."""
        return []

    def describe_micro(self, micro: int) -> str:
        """micro: its number of samples."""
        return f"{micro} in a micro-batch"

    def plan_updates(self, micros: list[Any], step: int) -> Sequence[Update]:
        return [Update()]

    def after_step(self, step: int) -> None:
        pass

    @property
    def wants(self) -> Wants:
        """Whether the stage can use a sample, from the shard index alone: by default, whether it has what the config
        needs."""
        needs = self.config.find_needs(self.setup.model)
        takes = self.setup.prepare.takes if needs.media else None
        return make_filter(tasks=needs.tasks, report=needs.report, media=takes, texts=needs.texts)

    def prepare_sample(self, sample: Sample, files: Mapping[str, Any], epoch: int, position: int) -> Any:
        raise NotImplementedError

    def read_batches(self, consumed: int) -> Iterator[tuple[int, list[Any]]]:
        """Raises RecipeError if `batch` cannot be divided evenly among ranks and micro-batches."""
        world, accumulate = self.engine.world, self.config.micro_batches
        if self.config.batch % (world * accumulate):
            raise RecipeError(
                f"stages.{self.config.name}.batch is {self.config.batch}, which cannot be divided evenly among"
                f" {world} ranks with {accumulate} micro-batches each; use a multiple of {world * accumulate}"
            )
        return make_loader(
            self.stream,
            consumed,
            self.config.batch,
            self.engine.rank,
            self.engine.world,
            self._prepare_item,
            self.setup.workers,
            quarantine=self.setup.quarantine,
            dropped=self._dropped,
            shares=self.row_planner.plan(consumed) if self.row_planner else None,
        )

    @cached_property
    def stream(self) -> Stream:
        """The samples of the stage in training order."""
        config = self.config
        views = {name: self.setup.open_source(name, "train", self.wants) for name in config.mix}
        parts = make_parts(views, config.mix, config.sampling, self.setup.orders, config.name)
        return Stream(parts, self.setup.seed, stage=config.name)

    def count_steps(self) -> StageConfig:
        """The settings with the number of steps, now that the samples can be counted; `config` from here on."""
        self.config = count_steps(self.config, self.stream)
        return self.config

    def measure_usage(self, consumed: int) -> dict[str, tuple[int, float]]:
        return (self.row_planner or self.stream).used(consumed)

    def count(self, prepared: list[Any]) -> Terms:
        """For each source, the number of samples dropped for their length since the last step."""
        found: Terms = {OfSource(source, "dropped"): Term(float(n)) for source, n in self._dropped.items()}
        self._dropped.clear()
        return found

    def weigh(self, micro: Any) -> dict[str, float]:
        raise NotImplementedError

    def compute_loss(self, model: nn.Module, micro: Any, step: int) -> Measured:
        raise NotImplementedError

    def prepare_validation(self, samples: int) -> list[Any]:
        """This rank's share of the first samples of the validation splits, prepared.

        The share is the same at every validation and has the same length on every rank. Raises DataError if it is
        empty.
        """
        views = {name: self.setup.open_source(name, "val", self.wants) for name in self.config.mix}
        places = [(name, i) for name, view in views.items() for i in range(min(len(view), samples // len(views)))]
        places = places[: len(places) // self.engine.world * self.engine.world]
        if not places:
            raise DataError(
                f"stages.{self.config.name}.validate: the val splits of {', '.join(self.config.mix)} hold fewer"
                f" samples that the stage can use than there are ranks ({self.engine.world}); remove `validate`, or put"
                " more samples into val"
            )
        own = places[self.engine.rank :: self.engine.world]
        return [replace(self._prepare_validation(views[name], i), source=name) for name, i in own]

    def _prepare_validation(self, view: SourceView, i: int) -> Any:
        """The i-th sample of a view, or a substitute from the same split if it cannot be used.

        The substitute is the same at every validation, and every rank keeps the same number of samples."""
        for attempt in range(1 + SUBSTITUTES):
            place = draw_below(len(view), self.setup.seed, self.config.name, "validation", i, attempt) if attempt else i
            try:
                return self.prepare_sample(*view.read(place), epoch=0, position=i)
            except DataError as reason:
                last = reason
                self.setup.quarantine(*view.whereabouts(*view.locate(place)), str(reason))
        raise last

    def set_modes(self) -> None:
        set_modes(self.model)
        self.model.runs_all = self.engine.runs_all
        said = use_attention(self.model, self.engine.config, self.engine.device)
        if said and self.engine.is_first:
            print(f"{self.config.name}: {said}", file=sys.stderr, flush=True)

    def matches(self, parameter: str, pattern: str) -> bool:
        return matches(parameter, pattern)

    def group_of(self, parameter: str) -> str:
        return group_of(parameter)

    def keep_asked(self, sample: Sample) -> Sample:
        """The sample with those of its questions that this stage can ask: a crop has to keep what they ask about, and
        nothing else. By default all of them."""
        return sample

    def choose_views(self, sample: Sample, position: int) -> Sample:
        """The sample with those of its media that are shown; by default all of them."""
        return sample

    def _prepare_item(self, item: Item) -> Any:
        position = item.place.position
        sample, files = self.choose_views(self.keep_asked(item.sample), position), item.files
        if change := self.setup.augments[item.place.source]:
            make_rng = partial(draw, self.setup.seed, self.config.name, "augment", position)
            sample, files = augment_sample(sample, files, change, make_rng, self.views)
        return replace(self.prepare_sample(sample, files, item.place.epoch, position), source=item.place.source)


def augment_sample(
    sample: Sample, files: Mapping[str, bytes], change: Augment, make_rng: Callable[[], Any], views: int = 1
) -> tuple[Sample, dict[str, Any]]:
    """Augments the first media of a sample, images or volumes. Masks, boxes, counts and questions change with the first
    one. make_rng: draws the same for each of them, so that a mirrored study still has one report."""
    arrays: dict[str, Any] = dict(files)
    changed = sample
    for number, medium in enumerate(sample.media[:views]):
        member = medium.member
        masks = {name: decode_mask(files[name], name) for name in masks_of(member, files)}
        own = replace(sample, media=(medium,), questions=()) if number else sample
        arrays[member], own, moved = augment(decode(files[member], member), own, change, make_rng(), masks)
        arrays |= moved
        if number:
            own = replace(changed, media=(*changed.media[:number], own.media[0], *changed.media[number + 1 :]))
        changed = own
    return changed, arrays


def add_up_means(losses: Terms, engine: Engine) -> Term:
    """The sum of several losses, each of which is a mean over its own weight, summed over all ranks. Only these means
    can be added. losses: the same on every rank. Called on every rank."""
    totals = engine.sum_over_ranks([number for term in losses.values() for number in term])
    means = [total / weight if weight else 0.0 for total, weight in zip(totals[::2], totals[1::2], strict=True)]
    return Term(sum(means), 1.0)


def split_evenly(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Splits items into `count` consecutive lists of equal length."""
    size = len(items) // count
    assert size * count == len(items), (len(items), count)
    return [list(items[i * size : (i + 1) * size]) for i in range(count)]
