"""Every kind of encoder with every kind of connector and several families of language models: built, run,
differentiated, saved, read back.

The fast cases hold every pair of kinds; the slow ones the whole product, with more families.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm.core.config import component, kinds
from medvlm.core.errors import ShapeError
from medvlm.data.dialogue import TokenSequence
from medvlm.data.rows import collate
from medvlm.models.compose import build_vlm
from medvlm.models.parts import evaluating, tokens_of
from medvlm.models.restore import load_weights
from medvlm.models.vlm import VLM
from medvlm.objectives.next_token import token_losses
from tests.models.tiny import FAMILIES, GROUPED, IMAGE_ID, PAD_ID, Ids

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
VIT: dict[str, Any] = {
    "kind": "transformers",
    "config": {"model_type": "vit", **SMALL, "image_size": 32, "patch_size": 8},
}
TIMM: dict[str, Any] = {
    "kind": "timm",
    "net": "vit_tiny_patch16_224",
    "args": {"patch_size": 8, "depth": 1, "embed_dim": 16, "num_heads": 2},
    "preprocess": {"size": (32, 32)},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "timm": TIMM,
    "transformers": VIT,
    "slices": {"kind": "slices", "encoder": VIT, "slices": 2},
    "fused": {"kind": "fused", "encoders": (VIT, TIMM)},
    "monai": {
        "kind": "monai",
        "patch": (4, 8, 8),
        "width": 16,
        "layers": 1,
        "heads": 2,
        "preprocess": {"size": (8, 32, 32), **GREY},
    },
    "vit3d": {
        "kind": "vit3d",
        "patch": (4, 8, 8),
        "width": 24,
        "layers": 1,
        "heads": 2,
        "head_width": 8,
        "mlp_width": 16,
        "positions": (4, 4, 4),
        "preprocess": {"size": (8, 32, 32), **GREY},
    },
    "inflated": {
        "kind": "inflated",
        "net": "resnet18",
        "args": {"channels": (8, 8, 16, 16), "output_stride": 8},
        "preprocess": {"size": (8, 16, 16), **GREY},
    },
}
ENCODERS |= {
    "primus": {
        "kind": "primus", "patch": (4, 8, 8), "width": 24, "layers": 1, "heads": 2,
        "preprocess": {"size": (8, 32, 32), **GREY},
    },
    "resenc": {
        "kind": "resenc", "widths": (4, 8, 8), "blocks": (1, 1, 1), "preprocess": {"size": (8, 16, 16), **GREY},
    },
    "sam_levels": {
        "kind": "sam_levels", "preprocess": {"size": (32, 32)},
        "config": {
            "model_type": "sam2_vision_model", "backbone_channel_list": [32, 24, 16, 8], "fpn_hidden_size": 16,
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [32, 32],
                "blocks_per_stage": [1, 1, 1, 1], "embed_dim_per_stage": [8, 16, 24, 32],
                "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 2, 2],
                "global_attention_blocks": [],
            },
        },
    },
    "ssm": {"kind": "ssm", "patch": (8, 8), "width": 16, "layers": 1, "states": 4, "preprocess": {"size": (32, 32)}},
}  # fmt: skip
ELSEWHERE = {"imported", "raw_pixels"}
"""One network of any package, and one token of no network: tests/encoders has them."""
CONNECTORS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {},
    "pixel_shuffle": {},
    "pool2d": {"to": (2, 2)},
    "pool3d": {"to": (1, 2, 2)},
    "resampler": {"tokens": 3, "layers": 1, "heads": 2},
    "perceiver": {"tokens": 3, "layers": 1, "heads": 2, "head_width": 4},
    "qformer": {"tokens": 3, "width": 16, "layers": 2, "heads": 2},
    "global_query": {"layers": 1, "heads": 2},
    "temporal": {"layers": 2, "heads": 2},
}
VIEWS: dict[tuple[str, str], dict[str, Any]] = {
    ("slices", "temporal"): {"kind": "slices", "encoder": {**VIT, "layer": "all"}, "stack": 2},
    ("slices", "global_query"): {"kind": "slices", "encoder": VIT, "tiles": (1, 2)},
    **{
        ("fused", connector): {**ENCODERS["fused"], "join": "sequence"}
        for connector in ("pool3d", "temporal", "global_query")
    },
}
"""Where a connector needs several views, the encoder that gives them."""
IMPOSSIBLE = set(product(("timm", "transformers", "ssm", "sam_levels"), ("pool3d", "temporal", "global_query")))
LANGUAGES: dict[str, dict[str, Any]] = {
    "qwen3": {**GROUPED, "head_dim": 8},
    "llama": GROUPED,
    "gpt2": FAMILIES["gpt2"],
    "gemma3_text": {**GROUPED, "head_dim": 8},
    "phi3": GROUPED,
    "olmo2": GROUPED,
}
MORE: dict[str, dict[str, Any]] = {
    "qwen2": GROUPED,
    "mistral": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8},
    "granite": GROUPED,
    "cohere": GROUPED,
    "phi": GROUPED,
    "olmo": GROUPED,
    "smollm3": GROUPED,
    "stablelm": GROUPED,
    "gpt_neox": {**SMALL, "vocab_size": 64, "max_position_embeddings": 128},
    "glm": {**GROUPED, "head_dim": 8},
    "qwen3_moe": {**GROUPED, "head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8},
}
Case = tuple[str, str, str]


def pairwise() -> list[Case]:
    """Few cases that hold every possible pair of kinds, found greedily."""
    cases = [c for c in product(ENCODERS, CONNECTORS, LANGUAGES) if c[:2] not in IMPOSSIBLE]
    left = {p for c in cases for p in pairs(c)}
    chosen: list[Case] = []
    while left:
        best = max(cases, key=lambda c: len(pairs(c) & left))
        left -= pairs(best)
        chosen.append(best)
    return chosen


def pairs(case: Case) -> set[tuple[str, str]]:
    encoder, connector, language = case
    return {(f"e.{encoder}", f"c.{connector}"), (f"e.{encoder}", f"l.{language}"), (f"c.{connector}", f"l.{language}")}


def parts(case: Case) -> dict[str, Any]:
    """The encoder of the case, and one of the other dimension."""
    encoder, connector, _ = case

    def config(settings: dict[str, Any], to: dict[str, Any]) -> Any:
        return component("encoders", settings["kind"]).Config.model_validate({**settings, "connector": to})

    mine = config(VIEWS.get((encoder, connector), ENCODERS[encoder]), {"kind": connector, **CONNECTORS[connector]})
    other = config(VIT if encoder in ("monai", "inflated", "slices") else ENCODERS["monai"], {"kind": "linear"})
    return {"mine": mine, "other": other}


def build(case: Case, seed: int) -> VLM:
    language = component("backbones", "causal").Config(
        kind="causal", config={"model_type": case[2], **{**LANGUAGES, **MORE}[case[2]]}
    )
    return build_vlm(parts(case), language, Ids(), "<image>", seed)


def documents(model: VLM, tokens: dict[str, int]) -> list[TokenSequence]:
    """With no media, one, three, and a volume beside a film."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for names in ((), ("mine",), ("mine",) * 3, ("other",), ("other", "mine")):
        encoders: Any = model.encoders
        media = [(n, torch.randn(encoders[n].input_shape, generator=generator)) for n in names]
        prefix = [1] + [IMAGE_ID for n in names for _ in range(tokens[n])] + [5, 6]
        made.append(
            TokenSequence(
                f"doc-{len(made)}", prefix, [(torch.randint(3, IMAGE_ID, (4,), generator=generator).tolist(), 1)], media
            )
        )
    return made


