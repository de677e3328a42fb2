"""Two ranks read published weights and those of earlier stages straight into their shards, and train as if they had
read them whole."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.run import RunFolder
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.train.finished import find_final
from medvlm.train.state_file import read_published
from tests.tiny_run import INSTRUCT, ROOT, TOWER, differing, recipe, run_ranks, trace, trained, weights, written

LAYERS, WIDTH, WORDS = 8, 32, 448
BRIEF = {**INSTRUCT, "steps": 2, "save_every": 0, "batch": 4, "accumulate": 1}
STAGES: list[dict[str, Any]] = [
    {**BRIEF, "name": "first", "lora": {"rank": 2, "alpha": 4}},
    # The adapters of the stage before are merged into the base.
    {**BRIEF, "name": "merged", "lora": {"rank": 3, "alpha": 4}},
    {**{k: v for k, v in BRIEF.items() if k != "lora"}, "name": "whole", "trains": ["connectors", "language"]},
    {**BRIEF, "name": "again", "lora": {"rank": 2, "alpha": 4, "targets": ["language.*.q_proj"]}},
]


def save_language(folder: Path) -> Path:
    """A language model in bfloat16, with its tokenizer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from tests.backbones.test_causal import TEXTS

    tokenizer = train_tokenizer(TEXTS, 320, IMAGE)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=WIDTH, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=LAYERS, vocab_size=WORDS, max_position_embeddings=512,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def make_folder(folder: Path, stages: list[dict[str, Any]]) -> Path:
    """With the data packed by one process."""
    language = {"kind": "causal", "model": str(save_language(folder / "language"))}
    model = {"encoders": {"film": {**TOWER, "connector": {"kind": "mlp"}}}, "language": language}
    engine = {"device": "cpu", "workers": 1, "precision": "bf16-mixed"}
    written(folder, recipe(model=model, stages=stages, engine=engine))
    trained(folder / "recipe.yaml", folder / "runs", "name=one", only="first")
    return folder


def run_both(folder: Path, kind: str) -> tuple[Path, list[dict[str, Any]]]:
    run_ranks(ROOT / "tests" / "train" / "reading_ranks.py", folder, kind)
    return folder, [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in (0, 1)]


def check_same(folder: Path, kind: str) -> None:
    runs = [RunFolder(folder / "runs" / f"{kind}-{reads}") for reads in ("shards", "whole")]
    for stage in STAGES:
        own, expected = (trace(run, stage["name"]) for run in runs)
        assert own == expected and len(own) == stage["steps"]
        own_weights, expected_weights = (weights(run, stage["name"]) for run in runs)
        assert differing(own_weights, expected_weights) == []
        finals = [find_final(run.stage(stage["name"])) for run in runs]
        assert read_published(finals[0]) == read_published(finals[1])


def check_memory(ranks: list[dict[str, Any]], kind: str) -> None:
    """Until the model of a stage is placed, no rank has held as much as the language model, or a larger tensor than its
    largest."""
    layer = 4 * (2 * WIDTH * WIDTH + 2 * WIDTH * 16 + 3 * WIDTH * 64 + WIDTH + 32 + 2 * WIDTH)
    table = 4 * WORDS * WIDTH
    whole = LAYERS * layer + 2 * table
    for rank in ranks:
        for stage in ("first", "merged", "again"):
            (most, largest), (control, _) = (rank[f"{kind}-{reads}"]["living"][stage] for reads in ("shards", "whole"))
            assert largest <= table and most < whole < control, (stage, largest, table, most, whole, control)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp2", "zero3"])
def test_two_ranks_read_their_shards_and_never_hold_the_whole_model(kind: str, tmp_path: Path) -> None:
    if kind == "zero3" and not find_spec("deepspeed"):
        pytest.skip("needs DeepSpeed")
    folder, ranks = run_both(make_folder(tmp_path, STAGES), kind)
    check_same(folder, kind)
    check_memory(ranks, kind)
