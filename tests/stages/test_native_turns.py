"""Answers of ready models that call tools, compared with the plain sequences; slow, since every family is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medvlm.core.config import kinds
from medvlm.core.errors import RecipeError
from medvlm.models.generate import bar_words
from medvlm.models.parts import evaluating
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.rollouts._contract import SamplingParams
from tests.stages.batches import first
from tests.stages.calling import FIRST
from tests.tiny_run import CARD, REASON, recipe, staged, written

FAST = "qwen2_5_vl"
FILMS = {**CARD, "reader": {"kind": "phantom", "films": 24, "film_px": 96}}
ONCE = ("florence2", "paligemma")
"""They take one question at a time, so no tool can be called."""
OWN = {"lora": {"rank": 2, "alpha": 4}, "batch": 2, "temperature": 0.8, "kl": 0, "tasks": ["choice", "count"]}


@pytest.mark.parametrize(
    "family", [f if f == FAST else pytest.param(f, marks=pytest.mark.slow) for f in kinds("families")]
)
def test_log_probabilities_are_those_of_the_plain_sequences(family: str, tmp_path: Path) -> None:
    """Each answer alone, with all tokens of its images, without a shared prompt."""
    if family == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    model = {"pretrained": str(save_tiny(family, tmp_path / "model"))}
    reason = {**REASON, **OWN, "rollouts": {"kind": "tests.stages.calling"}}
    content = recipe(model=model, stages=[reason], environment={"tools": ["zoom"]}, plugins=["tests"])
    stage = staged(written(tmp_path / "recipe", content, FILMS), tmp_path, "reason")
    assert stage.setup.prepare.processor.family.asks_once == (family in ONCE)
    if family in ONCE:
        with pytest.raises(RecipeError, match=r"one question at a time|one picture with each question"):
            stage.rollouts.draw(first(stage), SamplingParams(4, 0.8, 4))
        del content["environment"]
        stage = staged(written(tmp_path / "alone", content, FILMS), tmp_path, "reason")
    prompts = first(stage)
    groups = stage.rollouts.draw(prompts, SamplingParams(4, 0.8, 4))
    answers = [answer for group in groups for answer in group]
    assert [len(answer.earlier) for answer in answers] == ([0] * 8 if family in ONCE else [0, 1, 1, 1] * 2)
    said = stage.setup.tokenizer(FIRST[1], add_special_tokens=False).input_ids
    assert answers[1].written[: len(said)] == said
    with evaluating(stage.model):
        log_L = stage.policy.compute_answers(stage.model, stage.policy.collate(prompts, groups))
        plain = []
        for prompt, group in zip(prompts, groups, strict=True):
            for answer in group:
                batch = stage.setup.prepare.collate([prompt.add_answers([answer])], 0)
                assert batch.targets_L.tolist() == answer.written
                if stage.setup.prepare.processor.family.has_encoder:  # its prompt and answer are no one sequence
                    plain.append(stage.policy.compute_answers(stage.model, batch))
                    continue
                log_TV = (
                    bar_words(stage.model.compute_all_logits(batch), stage.model.barred_ids).div(0.8).log_softmax(-1)
                )
                plain.append(log_TV.flatten(0, 1)[batch.from_L, batch.targets_L])
    torch.testing.assert_close(log_L, torch.cat(plain), rtol=0, atol=1e-5)
