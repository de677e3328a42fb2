"""One loop for all stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import DataError
from medvlm.core.stage_config import StageConfig
from medvlm.train import checkpoint
from medvlm.train.accounts import account_for_sources, summarize
from medvlm.train.accumulate import accumulate, accumulate_what_fits, sum_weights
from medvlm.train.average import AVERAGE
from medvlm.train.distinct import Distinct, hash_samples
from medvlm.train.engine import Engine
from medvlm.train.flops import KEY, Count, count_flops, is_counted
from medvlm.train.log import Log, ProgressLine
from medvlm.train.optim import make_optimizers, set_rate
from medvlm.train.proof import Proof
from medvlm.train.resume import resume
from medvlm.train.saver import Saver
from medvlm.train.stage import Stage
from medvlm.train.stopping import Preempted, Stop
from medvlm.train.terms import LOSS, TOKENS, Report, Signals, Terms, report
from medvlm.train.watch import Watch

PROOF_STEPS = 8
"""Number of steps with a gradient after which every trained group must have changed. LoRA's A changes only from the
second step on, after B. Steps without a gradient do not count: in GRPO all answers of a step may get equal rewards."""

MAX_SKIPPED = 0.01
"""Maximum share of the steps of a stage, but at least 3 steps, whose updates may be skipped."""


@dataclass
class State:
    """The state of a stage: what a checkpoint holds besides tensors and random state. The names of the fields are part
    of the format of checkpoints."""

    identity: str
    step: int = 0
    consumed: int = 0
    """Samples used so far, over all ranks. This number is the whole state of the stream."""
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    """Number of validations since the best one."""
    seconds: float = 0.0
    telling: int = 0
    """Number of steps with a gradient other than zero."""
    reached: list[str] = field(default_factory=list)
    """Groups of parameters that have had such a gradient."""
    proven: bool = False
    weighed: list[str] = field(default_factory=list)
    """Losses for which there has been a sample."""
    waiting: list[str] = field(default_factory=list)
    """Trained groups that are not proven, because there has been no sample for their losses."""
    skipped: int = 0
    """Updates that were skipped because loss or gradient was not finite."""
    accumulate: int = 1
    """Micro-batches per rank, as found by `accumulate: auto`."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What a reader of the checkpoint needs to know: stage, recipe, adapters, lineage."""

    def note_validation(self, loss: float) -> bool:
        """Whether the loss is the best so far. NaN never is."""
        if not loss < (math.inf if self.best_loss is None else self.best_loss):
            self.worse += 1
            return False
        self.best_loss, self.best_step, self.worse = loss, self.step, 0
        return True


@dataclass(frozen=True)
class Place:
    """Where a stage is trained. number, stages: it is stage `number` of `stages`. may_save: raises if another process
    has taken over the folder. aliases: identities of the same settings in earlier releases. counts_flops: whether some
    steps are counted, see flops.py."""

    folder: Path
    log: Log
    watch: Watch
    number: int = 1
    stages: int = 1
    may_save: Callable[[], None] = lambda: None
    aliases: tuple[str, ...] = ()
    counts_flops: bool = False


