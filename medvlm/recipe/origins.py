"""What `from` of a stage can name: an earlier stage, a stage of another run, a folder of safetensors, or a hub id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import nn

from medvlm.core.errors import CheckpointError
from medvlm.core.layouts import Layout, find_layout, join_rows
from medvlm.core.lora_config import Lora, read_lora
from medvlm.core.run import RunFolder, read_record
from medvlm.core.stored import read_object
from medvlm.core.weight_files import list_files
from medvlm.models.parts import module_of

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
OTHER_STAGE = re.compile(r"(?P<run>[^:]+):(?P<stage>[A-Za-z0-9][A-Za-z0-9_-]*)")
PIECE_BYTES = 8 << 20

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Start:
    """What a stage starts from. weights: by their names in the model. adapters: those among them. published:
    fingerprints of the tensors that are not among them because they are as published."""

    weights: Weights
    adapters: Lora | None = None
    published: Mapping[str, str] = field(default_factory=dict)


class Origin(Protocol):
    @property
    def digest(self) -> str:
        """Identifies the weights."""

    def find_problem(self) -> str:
        """Why no stage can start from it, "" if one can. Reads no weights."""

    def find_adapters(self) -> Lora | None:
        """The adapters among its weights, if any. Reads no weights."""

    def holds(self, module: str, own: Collection[str]) -> bool:
        """Whether it has weights of `module`. own: the names of the module's tensors in the model that starts from it,
        without the module's name."""

    def load(self, model: nn.Module, modules: set[str]) -> Start:
        """At least the weights of these modules."""

    def describe(self) -> str:
        """For lineage: a name without any path, and the digest of the weights."""

    def __str__(self) -> str:
        """The text that names it in a recipe."""


def name_outside(text: str, module: str = "") -> Origin | None:
    """What `from` names outside of its run; None if the text has none of the accepted forms.

    Reads nothing from the disk. module: the module that `from` gives it for, "" for all.
    """
    if (found := OTHER_STAGE.fullmatch(text)) is not None:
        return StageOrigin(RunFolder(Path(found["run"]).expanduser()), found["stage"], is_other=True)
    if ("/" in text or text.startswith((".", "~"))) and ":" not in text:
        return FilesOrigin(text, module)
    return None


class _Meta(TypedDict):
    adapters: dict[str, Any] | None


class _State(TypedDict):
    meta: _Meta


@dataclass(frozen=True)
class StageOrigin:
    """A finished stage, of the same run or of another one."""

    run: RunFolder
    stage: str
    is_other: bool = False

    @property
    def digest(self) -> str:
        return str(self._record["checkpoint"])

    def find_problem(self) -> str:
        if not self.run.recipe.is_file():
            return f"{self.run.root} is not a run folder (it has no {self.run.recipe.name})"
        if not self.run.is_finished(self.stage):
            finished = sorted(path.parent.name for path in self.run.root.glob("*/stage.json"))
            return f"{self.run.root} has no finished stage {self.stage} (it has {', '.join(finished) or 'none'})"
        return ""

    def find_adapters(self) -> Lora | None:
        remedy = "train that stage again"
        saved = read_object(self._folder / "state.json", _State, remedy)["meta"]["adapters"]
        return read_lora(saved, self.describe().partition("@")[0])

    def holds(self, module: str, own: Collection[str]) -> bool:
        return module in self._record["parameters"]

    def load(self, model: nn.Module, modules: set[str]) -> Start:
        # Checking a recipe names origins, and must not load torch.distributed for it.
        from medvlm.train.checkpoint import read_weights
        from medvlm.train.finished import find_final
        from medvlm.train.state_file import read_published

        folder = find_final(self.run.stage(self.stage))
        weights = read_weights(folder)
        # The stage's adapters may be on other modules than those to load, e.g. on the language model only.
        is_adapted = any(".lora_" in name and module_of(name) in modules for name in weights)
        return Start(weights, self.find_adapters() if is_adapted else None, read_published(folder))

    def describe(self) -> str:
        name = f"{self.run.root.resolve().name}:{self.stage}" if self.is_other else self.stage
        return f"{name}/{self._folder.name}@{self.digest}"

    def __str__(self) -> str:
        return f"{self.run.root}:{self.stage}" if self.is_other else self.stage

    def list_stages_before(self) -> list[StageOrigin]:
        """The finished stages before it in its run, latest first. They may have modules that this one lacks."""
        finished = self.run.list_finished()
        before = finished[: finished.index(self.stage)] if self.stage in finished else []
        return [StageOrigin(self.run, name, self.is_other) for name in reversed(before)]

    @property
    def _folder(self) -> Path:
        return self.run.stage(self.stage) / str(self._record["take"])

    @property
    def _record(self) -> dict[str, Any]:
        return read_record(self.run.stage(self.stage))


