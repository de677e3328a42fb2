"""Every key of weights from elsewhere is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medvlm.core.contracts import Loaded, LoadedFile
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder
from medvlm.core.weights import from_pretrained, open_stock, read_file


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def config(path: Path, **changes: Any) -> LoadedFile:
    return LoadedFile(weights=str(path), **changes)


def test_a_file_is_read_whole_or_by_a_prefix(tmp_path: Path) -> None:
    one, two, path = net(), net(), tmp_path / "net.safetensors"
    save_file(one.state_dict(), path)
    read_file(two, config(path), "encoders.film")
    assert all(torch.equal(t, two.state_dict()[n]) for n, t in one.state_dict().items())
    save_file({**{f"visual.{n}": t for n, t in one.state_dict().items()}, "text.x": torch.zeros(1)}, path)
    three = net()
    read_file(three, config(path, prefix="visual."), "encoders.film")
    assert all(torch.equal(t, three.state_dict()[n]) for n, t in one.state_dict().items())
    with pytest.raises(CheckpointError, match=r"encoders.film.prefix: no key of net.safetensors begins with 'vision.'"):
        read_file(three, config(path, prefix="vision."), "encoders.film")


def test_what_does_not_fit_is_named_and_what_the_recipe_lists_may_stay_open(tmp_path: Path) -> None:
    path, given = tmp_path / "net.safetensors", net().state_dict()
    save_file(
        {
            **{n: t for n, t in given.items() if n != "1.bias"},
            "head.weight": torch.zeros(2),
            "0.weight": torch.zeros(5, 2),
        },
        path,
    )
    with pytest.raises(
        CheckpointError,
        match=r"film: the weights lack 1.bias \(1 keys\); if it may start fresh, list it: allow_missing: \[1.bias\]",
    ):
        read_file(net(), config(path), "film")
    with pytest.raises(CheckpointError, match=r"film: 0.weight is \(5, 2\) in the weights and \(3, 2\) in the model"):
        read_file(net(), config(path, allow_missing=["1.*"]), "film")
    with pytest.raises(
        CheckpointError,
        match=r"film: head.weight of the weights has no place in the model \(1 keys\); if it may be left out",
    ):
        read_file(net(), config(path, allow_missing=["1.*", "0.weight"]), "film")
    target = net()
    before = target.state_dict()["0.weight"].clone()
    read_file(target, config(path, allow_missing=["1.bias", "0"], allow_unexpected=["head"]), "film")
    assert torch.equal(target.state_dict()["0.weight"], before) and torch.equal(
        target.state_dict()["0.bias"], given["0.bias"]
    )


def test_a_file_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"film.weights: gone.safetensors cannot be read as safetensors"):
        read_file(net(), config(tmp_path / "gone.safetensors"), "film")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(CheckpointError, match=r"film.weights: text.safetensors cannot be read as safetensors"):
        read_file(net(), config(tmp_path / "text.safetensors"), "film")


def test_a_renamed_or_resized_tensor_of_a_folder_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    from transformers import AutoModel, ViTConfig, ViTModel

    small = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    ViTModel(ViTConfig(**small)).save_pretrained(tmp_path)
    from_pretrained(AutoModel, str(tmp_path), Loaded(), "encoders.film")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = next(n for n in weights if n.endswith("layernorm.weight"))
    save_file({(f"{n}_old" if n == name else n): t for n, t in weights.items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"encoders.film: the weights lack {name}"):
        from_pretrained(AutoModel, str(tmp_path), Loaded(), "encoders.film")
    from_pretrained(
        AutoModel, str(tmp_path), Loaded(allow_missing=(name,), allow_unexpected=("*_old",)), "encoders.film"
    )
    save_file({n: torch.zeros(9) if n == name else t for n, t in weights.items()}, file, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=rf"encoders.film: {name} is \(9,\) in the weights and \(8,\) in the model"
    ):
        from_pretrained(AutoModel, str(tmp_path), Loaded(), "encoders.film")
    with torch.device("meta"):
        assert next(from_pretrained(AutoModel, str(tmp_path), Loaded(), "encoders.film").parameters()).is_meta, (
            "weights were read where shapes alone are asked for"
        )


def test_a_model_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    from transformers import AutoModel

    with pytest.raises(CheckpointError, match=r"encoders.film.model: cannot read '.*gone'.*give the folder of a copy"):
        from_pretrained(AutoModel, str(tmp_path / "gone"), Loaded(), "encoders.film")


def test_a_run_in_place_of_a_model_is_said_to_be_one(tmp_path: Path) -> None:
    from transformers import AutoConfig

    RunFolder(tmp_path).recipe.write_text("name: films\n")
    with pytest.raises(OSError, match="it is a run; export it, and name the exported folder"):
        open_stock(AutoConfig, tmp_path)
