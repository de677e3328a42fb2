"""Simulates a training step on the meta device, to measure its memory and operations.

Stacks of equal layers are run with two and with three layers, and every figure is extrapolated linearly to the real
depth. This is exact if all layers cost the same, and a hundred times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from medvlm.preflight.ledger import Ledger
from medvlm.preflight.precision import COPIES, wrap_model

BETWEEN = "between"
SHALLOW = 2
"""Number of layers of every stack in the first run."""


@dataclass(frozen=True)
class Step:
    """sections: `forward`, the sections of the backward pass and `step` -> bytes by part at the peak, without weights.

    held: bytes by part when the backward pass begins. layers: stack -> (bytes that one layer keeps for the backward
    pass, copies of weights and states of optimizers aside, bytes of its input, floating-point operations of its forward
    pass, depth). flops: of the whole micro-batch. copies: stack -> bytes of the copies of one layer's weights, in the
    order by which sections of the backward pass are numbered; 0 for a stack that did not run."""

    sections: Mapping[str, Mapping[str, float]]
    held: Mapping[str, float]
    flops: float
    layers: Mapping[str, tuple[float, float, float, int]]
    copies: Mapping[str, float] = field(default_factory=dict)


def simulate(
    model: nn.Module,
    run: Callable[[Any], torch.Tensor],
    optimizers: Callable[[], list[torch.optim.Optimizer]],
    part_of: Callable[[str], str],
    precision: str,
    eight_bit: bool = False,
) -> Step:
    """model: on the meta device, in training precision. run: (the model as the engine wraps it) -> loss of one
    micro-batch. optimizers: makes the optimizers for the model with its current layers. part_of: parameter ->
    encoders.film, language, ... eight_bit: whether the optimizers' moments have 8 bits.
    """
    _record_all(model)
    stacks = every = stacks_of(model)
    depths = {name: len(stack) for name, stack in stacks.items()}

    def measure_at(deeper: str = "") -> dict[str, float]:
        with _cut_stacks(stacks, {name: SHALLOW + (name == deeper) for name in stacks}):
            return _measure(
                model, run, optimizers, part_of, precision, [s for s in stacks.values() if len(s)], eight_bit
            )

    # Where the code of a part depends on its number of layers, such as an encoder of which all layers are read, this
    # stack stays as deep as it is, or else all of them.
    for uncut in ([], *([name] for name in every), [*every]):
        stacks = {name: stack for name, stack in every.items() if name not in uncut}
        try:
            base = measure_at()
            break
        except Exception:
            if len(uncut) == len(every):
                raise

    def measure_slope(name: str) -> dict[str, float]:
        if not base[f"trained|{name}"]:  # without gradients its layers keep nothing, so only operations grow
            return dict.fromkeys(("flops", "forward_flops"), base[f"layer|{name}"])
        deeper = {**dict.fromkeys(base, 0.0), **measure_at(name)}
        return {key: value - base.get(key, 0.0) for key, value in deeper.items()}

    # Stack -> what one more of its layers adds to each figure.
    slopes = {name: measure_slope(name) for name in stacks if f"layer|{name}" in base}
    whole: dict[str, float] = {}
    for key in dict.fromkeys([*base, *(k for slope in slopes.values() for k in slope)]):
        added = sum((depths[name] - SHALLOW) * slope.get(key, 0.0) for name, slope in slopes.items())
        whole[key] = base.get(key, 0.0) + added
    sections: dict[str, dict[str, float]] = {}
    held: dict[str, float] = {}
    for key, value in whole.items():
        kind, _, rest = key.partition("|")
        if kind == "peak":
            section, _, part = rest.partition("|")
            sections.setdefault(section, {})[part] = value
        elif kind == "held":
            held[rest] = value
    layers, copied = {}, f"held|{COPIES}"
    for name, slope in slopes.items():
        kept = sum(v for k, v in slope.items() if k.startswith("held|") and k not in (copied, "held|optimiser"))
        layers[name] = (kept, base[f"input|{name}"], slope["forward_flops"], depths[name])
    copies = {name: slopes.get(name, {}).get(copied, 0.0) for name in stacks}
    return Step(sections, held, whole["flops"], layers, copies)


def _record_all(model: nn.Module) -> None:
    """Installs transformers' hooks for hidden states on all layers. transformers would install them at the first call,
    when some layers are hidden."""
    try:
        from transformers import PreTrainedModel
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # an earlier release, without such hooks
        return
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            maybe_install_capturing_hooks(module)


def stacks_of(model: nn.Module) -> dict[str, Any]:
    """Lists of at least three layers of the same class and shape, by name, outermost first. The first layer may have
    more parameters, as in T5."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found) or not isinstance(
            module, nn.ModuleList | nn.Sequential
        ):
            continue
        children = list(module)
        shapes = [[(n, p.shape, p.requires_grad) for n, p in child.named_parameters()] for child in children]
        if (
            len(children) > SHALLOW
            and shapes[1]
            and all(s == shapes[1] for s in shapes[2:])
            and all(shape in shapes[0] for shape in shapes[1])
            and len({type(c) for c in children}) == 1
        ):
            found[name] = module
    return found


@contextmanager
def _cut_stacks(stacks: Mapping[str, Any], depths: Mapping[str, int]) -> Iterator[None]:
    whole = {name: dict(stack._modules) for name, stack in stacks.items()}
    try:
        for name, stack in stacks.items():
            for number in list(stack._modules)[depths[name] :]:
                del stack._modules[number]
        yield
    finally:
        for name, stack in stacks.items():
            stack._modules.clear()
            stack._modules.update(whole[name])


