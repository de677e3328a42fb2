"""Settings of adapters (LoRA), and their names."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from medvlm.core.config import Config
from medvlm.core.errors import CheckpointError

ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
FACTORS = ("A", "B")
"""The two factors of an adapter, `lora.A` and `lora.B` in patterns."""
TAKEN = (*FACTORS, "base", "default", "medvlm")
"""Names that adapters cannot have: an export has folders of these names, and peft an adapter."""


def read_adapter_name(pattern: str) -> str:
    """NAME of the pattern `lora.NAME`, "" for any other pattern."""
    first, _, name = pattern.partition(".")
    return name if first == "lora" and name not in FACTORS else ""


class Lora(Config):
    rank: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("language",)
    """Modules whose linear layers get adapters, as module paths or patterns with *, e.g. language.*.q_proj."""
    dora: bool = False
    """Also learns the norm of each row of a weight, separately from its direction (arXiv 2402.09353). Takes about a
    third more time."""
    rslora: bool = False
    """Scales by alpha / sqrt(rank), so that a high rank learns as fast as a low one (arXiv 2312.03732)."""
    start: Literal["zero", "pissa"] = Field("zero", exclude_if=lambda start: start == "zero")
    """`zero`: B is 0, so the model does not change at first. `pissa`: A and B are the largest singular values and
    vectors of the weight, which keeps the rest (PiSSA, arXiv 2404.02948). An export of adapters then comes with a base
    of its own."""
    tokens: bool = False
    """Also trains the embedding rows of the special_tokens of the language model, and of the words around_image. All
    other rows stay unchanged. With targets: [], nothing else is trained."""
    name: str = Field("", exclude_if=lambda name: not name)
    """Keeps the adapter apart from those of other names: a stage with another name starts from the base without it. It
    is then `lora.NAME` in `trains` and wherever a stage is named. Adapters without a name are folded into the base as
    soon as a stage adds others."""

    @model_validator(mode="after")
    def _check_shares_its_base(self) -> Lora:
        if not self.name:
            return self
        if not ADAPTER.fullmatch(self.name) or self.name in TAKEN:
            raise ValueError(
                f"name is {self.name!r}: expected letters, digits, - and _, and none of {', '.join(TAKEN)}"
            )
        if self.tokens or self.start == "pissa":
            what = "tokens changes rows of the base" if self.tokens else "start: pissa takes weights out of the base"
            raise ValueError(f"{what}, which adapters with a name share; leave it out, or the name")
        return self

    @model_validator(mode="after")
    def _check_adapts_something(self) -> Lora:
        if not self.targets and not self.tokens:
            raise ValueError("targets is empty, so nothing is adapted; name a module, e.g. [language]")
        return self


def read_lora(saved: Any, where: str) -> Lora | None:
    """The adapters that a checkpoint says it has. Raises CheckpointError for what are none."""
    try:
        return Lora.model_validate(saved) if saved else None
    except ValidationError:
        raise CheckpointError(f"{where}: its adapters cannot be read; train the stage again") from None
