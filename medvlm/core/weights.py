"""Weights from elsewhere into a freshly built module, with every key accounted for."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm.core.contracts import Loaded, LoadedFile
from medvlm.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


def describe(built: Any) -> dict[str, Any]:
    """The config of a model of transformers, from which the same starts from scratch."""
    kept: dict[str, Any] = built.config.to_dict()
    for key in ("architectures", "transformers_version", "dtype", "_name_or_path", "quantization_config"):
        kept.pop(key, None)
    return kept


def on_meta() -> bool:
    """Whether modules are being built on the meta device: shapes alone, so there is nothing to load."""
    import torch

    return torch.empty(0).is_meta


def read_file(module: nn.Module, config: LoadedFile, where: str) -> None:
    """Puts the safetensors file of `config.weights` into the module.

    where: the dotted key that is named in messages. Raises CheckpointError for a key that is missing, unexpected or of
    another shape and that the recipe does not list, and for a file that cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(config.weights)
    except (OSError, SafetensorError) as reason:
        raise CheckpointError(
            f"{where}.weights: {Path(config.weights).name} is no safetensors file that can be read ({reason})"
        ) from None
    given = {
        name.removeprefix(config.prefix): tensor for name, tensor in stored.items() if name.startswith(config.prefix)
    }
    if not given:
        raise CheckpointError(
            f"{where}.prefix: no key of {Path(config.weights).name} begins with {config.prefix!r} (the first is"
            f" {next(iter(stored), 'none')})"
        )
    own = module.state_dict()
    mismatched = [
        (n, tuple(t.shape), tuple(own[n].shape)) for n, t in given.items() if n in own and t.shape != own[n].shape
    ]
    account(own.keys() - given.keys(), given.keys() - own.keys(), mismatched, config, where)
    fresh = {n for n, *_ in mismatched}
    module.load_state_dict({n: t for n, t in given.items() if n in own and n not in fresh}, strict=False)


def from_pretrained(auto: Any, model: str, config: Loaded, where: str, **options: Any) -> Any:
    """What a class of transformers' Auto family makes of a hub id or a folder, in float32; on the meta device from its
    config alone.

    Raises CheckpointError as `read_file` does, and for a model that is not there.
    """
    from transformers import AutoConfig

    try:
        if on_meta():
            return auto.from_config(AutoConfig.from_pretrained(model))
        made, found = auto.from_pretrained(
            model, **{"dtype": "float32", **options}, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as reason:
        first = str(reason).strip().splitlines()[0]
        raise CheckpointError(
            f"{where}.model: cannot read {model!r} ({first}); check the id, log in with `hf auth login` if access to it"
            " is granted by request, or give the folder of a copy"
        ) from None
    account(found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"], config, where)
    return made


def account(
    missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[tuple[Any, ...]], config: Loaded, where: str
) -> None:
    """Raises CheckpointError naming the first key, of how many, that the recipe does not list. mismatched: (key, stored
    shape, own shape)."""
    open_missing = sorted(n for n in missing if not _listed(n, config.allow_missing))
    if open_missing:
        raise CheckpointError(
            f"{where}: the weights lack {open_missing[0]} ({len(open_missing)} keys); if it may start fresh, list it:"
            f" allow_missing: [{open_missing[0]}]"
        )
    if wrong := sorted(m for m in mismatched if not _listed(m[0], config.allow_missing)):
        name, stored, own = wrong[0]
        raise CheckpointError(
            f"{where}: {name} is {tuple(stored)} in the weights and {tuple(own)} in the model ({len(wrong)} keys); if"
            f" it may start fresh, list it: allow_missing: [{name}]"
        )
    if open_unexpected := sorted(n for n in unexpected if not _listed(n, config.allow_unexpected)):
        name = open_unexpected[0]
        raise CheckpointError(
            f"{where}: {name} of the weights has no place in the model ({len(open_unexpected)} keys); if it may be left"
            f" out, list it: allow_unexpected: [{name}]"
        )


def _listed(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(pattern + ".") for pattern in patterns)
