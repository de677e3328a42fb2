"""The memory of a simulated step, compared with a real step of the same stage on a CPU."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import nn

from medvlm.core.engine_config import EngineConfig
from medvlm.core.sample import Batch
from medvlm.models.attention import use_attention
from medvlm.models.parts import group_of, matches
from medvlm.models.vlm import VLM
from medvlm.preflight import ledger, simulate
from medvlm.preflight import memory as bytes_of
from medvlm.preflight.draft import make_draft
from medvlm.preflight.precision import COPIES
from medvlm.preflight.samples import look
from medvlm.preflight.simulate import Step
from medvlm.preflight.staging import build_stage
from medvlm.recipe.load import LoadedRecipe, load
from medvlm.train.optim import make_optimizer
from medvlm.train.terms import sum_of_losses
from tests import tiny_run
from tests.models.tiny import IMAGE_ID, language

FULL = {
    **tiny_run.INSTRUCT,
    "name": "full",
    "from": "pair",
    "trains": ["encoders", "connectors", "language"],
    "lora": None,
}
PAIR = {**tiny_run.PAIR, "optim": {"lr": 1.0e-3}}
LANGUAGE = {**tiny_run.LANGUAGE, "num_hidden_layers": 5}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedRecipe, Path]:
    content = tiny_run.recipe(stages=[PAIR, {**tiny_run.INSTRUCT, "accumulate": 1}, {**FULL, "accumulate": 1}])
    content["model"]["language"] = {**content["model"]["language"], "config": LANGUAGE}
    folder = tmp_path_factory.mktemp("recipe")
    return load(tiny_run.written(folder, content)), folder / "runs"


def optimizer_of(stage: Any, config: Any) -> torch.optim.Optimizer:
    return make_optimizer(stage.model, config.optim, matches, config.name)


def planned(loaded: LoadedRecipe, runs: Path, real: Any, micro: Any) -> tuple[Any, Step]:
    """The stage on the meta device with its real tokenizer's sizes, and its simulated step on that micro-batch."""
    with TemporaryDirectory() as folder:
        draft = make_draft(loaded.recipe, look(loaded, runs), Path(folder))
        number, config = next((i, s) for i, s in enumerate(draft.recipe.stages) if s.name == real.config.name)
        stage = build_stage(draft, number, 1)
    stage.model = shrunk(stage.model, real.model)
    media = {name: pixels.to("meta") for name, pixels in micro.media.items()}
    step = simulate.simulate(
        stage.model,
        lambda m: sum_of_losses(stage.compute_loss(m, replace(micro, media=media), 0)),
        lambda: [optimizer_of(stage, config)],
        group_of,
        "32-true",
    )
    return stage, step


def shrunk(meta: Any, real: Any) -> Any:
    """A tokenizer trained on 64 samples may have a smaller vocabulary than one trained on all."""
    for name, parameter in real.named_parameters():
        mine = meta.get_parameter(name)
        if mine.shape != parameter.shape:
            mine.data = torch.empty_like(parameter, device="meta")
    return meta


@pytest.mark.parametrize("name", ["pair", "instruct", "full"])
def test_weights_gradients_and_optimiser_are_those_of_a_real_step_to_the_byte(
    name: str, loaded: tuple[LoadedRecipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "ROUND", 1)
    monkeypatch.setattr(ledger, "_align_mask", lambda mask, lower: None)  # only GPU kernels pad masks
    recipe, runs = loaded
    real = tiny_run.staged(recipe_file(recipe), runs, name)
    (micro,) = real.make_micros(next(real.read_batches(0))[1], 1)
    saved = Saved(real.model)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
        loss = sum_of_losses(real.compute_loss(real.model, micro, 0))
    loss.backward()
    optimizer = optimizer_of(real, real.config)
    trained = [p for p in real.model.parameters() if p.requires_grad]
    gradients = sum(p.grad.numel() * p.grad.element_size() for p in trained if p.grad is not None)
    optimizer.step()
    states = sum(t.numel() * t.element_size() for s in optimizer.state.values() for k, t in s.items() if k != "step")

    stage, step = planned(recipe, runs, real, micro)
    assert {n: (p.shape, p.requires_grad) for n, p in stage.model.named_parameters()} == {
        n: (p.shape, p.requires_grad) for n, p in real.model.named_parameters()
    }
    assert step.sections["step"]["gradients"] == gradients
    assert step.sections["step"]["optimiser"] == states
    held = sum(size for part, size in step.held.items() if part != "optimiser")
    assert held == pytest.approx(
        saved.bytes, rel=0.07
    )  # with dropout a CPU keeps scores in the place of what attention gives


def recipe_file(loaded: LoadedRecipe) -> Path:
    return loaded.card_paths["films"].parent / "recipe.yaml"


class Saved:
    """Bytes that autograd keeps, each storage once, without the weights, and without scores and masks [..., T, T]: a
    CPU stores them where a GPU does not."""

    def __init__(self, model: torch.nn.Module):
        self.known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.kept: list[torch.Tensor] = []

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self.known:
            self.known.add(place)
            self.kept.append(tensor)
            is_square = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] not in (16, 32)
            self.bytes += 0 if is_square else tensor.untyped_storage().nbytes()
        return tensor


