"""The interface of knowledge providers.

A kind is a module of medvlm/knowledge with a `Config` (a KnowledgeConfig) and build(config) -> Provider. Providers are
built once a process, and again after a file was described. fingerprint(config) -> str, optional: of the files that it
reads, so that a stage is not resumed with others. Raises RecipeError for files that are missing or in another form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from medvlm.core.config import Config, component
from medvlm.core.context_config import ContextConfig
from medvlm.core.errors import RecipeError
from medvlm.core.experts import Images
from medvlm.core.sample import Question
from medvlm.core.text import MEDIUM


class KnowledgeConfig(Config):
    kind: str

    def list_experts(self) -> Sequence[str]:
        """The models that it asks, by their runs or folders."""
        return ()


class Provider(Protocol):
    def look_up(self, asked: str, images: Images | None = None) -> Sequence[str]:
        """What is known about it, the best first; [] for nothing. images: None for a question without any."""


def open_provider(config: Any) -> Provider:
    """The provider of these settings."""
    return _open(config.kind, config.model_dump_json())


@lru_cache
def _open(kind: str, settings: str) -> Provider:
    module = component("knowledge", kind)
    provider: Provider = module.build(module.Config.model_validate_json(settings))
    return provider


def add_context(config: ContextConfig, question: Question, images: Images | None) -> Question:
    """The question with what is known about its first turn, behind images that its text begins with. images:
    see Provider."""
    first, *later = (*question.before, question)
    spoken = first.text.replace(MEDIUM, " ")
    if not (said := config.write(open_provider(config.provider).look_up(spoken, images))):
        return question
    text = first.text
    while text.startswith(MEDIUM):
        text = text.removeprefix(MEDIUM)
    shown = first.text[: len(first.text) - len(text)]
    first = replace(first, text=f"{shown}{said}{text}")
    return replace(later[-1], before=(first, *later[:-1])) if later else first


def describe_context(config: ContextConfig) -> dict[str, Any]:
    """What decides the context, in plain JSON: the settings, and a hash of the files."""
    module = component("knowledge", config.provider.kind)
    files = str(module.fingerprint(config.provider)) if hasattr(module, "fingerprint") else ""
    return {**config.model_dump(mode="json"), **({"files": files} if files else {})}


def hash_file(path: str) -> str:
    _open.cache_clear()  # a file that has changed since is read again: what is described is what is asked
    return hashlib.sha256(read_file(path).encode()).hexdigest()[:16]


def read_file(path: str) -> str:
    """Raises RecipeError for a file that cannot be read as UTF-8."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise RecipeError(f"knowledge: {path} cannot be read as UTF-8 ({type(reason).__name__}: {reason})") from None
