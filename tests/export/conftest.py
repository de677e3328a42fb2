"""Tiny trained models of several compositions, as input for `medvlm export`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.card import load_card
from medvlm.core.lora_config import Lora
from medvlm.core.run import RunFolder, write_json
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.export.proof import parity, reference, stock_child
from medvlm.export.trained import Trained
from medvlm.models.compose import build_vlm
from medvlm.models.lora import attach
from medvlm.models.parts import preprocess_of
from medvlm.models.towers import build_dual
from medvlm.recipe.load import find_shipped
from medvlm.recipe.schema import Recipe

WORDS = [
    "How many red cells are there? 3 on the left side",
    "What does the image show? a nodule",
    "no finding in the upper zone",
] * 5
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PICTURE = {"image_size": 32, "patch_size": 8}
CARDS = {"smears": "bccd.yaml", "films": "cxr_cohen.yaml"}


def recipe_of(
    tower: dict[str, Any],
    language: dict[str, Any] | None,
    target: str = "stock",
    pairing: dict[str, Any] | None = None,
    **encoders: Any,
) -> Recipe:
    """pairing: other settings of the stage of a dual encoder."""
    film = {
        "kind": "transformers",
        "config": {"model_type": "siglip_vision_model", **SMALL, **PICTURE, **tower},
        "serves": ["film", "smear"],
    }
    connector = {} if language is None else {"connector": {"kind": "mlp"}}
    mix = {"smears": 1, "films": 1}
    text = {"kind": "transformers", "config": {"model_type": "bert", **SMALL}}
    instruct = {
        "name": "instruct",
        "kind": "supervised",
        "mix": mix,
        "trains": ["connectors", "lora"],
        "lora": {"rank": 4, "targets": ["language", "encoders"]},
    }
    pair = {
        "name": "pair",
        "kind": "contrastive",
        "mix": mix,
        "trains": ["encoders", "text", "heads"],
        "text": text,
        "loss": {"kind": "siglip"},
        "width": 24,
        **(pairing or {}),
    }
    return Recipe.model_validate(
        {
            "name": "tiny",
            "model": {
                "encoders": {"film": {**film, **connector}, **encoders},
                "language": (
                    {
                        "kind": "causal",
                        "config": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2, **language},
                        "vocabulary": 400,
                    }
                    if language is not None
                    else None
                ),
            },
            "data": {
                name: {"card": card, "root": f"/srv/patients/{name}", **({"fold": 0} if name == "smears" else {})}
                for name, card in CARDS.items()
            },
            "stages": [{**(pair if language is None else instruct), "steps": 30}],
            "export": {"target": target},
        }
    )


def with_film(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with other settings of its encoder `film`."""
    film = recipe.model.encoders["film"]
    changed = type(film).model_validate({**film.model_dump(by_alias=True), **changes})
    return recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"encoders": {**recipe.model.encoders, "film": changed}})}
    )


def tiny_tokenizer(language: Any = None) -> Any:
    from medvlm.backbones import causal

    config = language or causal.Config(kind="causal", config={"model_type": "qwen2"}, vocabulary=400)
    with tempfile.TemporaryDirectory() as folder:
        return causal.tokenizer(config, lambda size: train_tokenizer(WORDS, size, IMAGE), Path(folder))


def trained_of(recipe: Recipe) -> Trained:
    """Random weights, with adapters that have an effect, as after training."""
    language = recipe.model.language
    tokenizer = tiny_tokenizer(language if language and language.config else None)
    stage, encoders = recipe.stages[0], recipe.model.encoders
    model: Any
    if recipe.model.language:
        model = build_vlm(encoders, recipe.model.language, tokenizer, IMAGE, seed=3)
        attach(model, stage.lora or Lora(rank=4), seed=5)
        with torch.random.fork_rng():
            torch.manual_seed(11)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.1)
    else:
        from medvlm.texts.transformers import tokenizer as text_tokenizer

        tokenizer = text_tokenizer(stage.text, tokenizer)
        model = build_dual(
            encoders, stage.text, tokenizer, stage.width, 2.3, -10.0 if stage.loss.kind == "siglip" else None, seed=3
        )
    plain = recipe.model_dump(mode="json", by_alias=True, exclude={"extends": True})
    cards = {name: load_card(find_shipped("data_cards") / card) for name, card in CARDS.items()}
    return Trained(model, tokenizer, preprocess_of(encoders), stage.name, recipe, plain, "0123abcd", cards, RESULTS)


RESULTS = [
    {
        "dataset": "cxr_cohen",
        "split": "test",
        "task": "vqa",
        "metric": "accuracy",
        "value": 0.86,
        "ci": [0.8, 0.91],
        "n": 120,
        "baselines": {"blind": 0.4, "majority": 0.41},
        "paired": {"against": "blind", "difference": 0.46, "ci": [0.36, 0.55]},
    },
    {
        "dataset": "bccd",
        "split": "test",
        "task": "count",
        "metric": "mae",
        "value": 2.5,
        "ci": [2.0, 3.1],
        "n": 92,
        "baselines": {"constant": 4.1},
        "paired": None,
    },
]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run folder with the files that an export reads, except the weights."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
    sources = {name: {"counts": {"test": 30, "train": 90}, "fingerprint": "f00d"} for name in CARDS}
    write_json(
        run.lineage,
        {
            "recipe": "0123abcd",
            "medvlm": "1",
            "sources": sources,
            "from": str(run.root / "instruct"),
            "model": {"parameters": {"language": 12345}},
        },
    )
    write_json(
        run.stage("instruct") / "stage.json",
        {
            "name": "instruct",
            "kind": "supervised",
            "finished": True,
            "step": 30,
            "take": "step-30",
            "identity": "2-cafe",
            "checkpoint": "beef",
            "parameters": {"language": 12345},
            "from": {},
            "trains": {"lora": {"parameters": 9, "moved": True}},
        },
    )
    return run


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of steps before the proof must not start its slow process."""
    import subprocess

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def prove_here(folder: Path, made: Path, loader: str = "stock") -> dict[str, Any]:
    """The proof in this process, for targets whose separate process is covered by another test."""
    return parity.judge_all(made, stock_child.compare(made, folder, loader))


def unproven(*args: Any) -> dict[str, Any]:
    """Replaces the proof in tests of something else."""
    sizes = [list(size) for size in reference.SIZES]
    return {
        "passed": True,
        "max_abs_logit_diff": 0.0,
        "tolerance": 1e-4,
        "image_sizes": sizes,
        "versions": {"torch": "2"},
        "class": "LlavaForConditionalGeneration",
    }
