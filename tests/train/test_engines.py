"""Every engine computes the same as one process in each step, resumes from a checkpoint bit by bit, and generates
answers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.train.engines import make_engine
from tests.tiny_run import ROOT, differing, run_ranks
from tests.train.engine_ranks import STAGES, Averaged, run

FAST = (
    "ddp",
    "ddp dealt",
    "ddp auto",
    "ddp encoded",
    "ddp blind",
    "ddp averaged",
    "fsdp2",
    "fsdp2 again",
    "fsdp2 own",
    "fsdp2 averaged",
    "fsdp2 head",
    "fsdp2 read",
    "fsdp2 averaged again",
    "zero2",
    "zero2 averaged",
)
SLOW = (
    "ddp",
    "ddp head",
    "ddp averaged",
    "ddp averaged again",
    "ddp again",
    "ddp own",
    "ddp muon",
    "fsdp2 dealt",
    "fsdp2 encoded",
    "fsdp2 recompute",
    "fsdp2 flex",
    "fsdp2 muon",
    "fsdp2 offload",
    "fsdp2 bf16",
    "ddp bf16",
    "zero1",
    "zero1 again",
    "zero1 offload",
    "zero2",
    "zero2 again",
    "zero2 head",
    "zero2 clips",
    "zero2 offload",
    "zero2 bf16",
    "zero3",
    "zero3 again",
    "zero3 recompute",
    "zero3 offload",
    "zero3 bf16",
    "zero3 head",
    "zero3 encoded",
    "zero3 dealt",
    "zero3 read",
    "fsdp2 zero1",
    "ddp zero3",
    "zero3 ddp",
    "ddp quantized",
    "fsdp2 quantized",
    "fsdp2 quantized again",
)
Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In this process, with as many micro-batches as two ranks have together."""
    # It logs what it does not find, with a traceback that pytest keeps, and thereby the models of those who import it.
    if find_spec("bitsandbytes"):
        import bitsandbytes  # noqa: F401
    return run(tmp_path_factory.mktemp("one"), make_engine(EngineConfig(kind="single", device="cpu")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In this process, with the language model and its head trained."""
    engine = make_engine(EngineConfig(kind="single", device="cpu"))
    return run(tmp_path_factory.mktemp("whole"), engine, **STAGES["head"])


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In this process, with a language model of an encoder and a decoder."""
    engine = make_engine(EngineConfig(kind="single", device="cpu"))
    return run(tmp_path_factory.mktemp("encoded"), engine, **STAGES["encoded"])


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In this process: two optimizers, a loss of two terms, and an average of the weights as an extra model."""
    engine = make_engine(EngineConfig(kind="single", device="cpu"))
    return run(tmp_path_factory.mktemp("averaged"), engine, of=Averaged)


def two_ranks(folder: Path, cases: tuple[str, ...]) -> Ranks:
    """The results of two processes for each case."""
    has = {"zero": find_spec("deepspeed"), "quantized": find_spec("bitsandbytes")}
    cases = tuple(c for c in cases if all(spec or word not in c for word, spec in has.items()))
    run_ranks(ROOT / "tests" / "train" / "engine_ranks.py", folder, *cases)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory, one: dict[str, Any]) -> Ranks:
    """After `one`, so that the forks need not import what a training does."""
    return two_ranks(tmp_path_factory.mktemp("fast"), FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, one: dict[str, Any]) -> Ranks:
    return two_ranks(tmp_path_factory.mktemp("slow"), SLOW)


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """Those of the slow cases for a test that is marked slow."""
    ranks: Ranks = request.getfixturevalue("slow" if request.node.get_closest_marker("slow") else "fast")
    return ranks


def rarely(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def found(ranks: Ranks, case: str) -> Any:
    if case not in ranks[0]:
        pytest.skip("needs DeepSpeed or bitsandbytes")
    return [rank[case] for rank in ranks]


def off(case: dict[str, Any], one: dict[str, Any]) -> float:
    """The largest relative difference of a step's loss."""
    assert len(case["loss"]) == len(one["loss"])
    return max(abs(a - b) / b for a, b in zip(case["loss"], one["loss"], strict=True))


def check_alike(ranks: Ranks, case: str, one: dict[str, Any]) -> None:
    first, second = found(ranks, case)
    assert first["left"] == second["left"] == 0 < first["held"], "what a stage needed is there for the next one"
    assert off(first, one) < 1e-5 and first["norm"][0] == pytest.approx(one["norm"][0], rel=1e-5)
    assert {n: t.shape for n, t in first["weights"].items()} == {n: t.shape for n, t in one["weights"].items()}
    check_answers(first["said"][-1], one["said"][-1], 3)
    check_answers(second["said"][-1][:2], one["said"][-1], 3)
    assert [len(said) for said in second["said"][-1]] == [
        5,
        5,
        5,
    ], "the second rank draws more and longer answers than the first"


def check_first_update(case: dict[str, Any], one: dict[str, Any]) -> None:
    """The gradient, and the loss before and after the first update. Later, AdamW scales up the rounding errors of the
    rare tokens' embeddings."""
    assert case["norm"][0] == pytest.approx(one["norm"][0], rel=1e-5)
    assert case["loss"][:2] == pytest.approx(one["loss"][:2], rel=1e-6)


def check_answers(said: list[list[int]], others: list[list[int]], length: int) -> None:
    assert [answer[:length] for answer in said] == [answer[:length] for answer in others]


def check_goes_on(ranks: Ranks, kind: str) -> None:
    for straight, resumed in zip(found(ranks, kind), found(ranks, f"{kind} again"), strict=True):
        assert (
            resumed["loss"] == straight["loss"]
            and resumed["norm"] == straight["norm"]
            and resumed["said"][-1] == straight["said"][-1]
        )
        assert differing(resumed["weights"], straight["weights"]) == []


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2"])
def test_two_ranks_lose_what_one_process_loses(kind: str, fast: Ranks, one: dict[str, Any]) -> None:
    """With adapters, a trained connector, frozen towers, clipping in some steps, and steps in which the second rank has
    no image."""
    assert min(one["norm"]) < 2.0 < max(one["norm"]), "the clipping is not seen"
    assert one["left"] == 0 < one["held"]
    check_alike(fast, kind, one)


@pytest.mark.parametrize("case", ["ddp dealt", rarely("fsdp2 dealt")])
def test_ranks_that_share_their_images_lose_what_one_process_loses(
    case: str, ranks: Ranks, one: dict[str, Any]
) -> None:
    check_alike(ranks, case, one)


@pytest.mark.parametrize("case", ["fsdp2 head", rarely("ddp head"), rarely("zero2 head")])
def test_a_trained_head_reads_labels_in_chunks_on_every_rank(case: str, ranks: Ranks, whole: dict[str, Any]) -> None:
    check_first_update(found(ranks, case)[0], whole)


@pytest.mark.parametrize("kind", ["ddp", rarely("fsdp2")])
def test_two_ranks_with_an_encoder_and_a_decoder_lose_what_one_process_loses(
    kind: str, ranks: Ranks, encoded: dict[str, Any]
) -> None:
    check_alike(ranks, f"{kind} encoded", encoded)


@pytest.mark.parametrize("kind", ["fsdp2", rarely("zero2")])
def test_what_was_sharded_goes_on_to_the_last_bit(kind: str, ranks: Ranks) -> None:
    check_goes_on(ranks, kind)


def check_read(ranks: Ranks, kind: str) -> None:
    for read, whole in zip(found(ranks, f"{kind} read"), found(ranks, kind), strict=True):
        assert read["left"] == 0 and read["loss"] == whole["loss"] and read["norm"] == whole["norm"]
        assert differing(read["weights"], whole["weights"]) == []


def test_weights_that_are_read_into_shards_are_those_that_are_sharded(fast: Ranks) -> None:
    check_read(fast, "fsdp2")


@pytest.mark.slow
def test_weights_that_zero3_divides_one_by_one_are_those_that_it_divides_together(slow: Ranks) -> None:
    check_read(slow, "zero3")


def test_the_mean_over_a_ranks_own_labels_is_another_loss(fast: Ranks, one: dict[str, Any]) -> None:
    """A control: the comparison above would notice this difference."""
    assert off(found(fast, "fsdp2 own")[0], one) > 1e-4


def test_a_rank_out_of_memory_makes_all_take_smaller_parts_of_the_same_step(
    fast: Ranks, one: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = found(fast, "ddp auto")
    assert off(first, one) < 1e-5 and first["micros"] == second["micros"] == 2


def test_ranks_that_are_shown_the_same_samples_are_stopped(fast: Ranks) -> None:
    for rank in found(fast, "ddp blind"):
        assert "ranks 0 and 1 received the same 16 samples (sample-0, sample-1, " in rank["refused"]


@pytest.mark.parametrize(("kind", "atol"), [("ddp", 1e-9), ("fsdp2", 1e-4)])
def test_several_optimizers_and_a_mean_of_the_weights_are_those_of_one_process(
    kind: str, atol: float, fast: Ranks, averaged: dict[str, Any]
) -> None:
    """Each loss is a mean over its own weight on all ranks: tokens, of which the second rank has fewer, and answers.
    Weights are float64; FSDP2 sums gradients in float32, and AdamW amplifies the differences where gradients are
    small."""
    first, _ = found(fast, f"{kind} averaged")
    for step, expected in zip(first["terms"], averaged["terms"], strict=True):
        assert step.keys() == expected.keys() == {"answers", "lr/adapters", "grad_norm/adapters"}
        assert step["answers"] == pytest.approx(expected["answers"], rel=1e-6)
    assert off(first, averaged) < 1e-6 and first["norm"][0] == pytest.approx(averaged["norm"][0], rel=1e-6)
    for name in ("weights", "average"):
        for parameter, tensor in averaged[name].items():
            torch.testing.assert_close(first[name][parameter], tensor, rtol=0, atol=atol, msg=f"{name} {parameter}")
    moved = differing(averaged["average"], averaged["weights"])
    assert any("lora" in name for name in moved) and any("connectors" in name for name in moved)
    assert averaged["weights"]["steps_done"] == 4


@pytest.mark.parametrize("kind", [rarely("ddp"), "fsdp2"])
def test_several_optimizers_and_a_mean_of_the_weights_go_on_to_the_last_bit(kind: str, ranks: Ranks) -> None:
    for straight, resumed in zip(found(ranks, f"{kind} averaged"), found(ranks, f"{kind} averaged again"), strict=True):
        assert resumed["loss"] == straight["loss"] and resumed["terms"] == straight["terms"]
        for name in ("weights", "average"):
            assert differing(resumed[name], straight[name]) == []


def test_the_default_optimizer_keeps_its_names_in_a_checkpoint(averaged: dict[str, Any], one: dict[str, Any]) -> None:
    """Checkpoints of stages with one optimizer keep their format."""
    own = {name.split(".")[0] for name in one["stored"]}
    assert own == {"model", "optim"} and not one["average"]
    adapter = next(name for name in averaged["weights"] if "lora_A" in name)
    connector = next(name for name in averaged["weights"] if name.startswith("connectors"))
    assert {f"optim.adapters.state.{adapter}.exp_avg", f"optim.state.{connector}.exp_avg"} <= {*averaged["stored"]}
    assert f"optim.state.{adapter}.exp_avg" not in averaged["stored"]
    assert f"optim.state.{adapter}.exp_avg" in one["stored"] and f"models.average.{adapter}" in averaged["stored"]


def test_an_engine_that_flattens_parameters_refuses_several_optimizers(fast: Ranks) -> None:
    (refused, _) = found(fast, "zero2 averaged")
    assert (
        "engine.kind zero2 trains one model with one optimizer, and this stage has adapters too" in (refused["refused"])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "fsdp2 recompute",
        "fsdp2 flex",
        "fsdp2 offload",
        "zero1",
        "zero1 offload",
        "zero2 offload",
        "zero3",
        "zero3 recompute",
        "zero3 offload",
        "zero3 dealt",
        "zero3 read",
    ],
)
def test_two_ranks_lose_what_one_process_loses_with_everything(case: str, slow: Ranks, one: dict[str, Any]) -> None:
    check_alike(slow, case, one)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "zero1", "zero3"])
