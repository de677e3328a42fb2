"""One loop for all stages."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import CheckpointError, DataError
from medvlm.core.stage_config import StageConfig
from medvlm.train import checkpoint
from medvlm.train.accounts import account, summarize
from medvlm.train.accumulate import accumulate, accumulate_what_fits, sum_weights
from medvlm.train.checkpoint import Keep
from medvlm.train.distinct import Distinct
from medvlm.train.engine import Engine
from medvlm.train.log import Log, Progress
from medvlm.train.optim import make_optimizers, set_rate
from medvlm.train.proof import Proof
from medvlm.train.saver import Saver
from medvlm.train.stage import Stage
from medvlm.train.stopping import Preempted, Stop
from medvlm.train.terms import LOSS, TOKENS, Report, Signals, Terms, report
from medvlm.train.watch import Watch

PROOF_STEPS = 8
"""Steps with a gradient after which everything trained must have moved. LoRA's A moves from the second step on, once B
has. Steps without any gradient do not count: in grpo no answer may have earned more than another."""

MAX_SKIPPED = 0.01
"""Of a stage's steps, or 3: more updates than that are not left out."""


@dataclass
class State:
    """Where a stage stands: what a checkpoint holds beside tensors and random state."""

    identity: str
    step: int = 0
    consumed: int = 0
    """Samples the optimizer has used, over all ranks: the whole state of the stream."""
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    """Validations since the best one."""
    seconds: float = 0.0
    telling: int = 0
    """Steps in which there was a gradient."""
    reached: list[str] = field(default_factory=list)
    """Groups that have had one."""
    proven: bool = False
    skipped: int = 0
    """Updates that were left out since their loss or gradient was not finite."""
    accumulate: int = 1
    """Micro-batches, as found by `accumulate: auto`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What a reader of the checkpoint must know: stage, recipe, adapters, lineage."""


@dataclass(frozen=True)
class Place:
    """Where a stage is trained. number, stages: which of how many it is. may_save: raises when the folder is another
    run's. aliases: identities that earlier releases gave to the same settings."""

    folder: Path
    log: Log
    watch: Watch
    number: int = 1
    stages: int = 1
    may_save: Callable[[], None] = lambda: None
    aliases: tuple[str, ...] = ()


def run(stage: Stage, config: StageConfig, engine: Engine, place: Place, fresh: State) -> tuple[State, Proof]:
    """Trains to config.steps, from the newest good checkpoint in the folder or from `fresh`.

    Raises Preempted after SIGTERM, with everything saved; DataError for a loss that is not finite; CheckpointError
    when the folder belongs to other settings, or a checkpoint could not be saved.
    """
    loop = _Loop(stage, config, engine, place, fresh)
    state, watch = loop.state, place.watch
    batches: Any = stage.read_batches(state.consumed)
    keep = Keep(config.keep_last, config.keep_every)
    saver = Saver(place.folder, engine.rank, keep, place.may_save, watch.goes_on)
    with Stop() as stop, closing(batches), watch, saver:
        while state.step < config.steps and not _is_exhausted(state, config):
            began = time.monotonic()
            watch.at(f"reads its samples from position {state.consumed}", config.name, state.step + 1)
            position, prepared = next(batches)
            assert position == state.consumed, (position, state.consumed)
            found = loop.take_step(prepared, stop, saver)
            if found.report.signals.unsaved:
                saver.wait()
            state.step, state.consumed = state.step + 1, state.consumed + config.batch
            state.seconds += time.monotonic() - began
            loop.log_step(found, time.monotonic() - began)
            is_best, is_last = loop.validate(), state.step == config.steps or _is_exhausted(state, config)
            loop.check_proof(is_last)
            is_asked_to_stop = bool(found.report.signals.stop)
            now = is_last or is_asked_to_stop or (is_best and config.keep == "best")
            if now or (config.save_every and state.step % config.save_every == 0):
                watch.at("saves")
                best = state.best_step if config.keep == "best" else 0
                saver.save(state.step, engine.tensors(), asdict(state), best=best, now=now)
            if is_asked_to_stop:
                raise Preempted(f"stage {config.name} saved at step {state.step}; run the same command again to go on")
    return state, loop.proof


@dataclass(frozen=True)
class _Step:
    """What is logged of a step. rate, norm: of the default optimizer; those of others are terms of the report."""

    report: Report
    rate: float
    norm: float


