"""Weights that were read from published files and are unchanged: checkpoints store a hash of them instead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from medvlm.core.deferred import locate, read_pieces, source_of
from medvlm.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

Prints = dict[str, str]
"""Name of a tensor -> its fingerprint."""


def mark(model: nn.Module, fresh: Collection[str] = ()) -> None:
    """Called once the weights of a model are read from published files, for all of its parameters and buffers but
    `fresh`, which were not in the files."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in fresh:
            tensor.published = locate(tensor)


def list_published(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that are as their files have them, by their names in the state dict.

    One that was written to since it was read, or replaced (such as by a longer table of embeddings), is none."""
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if _is_as_read(tensor)}


def fingerprint(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> str:
    """The dtype of a tensor, and a hash of its bytes. dtype: by default its own."""
    import torch

    source, dtype = source_of(tensor), dtype or tensor.dtype
    if source is not None and dtype in source.prints:
        return source.prints[dtype]
    total = hashlib.sha256()
    for piece in read_pieces(tensor, dtype):
        data: Any = piece.contiguous().flatten().view(torch.uint8).numpy()
        total.update(data)
    found = f"{str(dtype).removeprefix('torch.')}:{total.hexdigest()[:16]}"
    if source is not None:
        source.prints[dtype] = found
    return found


def fingerprint_all(tensors: Iterable[torch.Tensor]) -> list[str]:
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(fingerprint, tensors))


class Published:
    """The published tensors of a newly built model, with fingerprints taken at once. leaves_out: whether a tensor of
    this name is of no interest, because it will be trained."""

    def __init__(self, model: nn.Module, leaves_out: Callable[[str], bool] = lambda _: False):
        found = {id(t): t for name, t in list_published(model).items() if not leaves_out(name)}
        self.tensors = list(found.values())
        self.prints = fingerprint_all(self.tensors)

    def find_unchanged(self, model: nn.Module) -> Prints:
        """Those of them that still have their values, by their present names: adapters rename what they are on."""
        before = dict(zip(map(id, self.tensors), self.prints, strict=True))
        state = model.state_dict(keep_vars=True)
        own = {name: tensor for name, tensor in state.items() if id(tensor) in before}
        now = dict(zip(own, fingerprint_all(own.values()), strict=True))
        unchanged = {name: found for name, found in now.items() if found == before[id(own[name])]}
        scales = {name: state[name] for name in state if find_packed(name) in unchanged}
        return unchanged | {name: fingerprint(tensor) for name, tensor in scales.items()}


def find_packed(name: str) -> str:
    """The name of the 4-bit weight that a scale in the state dict belongs to; "" for other tensors."""
    layer, found, _ = name.rpartition(".weight.")
    return f"{layer}.weight" if found else ""


def require_published(own: Mapping[str, torch.Tensor], stated: Mapping[str, str], where: str) -> None:
    """Raises CheckpointError naming `where` if a model was built from other published weights than those of which a
    checkpoint states the fingerprints. own: the tensors of the model, perhaps in a higher precision."""
    import torch

    dtypes = {name: getattr(torch, text.partition(":")[0]) for name, text in stated.items()}
    with ThreadPoolExecutor(4) as threads:
        now = list(threads.map(lambda name: fingerprint(own[name], dtypes[name]), stated))
    changed = [name for name, found in zip(stated, now, strict=True) if found != stated[name]]
    if changed:
        raise explain_changed(where, changed, len(stated))


def explain_changed(where: str, changed: list[str], total: int) -> CheckpointError:
    return CheckpointError(
        f"{where}: {changed[0]} is not stored in it, and the published weights that it was trained on are others now"
        f" ({len(changed)} of {total} tensors); put back the published files that `model` names"
    )


def _is_as_read(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "published", None) == locate(tensor)
