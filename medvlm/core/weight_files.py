"""The safetensors files of a folder or a hub id, and where in them the weights of a transformers model are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medvlm.core import deferred
from medvlm.core.deferred import Source, Stored
from medvlm.core.errors import CheckpointError

INDEX, WHOLE = "model.safetensors.index.json", "model.safetensors"


def list_files(where: str) -> list[Path]:
    """where: a folder or a hub id, which is downloaded. Raises CheckpointError for a hub id without such files."""
    folder = Path(where).expanduser()
    return list(_list_files(folder if folder.is_dir() else _fetch(where)))


def _list_files(folder: Path) -> Iterator[Path]:
    """The files of the index, if there is one: a hub repository may hold the same weights twice."""
    if (folder / INDEX).is_file():
        yield from sorted({folder / name for name in json.loads((folder / INDEX).read_text())["weight_map"].values()})
    elif (folder / WHOLE).is_file():
        yield folder / WHOLE
    else:
        yield from sorted(folder.glob("*.safetensors"))


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.safetensors", INDEX]))
    except (OSError, ValueError) as reason:
        first = str(reason).strip().splitlines()[0]
        raise CheckpointError(
            f"{hub_id}: cannot be downloaded ({first}); check the id, log in with `hf auth login` if the model is"
            " gated, or give the folder of a copy"
        ) from None
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{hub_id}: has no .safetensors file; other formats are not supported")
    return folder


def open_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file on the meta device, which know where their values are."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
    found = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key, tensor in found.items():
        deferred.defer(tensor, Stored(file, key))
    return found


class Converted(Source):
    """A weight that transformers makes of several stored ones, or of a part of one (core_model_loading)."""

    reads_rows = False

    def __init__(self, converter: Any, name: str, target: str, members: Sequence[tuple[str, Stored]], model: Any):
        """name: the first weight that the converter makes, target: this one. members: (pattern of the converter,
        stored tensor), in the order in which they are joined. model: as built by transformers."""
        super().__init__()
        self.converter, self.name, self.target, self.members, self.model = converter, name, target, members, model

    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        made = convert(self.converter, self.name, self.members, self.model)[self.target]
        return made[start:stop] if made.ndim else made


def convert(
    converter: Any, name: str, members: Sequence[tuple[str, Stored]], model: Any, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """What a converter makes of its members. device: meta, to learn the names only."""
    from safetensors import safe_open

    own = deepcopy(converter)
    with ExitStack() as stack:
        paths = {stored.file for _, stored in members}
        files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in paths}
        for pattern, stored in members:
            own.add_tensor(name, stored.key, pattern, partial(_read, files[stored.file], stored.key, device))
        made = own.convert(name, model=model, config=model.config)
    return {target: value[0] if isinstance(value, list) else value for target, value in made.items()}


def _read(file: Any, key: str, device: str) -> torch.Tensor:
    tensor: torch.Tensor = file.get_tensor(key)
    return tensor.to(device)


def trace(model: Any, files: Sequence[Path]) -> dict[str, Source]:
    """Name in the state dict of a transformers model -> where its values are, by the rules by which transformers loads
    it (convert_and_load_state_dict_in_model). Names whose values are not in the files are left out."""
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    own, prefix = model.state_dict(), model.base_model_prefix
    stored: dict[str, Stored] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            stored |= {key: Stored(path, key) for key in file.keys()}  # noqa: SIM118
    found: dict[str, Source] = {}
    groups: dict[str, list[tuple[str, Stored]]] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, pattern = rename_source_key(key, [], [], prefix, own)
        if name in own and pattern is None:
            found[name] = stored[key]
        elif name in own:
            groups.setdefault(name, []).append((pattern, stored[key]))
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    for name, members in groups.items():
        converter = by_pattern[members[0][0]]
        for target in convert(converter, name, members, model, "meta"):
            found[target] = Converted(converter, name, target, members, model)
    return found


def defer_weights(model: Any, files: Sequence[Path]) -> str:
    """Tells the parameters of a model that transformers loaded onto the meta device where their values are, and gives
    buffers their values. Returns why it cannot be done, or ""."""
    sources = trace(model, files)
    _tie(model, sources)
    named = model.state_dict(keep_vars=True)
    of_tensor = {id(named[name]): source for name, source in sources.items() if name in named}
    if lacking := [n for n, tensor in named.items() if tensor.is_meta and id(tensor) not in of_tensor]:
        return f"{lacking[0]} is not found by the rules of transformers"
    for parameter in model.parameters():
        deferred.defer(parameter, of_tensor[id(parameter)])
    for name, buffer in list(model.named_buffers()):
        if buffer.is_meta:
            source = of_tensor.get(id(buffer))
            values: Any = torch.empty(buffer.shape, dtype=buffer.dtype)
            if source is not None:
                values.copy_(source.read())._is_hf_initialized = True
            _set_buffer(model, name, values)
    _compute_buffers(model)
    return ""


def _tie(model: Any, sources: Mapping[str, Source]) -> None:
    """Ties weights that are tied by the config and stored twice with the same values. transformers does it where it has
    values to compare."""
    for target, origin in list(model.all_tied_weights_keys.items()):
        if target in sources and origin in sources and model.get_parameter(target) is not model.get_parameter(origin):
            if torch.equal(sources[target].read(), sources[origin].read()):
                parent, _, last = target.rpartition(".")
                setattr(model.get_submodule(parent), last, model.get_parameter(origin))
            else:
                del model.all_tied_weights_keys[target]


def _set_buffer(model: Any, name: str, values: torch.Tensor) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._buffers[last] = values


def _compute_buffers(model: Any) -> None:
    """Computes the buffers that files do not hold (frequencies, positions) as transformers does after loading: it
    initializes what is not marked as loaded, in modules that are not."""
    for name, _ in model.named_non_persistent_buffers():
        model.get_submodule(name.rpartition(".")[0])._is_hf_initialized = False
    model.initialize_weights()
