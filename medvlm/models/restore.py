"""Loads weights of earlier stages into a new model, by module. Missing and unexpected keys are errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from medvlm.core import deferred
from medvlm.core.errors import CheckpointError
from medvlm.core.lora_config import Lora
from medvlm.core.published import require_published
from medvlm.core.quantize import drop_states
from medvlm.models import lora
from medvlm.models.parts import module_of

NOTHING: Mapping[str, str] = {}


def modules_of(names: Sequence[str]) -> set[str]:
    """The modules of these parameters (encoders.film, connectors.film, language, text, heads). Later stages load each
    module as a unit."""
    return {module_of(name) for name in names}


def load_weights(
    model: nn.Module,
    weights: Mapping[str, torch.Tensor],
    adapters: Lora | None,
    where: str,
    modules: set[str] | None = None,
    published: Mapping[str, str] = NOTHING,
) -> None:
    """Loads the weights of these modules (default: all), after attaching the adapters with which they were saved.

    published: fingerprints of the tensors that are not among them, because the model has them from published files
    already. Raises CheckpointError naming the first key that is missing, unexpected, of another shape, or published
    with other values.
    """
    if adapters:
        # The values come from `weights`, those of the base too.
        lora.attach(model, adapters.model_copy(update={"start": "zero"}), seed=0)
    state = model.state_dict(keep_vars=True)
    own, weights = drop_states(model, state, where), drop_states(model, weights, where)
    modules = modules_of(list(own)) if modules is None else modules
    beside = {n: text for n, text in published.items() if module_of(n) in modules and n in state}
    wanted = {n: t for n, t in own.items() if module_of(n) in modules and n not in beside}
    given = {n: t for n, t in weights.items() if module_of(n) in modules}
    if missing := sorted(wanted.keys() - given.keys()):
        raise CheckpointError(
            f"{where}: {missing[0]} is missing ({len(missing)} keys); was the stage trained with other model settings?"
        )
    if unexpected := sorted(given.keys() - wanted.keys()):
        raise CheckpointError(
            f"{where}: {unexpected[0]} has no place in this model ({len(unexpected)} keys); was the stage trained with"
            " other model settings?"
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{where}: {name} is {tuple(tensor.shape)}, this model needs {tuple(wanted[name].shape)}"
            )
    require_published(state, beside, where)
    for name, tensor in given.items():
        if not _is_rounded(wanted[name], tensor):
            deferred.put(wanted[name], tensor)


def _is_rounded(own: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether a checkpoint holds a weight as it was published, rounded to bfloat16: a stage in mixed precision holds
    frozen weights so."""
    is_lower = stored.dtype == torch.bfloat16 and own.dtype == torch.float32
    if not is_lower or (own.is_meta and deferred.source_of(own) is None):
        return False
    return torch.equal(deferred.read(own, torch.bfloat16), deferred.read(stored))
