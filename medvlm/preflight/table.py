"""A plan as a text table."""

from __future__ import annotations

from collections.abc import Iterator

from medvlm.preflight.plan import Plan, StagePlan

COLUMNS = (
    "weights",
    "gradients",
    "optimiser",
    "vision",
    "language",
    "text",
    "logits",
    "copies",
    "work",
    "buffers",
    "extra",
    "total",
)


def format_plan(plan: Plan) -> str:
    return "\n".join(_list_lines(plan))


def _list_lines(plan: Plan) -> Iterator[str]:
    where = f" on {plan.machines}" if plan.machines else ""
    yield f"{plan.name}{where}: engine {plan.engine}, {plan.precision}"
    for name, source in plan.sources.items():
        yield f"  data {name}: {source['how']}"
    shown: tuple[str, ...] = ()
    for stage in plan.stages:
        yield ""
        yield from _list_stage_lines(stage, plan)
        yield from (f"  {line}" for line in stage.scales if stage.scales != shown)
        shown = stage.scales
    yield ""
    checkpoints = sum(s.checkpoint * s.checkpoints for s in plan.stages)
    yield f"disk: checkpoints {_format_bytes(checkpoints)}" + (
        f", shards {_format_bytes(plan.shards)}" if plan.shards else ", shards not checked"
    )
    if all(s.seconds is not None and s.steps for s in plan.stages):
        yield (
            f"time: {_format_time(sum((s.seconds or 0) * s.steps for s in plan.stages))} at {plan.mfu:.0%} of the peak,"
            " without data loading, validation and saving"
        )
    for line in plan.not_checked:
        yield f"not checked: {line}"


def _list_stage_lines(stage: StagePlan, plan: Plan) -> Iterator[str]:
    epochs = "" if stage.epochs is None else f"{stage.epochs:g} epochs, "
    steps = f"{stage.steps:,} steps" if stage.steps else "steps"
    yield f"stage {stage.name} ({stage.kind}): {epochs}{steps} of {stage.batch}, {stage.filled}"
    yield f"  {'module':<24}{'trained':>16}{'frozen':>16}"
    for module in stage.modules:
        yield f"  {module.name:<24}{_format_count(module.trained):>16}{_format_count(module.frozen):>16}"
    if stage.adapters:
        yield f"  adapters on {stage.adapters} layers"
    beside = f", beside {_format_bytes(stage.left_out)} of published weights" if stage.left_out else ""
    yield f"  a checkpoint: {_format_bytes(stage.checkpoint)}{beside}"
    for note in stage.notes:
        yield f"  {note}"
    if not stage.memory:
        return
    total = f"{stage.tokens * stage.batch:,.0f} per step"
    yield f"  tokens per sample: {stage.tokens:.0f}, at most {stage.longest}; {total}"
    shown = [c for c in COLUMNS if any(parts.get(c, 0) >= 0.005 for parts in stage.memory.values())] or ["total"]
    yield f"  {'GiB per GPU':<20}" + "".join(f"{c:>11}" for c in shown)
    for name, parts in stage.memory.items():
        mark = ">" if name == stage.chosen else " "
        yield f" {mark}{name:<20}" + "".join(f"{parts.get(c, 0.0):>11.2f}" for c in shown)
    yield from _list_host_lines(stage)
    step = f"  {stage.flops / 1e12:,.1f} TFLOP per step"
    if stage.seconds is not None:
        step += f", {stage.seconds:.2f} s"
        step += f"; {_format_time(stage.seconds * stage.steps)} for all steps" if stage.steps else ""
    yield step
    if stage.fits is not None:
        yield (
            f"  fits: {stage.memory[stage.chosen]['total']:.1f} GiB"
            if stage.fits
            else f"  DOES NOT FIT: {stage.remedy}"
        )


def _list_host_lines(stage: StagePlan) -> Iterator[str]:
    yield f"  {'GiB of host memory':<20}{'rank':>11}{'node':>11}"
    for name, gib in stage.host.items():
        mark = ">" if name == stage.chosen.removesuffix(" recompute") else " "
        yield f" {mark}{name:<20}{gib['rank']:>11.2f}{gib['node']:>11.2f}"


def _format_count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _format_bytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"


def _format_time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.1f} min"
        if seconds >= 60
        else f"{seconds:.1f} s"
    )
