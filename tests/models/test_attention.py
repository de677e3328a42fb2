"""Kernels for packed rows compute what the dense mask computes, outputs and gradients, for every family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.core.sample import Batch
from medvlm.models import kernels, masks, row_mask
from medvlm.models.attention import attending, find_misfit, make_mask, use_attention
from medvlm.models.isolation import check_isolated
from medvlm.models.kernels import compute, compute_densely, try_kernel
from medvlm.models.masks import evaluate, find_blocks, make_rule
from medvlm.models.row_mask import RowMask
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from medvlm.train.blocks import compile_blocks, recompute
from tests.models.tiny import FAMILIES, GROUPED, IMAGE_ID, WINDOWED, batch_of, document, spread, vlm

CPU = torch.device("cpu")
OTHERS: dict[str, dict[str, Any]] = {
    # Sinks, and layers with and without a window.
    "gpt_oss": {**GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3},
    "qwen3": {**GROUPED, "head_dim": 8},
    "gemma3_text": {
        **GROUPED,
        "head_dim": 8,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of tests are short: with usual blocks, all of them would be one block."""
    monkeypatch.setattr(masks, "BLOCK", 8)
    monkeypatch.setattr(row_mask, "SHORT", 0)


def structure(seed: int, T: int = 70, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """docs, branches, positions and blocks [B, T]: documents with 0 to 3 branches and with runs of images, and
    padding."""
    random = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=random))

    docs, branches, positions, blocks = (torch.full((rows, T), fill) for fill in (-1, 0, 0, -1))
    for row in range(rows):
        at, doc = 0, 0
        while (room := T - at) > number(4, 12):
            prefix = number(2, 1 + min(room, 40))
            docs[row, at : at + prefix], positions[row, at : at + prefix] = doc, torch.arange(prefix)
            if prefix > 4:
                blocks[row, at + 1 : at + number(2, prefix)] = doc
            at += prefix
            for branch in range(number(0, 4)):
                length = min(number(1, 15), T - at)
                here = slice(at, at + length)
                docs[row, here], branches[row, here] = doc, branch + 1
                positions[row, here] = torch.arange(length) + prefix
                at += length
            doc += 1
    return docs, branches, positions, blocks


def see(
    docs: torch.Tensor, branches: torch.Tensor, positions: torch.Tensor, blocks: torch.Tensor | None, window: int | None
) -> torch.Tensor:
    """Who sees whom, pair by pair, from the words of make_mask's docstring."""
    B, T = docs.shape
    found = torch.zeros(B, T, T, dtype=torch.bool)
    for b in range(B):
        d, r, p = (x[b].tolist() for x in (docs, branches, positions))
        image = [-1] * T if blocks is None else blocks[b].tolist()
        for q in range(T):
            for k in range(T):
                is_own_text = d[q] == d[k] >= 0 and k <= q and r[k] in (0, r[q])
                is_near = window is None or p[q] - p[k] < window
                found[b, q, k] = (is_own_text and is_near) or q == k or image[q] == image[k] >= 0
    return found


@pytest.mark.parametrize(("has_blocks", "window"), [(False, None), (True, None), (True, 9)])
def test_blocks_hold_exactly_the_pairs_that_see_each_other(
    small_blocks: None, has_blocks: bool, window: int | None
) -> None:
    docs, branches, positions, blocks = structure(seed=len(str(window)))
    assert branches.max() > 1 and (docs < 0).any() and docs.max() > 1
    given = blocks if has_blocks else None
    expected = see(docs, branches, positions, given, window)
    rule = make_rule(docs, branches, positions, given, window)
    assert torch.equal(evaluate(rule, docs), expected)
    rows = RowMask.of_blocks(docs, branches, positions, given, window, rule)
    assert torch.equal(rows.seen, expected)
    some, every = find_blocks(docs, branches, positions, given, window)
    assert every.any() and not (some & every).any() and not (some | every).all()
    N = some.shape[1]
    pairs = torch.nn.functional.pad(expected, (0, -70 % 8, 0, -70 % 8)).unflatten(2, (N, 8)).unflatten(1, (N, 8))
    is_needed = pairs.any(4).any(2)
    assert (some | every)[is_needed].all() and float((some | every).sum() / is_needed.sum()) < 1.35
    torch.testing.assert_close(rows.share, min(1.0, float((some | every).sum()) * 64 / docs.numel() / 70))


