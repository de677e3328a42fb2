"""The memory of a node that a plan states: by hand for a tiny model, and in a plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from medvlm.preflight.gpus import GIB, parse
from medvlm.preflight.host import LIBRARIES, measure_building
from medvlm.preflight.plan import plan
from medvlm.recipe.load import find_shipped, load
from tests.models.tiny import vlm


def count(*modules: nn.Module) -> int:
    return 4 * sum(p.numel() for module in modules for p in module.parameters())


def test_a_model_is_built_whole_or_block_by_block() -> None:
    model = vlm()
    blocks = list(model.language.model.layers)
    found = measure_building(model, {"language"}, "")
    assert found.whole == count(model) and sum(found.own.values()) == count(model.encoders, model.connectors)
    assert found.block == count(blocks[0]) and found.outside == count(model.language) - count(*blocks)
    assert found.largest == max(4 * p.numel() for p in model.language.parameters())
    merged = measure_building(model, {"language"}, "`from` merges models")
    assert (sum(merged.own.values()), merged.outside, merged.block) == (count(model), 0, 0)
    assert merged.own["language"] == count(model.language)


@pytest.mark.parametrize("kind", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_a_plan_states_the_memory_of_a_rank_and_of_a_node(kind: str, tmp_path: Path) -> None:
    """Of MedGemma-4B, with adapters. With FSDP2 no rank needs a tenth of it; with ZeRO-3 it needs the largest table."""
    (path,) = find_shipped("recipes").rglob("medgemma_lora.yaml")
    loaded = load(path, ["engine.precision=bf16-mixed", f"engine.kind={kind}"])
    stage = plan(loaded, tmp_path, parse("h100:8x2")).stages[0]
    whole = sum(m.trained + m.frozen for m in stage.modules) * 4 / GIB
    hosts = stage.host
    assert next(iter(hosts)) == kind and {"ddp", "fsdp2", "zero1", "zero2", "zero3"} == set(hosts)
    assert hosts["ddp"]["rank"] == hosts["zero2"]["rank"] == pytest.approx(whole + LIBRARIES / GIB, abs=0.01)
    assert hosts["fsdp2"]["rank"] < LIBRARIES / GIB + whole / 10 < hosts["zero3"]["rank"] < hosts["ddp"]["rank"] / 2
    assert all(each["node"] == pytest.approx(8 * each["rank"], abs=0.01) for each in hosts.values())