def test_what_is_drawn_on_from_shallow_runs_is_what_a_run_of_all_layers_holds(
    loaded: tuple[LoadedRecipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, runs = loaded
    real = tiny_run.staged(recipe_file(recipe), runs, "full")
    (micro,) = real.make_micros(next(real.read_batches(0))[1], 1)
    _, shallow = planned(recipe, runs, real, micro)
    assert list(shallow.layers) == ["language.model.layers"]
    monkeypatch.setattr(simulate, "stacks_of", lambda model: {})
    _, whole = planned(recipe, runs, real, micro)
    peak = max(sum(parts.values()) for parts in shallow.sections.values())
    assert peak == pytest.approx(max(sum(parts.values()) for parts in whole.sections.values()), rel=0.02)
    assert shallow.flops == pytest.approx(whole.flops, rel=1e-9)
    assert shallow.held == pytest.approx(whole.held)


def test_extra_models_of_a_stage_are_counted_in_whole() -> None:
    """A teacher is neither sharded nor trained, so every engine adds its bytes once."""
    model, teacher = torch.nn.Linear(8, 4), torch.nn.Linear(8, 4)
    step = Step({"forward": {"work": 100.0}}, {}, 0.0, {})
    alone, beside = bytes_of.weights_of(model), bytes_of.weights_of(model, [teacher])
    for engine in ("single", "ddp", "fsdp2"):
        without, whole = (bytes_of.estimate_memory(step, each, engine, "32-true", 2) for each in (alone, beside))
        assert whole.total - without.total == whole.parts["extra"] == 4 * (8 * 4 + 4)


class Pair(nn.Module):
    """An encoder whose code reads its fourth layer, and a stack of layers that are all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.blocks = nn.Sequential(*(nn.Linear(8, 8) for _ in range(6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.encoder[0](x)
        return self.blocks(shallow + self.encoder[3](x))  # type: ignore[no-any-return]


def simulate_alone(model: nn.Module, precision: str) -> Step:
    def run(wrapped: Any) -> torch.Tensor:
        loss: torch.Tensor = wrapped(torch.empty(4, 2, 8, device="meta")).sum()
        return loss

    trained = [p for p in model.parameters() if p.requires_grad]
    return simulate.simulate(
        model, run, lambda: [torch.optim.AdamW(trained)], lambda name: name.split(".")[0], precision
    )


def test_a_part_that_cannot_be_cut_leaves_the_layers_of_the_others_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise recomputing these would seem to save nothing."""
    with torch.device("meta"):
        found = simulate_alone(Pair(), "32-true")
        monkeypatch.setattr(simulate, "SHALLOW", 99)
        whole = simulate_alone(Pair(), "32-true")
    assert list(found.layers) == ["blocks"] and whole.layers == {}
    assert (found.flops, found.held) == (whole.flops, whole.held)


class Deep(nn.Module):
    """Layers whose weights are much larger than what they keep, as where most patches are left out; after a stack that
    does not run."""

    def __init__(self, depth: int = 9) -> None:
        super().__init__()
        self.text = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        layers = (nn.Sequential(nn.Linear(8, 512), nn.GELU(), nn.Linear(512, 8)) for _ in range(depth))
        self.encoders = nn.ModuleDict({"ct": nn.Sequential(*layers)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoders["ct"](x)  # type: ignore[no-any-return]


def test_recomputed_layers_keep_their_inputs_and_copies_of_weights_are_no_part_of_the_vision() -> None:
    """These and the states of the optimizer were taken off what the encoder keeps, of which nothing was left."""
    with torch.device("meta"):
        model = Deep()
        step = simulate_alone(model, "bf16-mixed")
    kept, given, _, depth = step.layers["encoders.ct"]
    copies = step.copies["encoders.ct"]
    assert depth == 9 and copies >= 2 * 2 * 8 * 512 and step.copies["text"] == 0 and next(iter(step.copies)) == "text"
    assert given < kept < 4 * 2 * 8 * 512, "states of the optimizer, 8 bytes a parameter, are not kept by a layer"
    forward = bytes_of._sum_section(step, "forward", bytes_of.recompute_all, 1.0)
    assert forward["vision"] >= (depth - 1) * given and forward[COPIES] == pytest.approx(
        step.sections["forward"][COPIES]
    )
    # At the beginning of the backward pass, the last layer is there with its copies, and of the others the inputs.
    last = bytes_of._sum_section(step, "1 last", bytes_of.recompute_all, 1.0)
    before = bytes_of._sum_section(step, "1 last", None, 1.0)
    assert before["vision"] - last["vision"] == pytest.approx((depth - 1) * (kept - given))
    assert before[COPIES] - last[COPIES] == pytest.approx((depth - 1) * copies)


def _make_adamw(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters())]


def test_kernels_for_rows_hold_no_mask_and_compute_what_is_seen_only() -> None:
    """Rows of 2 x 1024 tokens in documents of 256, in mixed precision on a GPU."""
    docs = torch.arange(1024).repeat(2, 1) // 256
    none, one = torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    ids, positions = torch.zeros_like(docs), torch.arange(1024).repeat(2, 1) % 256
    batch = Batch(ids, positions, docs, torch.zeros_like(docs), one, one, one, none)
    steps = {}
    for kernel in ("dense", "flex", "auto"):
        with torch.device("meta"):
            wide = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
            model = VLM(nn.ModuleDict(), nn.ModuleDict(), language("qwen2", **wide), IMAGE_ID)
        use_attention(model, EngineConfig(attention=kernel, precision="bf16-mixed"), torch.device("cpu"))
        steps[kernel] = simulate.simulate(
            model,
            lambda wrapped: wrapped(batch)["logits_LV"].sum(),
            partial(_make_adamw, model),
            group_of,
            "bf16-mixed",
        )
    held = {kernel: sum(step.held.values()) for kernel, step in steps.items()}
    dense, flex, auto = (step.flops for step in steps.values())
    mask = 2 * 1024 * 1024 * (4 + 2)  # with its bfloat16 copy; the dense attention also repeats keys and values
    assert held["flex"] == held["auto"] and mask <= held["dense"] - held["flex"] < 1.1 * mask
    passes, pairs, layers = 1 + 2.5, 2 * 1024 * 1024, 3
    attention = passes * 4 * 64 * pairs * layers  # a multiplication and an addition, for scores and values
    blocks = 4 * 3 / 8**2  # of 128 tokens: 3 of each document are not empty
    assert dense - flex == pytest.approx(attention * (1 - blocks))
    assert dense - auto == pytest.approx(attention * (1 - 257 / 2048))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_attention_of_torch_runs_in_mixed_precision_frozen_or_not(is_frozen: bool) -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.project(x)
            with torch.set_grad_enabled(not is_frozen):
                seen = self.attention(x, x, x, need_weights=False)[0]
            return x + seen  # type: ignore[no-any-return]

    with torch.device("meta"):
        model = Attend()
        if is_frozen:
            model.attention.requires_grad_(False).eval()
        assert simulate_alone(model, "bf16-mixed").flops > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_token_costs_the_operations_of_its_own_experts_only(dtype: torch.dtype) -> None:
    from transformers import AutoModelForImageTextToText

    from medvlm.preflight.rehearsal.ready import make_config

    config, _ = make_config("qwen3_vl_moe")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype, trust_remote_code=False)
    experts = model.model.language_model.layers[0].mlp.experts
    tokens, width, inside, each = 64, 32, 16, config.text_config.num_experts_per_tok
    hidden = torch.zeros(tokens, width, device="meta", dtype=dtype, requires_grad=True)
    chosen = torch.zeros(tokens, each, dtype=torch.long, device="meta")
    with ledger.Ledger(model) as seen:
        experts(hidden, chosen, torch.zeros(tokens, each, device="meta", dtype=dtype)).sum().backward()
    # Gate and up, and down; the backward pass has two products for each.
    assert seen.flops == 3 * 2 * tokens * each * (width * 2 * inside + inside * width)