def test_every_engine_goes_on_to_the_last_bit(kind: str, slow: Ranks) -> None:
    check_goes_on(slow, kind)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["fsdp2 zero1", "ddp zero3", "zero3 ddp"])
def test_an_engine_goes_on_from_the_checkpoint_of_another(case: str, slow: Ranks, one: dict[str, Any]) -> None:
    assert off(found(slow, case)[0], one) < 1e-5


@pytest.mark.slow
def test_a_trained_head_that_is_sharded_by_zero3_reads_labels_in_chunks(slow: Ranks, whole: dict[str, Any]) -> None:
    check_first_update(found(slow, "zero3 head")[0], whole)


@pytest.mark.slow
def test_an_encoder_and_a_decoder_sharded_by_zero3_lose_what_one_process_loses(
    slow: Ranks, encoded: dict[str, Any]
) -> None:
    check_alike(slow, "zero3 encoded", encoded)


@pytest.mark.slow
def test_clipping_that_nobody_asked_for_is_another_loss(slow: Ranks, one: dict[str, Any]) -> None:
    """DeepSpeed clips at 1 unless its settings say 0."""
    assert off(found(slow, "zero2 clips")[0], one) > 1e-4


@pytest.mark.slow
def test_muon_is_the_same_where_its_matrices_are_sharded(slow: Ranks) -> None:
    whole, sharded = found(slow, "ddp muon")[0], found(slow, "fsdp2 muon")[0]
    assert off(sharded, whole) < 1e-5


