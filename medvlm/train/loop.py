"""One loop for all stages."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from medvlm.core.errors import CheckpointError, DataError
from medvlm.core.stage_config import StageConfig
from medvlm.train import checkpoint
from medvlm.train.accounts import SOURCE, accounts, in_short
from medvlm.train.accumulate import Terms, accumulate, accumulate_what_fits
from medvlm.train.checkpoint import Keep
from medvlm.train.distinct import Distinct
from medvlm.train.engine import Engine
from medvlm.train.log import Log, Progress
from medvlm.train.optim import make_optimizer, set_rate
from medvlm.train.proof import Proof
from medvlm.train.saver import Saver
from medvlm.train.stopping import Preempted, Stop
from medvlm.train.watch import Watch

PROOF_STEPS = 8
"""Steps with a gradient after which everything trained must have moved. LoRA's A moves from the second step on, once B
has. Steps without any gradient do not count: in grpo no answer may have earned more than another."""

MAX_SKIPPED = 0.01
"""Of a stage's steps, or 3: more updates than that are not left out."""


class Stage(Protocol):
    """What a stage adds to the loop. A prepared sample has a `key`; a micro-batch is whatever `micros` makes and `loss`
    takes."""

    model: nn.Module
    updates: int
    """Optimiser steps on the same micro-batches, within one step of the loop."""

    def batches(self, consumed: int) -> Iterator[tuple[int, list[Any]]]:
        """This rank's prepared samples step by step, beginning at a global position."""

    def used(self, consumed: int) -> dict[str, tuple[int, float]]:
        """Of each source, how many of the first `consumed` samples are its, and how many rounds through it these
        are."""

    def counted(self, prepared: list[Any]) -> Terms:
        """Of this rank's samples of a step, and of what it left out since the last, by source."""

    def micros(self, prepared: list[Any], count: int) -> list[Any]:
        """The step's micro-batches, on the CPU."""

    def weight(self, micro: Any) -> float:
        """What the micro-batch counts: trained tokens, pairs. A step's loss is sum of losses / sum of weights."""

    def loss(self, model: nn.Module, micro: Any) -> tuple[torch.Tensor, Terms]:
        """Summed loss of the micro-batch, on the engine's device, and what else is logged."""

    def validate(self, model: nn.Module, samples: int) -> Terms:
        """On this rank's share of the validation samples; holds `loss`, lower is better."""

    def matches(self, parameter: str, pattern: str) -> bool: ...

    def group_of(self, parameter: str) -> str: ...

    def set_modes(self) -> None:
        """Which modules train and which only evaluate; called once, `validate` leaves them as they are."""


@dataclass
class State:
    """Where a stage stands: what a checkpoint holds beside tensors and random state."""

    identity: str
    step: int = 0
    consumed: int = 0
    """Samples the optimiser has used, over all ranks: the whole state of the stream."""
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


def run(
    stage: Stage,
    config: StageConfig,
    engine: Engine,
    folder: Path,
    log: Log,
    fresh: State,
    number: int,
    stages: int,
    watch: Watch,
    may_save: Callable[[], None] = lambda: None,
) -> tuple[State, Proof]:
    """Trains to config.steps, from the newest good checkpoint in `folder` or from `fresh`.

    Raises Preempted after SIGTERM, with everything saved; DataError for a loss that is not finite; CheckpointError
    when `folder` belongs to other settings, or a checkpoint could not be saved. may_save: raises when the folder is
    another run's."""
    stage.set_modes()
    optimizer = make_optimizer(stage.model, config.optim, stage.matches, config.name, engine.steps_on)
    proof = Proof(stage.model, stage.group_of, config.name, engine.whole)
    model = engine.setup(stage.model, optimizer)
    state = _resume(engine, folder, log, fresh)
    proof.with_gradient |= set(state.reached)
    if engine.is_first:
        print(proof.table(), flush=True)
    progress, distinct = (
        Progress(config.name, number, stages, config.steps, state.step, engine.is_first),
        Distinct(engine, config.name),
    )
    batches: Any = stage.batches(state.consumed)
    keep = Keep(config.keep_last, config.keep_every)
    with Stop() as stop, closing(batches), watch, Saver(folder, engine.rank, keep, may_save, watch.goes_on) as saver:
        while state.step < config.steps and not _exhausted(state, config):
            began = time.monotonic()
            watch.at(f"reads its samples from position {state.consumed}", config.name, state.step + 1)
            position, prepared = next(batches)
            assert position == state.consumed, (position, state.consumed)
            rate = set_rate(optimizer, config.optim, state.step, config.steps)
            keys = [item.key for item in prepared]
            distinct.see(keys)
            watch.at("computes", config.name, state.step + 1, keys)
            micros, terms = _first_update(stage, model, prepared, config, engine, state)
            seen = {
                "stop": (float(bool(stop.requested)), 0.0),
                "unsaved": (float(saver.failed), 0.0),
                "samples": (_order(keys, position + engine.rank * len(keys)), 0.0),
            } | stage.counted(prepared)
            for update in range(stage.updates):
                terms = accumulate(stage, model, micros, engine) if update else terms
                norm = engine.clip(config.optim.max_norm)
                if not state.proven:
                    state.telling, state.reached = (
                        state.telling + (norm > 0),
                        engine.union(proof.note_gradients(engine.has_gradient)),
                    )
                    proof.with_gradient |= set(state.reached)
                summed = _total(terms, engine, seen)
                if math.isfinite(summed["loss"]) and math.isfinite(norm):
                    engine.step()
                else:
                    _skip(config, state, engine, log, summed["loss"], norm, keys)
            if summed["unsaved"]:
                saver.wait()
            state.step, state.consumed = state.step + 1, state.consumed + config.batch
            state.seconds += time.monotonic() - began
            _log_step(
                log,
                progress,
                config,
                state,
                accounts(summed, stage.used(state.consumed)),
                summed,
                rate,
                norm,
                time.monotonic() - began,
            )
            watch.at("validates")
            better = _validate(stage, model, config, engine, log, state)
            last = state.step == config.steps or _exhausted(state, config)
            if not state.proven and (last or state.telling >= PROOF_STEPS):
                proof.check_trained(state.step)
                state.proven = True
            due = bool(config.save_every) and state.step % config.save_every == 0
            now = last or bool(summed["stop"]) or (better and config.keep == "best")
            if now or due:
                watch.at("saves")
                saver.save(
                    state.step,
                    engine.tensors(),
                    asdict(state),
                    best=state.best_step if config.keep == "best" else 0,
                    now=now,
                )
            if summed["stop"]:
                raise Preempted(f"stage {config.name} saved at step {state.step}; run the same command again to go on")
    return state, proof