class FilesOrigin:
    """The safetensors files of a folder or a hub id: an exported model, or any other whose tensor names fit."""

    def __init__(self, where: str, module: str = ""):
        """module: the module that the recipe gives it for. Then the files may use another prefix for its tensors; if
        "", they must use the names of our model."""
        self.where, self.module = where, module
        self._local = Path(where).expanduser()

    @cached_property
    def digest(self) -> str:
        total = hashlib.sha256()
        for path in self._files:
            with path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    total.update(piece)
        return total.hexdigest()[:16]

    def find_problem(self) -> str:
        if not self._local.is_dir():
            is_id = HUB_ID.fullmatch(self.where) is not None
            return "" if is_id else f"there is no folder {self.where}, and it is not a hub id (OWNER/NAME)"
        if any(self._local.glob("*.safetensors")):
            return ""
        if RunFolder(self._local).recipe.is_file():
            return f"{self.where} is a run folder; name one of its stages: {self.where}:STAGE"
        return f"{self.where} has no .safetensors file"

    def find_adapters(self) -> Lora | None:
        return None

    def holds(self, module: str, own: Collection[str]) -> bool:
        if self._layout is not None:
            name = module.partition(".")[2]
            places = (self._layout.find_place(key, name) for key in self._keys)
            return any(place is not None and module_of(place[0]) == module for place in places)
        return self._align(module, own) is not None

    def load(self, model: nn.Module, modules: set[str]) -> Start:
        state = model.state_dict(keep_vars=True)
        weights: Weights = self._load_released(state, modules) if self._layout is not None else {}
        for module in modules if self._layout is None else ():
            own = [name.removeprefix(f"{module}.") for name in state if module_of(name) == module]
            found = self._align(module, own)
            assert found is not None, (self.where, module)
            ours, theirs = found
            # A key that our model does not have keeps its name. Loading refuses it as left over.
            keys = [key for key in self._keys if key.startswith(theirs)]
            weights |= {f"{module}.{ours}{key.removeprefix(theirs)}": self._read(key) for key in keys}
        # Of tied tensors, files hold only the first.
        stored = {id(tensor): name for name, tensor in state.items() if name in weights}
        for name, tensor in state.items():
            if name not in weights and module_of(name) in modules and id(tensor) in stored:
                weights[name] = weights[stored[id(tensor)]]
        return Start(weights)

    def _load_released(self, state: Weights, modules: set[str]) -> Weights:
        """Raises CheckpointError for a tensor that the layout of the release does not have, and for modules of several
        encoders, of which the release has one."""
        layout = self._layout
        assert layout is not None
        encoders = sorted({module.partition(".")[2] for module in modules} - {""})
        if len(encoders) > 1:
            raise CheckpointError(
                f"{self.where}: {layout.title} has one encoder, and the model has {', '.join(encoders)}; say which is"
                f" meant, e.g. from: {{encoders.{encoders[0]}: {self.where}, connectors.{encoders[0]}: {self.where}}}"
            )
        weights, rows = Weights(), dict[str, Weights]()
        for key in self._keys:
            place = layout.find_place(key, encoders[0] if encoders else "")
            if place is None and not layout.is_left_out(key):
                raise CheckpointError(f"{self.where}: {key} is not known in the layout of {layout.title}")
            if place is None or module_of(place[0]) not in modules:
                continue
            name, rule = place
            tensor = self._read(key)
            if rule.rows:
                rows.setdefault(name, {})[rule.rows] = tensor
            else:
                weights[name] = rule.convert(tensor, state[name].shape) if rule.convert and name in state else tensor
        weights |= {name: join_rows(own, len(state.get(name, ()))) for name, own in rows.items() if "first" in own}
        kept = [name for name in state if any(fnmatchcase(name, pattern) for pattern in layout.keeps)]
        return {**{name: state[name] for name in kept if module_of(name) in modules}, **weights}

    def describe(self) -> str:
        name = self._local.resolve().name if self._local.is_dir() else self.where
        return f"{name}@{self.digest}"

    def __str__(self) -> str:
        return self.where

    def _align(self, module: str, own: Collection[str]) -> tuple[str, str] | None:
        """The prefixes of the module's tensor names, in our model and in the files; None if no name matches.

        The same tower may be `tower.layers.0.weight` in a model and `vision_model.layers.0.weight` in a file. A file
        may hold another tower whose layers have the same names, so the prefix that matches most names is chosen.
        """
        if any(f"{module}.{name}" in self._keys for name in own):
            return "", f"{module}."
        if not self.module:
            return None

        def count_partners(fronts: tuple[str, str]) -> int:
            ours, theirs = fronts
            return sum(name.startswith(ours) and theirs + name.removeprefix(ours) in self._keys for name in own)

        for name in sorted(own, key=len, reverse=True):  # a long name is less likely to match by chance
            parts = name.split(".")
            for rest in (".".join(parts[cut:]) for cut in range(len(parts) - 1)):
                partners = [key for key in self._keys if key == rest or key.endswith(f".{rest}")]
                fronts = [(name.removesuffix(rest), key.removesuffix(rest)) for key in partners]
                if fronts:
                    return max(fronts, key=count_partners)
        return None

    @cached_property
    def _layout(self) -> Layout | None:
        return find_layout(self._keys)

    @cached_property
    def _keys(self) -> dict[str, Path]:
        """Key -> the file that holds it."""
        from safetensors import SafetensorError, safe_open

        keys: dict[str, Path] = {}
        for path in self._files:
            try:
                with safe_open(path, framework="pt") as file:
                    keys |= dict.fromkeys(file.keys(), path)
            except (OSError, SafetensorError) as reason:
                raise CheckpointError(f"{self.where}: {path.name} cannot be read ({reason})") from None
        return keys

    def _read(self, key: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._keys[key], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(key)
        return tensor

    @cached_property
    def _files(self) -> list[Path]:
        return list_files(self.where)
