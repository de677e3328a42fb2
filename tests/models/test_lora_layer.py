"""A layer computed together with its adapter gives what peft's layer gives, gradients too."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear
from torch import nn

from medvlm.core.stage_config import Lora
from medvlm.models import lora
from medvlm.models.lora_layer import LoraLinear
from medvlm.models.parts import joining
from medvlm.train.flops import count_flops

Measured = tuple[torch.Tensor, ...]


def layer(bias: bool = True, **settings: Any) -> LoraLinear:
    """With a B that is not zero, in float64."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"language": nn.ModuleDict({"up": nn.Linear(12, 20, bias)})}).double().requires_grad_(False)
    lora.attach(model, Lora.model_validate({"rank": 3, "alpha": 5, "targets": ["language.up"], **settings}), seed=1)
    found = model.get_submodule("language.up")
    assert type(found) is LoraLinear
    nn.init.normal_(found.lora_B["default"].weight)
    return found


def peft_of(module: LoraLinear) -> Linear:
    other = deepcopy(module)
    other.__class__ = Linear
    return other


def measure(module: Linear, trains_input: bool = True) -> Measured:
    """Output, and gradients of the input and both matrices."""
    torch.manual_seed(3)
    x = torch.randn(2, 7, 12, dtype=module.lora_A["default"].weight.dtype, requires_grad=trains_input)
    module.zero_grad()
    torch.manual_seed(4)  # of dropout
    out = module(x)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    grads = [each.weight.grad for each in (module.lora_A["default"], module.lora_B["default"])]
    return (out.detach(), *grads, *([x.grad] if trains_input else []))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[LoraLinear], Measured]:
    """Measures a layer, and fails if peft's own layer computes it."""

    def run(module: LoraLinear, **how: Any) -> Measured:
        with monkeypatch.context() as patch:
            patch.setattr(LoraLinear.__mro__[1], "forward", lambda *_, **__: pytest.fail("peft computed it"))
            return measure(module, **how)

    return run


@pytest.mark.parametrize("trains_input", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_peft(
    alone: Callable[..., Measured], bias: bool, dropout: float, trains_input: bool
) -> None:
    own = layer(bias, dropout=dropout)
    torch.testing.assert_close(
        alone(own, trains_input=trains_input), measure(peft_of(own), trains_input), rtol=1e-12, atol=1e-12
    )


def test_in_16_bits_it_is_no_further_from_the_truth_than_peft(alone: Callable[..., Measured]) -> None:
    exact = measure(peft_of(layer()))
    own = layer().float()
    own.base_layer.bfloat16()  # as frozen weights are held
    with torch.autocast("cpu", torch.bfloat16):
        found, theirs = alone(own), measure(peft_of(own))
    for mine, peft, truth in zip(found, theirs, exact, strict=True):
        assert mine.dtype == peft.dtype
        assert (mine - truth).norm() < 1.2 * (peft - truth).norm() + 1e-3 * truth.norm()


def test_what_peft_computes_is_left_to_peft() -> None:
    """Adapters that are off or merged, variants, several adapters, and matrices that are trained."""
    own = layer()
    x = torch.randn(4, 12, dtype=torch.float64)
    own.enable_adapters(False)
    assert torch.equal(own(x), own.base_layer(x))
    own.enable_adapters(True)
    before = own(x)
    own.merge()
    torch.testing.assert_close(own(x), before)
    own.unmerge()
    own.base_layer.requires_grad_(True)
    own(x).sum().backward()
    assert own.base_layer.weight.grad is not None
    dora = layer(dora=True)
    torch.testing.assert_close(measure(dora), measure(peft_of(dora)), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_several_adapters_are_added_up() -> None:
    model = nn.ModuleDict({"up": nn.Linear(12, 20)})
    config = LoraConfig(r=2, target_modules=["up"])
    for name in ("default", "other"):
        inject_adapter_in_model(config, model, adapter_name=name)  # type: ignore[arg-type]
    own = model["up"]
    own.__class__ = LoraLinear
    own.set_adapter(["default", "other"])
    for each in own.lora_B.values():
        nn.init.normal_(each.weight)
    x = torch.randn(5, 12)
    both = sum(own.lora_B[n](own.lora_A[n](x)) * own.scaling[n] for n in ("default", "other"))
    torch.testing.assert_close(own(x), own.base_layer(x) + both)


def test_the_operations_that_are_counted_are_those_of_peft() -> None:
    own, x = layer(), torch.randn(4, 12, dtype=torch.float64)
    counts = []
    for module in (own, peft_of(own)):
        with count_flops(True) as count:
            module(x).sum().backward()
        counts.append(count.flops)
    assert counts[0] and counts[0] == counts[1]


def test_an_adapter_is_added_to_its_matrix_while_answers_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = layer().float(), torch.randn(2, 7, 12)
    expected = module(x)
    with joining(module), torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(LoraLinear, "_find_plain", lambda *_: pytest.fail("the adapter was computed for its own"))
        torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        module.lora_B["default"].weight.zero_()
    torch.testing.assert_close(module(x), module.base_layer(x)), "weights that have changed count"


@pytest.mark.parametrize("case", ["float64", "bfloat16", "autocast", "dora", "two adapters"])
def test_where_the_sum_would_be_another_policy_adapters_stay_apart(case: str) -> None:
    module = layer(dora=True).float() if case == "dora" else layer().float()
    if case == "two adapters":
        module.set_adapter(["default"])
        module.update_layer("other", 3, lora_alpha=5, config=LoraConfig(r=3, lora_alpha=5))
        module.set_adapter(["default", "other"])
    if case in ("float64", "bfloat16"):
        module.to(getattr(torch, case))
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), joining(module):
        assert module.joined is None