def run(stage: Stage, config: StageConfig, engine: Engine, place: Place, fresh: State) -> tuple[State, Proof]:
    """Trains to config.steps, from the newest good checkpoint in the folder, or from `fresh` without one.

    Raises Preempted after SIGTERM, once everything is saved; DataError for a loss that is not finite; CheckpointError
    if the folder belongs to other settings, or if a checkpoint cannot be saved.
    """
    loop = _Loop(stage, config, engine, place, fresh)
    state, watch = loop.state, place.watch
    batches: Any = stage.read_batches(state.consumed)
    keep = checkpoint.Keep(config.keep_last, config.keep_every)
    saver = Saver(place.folder, engine.rank, keep, place.may_save, watch.tick, saved=place.log.hooks.see_checkpoint)
    with Stop() as stop, closing(batches), watch, saver:
        while state.step < config.steps and not _is_exhausted(state, config):
            began = time.monotonic()
            watch.move_to(f"reads its samples from position {state.consumed}", config.name, state.step + 1)
            position, prepared = next(batches)
            assert position == state.consumed, (position, state.consumed)
            with count_flops(place.counts_flops and is_counted(state.step, config.steps)) as count:
                found = loop.take_step(prepared, stop, saver)
            if found.report.signals.unsaved:
                saver.wait()
            saver.tell()
            state.step, state.consumed = state.step + 1, state.consumed + config.batch
            state.seconds += time.monotonic() - began
            loop.log_step(found, time.monotonic() - began, count)
            is_best, is_last = loop.validate(), state.step == config.steps or _is_exhausted(state, config)
            loop.check_proof(is_last)
            is_asked_to_stop = bool(found.report.signals.stop)
            now = is_last or is_asked_to_stop or (is_best and config.keep == "best")
            if now or found.report.signals.due or (config.save_steps and state.step % config.save_steps == 0):
                loop.saved_at = time.monotonic()
                watch.move_to("saves")
                best = state.best_step if config.keep == "best" else 0
                saver.save(state.step, engine.collect_tensors(), asdict(state), best=best, now=now)
            if is_asked_to_stop:
                raise Preempted(f"stage {config.name} saved at step {state.step}; run the same command again to resume")
    return state, loop.proof


@dataclass(frozen=True)
class _Step:
    """What is logged of a step. rate, norm: of the default optimizer; for other optimizers, these are terms of the
    report."""

    report: Report
    rate: float
    norm: float