def _resume(engine: Engine, folder: Path, log: Log, fresh: State) -> State:
    # One process verifies and sets damaged folders aside, or several would rename the same one.
    found = checkpoint.newest(folder) if engine.is_first else None
    engine.barrier()
    found = found if engine.is_first else checkpoint.latest(folder)
    if found is None:
        log.forget_after(fresh.meta["stage"], 0)
        return fresh
    state = State(**checkpoint.read_state(found))
    if state.identity != fresh.identity:
        raise CheckpointError(
            f"{folder.name}/{found.name} was trained with other settings, data or starting weights; go on with the"
            f" settings it has, train again from here with --from {folder.name}, or give the recipe another name"
        )
    checkpoint.restore(found, engine.load, engine.rank)
    log.forget_after(fresh.meta["stage"], state.step)
    if engine.is_first:
        print(f"stage {folder.name}: going on from step {state.step}", flush=True)
    return state


def _first_update(
    stage: Stage, model: nn.Module, prepared: list[Any], config: StageConfig, engine: Engine, state: State
) -> tuple[list[Any], Terms]:
    if config.accumulate == "auto":
        micros, terms, state.accumulate = accumulate_what_fits(stage, model, prepared, engine, state.accumulate)
        return micros, terms
    micros = stage.micros(prepared, config.accumulate)
    return micros, accumulate(stage, model, micros, engine)


def _total(terms: Terms, engine: Engine, extra: Terms) -> dict[str, float]:
    """Means over the ranks; a term of weight 0 is a plain sum. A rank may lack a term: a reward that judged none of its
    answers."""
    own = {**terms, **extra}
    names = engine.union(own)
    flat = engine.total([x for name in names for x in own.get(name, (0.0, 0.0))])
    return {name: flat[2 * i] / flat[2 * i + 1] if flat[2 * i + 1] else flat[2 * i] for i, name in enumerate(names)}


def _order(keys: list[str], first: int) -> float:
    """Which samples a step takes, in which order, as a number that sums over ranks: 32-bit hashes, so float64 is
    exact."""
    return float(sum(zlib.crc32(f"{position} {key}".encode()) for position, key in enumerate(keys, first)))


def _skip(
    config: StageConfig, state: State, engine: Engine, log: Log, loss: float, norm: float, keys: list[str]
) -> None:
    """Leaves an update out, on all ranks, since loss and norm are those of all; says which samples it had.

    Raises DataError where the recipe says so, and where it has become more than MAX_SKIPPED.
    """
    step, everywhere = state.step + 1, engine.union(keys)
    found = f"stage {config.name}, step {step}: loss {loss}, gradient norm {norm}; samples: {', '.join(everywhere[:8])}"
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
    engine.drop()
    log.write({"stage": config.name, "step": step, "skipped": everywhere, "skipped_loss": loss, "skipped_norm": norm})
    if engine.is_first:
        print(f"\n{found}; skipped ({state.skipped} of {most})", flush=True)


def _log_step(
    log: Log,
    progress: Progress,
    config: StageConfig,
    state: State,
    sources: dict[str, dict[str, float]],
    summed: dict[str, float],
    rate: float,
    norm: float,
    seconds: float,
) -> None:
    terms = {
        k: v
        for k, v in summed.items()
        if k not in ("loss", "stop", "unsaved", "samples", "tokens") and not k.startswith(SOURCE)
    }
    record = {
        "stage": config.name,
        "step": state.step,
        "steps": config.steps,
        "loss": summed["loss"],
        "terms": terms,
        "lr": rate,
        "grad_norm": norm,
        "sources": sources,
        "samples_per_s": config.batch / seconds,
        "tokens_per_s": summed.get("tokens", 0.0) / seconds,
        "seconds": state.seconds,
        "samples": f"{int(summed['samples']):x}",
    }
    log.write(record)
    progress.show(
        state.step,
        summed["loss"],
        config.batch / seconds,
        in_short(sources),
        last=state.step == config.steps,
    )


def _validate(stage: Stage, model: nn.Module, config: StageConfig, engine: Engine, log: Log, state: State) -> bool:
    """Whether this is a step of validation, and the best so far."""
    checks = config.validate_
    if not checks or (state.step % checks.every and state.step != config.steps):
        return False
    found = _total(stage.validate(model, checks.samples), engine, {})
    log.write({"stage": config.name, "step": state.step, "validation": found})
    if state.best_loss is not None and found["loss"] >= state.best_loss:
        state.worse += 1
        return False
    state.best_loss, state.best_step, state.worse = found["loss"], state.step, 0
    return True


def _exhausted(state: State, config: StageConfig) -> bool:
    return bool(config.validate_ and config.validate_.patience and state.worse >= config.validate_.patience)
