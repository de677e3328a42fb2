"""The adapters of a trained model as a PEFT folder, over a base that stock transformers loads.

A ready model stays on the hub. The adapters name it with its revision, and modules that were trained as a whole (the
connector, for example) are in `modules_to_save`. A composed model is not on the hub, so its base is written into
FOLDER/base, with everything that was trained without adapters. Then `modules_to_save` is empty, because it would store
the same weights twice. A base is also written for a ready model if only parts of a module were trained, if adapters
of an earlier stage were folded in or took a part of the weights (PiSSA), or if it was published in float32 and adapted
in mixed precision, which holds frozen weights in bfloat16.

The other adapters of a run whose adapters have names are in subfolders, FOLDER/NAME, as peft saves several adapters.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medvlm.core.config import component
from medvlm.core.errors import ShapeError
from medvlm.core.run import write_json
from medvlm.core.weights import open_stock
from medvlm.export.audit import Audit
from medvlm.export.language import ASKING
from medvlm.export.trained import Holds, Trained
from medvlm.models.lora import take_off
from medvlm.models.native import NativeVLM
from medvlm.models.vlm import VLM
from medvlm.recipe.targets import resolve

LIBRARY, LOADER = "peft", "adapted_answers"
HOLDS = Holds((VLM, NativeVLM), servers=("vllm",), relation="adapter")
LINES = f"""\
```python
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
processor, base = AutoProcessor.from_pretrained("PROCESSOR"), AutoModelForImageTextToText.from_pretrained("BASE")
model = PeftModel.from_pretrained(base, "FOLDER")
{ASKING}```

"""
BESIDE = "base"


def explain_loading(base: str) -> str:
    """Text for the model card. base: the base model in adapter_config.json."""
    if base == BESIDE:
        return (
            LINES.replace("PROCESSOR", "FOLDER/base").replace("BASE", "FOLDER/base")
            + "The base is not on the hub, so it is in this folder too. Parts that were trained without adapters, such"
            " as the connector, are in the base and not in `modules_to_save`, which vLLM does not serve."
        )
    return (
        LINES.replace("PROCESSOR", "FOLDER").replace("BASE", base)
        + "Modules that were trained as a whole, if any, are in `modules_to_save`. vLLM does not serve adapters with"
        " `modules_to_save`; for vLLM, export with target `stock`."
    )


LOADING = explain_loading


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs a stage that trains adapters, and a model that fits a stock class."""
    if not any(pattern.split(".")[0] == "lora" for stage in stages for pattern in stage.trains):
        return "no stage trains adapters: add lora to a stage's `trains`, or export as stock"
    if any(stage.lora is not None and stage.lora.tokens for stage in stages):
        return (
            "lora.tokens trains rows of the vocabulary, which servers of adapters do not support: export as stock,"
            " which folds them in"
        )
    return resolve("stock", model, stages)[2] or None


def write_reference(trained: Trained, folder: Path) -> None:
    component("export.targets", _choose_stock(trained)).write_reference(trained, folder)
    found = find_published(trained)
    base = {"base": str(found.snapshot)} if found else {}
    expected = json.loads((folder / "reference.json").read_text())
    write_json(folder / "reference.json", {**expected, **base, "siblings": sorted(trained.siblings)})
    for name, load in trained.siblings.items():
        (folder / name).mkdir()
        component("export.targets", _choose_stock(trained)).write_reference(load(), folder / name)


def write(trained: Trained, folder: Path) -> Audit:
    """Removes the adapters from the model permanently. Raises ShapeError for an adapter whose layer is not in the stock
    class."""
    base: Any = component("export.targets", _choose_stock(trained))
    found = find_published(trained)
    config, adapters = take_off(trained.model)
    if not adapters:
        raise ShapeError(f"export: after stage {trained.stage} the model has no adapters; export it as stock")
    place_of = base.map_names(trained)
    # "" is the adapter of the model that is exported.
    sets = {"": (config, _place(adapters, place_of))}
    audited = [*adapters]
    for name, load in trained.siblings.items():
        own, tensors = _take_off_same_base(trained.model, load(), name)
        sets[name] = own, _place(tensors, place_of)
        audited += [f"{name}: {each}" for each in tensors]
    if found:
        audit, stock_config = Audit(replaced=sorted(found.trained)), trained.model.stock.config
        base.save_processor(trained, folder)
    else:
        from transformers import AutoConfig

        audit = base.write(trained, folder / BESIDE)
        stock_config = open_stock(AutoConfig, folder / BESIDE)
    for name, (own, tensors) in sets.items():
        own.base_model_name_or_path = found.name if found else BESIDE
        if found:
            own.revision, own.modules_to_save = found.revision, found.modules or None
        _save(own, stock_config, {**tensors, **(found.trained if found else {})}, folder / name)
    audit.adapters = sorted(audited)
    return audit


def _place(adapters: Mapping[str, torch.Tensor], place_of: Callable[[str], str | None]) -> dict[str, torch.Tensor]:
    placed = {name: place_of(name) for name in adapters}
    if homeless := sorted(name for name, place in placed.items() if place is None):
        raise ShapeError(
            f"export: {len(homeless)} adapters have no layer in the stock class: {', '.join(homeless[:5])}; export as"
            " stock or custom"
        )
    return {str(placed[name]): tensor for name, tensor in adapters.items()}


