"""Reads parts of a published model of transformers into a decoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from medvlm.core import published
from medvlm.core.errors import CheckpointError
from medvlm.core.weight_files import list_files
from medvlm.core.weights import is_on_meta


def read_parts(module: nn.Module, model: str, parts: Mapping[str, str], remedy: str) -> None:
    """Loads what begins with a key of `parts` into what begins with its value. On the meta device nothing is read.

    model: a hub id or folder. remedy: what to name instead, for messages. Raises CheckpointError for a tensor that is
    missing or of another shape, and for files that cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith(tuple(parts.values()))}
    fresh = [name for name in module.state_dict() if name not in own]
    if is_on_meta():
        return published.mark(module, fresh)
    try:
        every = {name: tensor for file in list_files(model) for name, tensor in load_file(file).items()}
    except (OSError, LookupError, RuntimeError, ValueError, SafetensorError) as reason:
        raise CheckpointError(f"model.decoders: model: {model} cannot be read ({reason})") from None
    stored: dict[str, torch.Tensor] = {}
    for theirs, ours in parts.items():
        stored |= {ours + name[len(theirs) :]: tensor for name, tensor in every.items() if name.startswith(theirs)}
    for name, tensor in own.items():
        if name not in stored or stored[name].shape != tensor.shape:
            found = list(stored[name].shape) if name in stored else "nothing"
            raise CheckpointError(
                f"model.decoders: model: expected {name} of shape {list(tensor.shape)}, found {found}; give {remedy}"
            )
    module.load_state_dict({name: stored[name] for name in own}, strict=False)
    published.mark(module, fresh)
