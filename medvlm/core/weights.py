"""Loads weights into a newly built module and checks every key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm.core import deferred, published
from medvlm.core.contracts import Loaded, LoadedFile
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.run import RunFolder, hash_files
from medvlm.core.weight_files import defer_weights, list_files, open_tensors

if TYPE_CHECKING:
    from torch import nn


def describe(built: Any) -> dict[str, Any]:
    """The config of a transformers model, from which the same model can be built without weights."""
    kept: dict[str, Any] = built.config.to_dict()
    for key in ("architectures", "transformers_version", "dtype", "_name_or_path", "quantization_config"):
        kept.pop(key, None)
    return kept


def is_on_meta() -> bool:
    """Whether modules are being built on the meta device, so that there are no values to load."""
    import torch

    return torch.empty(0).is_meta


@contextmanager
def without_file(config: LoadedFile) -> Iterator[None]:
    """Within this context a network is built whose weights read_file() reads next. Within `deferring()` it takes no
    memory, unless some of its weights may start fresh: those need their values."""
    with deferred.without_values() if deferred.is_deferring() and _is_whole(config) else nullcontext():
        yield


def _is_whole(config: LoadedFile) -> bool:
    return bool(config.weights) and not config.allow_missing


def read_file(module: nn.Module, config: LoadedFile, where: str) -> None:
    """Loads the safetensors file `config.weights` into the module. On the meta device nothing is read. What was built
    by without_file() within `deferring()` stays in the file.

    where: the dotted key for messages. Raises CheckpointError for a key that is missing, unexpected or of another
    shape, unless the recipe lists it, and for a file that cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if is_on_meta():
        return published.mark(module, [n for n in module.state_dict() if _is_listed(n, config.allow_missing)])
    is_deferred = any(parameter.is_meta for parameter in module.parameters())
    try:
        stored = open_tensors(Path(config.weights)) if is_deferred else load_file(config.weights)
    except (OSError, SafetensorError) as reason:
        raise CheckpointError(
            f"{where}.weights: {Path(config.weights).name} cannot be read as safetensors ({reason})"
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
    check_keys(own.keys() - given.keys(), given.keys() - own.keys(), mismatched, config, where)
    fresh = {n for n, *_ in mismatched}
    if is_deferred:
        _stay_in_file(module, given)
        return published.mark(module)
    module.load_state_dict({n: t for n, t in given.items() if n in own and n not in fresh}, strict=False)
    published.mark(module, fresh | (own.keys() - given.keys()))


def _stay_in_file(module: nn.Module, given: dict[str, Any]) -> None:
    """given: all of its tensors, and perhaps others."""
    for name, own in module.state_dict(keep_vars=True).items():
        if own.is_meta:
            source = deferred.source_of(given[name])
            assert source is not None, name
            deferred.defer(own, source)
        else:
            deferred.put(own, given[name])


def from_pretrained(auto: Any, model: str, config: Loaded, where: str, **options: Any) -> Any:
    """Loads a hub id or a folder by an Auto class of transformers, in float32, as load_stock() does. On the meta device
    only the config is read.

    Raises CheckpointError like `read_file`, and for a model that cannot be found.
    """
    from transformers import AutoConfig

    try:
        if is_on_meta():
            made = build_stock(auto, open_stock(AutoConfig, model))
            published.mark(made, [n for n in made.state_dict() if _is_listed(n, config.allow_missing)])
            return made
        made, found = load_stock(auto, model, where, **options, ignore_mismatched_sizes=True)
    except OSError as reason:
        first = str(reason).strip().splitlines()[0]
        raise CheckpointError(
            f"{where}.model: cannot read {model!r} ({first}); check the id, log in with `hf auth login` if access to it"
            " is granted by request, or give the folder of a copy"
        ) from None
    check_keys(found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"], config, where)
    published.mark(made, {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    return made


def open_tokenizer(model: str, key: str) -> Any:
    """The tokenizer of a folder or hub id. key: of the recipe, for the message. Raises RecipeError if there is none."""
    from transformers import AutoTokenizer

    try:
        return open_stock(AutoTokenizer, model)
    except OSError as reason:
        first = str(reason).strip().splitlines()[0]
        raise RecipeError(
            f"{key}: cannot read the tokenizer of {model!r} ({first}); check the id, log in with `hf auth login` if"
            " the model is gated, or give the folder of a copy"
        ) from None


def open_stock(auto: Any, where: Any, **options: Any) -> Any:
    """What an Auto class of transformers makes of a folder or hub id. Its code is never run, whatever stands on stdin.

    Raises OSError for a model that needs code of its own, for files that are damaged, and for a run of medvlm."""
    if RunFolder(Path(where)).recipe.is_file() and not (Path(where) / "config.json").is_file():
        raise OSError("it is a run; export it, and name the exported folder")
    with _blame_files():
        return auto.from_pretrained(where, trust_remote_code=False, **options)


def load_stock(auto: Any, model: str, where: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a folder or hub id with its weights, by default in float32, and which keys were missing, unexpected
    or mismatched. Within `deferring()` the weights stay in their files, where that is possible.

    where: the dotted key for messages. Raises OSError like open_stock()."""
    options = {"dtype": "float32", "output_loading_info": True, **options}
    if deferred.is_deferring():
        made, found, why = None, {}, "it has 4 bits" if "quantization_config" in options else ""
        if not why:
            made, found = open_stock(auto, model, **options, device_map={"": "meta"})
            why = _defer(made, found, model)
        if not why:
            return made, found
        deferred.note_read(f"{where} is read whole by every rank: {why}")
    made, found = open_stock(auto, model, **options)
    return made, found


def _defer(made: Any, found: dict[str, Any], model: str) -> str:
    """Why the weights of a model on the meta device cannot stay in their files, or ""."""
    if fresh := sorted(map(str, [*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])])):
        return f"its files have no {fresh[0]} ({len(fresh)} keys), which starts fresh"
    try:
        files = list_files(model)
    except CheckpointError as reason:
        return str(reason)
    with _blame_files():
        return defer_weights(made, files) if files else "it has no .safetensors files"


def build_stock(auto: Any, config: Any, **options: Any) -> Any:
    """The model of a config that open_stock() read, with random weights. Raises OSError for a config of which none can
    be built."""
    with _blame_files():
        return auto.from_config(config, trust_remote_code=False, **options)


@contextmanager
def _blame_files() -> Iterator[None]:
    import torch

    try:
        yield
    except (OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as reason:  # transformers, tokenizers and safetensors raise anything on damaged files
        first = next(iter(str(reason).strip().splitlines()), "")
        if "custom code" in first or "remote code" in first:
            raise OSError("it needs code of its own, which medvlm never runs") from None
        raise OSError(f"its files are damaged or of another kind: {type(reason).__name__}: {first[:200]}") from reason


def find_published(where: str) -> dict[str, Any]:
    """The name of a folder and a hash of its files, or a hub id and its commit."""
    if Path(where).is_dir():
        files = hash_files(Path(where))
        return {"model": Path(where).name, "files": hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}
    from transformers import AutoConfig

    return {"model": where, "commit": open_stock(AutoConfig, where)._commit_hash}


def open_saved_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of a run or of an exported folder. Raises CheckpointError if its files are damaged."""
    from transformers import AutoTokenizer

    try:
        found = open_stock(AutoTokenizer, folder, **options)
        with _blame_files():  # some settings are not looked at before a text is encoded
            found.decode(found("A trial.").input_ids, skip_special_tokens=True)
        return found
    except OSError as reason:
        first = str(reason).strip().splitlines()[0]
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({first}); copy the folder again") from None


def open_dialogue_tokenizer(folder: Path, **options: Any) -> Any:
    """As open_saved_tokenizer(), for a language model that is shown images. Raises CheckpointError for one that lacks a
    chat template, or a token that stands for padding or for an image."""
    found = open_saved_tokenizer(folder, **options)
    lacks = {
        "chat template": not found.chat_template,
        "padding token": found.pad_token_id is None,
        "image token": not getattr(found, "image_token", None),
    }
    if any(lacks.values()):
        what = next(name for name, is_lost in lacks.items() if is_lost)
        raise CheckpointError(f"{folder}: its tokenizer has no {what}; copy the folder again")
    return found


def check_keys(
    missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[tuple[Any, ...]], config: Loaded, where: str
) -> None:
    """Raises CheckpointError naming the first key that the recipe does not list, and their number. mismatched: (key,
    stored shape, own shape)."""
    open_missing = sorted(n for n in missing if not _is_listed(n, config.allow_missing))
    if open_missing:
        raise CheckpointError(
            f"{where}: the weights lack {open_missing[0]} ({len(open_missing)} keys); if it may start fresh, list it:"
            f" allow_missing: [{open_missing[0]}]"
        )
    if wrong := sorted(m for m in mismatched if not _is_listed(m[0], config.allow_missing)):
        name, stored, own = wrong[0]
        raise CheckpointError(
            f"{where}: {name} is {tuple(stored)} in the weights and {tuple(own)} in the model ({len(wrong)} keys); if"
            f" it may start fresh, list it: allow_missing: [{name}]"
        )
    if open_unexpected := sorted(n for n in unexpected if not _is_listed(n, config.allow_unexpected)):
        name = open_unexpected[0]
        raise CheckpointError(
            f"{where}: {name} of the weights has no place in the model ({len(open_unexpected)} keys); if it may be left"
            f" out, list it: allow_unexpected: [{name}]"
        )


def _is_listed(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(pattern + ".") for pattern in patterns)
