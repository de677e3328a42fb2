"""The cache of answers that read their prompt together, compared with a cache that repeats it."""

from __future__ import annotations

from typing import Any

import pytest

from medvlm.backbones import causal
from medvlm.models import shared_cache
from medvlm.models.generate import generate
from tests.models.test_generate import ENDS, prompts, uniform
from tests.models.tiny import FAMILIES, GROUPED, WINDOWED, Ids, batch_of, spread, vlm

COPIES, TOKENS = 4, 10
SINKS = {
    **GROUPED, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip
LANGUAGES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, config) for name, config in FAMILIES.items()},
    **{f"{name} that looks back 3 tokens": (name, config) for name, config in WINDOWED.items()},
    "gpt_oss with sinks": ("gpt_oss", SINKS),
}


@pytest.mark.parametrize("family", LANGUAGES)
def test_answers_are_those_of_prompts_that_are_repeated(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers end at different tokens, so that prompts have different numbers of them, and one has none."""
    model, made = vlm(), batch_of(prompts(), pack=False)
    kind, config = LANGUAGES[family]
    model.language = causal.build(causal.Config(kind="causal", config={"model_type": kind, **config}), Ids()).eval()
    spread(model.language, by=4)
    draws = [uniform(seed, COPIES, TOKENS) for seed in range(len(made.ids_BT))]
    groups: list[int] = []
    attend = shared_cache.attend

    def count(module: Any, query: Any, key: Any, *rest: Any, **others: Any) -> Any:
        groups.append(len(key.layer.prompts[0]))
        return attend(module, query, key, *rest, **others)

    def run() -> list[list[int]]:
        return generate(model, made, max_new_tokens=TOKENS, end_ids=ENDS, copies=COPIES, temperature=1.0, draws=draws)

    monkeypatch.setattr(shared_cache, "attend", count)
    together = run()
    assert groups[0] == len(draws) > groups[-1]
    groups.clear()
    monkeypatch.setattr(shared_cache, "can_share", lambda decoder, config: False)
    assert run() == together
    assert not groups
    assert len({len(answer) for answer in together}) > 3