def _take_off_same_base(model: Any, other: Trained, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """The adapters of another stage. Raises ShapeError if they were trained on another base than that of `model`."""
    config, adapters = take_off(other.model)
    base, own = model.state_dict(), other.model.state_dict()
    if differing := [each for each in sorted(base) if each not in own or not torch.equal(base[each], own[each])]:
        raise ShapeError(
            f"export: the adapter {name!r} was trained on another base ({differing[0]} differs), and one folder has one"
            f" base; export each by itself: RUN:lora.{name}"
        )
    return config, adapters


@dataclass(frozen=True)
class Published:
    """A ready model on the hub. snapshot: its folder in this machine's cache. modules: modules of the stock class that
    were trained as a whole. trained: their tensors, by name in the stock class."""

    name: str
    revision: str
    snapshot: Path
    modules: list[str]
    trained: dict[str, torch.Tensor]


def find_published(trained: Trained) -> Published | None:
    """The base on the hub, or None if a base has to be written."""
    name = trained.recipe.model.pretrained
    is_hub_id = bool(name) and name.count("/") == 1 and not Path(name).exists()
    # With several settings of adapters, those of the earlier stages were folded into the base, if they had no name.
    adapters = {stage.lora for stage in trained.stages if stage.lora and stage.lora.name in ("", trained.adapter)}
    if not is_hub_id or len(adapters) > 1 or any(each.start != "zero" for each in adapters):
        return None
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    stored = try_to_load_from_cache(name, "config.json")
    if not isinstance(stored, str):
        return None
    # In mixed precision, adapters learn on frozen weights in bfloat16.
    is_rounded = open_stock(AutoConfig, name).dtype != torch.bfloat16
    if is_rounded and trained.plain["engine"]["precision"] == "bf16-mixed":
        return None
    place_of, stock = component("export.targets", _choose_stock(trained)).map_names(trained), trained.model.stock
    changed = {
        place_of(full): tensor.detach()
        for full, tensor in trained.model.named_parameters()
        if ".lora_" not in full and trained.is_trained(full)
    }
    owned = {
        path: {f"{path}.{inner}" for inner, _ in module.named_parameters()}
        for path, module in stock.named_modules()
        if path
    }
    whole = [path for path, inside in owned.items() if inside and inside <= changed.keys()]
    modules = [path for path in whole if not any(path.startswith(f"{outer}.") for outer in whole)]
    if set(changed) - {full for path in modules for full in owned[path]}:
        return None
    return Published(name, Path(stored).parent.name, Path(stored).parent, modules, changed)


def _choose_stock(trained: Trained) -> str:
    return resolve("stock", trained.recipe.model, trained.stages)[0]


def _save(config: Any, stock_config: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, with peft's names for the layers of the stock class.

    tensors: adapters and whole modules, by name in the stock class. The model is built on the meta device, so the
    base's weights are not read.
    """
    from peft import get_peft_model
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        stock = AutoModelForImageTextToText.from_config(stock_config, trust_remote_code=False)
    config = copy.deepcopy(config)
    stock.name_or_path = config.base_model_name_or_path  # peft would write a local path otherwise
    layers = {name.partition(".lora_")[0] for name in tensors if ".lora_" in name}
    config.target_modules = pattern_of(layers, [name for name, _ in stock.named_modules()])
    if is_misread(config, stock):
        # A weight by its name is left as it is. Dropout on it is refused, and is off in a finished adapter.
        config.target_modules, config.target_parameters = [], [f"{layer}.weight" for layer in sorted(layers)]
        config.lora_dropout = 0.0
    folder.mkdir(exist_ok=True)
    config.task_type = "SEQ_2_SEQ_LM" if stock_config.is_encoder_decoder else "CAUSAL_LM"
    config.inference_mode = True
    with torch.device("meta"):
        made = get_peft_model(stock, config)
    named = {_name_in_peft(name, config.modules_to_save or ()): tensor.contiguous() for name, tensor in tensors.items()}
    expected = {name for name in made.state_dict() if ".lora_" in name or ".modules_to_save." in name}
    if expected != named.keys():
        raise ShapeError(
            f"export: peft's adapters differ from the model's: {', '.join(sorted(expected ^ named.keys())[:5])}"
        )
    made.load_state_dict(named, strict=False, assign=True)
    made.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft writes its own model card


def is_misread(config: Any, stock: Any) -> bool:
    """Whether peft takes the layers of an adapter for others. In models with experts (GLM-4.5V) it reads names such as
    gate_proj as those of all experts, which older releases of transformers had as layers, even if dense layers of
    these names are meant. Experts have no adapters here."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    read = copy.deepcopy(config)
    try:
        convert_peft_config_for_transformers(read, stock, None)
    except ValueError:  # it misses others of an expert's layers
        return True
    return bool(read.target_modules != config.target_modules)


def _name_in_peft(name: str, whole: Iterable[str]) -> str:
    for path in whole:
        if name.startswith(f"{path}.") and ".lora_" not in name:
            return f"base_model.model.{path}.modules_to_save.default.{name.removeprefix(f'{path}.')}"
    return f"base_model.model.{name}"


def pattern_of(layers: Iterable[str], modules: Sequence[str]) -> str:
    """A regular expression for full paths that matches these layers and no other module. A bare `q_proj` would also
    match layers of the tower.

    Layer numbers become `\\d+` if that still matches exactly these layers.
    """
    layers = sorted(layers)
    open_ = sorted({r"\d+".join(map(re.escape, re.split(r"(?<=\.)\d+(?=\.)", layer))) for layer in layers})
    short = "|".join(open_)
    if {name for name in modules if re.fullmatch(short, name)} == set(layers):
        return short
    return "|".join(map(re.escape, layers))
