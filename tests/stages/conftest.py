"""The tiny run's data, packed once, and its stages built on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_run import INSTRUCT, PAIR, REASON, recipe, staged, written


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.fixture
def stage_of(packed: Path) -> Callable[..., Any]:
    """(kind, changed settings) -> a stage of that kind."""

    def make(kind: str, *overrides: str, **changes: Any) -> Any:
        settings = {"contrastive": PAIR, "supervised": INSTRUCT, "grpo": REASON}[kind]
        adapters = {"lora": {"rank": 2, "alpha": 4}} if kind == "grpo" else {}
        merged = {k: v for k, v in {**settings, **adapters, **changes}.items() if v is not None}
        return staged(written(packed / "recipe", recipe(stages=[merged])), packed, merged["name"], *overrides)

    return make
