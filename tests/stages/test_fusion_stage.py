"""The fusion encoder beside text towers that read a text whole, and those that read it from left to right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import ShapeError
from tests.stages.batches import first
from tests.tiny_run import SMALL

Make = Callable[..., Any]
FUSED: dict[str, Any] = {
    "kind": "fusion", "width": 8, "layers": 2, "heads": 2, "patches": 0, "painted_from": 2, "decoder_width": 8,
    "dictionary": {"version": "1", "entries": {"nodule": ["density"], "band": ["line"]}},
}  # fmt: skip
LEFT_TO_RIGHT = {"model_type": "clip_text_model", **SMALL, "num_hidden_layers": 2}
TRAINS = ["encoders", "text", "heads", "terms"]


def make(stage_of: Make, config: dict[str, Any] | None = None, **changes: Any) -> Any:
    text = {} if config is None else {"text": {"kind": "transformers", "config": config}}
    stage = stage_of("contrastive", terms={"fused": {**FUSED, **changes}}, trains=TRAINS, batch=6, **text)
    stage.model.eval()
    return stage


@pytest.mark.parametrize("config", [None, LEFT_TO_RIGHT], ids=["whole", "left to right"])
def test_entities_are_told_by_the_whole_text(config: dict[str, Any] | None, stage_of: Make) -> None:
    """The first token of a tower that reads from left to right is the same for all texts."""
    stage = make(stage_of, config, words=0.0, match=0.0)
    (micro,) = stage.make_micros(first(stage), 1)
    told: list[torch.Tensor] = []
    stage.model.terms["fused"].tell_text.register_forward_hook(lambda module, inputs, made: told.append(made))
    stage.compute_loss(stage.model, micro, 0)["fused.entities"].sum.backward()
    (logits_NQ,) = told
    assert (logits_NQ[1:] - logits_NQ[:1]).abs().max(1).values.min() > 1e-5
    slopes = [p.grad for name, p in stage.model.text.named_parameters() if "layers" in name or "layer." in name]
    assert any(slope is not None and slope.abs().max() > 0 for slope in slopes), "the layers of the tower learn nothing"


@pytest.mark.parametrize("config", [None, LEFT_TO_RIGHT], ids=["whole", "left to right"])
def test_a_tower_from_scratch_has_a_mask_token_where_words_are_hidden(
    config: dict[str, Any] | None, stage_of: Make
) -> None:
    stage, plain = make(stage_of, config), make(stage_of, config, words=0.0)
    mask = stage.tokenizer.mask_token_id
    assert mask not in (None, stage.tokenizer.pad_token_id, *plain.tokenizer.get_vocab().values())
    assert plain.tokenizer.mask_token is None and len(stage.tokenizer) == len(plain.tokenizer) + 1
    assert stage.model.text.tower.get_input_embeddings().num_embeddings == len(stage.tokenizer)
    (micro,) = stage.make_micros(first(stage), 1)
    assert (micro.read["fused"]["shown"] == mask).any()
    assert stage.compute_loss(stage.model, micro, 0)["fused.words"].sum > 0


def test_a_published_tower_without_a_mask_token_is_refused(stage_of: Make, tmp_path: Path) -> None:
    plain = make(stage_of, LEFT_TO_RIGHT, words=0.0)
    plain.model.text.tower.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    text = {"kind": "transformers", "model": str(tmp_path)}
    with pytest.raises(ShapeError, match="this text tower has no mask token"):
        stage_of("contrastive", terms={"fused": FUSED}, trains=TRAINS, text=text)