class _Loop:
    """One stage while it is trained."""

    def __init__(self, stage: Stage, config: StageConfig, engine: Engine, place: Place, fresh: State):
        self.stage, self.config, self.engine, self.place = stage, config, engine, place
        stage.set_modes()
        self.settings = stage.list_optimizers()
        self.optimizers = make_optimizers(stage.model, self.settings, stage.matches, config.name, engine.steps_on)
        self.proof = Proof(stage.model, stage.group_of, config.name, engine.whole, partial(_is_own_update, stage))
        self.model = engine.setup(stage.model, self.optimizers)
        self.state = _resume(engine, place, fresh)
        self.proof.with_gradient |= set(self.state.reached)
        if engine.is_first:
            print(self.proof.table(), flush=True)
        number, stages = place.number, place.stages
        self.progress = Progress(config.name, number, stages, config.steps, self.state.step, engine.is_first)
        self.distinct = Distinct(engine, config.name)

    def take_step(self, prepared: list[Any], stop: Stop, saver: Saver) -> _Step:
        """All updates of a step. What the ranks tell each other travels with the terms of each update."""
        stage, config, engine, state = self.stage, self.config, self.engine, self.state
        rates = {
            name: set_rate(self.optimizers[name], optim, state.step, config.steps)
            for name, optim in self.settings.items()
        }
        keys = [item.key for item in prepared]
        order = _hash(keys, state.consumed + engine.rank * len(keys))
        self.distinct.see(keys)
        self.place.watch.at("computes", config.name, state.step + 1, keys)
        terms: Terms | None = None
        if config.accumulate == "auto":
            fitted = accumulate_what_fits(stage, self.model, prepared, engine, state.accumulate, state.step)
            micros, updates, weights, terms = fitted.micros, fitted.updates, fitted.weights, fitted.terms
            state.accumulate = fitted.count
        else:
            micros = stage.make_micros(prepared, config.accumulate)
            updates, weights = stage.plan_updates(micros, state.step), sum_weights(stage, micros, engine)
        counts: Terms = {}
        reports, norms = {}, {}
        for number, update in enumerate(updates):
            if number or terms is None:
                terms = accumulate(update.loss or stage.compute_loss, self.model, micros, engine, weights, state.step)
            counts = counts if number else stage.count(prepared)
            signals = Signals(float(bool(stop.requested)), float(saver.failed), order)
            norm = engine.clip(self.settings[update.optimizer].max_norm, update.optimizer)
            self._note_gradients(norm)
            found = report({**terms, **counts}, weights, engine, signals)
            if math.isfinite(found.loss) and math.isfinite(norm):
                engine.step(update.optimizer)
            else:
                self._skip(found.loss, norm, keys)
            reports[update.optimizer], norms[update.optimizer] = found, norm
        with torch.no_grad():
            stage.after_step(state.step)
        return _join(reports, rates, norms)

    def log_step(self, step: _Step, seconds: float) -> None:
        config, state, found = self.config, self.state, step.report
        sources = account(found.sources, self.stage.measure_usage(state.consumed))
        terms = found.to_json()
        tokens = terms.pop(TOKENS, 0.0)
        record = {
            "stage": config.name,
            "step": state.step,
            "steps": config.steps,
            "loss": found.loss,
            "terms": terms,
            "lr": step.rate,
            "grad_norm": step.norm,
            "sources": sources,
            "samples_per_s": config.batch / seconds,
            "tokens_per_s": tokens / seconds,
            "seconds": state.seconds,
            "samples": f"{int(found.signals.order):x}",
        }
        self.place.log.write(record)
        is_last = state.step == config.steps
        self.progress.show(state.step, found.loss, config.batch / seconds, summarize(sources), last=is_last)

    def validate(self) -> bool:
        """Whether this is a step of validation, and the best so far."""
        self.place.watch.at("validates")
        config, state, checks = self.config, self.state, self.config.validate_
        if not checks or (state.step % checks.every and state.step != config.steps):
            return False
        found = report(self.stage.validate(self.model, checks.samples), (), self.engine).terms
        self.place.log.write({"stage": config.name, "step": state.step, "validation": found})
        if state.best_loss is not None and found[LOSS] >= state.best_loss:
            state.worse += 1
            return False
        state.best_loss, state.best_step, state.worse = found[LOSS], state.step, 0
        return True

    def check_proof(self, is_last: bool) -> None:
        """Raises RecipeError for what is trained and has not moved, once there was time enough for it."""
        if not self.state.proven and (is_last or self.state.telling >= PROOF_STEPS):
            self.proof.check_trained(self.state.step)
            self.state.proven = True

    def _note_gradients(self, norm: float) -> None:
        if self.state.proven:
            return
        self.state.telling += norm > 0
        self.state.reached = self.engine.union(self.proof.note_gradients(self.engine.has_gradient))
        self.proof.with_gradient |= set(self.state.reached)

    def _skip(self, loss: float, norm: float, keys: list[str]) -> None:
        """Leaves an update out, on all ranks, since loss and norm are those of all; says which samples it had.

        Raises DataError where the recipe says so, and where it has become more than MAX_SKIPPED.
        """
        config, state, name = self.config, self.state, self.config.name
        step, everywhere = state.step + 1, self.engine.union(keys)
        found = f"stage {name}, step {step}: loss {loss}, gradient norm {norm}; samples: {', '.join(everywhere[:8])}"
        found += f" and {len(everywhere) - 8} more" if len(everywhere) > 8 else ""
        state.skipped += 1
        most = max(3, int(MAX_SKIPPED * config.steps))
        if config.on_nan == "stop":
            raise DataError(f"{found}. Lower optim.lr or look at these samples; on_nan: skip leaves such steps out")
        if state.skipped > most:
            raise DataError(
                f"{found}. These are {state.skipped} steps without a finite loss, and {most} are put up with: lower"
                " optim.lr or look at the samples"
            )
        self.engine.drop()
        record = {"stage": name, "step": step, "skipped": everywhere, "skipped_loss": loss, "skipped_norm": norm}
        self.place.log.write(record)
        if self.engine.is_first:
            print(f"\n{found}; skipped ({state.skipped} of {most})", flush=True)


