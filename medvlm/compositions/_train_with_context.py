"""Gives the data path of training what a knowledge provider knows about its questions."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from medvlm.compositions._expert import open_expert
from medvlm.compositions._with_context import add_to
from medvlm.core.composition import Assembly
from medvlm.core.context_config import ContextConfig


def train_with_context(assembly: Assembly, context: ContextConfig | None, is_plan: bool = False) -> Assembly:
    """The assembly whose data path adds the context to each question. is_plan: no model is opened or asked."""
    if context is None:
        return assembly
    # Here and not when a thread of the data path asks first: making weights sets the random state of the process for a
    # while, on which dropout depends.
    for where in () if is_plan else context.provider.list_experts():
        open_expert(where)
    prepare: Any = assembly.prepare
    return replace(assembly, prepare=replace(prepare, context=partial(add_to, context, open_expert)))