class _Loop:
    """The training of one stage."""

    def __init__(self, stage: Stage, config: StageConfig, engine: Engine, place: Place, fresh: State):
        self.stage, self.config, self.engine, self.place = stage, config, engine, place
        stage.set_modes()
        self.settings = stage.list_optimizers()
        self.optimizers = make_optimizers(stage.model, self.settings, stage.matches, config.name, engine.steps_on)
        self.proof = Proof(stage.model, stage.group_of, config.name, engine.unshard, partial(_is_own_update, stage))
        self.model = engine.setup(stage.model, self.optimizers)
        self.average: Any = engine.extra_models.get(AVERAGE)
        self.state = resume(engine, place.folder, place.log, place.aliases, fresh, self.proof)
        self.proof.with_gradient |= set(self.state.reached)
        if engine.is_first:
            print(self.proof.format_table(), flush=True)
        number, stages = place.number, place.stages
        self.progress = ProgressLine(config.name, number, stages, config.steps, self.state.step, engine.is_first)
        self.distinct = Distinct(engine, config.name, config.batch)
        self.saved_at = time.monotonic()
        self.losses: tuple[str, ...] = ()

    def take_step(self, prepared: list[Any], stop: Stop, saver: Saver) -> _Step:
        """Makes all updates of a step. Control signals are summed over ranks together with the terms of each update."""
        stage, config, engine, state = self.stage, self.config, self.engine, self.state
        rates = {
            name: set_rate(self.optimizers[name], optim, state.step, config.steps)
            for name, optim in self.settings.items()
        }
        keys = [item.key for item in prepared]
        order = hash_samples(keys, state.consumed)
        self.distinct.see(keys)
        self.place.watch.move_to("computes", config.name, state.step + 1, keys)
        terms: Terms | None = None
        if config.accumulate == "auto":
            fitted = accumulate_what_fits(stage, self.model, prepared, engine, state.accumulate, state.step)
            micros, updates, weights, terms = fitted.micros, fitted.updates, fitted.weights, fitted.terms
            state.accumulate = fitted.count
        else:
            micros = stage.make_micros(prepared, config.accumulate)
            updates, weights = stage.plan_updates(micros, state.step), sum_weights(stage, micros, engine)
        self.losses = tuple(weights)
        state.weighed = sorted({*state.weighed, *(name for name in weights if weights[name])})
        # By the clock of the first rank, because all ranks save at the same step.
        due = float(engine.is_first and time.monotonic() - self.saved_at >= config.save_seconds)
        counts: Terms = {}
        reports, norms = {}, {}
        for number, update in enumerate(updates):
            if number or terms is None:
                terms = accumulate(update.loss or stage.compute_loss, self.model, micros, engine, weights, state.step)
            counts = counts if number else stage.count(prepared)
            signals = Signals(float(bool(stop.requested)), float(saver.has_failed), order, due)
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
            if self.average is not None:
                self.average.follow(stage.model, config.ema)
        return _join(reports, rates, norms)

    def log_step(self, step: _Step, seconds: float, count: Count) -> None:
        config, state, found = self.config, self.state, step.report
        sources = account_for_sources(found.sources, self.stage.measure_usage(state.consumed))
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
            **({} if count.flops is None else {KEY: count.flops}),
        }
        self.place.log.write(record)
        is_last = state.step == config.steps
        self.progress.show(state.step, found.loss, config.batch / seconds, summarize(sources), last=is_last)

    def validate(self) -> bool:
        """Validates if it is time to. Returns whether the loss is the best so far."""
        self.place.watch.move_to("validates")
        config, state, checks = self.config, self.state, self.config.validate_
        if not checks or (state.step % checks.every and state.step != config.steps):
            return False
        with self.average.stand_in(self.stage.model) if self.average is not None else nullcontext():
            found = report(self.stage.validate(self.model, checks.samples), (), self.engine).terms
        self.place.log.write({"stage": config.name, "step": state.step, "validation": found})
        is_best = state.note_validation(found[LOSS])
        self.progress.note_validation(found[LOSS], is_best)
        return is_best

    def check_proof(self, is_last: bool) -> None:
        """Raises RecipeError if a trained group has not changed after enough steps. Groups whose losses have had no
        sample so far have time until the end of the stage."""
        state, is_enough = self.state, self.state.telling >= PROOF_STEPS
        if not (is_last or is_enough) or (state.proven and not (is_last and state.waiting)):
            return
        had = {name: name in state.weighed for name in self.losses}
        state.waiting = self.proof.check_trained(state.step, had, may_wait=not (is_last and is_enough))
        state.proven = True
        if state.waiting and self.engine.is_first:
            self.progress.live.keep(
                f"stage {self.config.name}: {', '.join(state.waiting)} learnt nothing so far, because no sample of"
                f" {state.step} steps had anything for it"
            )

    def _note_gradients(self, norm: float) -> None:
        if self.state.proven and not self.state.waiting:
            return
        self.state.telling += norm > 0
        self.state.reached = self.engine.merge_names(self.proof.note_gradients(self.engine.has_gradient))
        self.proof.with_gradient |= set(self.state.reached)

    def _skip(self, loss: float, norm: float, keys: list[str]) -> None:
        """Skips an update and reports its samples. All ranks do this together, because loss and norm are global.

        Raises DataError if `on_nan` is `stop`, and if more than MAX_SKIPPED of the steps have been skipped.
        """
        config, state, name = self.config, self.state, self.config.name
        step, everywhere = state.step + 1, self.engine.merge_names(keys)
        found = f"stage {name}, step {step}: loss {loss}, gradient norm {norm}; samples: {', '.join(everywhere[:8])}"
        found += f" and {len(everywhere) - 8} more" if len(everywhere) > 8 else ""
        state.skipped += 1
        most = max(3, int(MAX_SKIPPED * config.steps))
        if config.on_nan == "stop":
            raise DataError(f"{found}. Lower optim.lr or look at these samples; on_nan: skip leaves such steps out")
        if state.skipped > most:
            raise DataError(
                f"{found}. {state.skipped} steps had no finite loss or gradient, and at most {most} may be skipped;"
                " lower optim.lr or look at the samples"
            )
        self.engine.drop()
        record = {"stage": name, "step": step, "skipped": everywhere, "skipped_loss": loss, "skipped_norm": norm}
        self.place.log.write(record)
        if self.engine.is_first:
            self.progress.live.keep(f"{found}; skipped ({state.skipped} of {most})")


def _is_own_update(stage: Stage, name: str) -> bool:
    return any(stage.matches(name, pattern) for pattern in stage.own_updates)


def _join(reports: dict[str, Report], rates: dict[str, float], norms: dict[str, float]) -> _Step:
    """Joins the last reports of all optimizers. The loss of the step is that of the default optimizer, if there is
    one."""
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


def _is_exhausted(state: State, config: StageConfig) -> bool:
    return bool(config.validate_ and config.validate_.patience and state.worse >= config.validate_.patience)