def _is_own_update(stage: Stage, name: str) -> bool:
    return any(stage.matches(name, pattern) for pattern in stage.own_updates)


def _join(reports: dict[str, Report], rates: dict[str, float], norms: dict[str, float]) -> _Step:
    """The last report of each optimizer as one. The loss of the step is that of the default optimizer."""
    main = "" if "" in reports else next(iter(reports))
    last = list(reports.values())[-1]
    terms: dict[str, float] = {}
    sources: dict[str, dict[str, float]] = {}
    for name, found in reports.items():
        terms |= found.terms if name == main else found.to_json()
        sources |= found.sources
    others = [name for name in rates if name != main]
    terms |= {f"lr/{name}": rates[name] for name in others}
    terms |= {f"grad_norm/{name}": norms[name] for name in others if name in norms}
    return _Step(Report(reports[main].losses, terms, sources, last.signals), rates[main], norms[main])


def _resume(engine: Engine, place: Place, fresh: State) -> State:
    # One process verifies and sets damaged folders aside, or several would rename the same one.
    folder = place.folder
    found = checkpoint.newest(folder) if engine.is_first else None
    engine.barrier()
    found = found if engine.is_first else checkpoint.latest(folder)
    if found is None:
        place.log.forget_after(fresh.meta["stage"], 0)
        return fresh
    state = State(**checkpoint.read_state(found))
    if state.identity not in (fresh.identity, *place.aliases):
        raise CheckpointError(
            f"{folder.name}/{found.name} was trained with other settings, data or starting weights; go on with the"
            f" settings it has, train again from here with --from {folder.name}, or give the recipe another name"
        )
    state.identity = fresh.identity
    checkpoint.restore(found, engine.load, engine.rank)
    place.log.forget_after(fresh.meta["stage"], state.step)
    if engine.is_first:
        print(f"stage {folder.name}: going on from step {state.step}", flush=True)
    return state


def _hash(keys: list[str], first: int) -> float:
    """Which samples a step takes, in which order, as a number that sums over ranks: 32-bit hashes, so float64 is
    exact."""
    return float(sum(zlib.crc32(f"{position} {key}".encode()) for position, key in enumerate(keys, first)))


def _is_exhausted(state: State, config: StageConfig) -> bool:
    return bool(config.validate_ and config.validate_.patience and state.worse >= config.validate_.patience)
