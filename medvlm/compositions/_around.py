"""What a model with something around it has in common, such as tools or context."""

from __future__ import annotations

from typing import Any


class Around:
    """model: an opened model that answers. Everything that a subclass does not define is asked of it unchanged."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def max_new_tokens(self) -> int:
        return int(self._model.max_new_tokens)

    @max_new_tokens.setter
    def max_new_tokens(self, most: int) -> None:
        self._model.max_new_tokens = most
