"""What a step of a stage holds and computes, from its real code on tensors without data.

Layers that repeat are run two and three deep, and every figure is drawn on in a straight line to the real depth: exact
where a layer costs what the one before it costs, and a hundred times quicker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from medvlm.preflight.ledger import Ledger
from medvlm.preflight.precision import run_in

BETWEEN = "between"
SHALLOW = 2
"""Layers of a stack in the first run."""


@dataclass(frozen=True)
class Step:
    """sections: forward, the parts of the backward pass, step -> bytes by part at the worst moment; without weights.

    held: bytes by part when the backward pass begins. layers: stack -> (bytes that one of its layers keeps for the
    backward pass, bytes of its input, floating-point operations of its forward pass, depth). flops: of the whole
    micro-batch."""

    sections: Mapping[str, Mapping[str, float]]
    held: Mapping[str, float]
    flops: float
    layers: Mapping[str, tuple[float, float, float, int]]


def simulate(
    model: nn.Module,
    run: Callable[[Any], torch.Tensor],
    optimizers: Callable[[], list[torch.optim.Optimizer]],
    part_of: Callable[[str], str],
    precision: str,
    eight_bit: bool = False,
) -> Step:
    """model: on the meta device, in the precision it is trained in. run: gives the loss of one micro-batch, called with
    what stands for the wrapped model. optimizers: makes them, over the model as it then is. part_of: parameter ->
    encoders.film, language, ... eight_bit: whether its moments are kept in 8 bits.
    """
    _record_all(model)
    stacks = stacks_of(model)
    depths = {name: len(stack) for name, stack in stacks.items()}

    def at(deeper: str = "") -> dict[str, float]:
        with _shallow(stacks, {name: SHALLOW + (name == deeper) for name in stacks}):
            return _measure(
                model, run, optimizers, part_of, precision, [s for s in stacks.values() if len(s)], eight_bit
            )

    try:
        base = at()
    except Exception:  # code that counts its layers: then all of them are run
        stacks, depths = {}, {}
        base = at()

    def slope(name: str) -> dict[str, float]:
        if not base[f"trained|{name}"]:  # nothing of it is kept
            return dict.fromkeys(("flops", "forward_flops"), base[f"layer|{name}"])
        return {k: v - base.get(k, 0.0) for k, v in {**dict.fromkeys(base, 0.0), **at(name)}.items()}

    slopes = {name: slope(name) for name in stacks if f"layer|{name}" in base}
    whole = {
        key: base.get(key, 0.0) + sum((depths[name] - SHALLOW) * rise.get(key, 0.0) for name, rise in slopes.items())
        for key in dict.fromkeys([*base, *(k for rise in slopes.values() for k in rise)])
    }
    sections: dict[str, dict[str, float]] = {}
    held: dict[str, float] = {}
    for key, value in whole.items():
        kind, _, rest = key.partition("|")
        if kind == "peak":
            section, _, part = rest.partition("|")
            sections.setdefault(section, {})[part] = value
        elif kind == "held":
            held[rest] = value
    layers = {}
    for name, rise in slopes.items():
        kept = sum(v for k, v in rise.items() if k.startswith("held|"))
        layers[name] = (kept, base[f"input|{name}"], rise["forward_flops"], depths[name])
    return Step(sections, held, whole["flops"], layers)


def _record_all(model: nn.Module) -> None:
    """transformers notes hidden states by hooks that it puts on the layers it finds when it is first called: on all of
    them, then, before some are hidden."""
    try:
        from transformers import PreTrainedModel
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # an earlier release, which does not
        return
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            maybe_install_capturing_hooks(module)


def stacks_of(model: nn.Module) -> dict[str, Any]:
    """Lists of layers of one class and shape, outermost first, by name; what is shorter than three is no stack."""
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
            and shapes[0]
            and all(s == shapes[0] for s in shapes)
            and len({type(c) for c in children}) == 1
        ):
            found[name] = module
    return found


@contextmanager
def _shallow(stacks: Mapping[str, Any], depths: Mapping[str, int]) -> Iterator[None]:
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
    """Every figure of one run, flat: `peak|SECTION|PART`, `held|PART`, `flops`, `forward_flops`, and of each stack that
    ran `input|STACK` (bytes), `layer|STACK` (operations of a layer's forward pass), `trained|STACK` (whether gradients
    go through it)."""
    ledger, figures = Ledger(model), dict[str, float]()
    names = {id(m): n for n, m in model.named_modules()}
    trained = [p for p in model.parameters() if p.requires_grad]
    with ExitStack() as hooks:
        for module, part in _watched(model, part_of):
            for hook in ledger.watch(module, part):
                hooks.callback(hook.remove)
        for number, stack in enumerate(stacks):
            _mark(ledger, hooks, stack, number, figures, names[id(stack)])
        for parameter in trained:
            hooks.callback(
                parameter.register_post_accumulate_grad_hook(lambda p: ledger.label(p.grad, "gradients")).remove
            )
        made = optimizers()
        with ledger:
            ledger.section("forward")
            with ledger.of("loss"):
                loss = run(run_in(precision, model, ledger))
            figures["forward_flops"] = ledger.flops
            figures |= {f"held|{part}": size for part, size in ledger.now.items() if size}
            with ledger.of("work"):
                loss.backward()
                del loss
                states = _step(made, trained, ledger, eight_bit)
        figures["flops"] = ledger.flops
        for parts in ledger.peaks.values():  # from the second step on they are there all the time
            parts["optimiser"] = states
        figures["held|optimiser"] = states
        figures |= {
            f"peak|{section}|{part}": size
            for section, parts in ledger.peaks.items()
            if section not in ("", BETWEEN)
            for part, size in parts.items()
        }
    return figures


def _watched(model: nn.Module, part_of: Callable[[str], str]) -> Iterator[tuple[nn.Module, str]]:
    """Modules by the part they belong to; what turns hidden states into words is a part of its own."""
    language: Any = getattr(model, "language", model)
    words = language.get_output_embeddings() if hasattr(language, "get_output_embeddings") else None
    for name, module in model.named_modules():
        first = next((f"{name}.{n}" for n, _ in module.named_parameters()), "") if name else ""
        if first:
            yield module, "loss" if module is words else part_of(first)


def _mark(ledger: Ledger, hooks: ExitStack, stack: Any, number: int, figures: dict[str, float], name: str) -> None:
    """Sections of the backward pass: before the stack's last layer, in it, and in the first and what lies below. In
    those between, memory goes from the one to the other in a straight line, so that none of them is the worst."""
    layers = list(stack)
    marks = {len(layers) - 1: f"{number} last", len(layers) - 2: BETWEEN, 0: f"{number} first"}

    def begin(section: str) -> Callable[[Any, Any, Any], None]:
        def hook(_: Any, __: Any, out: Any) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            if isinstance(hidden, torch.Tensor) and hidden.requires_grad:
                hidden.register_hook(lambda grad: ledger.section(section))

        return hook

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


def _step(optimizers: list[torch.optim.Optimizer], trained: list[nn.Parameter], ledger: Ledger, eight_bit: bool) -> int:
    """The first step of the optimizers. Returns the bytes of the states that they make."""
    ledger.section("step")
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
    if type(optimizer) is torch.optim.AdamW:  # on a GPU one kernel does it, with nothing beside the moments
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            moments = {moment: _moment(parameter, eight_bit) for moment in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] |= moments
        return
    for group in optimizer.param_groups:
        group["foreach"] = True  # as on a GPU
    optimizer.step()


def _moment(parameter: nn.Parameter, eight_bit: bool) -> torch.Tensor:
    """In 8 bits with a float32 scale for each 256 numbers; bitsandbytes leaves small parameters in 32 bits."""
    if not eight_bit or parameter.numel() < 4096:
        return torch.zeros_like(parameter, dtype=torch.float32 if eight_bit else None)
    return torch.empty(parameter.numel() + 4 * -(-parameter.numel() // 256), dtype=torch.uint8, device="meta")