def check(case: Case, folder: Path) -> None:
    model, tokens = build(case, seed=1), tokens_of(parts(case))
    batch = collate(documents(model, tokens), tokens, PAD_ID)
    token_losses(model.train()(batch)["logits_LV"], batch.targets_L).sum().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert not {n for n in still if n.startswith("connectors.")}
    for name, encoder in model.encoders.items():
        first = next(n for axes in (4, 2) for n, p in encoder.named_parameters() if p.ndim >= axes)
        assert f"encoders.{name}.{first}" not in still
    save_file({n: t.clone() for n, t in model.state_dict().items()}, folder / "model.safetensors")
    again = build(case, seed=2)
    with evaluating(model), evaluating(again):
        expected, fresh = model(batch)["logits_LV"], again(batch)["logits_LV"]
        assert expected.isfinite().all() and not torch.equal(fresh, expected)
        load_weights(again, load_file(folder / "model.safetensors"), None, "folder")
        assert torch.equal(again(batch)["logits_LV"], expected)
        by_one = torch.cat([model(collate([d], tokens, PAD_ID))["logits_LV"] for d in documents(model, tokens)])
        torch.testing.assert_close(by_one, expected, rtol=1e-4, atol=1e-5)


def test_the_cases_hold_every_kind_and_every_pair() -> None:
    assert set(ENCODERS) | ELSEWHERE == set(kinds("encoders")) and set(CONNECTORS) == set(kinds("connectors"))
    possible = {p for c in product(ENCODERS, CONNECTORS, LANGUAGES) if c[:2] not in IMPOSSIBLE for p in pairs(c)}
    assert {p for c in pairwise() for p in pairs(c)} == possible


@pytest.mark.parametrize("case", pairwise(), ids="-".join)
def test_every_pair_of_kinds_is_built_run_saved_and_read_back(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize(("encoder", "connector"), sorted(IMPOSSIBLE))
def test_pairs_that_do_not_fit_are_refused(encoder: str, connector: str) -> None:
    with pytest.raises(ShapeError):
        build((encoder, connector, "llama"), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("language", [*LANGUAGES, *MORE])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_whole_product(encoder: str, language: str, tmp_path: Path) -> None:
    for connector in CONNECTORS:
        if (encoder, connector) not in IMPOSSIBLE:
            check((encoder, connector, language), tmp_path)
