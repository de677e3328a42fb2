"""The state-space encoder: its scan against the recurrence, one token at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.core import scan_kernel
from medvlm.core.config import component
from medvlm.core.contracts import Masking
from medvlm.core.scan_kernel import scan_by
from medvlm.core.selective_scan import CHUNK, scan

KIND = component("encoders", "ssm")
FLAT = {"size": [16, 24], "channels": 1, "mean": [0.5], "std": [0.5]}


@pytest.mark.parametrize("length", [1, 7, CHUNK, 2 * CHUNK + 5])
def test_the_scan_and_its_gradient_are_those_of_the_recurrence(length: int) -> None:
    torch.manual_seed(0)
    x, into, out = (torch.randn(2, length, n, dtype=torch.float64) for n in (3, 4, 4))
    step = torch.rand(2, length, 3, dtype=torch.float64)
    decay, skip = -torch.rand(3, 4, dtype=torch.float64) - 0.1, torch.randn(3, dtype=torch.float64)
    leaves: Any = [each.requires_grad_() for each in (x, step, decay, into, out, skip)]
    states, read = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for t in range(length):
        states = torch.exp(step[:, t, :, None] * decay) * states + (step[:, t] * x[:, t])[..., None] * into[:, t, None]
        read.append((states * out[:, t, None]).sum(-1) + skip * x[:, t])
    expected, found = torch.stack(read, 1), scan(*leaves)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(found)
    mine, theirs = (
        torch.autograd.grad((each * weight).sum(), leaves, allow_unused=length == 1) for each in (found, expected)
    )
    for a, b in zip(mine, theirs, strict=True):
        a, b = (
            torch.zeros(1) if each is None or not each.any() else each for each in (a, b)
        )  # one step decays nothing
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_every_token_reads_all_others_and_those_left_out_count_for_nothing() -> None:
    torch.manual_seed(0)
    config = KIND.Config.model_validate({"kind": "ssm", "patch": [8, 8], "width": 16, "layers": 2, "preprocess": FLAT})
    encoder = KIND.build(config).eval()
    pixels = torch.randn(1, 1, 16, 24, requires_grad=True)
    for token in (0, 5):
        (slope,) = torch.autograd.grad(encoder(pixels).patches[0, token].sum(), pixels)
        assert (slope.unflatten(3, (3, 8)).unflatten(2, (2, 8)).abs().amax((0, 1, 3, 5)) > 0).all()
    kept = Masking(kept_NK=torch.tensor([[1, 4]]))
    (slope,) = torch.autograd.grad(encoder(pixels, kept).patches.sum(), pixels)
    seen = slope.unflatten(3, (3, 8)).unflatten(2, (2, 8)).abs().amax((0, 1, 3, 5)).flatten()
    assert (seen > 0).nonzero()[:, 0].tolist() == [1, 4]


def scan_as_the_kernel_does(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """What mamba-ssm documents of `selective_scan_fn`, token by token: u, delta [batch, channels, length], A [channels,
    states], B, C [batch, states, length], D [channels]."""
    state, read = torch.zeros(len(u), *A.shape, dtype=u.dtype), []
    for t in range(u.shape[-1]):
        state = (delta[..., t, None] * A).exp() * state + (delta[..., t] * u[..., t])[..., None] * B[:, None, :, t]
        read.append((state * C[:, None, :, t]).sum(-1) + D * u[..., t])
    return torch.stack(read, -1)


def test_a_kernel_gets_what_it_documents_and_gives_the_same_scan() -> None:
    torch.manual_seed(0)
    x, into, out = (torch.randn(2, 9, n) for n in (3, 4, 4))
    step, decay, skip = torch.rand(2, 9, 3), -torch.rand(3, 4) - 0.1, torch.randn(3)
    leaves: Any = [each.requires_grad_() for each in (x, step, decay, into, out, skip)]
    found, expected = scan_by(scan_as_the_kernel_does, *leaves), scan(*leaves)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(found)
    for a, b in zip(*(torch.autograd.grad((each * weight).sum(), leaves) for each in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_on_a_cpu_the_scan_is_plain_torch_even_where_the_kernel_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_kernel, "find_kernel", lambda: scan_as_the_kernel_does)
    assert scan_kernel.choose_kernel(torch.zeros(1)) is None