def _measure(
    model: nn.Module,
    run: Callable[[Any], torch.Tensor],
    optimizers: Callable[[], list[torch.optim.Optimizer]],
    part_of: Callable[[str], str],
    precision: str,
    stacks: Sequence[Any],
    eight_bit: bool,
) -> dict[str, float]:
    """All figures of one run in a flat dict, so that they can be extrapolated: `peak|SECTION|PART`, `held|PART`,
    `flops`, `forward_flops`, and for each stack that ran `input|STACK` (bytes), `layer|STACK` (operations of one
    layer's forward pass) and `trained|STACK` (whether gradients flow through it)."""
    ledger, figures = Ledger(model), dict[str, float]()
    names = {id(m): n for n, m in model.named_modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    with ExitStack() as hooks:
        for module, part in _list_watched(model, part_of):
            for hook in ledger.watch(module, part):
                hooks.callback(hook.remove)
        for number, stack in enumerate(stacks):
            _mark_sections(ledger, hooks, stack, number, figures, names[id(stack)])
        for parameter in trained:
            hooks.callback(
                parameter.register_post_accumulate_grad_hook(lambda p: ledger.label(p.grad, "gradients")).remove
            )
        made = optimizers()
        with ledger:
            ledger.start_section("forward")
            with ledger.attribute_to("loss"):
                loss = run(wrap_model(precision, model, ledger))
            figures["forward_flops"] = ledger.flops
            figures |= {f"held|{part}": size for part, size in ledger.now.items() if size}
            with ledger.attribute_to("work"):
                loss.backward()
                del loss
                states = _run_optimizers(made, trained, ledger, eight_bit)
        figures["flops"] = ledger.flops
        for parts in ledger.peaks.values():  # from the second step on, the states exist all the time
            parts["optimiser"] = states
        figures["held|optimiser"] = states
        figures |= {
            f"peak|{section}|{part}": size
            for section, parts in ledger.peaks.items()
            if section not in ("", BETWEEN)
            for part, size in parts.items()
        }
    return figures


def _list_watched(model: nn.Module, part_of: Callable[[str], str]) -> Iterator[tuple[nn.Module, str]]:
    """Modules with the part they belong to. The head that computes the logits counts as `loss`."""
    language: Any = getattr(model, "language", model)
    words = language.get_output_embeddings() if hasattr(language, "get_output_embeddings") else None
    for name, module in model.named_modules():
        first = next((f"{name}.{n}" for n, _ in module.named_parameters()), "") if name else ""
        if first:
            yield module, "loss" if module is words else part_of(first)


def _mark_sections(
    ledger: Ledger, hooks: ExitStack, stack: Any, number: int, figures: dict[str, float], name: str
) -> None:
    """Starts the sections of the backward pass through a stack: its last layer, the layers between, and its first layer
    with everything before the stack. Between the last and the first layer memory changes linearly, so the peak is never
    there."""
    layers = list(stack)
    marks = {len(layers) - 1: f"{number} last", len(layers) - 2: BETWEEN, 0: f"{number} first"}

    def begin(section: str) -> Callable[[Any, Any, Any], None]:
        def start(_: Any, __: Any, out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            if isinstance(hidden, torch.Tensor) and hidden.requires_grad:
                hidden.register_hook(lambda grad: ledger.start_section(section))

        return start

    def enter(_: Any, args: Any, kwargs: Any) -> None:
        given = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor))
        figures[f"input|{name}"] = given.numel() * given.element_size()
        figures[f"layer|{name}"] = -ledger.flops

    def leave(_: Any, __: Any, out: Any) -> None:
        hidden = out[0] if isinstance(out, tuple) else out
        figures[f"layer|{name}"] += ledger.flops
        figures[f"trained|{name}"] = float(hidden.requires_grad)

    for at, what in marks.items():
        hooks.callback(layers[at].register_forward_hook(begin(what)).remove)
    hooks.callback(layers[-1].register_forward_pre_hook(enter, with_kwargs=True).remove)
    hooks.callback(layers[-1].register_forward_hook(leave).remove)


def _run_optimizers(
    optimizers: list[torch.optim.Optimizer], trained: list[nn.Parameter], ledger: Ledger, eight_bit: bool
) -> int:
    """Runs the first step of the optimizers. Returns the bytes of their states."""
    ledger.start_section("step")
    for optimizer in optimizers:
        _make_states(optimizer, eight_bit)
    for parameter in trained:
        parameter.grad = None
    for state in (
        state for optimizer in optimizers for states in optimizer.state.values() for state in states.values()
    ):
        if isinstance(state, torch.Tensor):
            ledger.label(state, "optimiser")
    states = ledger.now["optimiser"]
    peak = ledger.peaks["step"]
    peak["work"] = peak.get("work", 0) - states
    return states


def _make_states(optimizer: torch.optim.Optimizer, eight_bit: bool) -> None:
    """Creates the optimizer's states, and what else its step allocates."""
    if type(optimizer) is torch.optim.AdamW:  # the fused kernel on a GPU allocates only the moments
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            moments = {moment: _make_moment(parameter, eight_bit) for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] |= moments
        return
    for group in optimizer.param_groups:
        group["foreach"] = True  # as on a GPU
    optimizer.step()


def _make_moment(parameter: nn.Parameter, eight_bit: bool) -> torch.Tensor:
    """A moment of AdamW. With 8 bits it has a float32 scale for every 256 numbers. bitsandbytes keeps the moments of
    small parameters in 32 bits."""
    if not eight_bit or parameter.numel() < 4096:
        return torch.zeros_like(parameter, dtype=torch.float32 if eight_bit else None)
    return torch.empty(parameter.numel() + 4 * -(-parameter.numel() // 256), dtype=torch.uint8, device="meta")