def test_documents_of_a_row_are_counted_with_their_padding() -> None:
    docs = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, -1, -1]])
    rows = RowMask.of_documents(docs, None, make_rule(docs, None, docs, None, None))
    assert rows.ends is not None and rows.ends.tolist() == [0, 3, 5, 6, 10, 12] and rows.longest == 4
    assert rows.share == pytest.approx((6 + 3 + 1 + 10 + 3) / (2 * 36))


def heads(T: int, groups: int = 2, seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(3, n, T, 16, generator=random).requires_grad_() for n in (2 * groups, 2, 2)]


def run(compute_: Any, given: Sequence[torch.Tensor], *others: Any) -> list[torch.Tensor]:
    """The output, and the gradients of a function of it."""
    out = compute_(*given, *others)
    return [out, *torch.autograd.grad((out * out.detach().sin()).sum(), given)]


@pytest.fixture
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own FlexAttention, traced as for a GPU, and then run without its kernels. torch refuses the backward pass
    on CPUs, although its operator has one: the check is skipped here."""
    from torch.nn.attention import flex_attention

    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    compiled = torch.compile(flex_attention.flex_attention, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(kernels, "_compile_flex", lambda: compiled)


def compare_flex(T: int, window: int | None = None, cap: float | None = None, groups: int = 2, **sinks: Any) -> None:
    docs, branches, positions, blocks = structure(T, T)
    given = blocks if cap else None
    rows = RowMask.of_blocks(
        docs, branches, positions, given, window, make_rule(docs, branches, positions, given, window)
    )
    inputs = [*heads(T, groups), *sinks.values()]

    def by(compute_: Any, mask: Any) -> list[torch.Tensor]:
        return run(lambda q, k, v, sink=None: compute_(q, k, v, mask, 0.3, cap, sink), inputs)

    for a, b in zip(by(kernels._run_flex, rows), by(compute_densely, rows.seen[:, None]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_torchs_own_flex_attention_computes_the_dense_one(on_a_cpu: None) -> None:
    compare_flex(150)


@pytest.mark.slow
def test_lengths_make_no_new_graphs_and_caps_windows_and_sinks_are_those_of_the_dense_one(on_a_cpu: None) -> None:
    torch.compiler.reset()
    graphs = []
    for T in (300, 413, 650, 1000, 150):
        compare_flex(T)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[1:] == [graphs[1]] * 4, graphs
    for cap in (3.0, 4.0):
        compare_flex(300, window=9, cap=cap, groups=7)
    compare_flex(300, sinks=torch.randn(4, generator=torch.Generator().manual_seed(0)).requires_grad_())


def test_the_call_of_torchs_kernel_for_documents_has_the_shapes_that_it_takes() -> None:
    """The kernel itself needs a GPU."""
    docs = structure(0)[0]
    rows = RowMask.of_documents(docs, 9, make_rule(docs, None, docs, None, 9))
    q, k, v = (x.detach().to("meta", torch.bfloat16).requires_grad_() for x in heads(70))
    out = kernels._run_varlen(q, k, v, rows, 0.3)
    assert out.shape == q.shape and all(
        g.shape == x.shape for g, x in zip(torch.autograd.grad(out.sum(), (q, k, v)), (q, k, v), strict=True)
    )


@pytest.mark.parametrize("short", [0, 30, 256])
@pytest.mark.parametrize("window", [None, 5])
def test_long_branches_one_by_one_are_the_dense_attention(
    window: int | None, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_mask, "SHORT", short)
    docs, branches, positions = structure(0)[:3]
    rule = make_rule(docs, branches, positions, None, window)
    rows = RowMask.of_documents(docs, window, rule, branches)
    inputs, is_real = heads(70), (docs >= 0)[:, None, :, None]
    for a, b in zip(
        run(compute, inputs, rows, None, None, None),
        run(lambda *x: compute_densely(*x) * is_real, inputs, evaluate(rule, docs)[:, None], None, None, None),
        strict=True,
    ):
        torch.testing.assert_close(a * is_real, b * is_real, rtol=1e-5, atol=1e-5)
    assert rows.share <= {0: 0.4, 30: 0.45, 256: 0.6}[short], "of all pairs"


@pytest.mark.parametrize("window", [None, 5])
def test_documents_one_by_one_are_the_dense_attention(window: int | None) -> None:
    docs = structure(0)[0]
    positions = torch.cat([torch.arange(n) for row in docs for n in row.unique_consecutive(return_counts=True)[1]])
    rule = make_rule(docs, None, positions.view_as(docs), None, window)
    rows = RowMask.of_documents(docs, window, rule)
    inputs, is_real = heads(70), (docs >= 0)[:, None, :, None]
    for a, b in zip(
        run(compute, inputs, rows, None, None, None),
        run(lambda *x: compute_densely(*x) * is_real, inputs, evaluate(rule, docs)[:, None], None, None, None),
        strict=True,
    ):
        torch.testing.assert_close(a * is_real, b * is_real, rtol=1e-5, atol=1e-5)


# --- families -------------------------------------------------------------------------------------


def language(family: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**FAMILIES.get(family, {}), **changes})
    if family == "gpt2":
        config.attn_pdrop = 0.0
    return spread(AutoModelForCausalLM.from_config(config).eval(), by=3)


def texts(branched: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)
    made = [
        document(generator, (), 9, [(5, 1), (7, 0)] if branched else [(5, 1)]),
        document(generator, (), 21, [(3, 0)]),
        document(generator, (), 3, [(9, 2)]),
    ]
    batch: Batch = batch_of(made)
    return batch


def measure(model: Any, batch: Batch, *used: str) -> list[torch.Tensor]:
    """Logits, and the gradients of the loss in every parameter."""
    model.zero_grad()
    with attending(model, *used):
        logits_LV = model(batch)["logits_LV"]
        token_losses(logits_LV, batch.targets_L).sum().backward()
    return [logits_LV.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same(got: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(got) == len(expected) > 1
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


@pytest.mark.parametrize(
    ("family", "changes"), [*((f, {}) for f in FAMILIES), *WINDOWED.items(), *OTHERS.items()], ids=str
)
def test_every_language_model_has_the_logits_and_gradients_of_the_dense_mask(
    small_blocks: None, family: str, changes: dict[str, Any]
) -> None:
    model = VLM(nn.ModuleDict(), nn.ModuleDict(), language(family, changes), IMAGE_ID).eval()
    check_isolated(model)
    assert model.only_dense == ""
    before = model.decoder.config._attn_implementation
    dense = measure(model, texts(), "dense")
    assert_same(measure(model, texts(), "flex"), dense)
    assert model.decoder.config._attn_implementation == before and model.kernels == ("dense",)
    plain = texts(branched=False)
    has_more = family == "gpt_oss" or getattr(model.decoder.config, "attn_logit_softcapping", None)
    if not has_more:
        assert_same(measure(model, plain, "varlen"), measure(model, plain, "dense"))
        assert_same(measure(model, texts(), "parts"), dense)
        return
    with pytest.raises(RecipeError, match="varlen cannot cap scores and has no sinks"):
        measure(model, plain, "varlen")


@pytest.mark.parametrize("again", [(), ("language",)], ids=["kept", "recomputed"])
def test_a_composed_model_with_images_has_the_gradients_of_the_dense_mask(
    small_blocks: None, again: tuple[str, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    made = [
        document(generator, ("film",), 3, [(5, 2), (3, 0), (6, 3)]),
        document(generator, ("volume", "film"), 4, [(3, 1), (4, 0)]),
        document(generator, (), 5, [(4, 0)]),
    ]
    model = vlm()
    expected = measure(model, batch_of(made), "dense")
    recompute(model, again, lambda name, pattern: name.startswith(pattern))
    with attending(model, "flex"):  # blocks are computed again in the backward pass
        assert_same(measure(model, batch_of(made), "flex"), expected)


@pytest.mark.slow
def test_compiled_blocks_hold_flex_attention_in_one_graph(on_a_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile traces into a block and through its attention, as on a GPU."""
    model, batch = vlm(), texts()
    expected = measure(model, batch, "dense")
    monkeypatch.setattr(kernels, "compute", kernels._run_flex)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    compile_blocks(model, ("language",), lambda name, pattern: name.startswith(pattern))
    assert_same(measure(model, batch, "flex"), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_in_bfloat16_the_difference_is_rounding(small_blocks: None) -> None:
    """Under autocast, where qwen3 norms queries and keys in float32, and values come in bfloat16."""
    model = VLM(nn.ModuleDict(), nn.ModuleDict(), language("qwen3", OTHERS["qwen3"]), IMAGE_ID).eval()
    with torch.autocast("cpu", torch.bfloat16):
        dense, flex = (measure(model, texts(), used)[0] for used in ("dense", "flex"))
    assert flex.dtype == dense.dtype == torch.bfloat16
    torch.testing.assert_close(flex, dense, rtol=2e-2, atol=2e-2 * float(dense.abs().max()))


# --- the choice -----------------------------------------------------------------------------------


def choose(model: Any, asked: str, device: str = "cpu", **engine: Any) -> str:
    return use_attention(model, EngineConfig(attention=asked, **engine), torch.device(device))


def test_on_a_cpu_auto_goes_by_documents_and_the_others_are_as_asked() -> None:
    model = vlm()
    assert choose(model, "auto", compile=("language",)) == "" and model.kernels == ("dense",)
    for asked, expected in (("dense", ("dense",)), ("auto", ("parts", "dense")), ("flex", ("flex",))):
        assert choose(model, asked) == "" and model.kernels == expected
    assert isinstance(make_mask(texts(), torch.float32, model.language.config, model.kernels), RowMask)
    assert choose(model, "varlen", precision="bf16-mixed") == "" and model.kernels == ("varlen",)
    with pytest.raises(RecipeError, match=r"engine.attention: varlen: samples doc-\d+, .* share a prompt"):
        model(texts())
    assert choose(nn.Linear(1, 1), "flex") == "", "a model without rows stays as it is"


def test_a_model_is_planned_for_a_gpu_unless_the_recipe_says_cpu() -> None:
    wide = {**GROUPED, "hidden_size": 64}
    with torch.device("meta"):
        model = VLM(nn.ModuleDict(), nn.ModuleDict(), language("qwen2", wide), IMAGE_ID)
    chosen = []
    for engine in ({"precision": "bf16-mixed"}, {}, {"device": "cpu"}):
        assert use_attention(model, EngineConfig.model_validate(engine), CPU) == ""
        chosen.append(model.kernels)
    assert chosen == [("varlen", "flex", "dense"), ("flex", "dense"), ("parts", "dense")], (
        "varlen needs 16 bits on a GPU"
    )


def test_what_no_kernel_computes_is_refused_or_said() -> None:
    with torch.device("meta"):
        narrow, capped, dropping = (
            VLM(nn.ModuleDict(), nn.ModuleDict(), language(family, changes), IMAGE_ID)
            for family, changes in (
                ("qwen2", {}),
                ("gemma2", {"head_dim": 32}),
                ("llama", {"attention_dropout": 0.1, "hidden_size": 64}),
            )
        )
    said = choose(narrow, "auto", precision="32-true")
    assert said.startswith("attention is dense (varlen: these kernels") and "heads are 8 wide" in said
    assert narrow.kernels == ("dense",)
    with pytest.raises(
        RecipeError, match=r"engine.attention: varlen: Gemma2Model caps its attention scores; use dense"
    ):
        choose(capped, "varlen", precision="bf16-mixed")
    with pytest.raises(RecipeError, match="flex: LlamaModel has dropout in its attention"):
        choose(dropping, "flex")


def test_a_trial_finds_a_kernel_that_computes_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    for kernel in ("flex", "varlen"):
        cap = 5.0 if kernel == "flex" else None
        assert try_kernel(kernel, 4, 2, 16, cap, torch.float32, CPU) < 1e-5
        assert try_kernel(kernel, 4, 2, 16, None, torch.bfloat16, CPU) < kernels.TOLERANCE[torch.bfloat16]
    monkeypatch.setattr(kernels, "compute", lambda q, k, v, rows, *_: compute(q, k, v.flip(2), rows, 0.25, None, None))
    for kernel in ("flex", "varlen"):
        assert try_kernel(kernel, 4, 2, 16, None, torch.bfloat16, CPU) > 10 * kernels.TOLERANCE[torch.bfloat16]


def test_what_a_family_adds_to_its_attention_is_found_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.qwen2 import modeling_qwen2

    model, batch = vlm(), texts()
    with torch.no_grad():
        expected = model(batch)["logits_LV"]
        assert find_misfit(model, lambda: model(batch)["logits_LV"], expected, 1e-5) == ""
        got = find_misfit(model, lambda: model(batch)["logits_LV"] * 1.01, expected, 1e-5)
        assert "off by 1.0" in got
    own = modeling_qwen2.Qwen2Attention.forward

    def biased(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return own(self, hidden_states, **kwargs, position_bias=torch.zeros(1))

    monkeypatch.setattr(modeling_qwen2.Qwen2Attention, "forward", biased)
    got = find_misfit(model, lambda: model(batch)["logits_LV"], expected, 1e-5)
    assert "Qwen2Attention has position_bias, which is not known here; use engine.attention: dense" in got
