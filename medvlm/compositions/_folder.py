"""Opens a model folder of medvlm: model.json describes the parts, weights.safetensors holds their weights, and there
may be a tokenizer. The export target `custom` writes such folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from medvlm.compositions._opened import AssembledModel
from medvlm.core.config import Config, component, is_available, permit
from medvlm.core.errors import CheckpointError, shorten
from medvlm.core.weights import open_dialogue_tokenizer, open_saved_tokenizer
from medvlm.models.restore import load_weights

WEIGHTS, MANIFEST = "weights.safetensors", "model.json"


class FolderManifest(Config):
    """model.json. Each composition has a subclass that describes its parts. makes: the composition."""

    format: Literal[1] = 1
    makes: str
    plugins: tuple[str, ...] = ()
    shared: dict[str, str] = {}
    """Tied tensor -> the tensor that is stored for both."""

    def reads_texts(self) -> bool:
        """Whether the folder of the tokenizer is needed, if its composition has one."""
        return True


def is_model_folder(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Any:
    """Raises CheckpointError if the folder is not a model folder."""
    try:
        written = json.loads((folder / MANIFEST).read_text())
        plugins = tuple(written.get("plugins", ()))
        permit(plugins)
        if not is_available("compositions", written["makes"]):
            raise CheckpointError(
                f"{folder}/{MANIFEST}: `makes` is {shorten(written['makes'])}, and no such composition is installed;"
                " install the version or the package that has it, or copy the folder again"
            )
        composition = component("compositions", written["makes"])
        return composition.Manifest.model_validate(written, context={"plugins": plugins})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as reason:
        raise CheckpointError(
            f"{folder} is not a model folder of medvlm ({MANIFEST}: {type(reason).__name__}); `medvlm export` makes one"
        ) from None


def open_folder(folder: Path) -> AssembledModel:
    """The model on the CPU, in float32. Raises CheckpointError if the folder is not a model folder, or if its weights
    do not fit."""
    manifest = read_manifest(folder)
    weights = _read_weights(folder)
    if lost := sorted(set(manifest.shared.values()) - weights.keys()):
        raise CheckpointError(f"{folder}/{MANIFEST}: {WEIGHTS} lacks {lost[0]}; copy the folder again")
    weights |= {name: weights[first] for name, first in manifest.shared.items()}
    composition = component("compositions", manifest.makes)
    tokenizer = None
    if composition.TOKENIZER and manifest.reads_texts():
        read = open_dialogue_tokenizer if "answer" in composition.CAN else open_saved_tokenizer
        tokenizer = read(folder / composition.TOKENIZER, local_files_only=True)
    opened: AssembledModel = composition.restore(manifest, tokenizer)
    load_weights(opened.model, weights, None, f"{folder.name}/{WEIGHTS}")
    opened.model.eval()
    return opened


def _read_weights(folder: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Any] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as reason:
        raise CheckpointError(f"{folder}/{WEIGHTS} cannot be read ({reason}); copy the folder again") from None
    return weights