@pytest.mark.slow
def test_a_base_of_4_bits_is_sharded_and_goes_on_to_the_last_bit(slow: Ranks, one: dict[str, Any]) -> None:
    whole, sharded = found(slow, "ddp quantized")[0], found(slow, "fsdp2 quantized")[0]
    assert off(sharded, whole) < 1e-5 and off(whole, one) > 1e-4
    assert sharded["stored"] == whole["stored"] and not any("absmax" in name for name in sharded["stored"])
    check_goes_on(slow, "fsdp2 quantized")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2", "zero3"])
def test_bfloat16_is_near_and_holds_frozen_matrices_only(kind: str, slow: Ranks, one: dict[str, Any]) -> None:
    case = found(slow, f"{kind} bf16")[0]
    assert 0 < off(case, one) < 0.02
    is_lower = {name: tensor.dtype == torch.bfloat16 for name, tensor in case["weights"].items()}
    trained = {name for name in is_lower if name.startswith("connectors.") or ".lora_" in name}
    assert trained and is_lower == {n: n not in trained and t.ndim > 1 for n, t in case["weights"].items()}


@pytest.mark.parametrize(("settings", "message"), [
    ({"kind": "ddp", "offload": True}, "offload: ddp shards nothing"),
    ({"kind": "zero2", "precision": "bf16-true"}, "precision: zero2 keeps float32 weights; use bf16-mixed"),
    ({"kind": "zero3", "compile": ("language",)}, "compile: zero3 gathers weights by hooks"),
])  # fmt: skip
def test_what_an_engine_cannot_do_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineConfig(device="cpu", **settings)


def test_without_deepspeed_zero_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.train.engine_zero.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"zero1 needs DeepSpeed: pip install medvlm\[deepspeed\]"):
        make_engine(EngineConfig(kind="zero1", device="cpu"))
