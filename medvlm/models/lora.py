"""Low-rank adapters (peft): attaches them, and merges them into the base weights."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from medvlm.core import deferred
from medvlm.core.errors import CheckpointError, RecipeError
from medvlm.core.lora_config import Lora
from medvlm.core.quantize import is_quantized
from medvlm.models import new_rows
from medvlm.models.parts import build_seeded, matches, module_of

T = TypeVar("T")


def find_targets(model: nn.Module, lora: Lora) -> list[str]:
    """Full paths of the linear layers that get an adapter. Full, because several modules have layers of the same name.

    Raises RecipeError for a target that matches no linear layer, or layers of several modules.
    """
    # torch's attention reads the weight of its out_proj directly, so an adapter there would never be computed.
    passed_by = {f"{n}.out_proj" for n, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    heads = {id(m.get_output_embeddings()) for m in model.modules() if hasattr(m, "get_output_embeddings")}
    linear = [n for n, m in model.named_modules() if _is_linear(m) and id(m) not in heads and n not in passed_by]
    for pattern in lora.targets:
        found = {module_of(name) for name in linear if matches(name, pattern)}
        if not found:
            near = sorted({f"{module_of(n)}.*.{pattern}" for n in linear if n.endswith(f".{pattern}")})
            hint = (
                f"; did you mean {' or '.join(near[:3])}?"
                if near
                else f" (it has linear layers in {', '.join(sorted({module_of(n) for n in linear}))})"
            )
            raise RecipeError(f"lora.targets: {pattern!r} matches no linear layer of this model{hint}")
        if len(found) > 1 and "*" in pattern.split(".")[0]:
            where = " and ".join(sorted(found))
            raise RecipeError(
                f"lora.targets: {pattern!r} matches layers of {where}; say which are meant, e.g."
                f" {sorted(found)[-1]}.{pattern}"
            )
    return [name for name in linear if any(matches(name, pattern) for pattern in lora.targets)]


def attach(model: nn.Module, lora: Lora, seed: int) -> None:
    """Adds adapters, which do not change the outputs at first: B starts at zero (LoRA, arXiv 2106.09685, section 4.1),
    or what the adapters begin with is taken from the weights (PiSSA, arXiv 2404.02948, equations 2 to 4)."""
    from peft import LoraConfig, inject_adapter_in_model

    names = find_targets(model, lora)
    unfit = "lora.dora" if lora.dora else "lora.start: pissa" if lora.start == "pissa" else ""
    if unfit and any(is_quantized(model.get_submodule(name)) for name in names):
        raise RecipeError(
            f"{unfit}: adapters of a quantized language model cannot be merged into it exactly; leave it out, or"
            " `quantize`"
        )
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    if lora.tokens:
        if not (ids := getattr(model, "new_token_ids", ())):
            raise RecipeError(
                "lora.tokens: model.language adds no tokens whose rows could be trained; list them in special_tokens,"
                " or leave out lora.tokens"
            )
        tables = nn.ModuleList(new_rows.find_tables(model.language))
        with deferred.present(tables, new_rows.list_read(model.language, ids)):
            new_rows.attach(model.language, ids)
    if names:
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=names,
            use_dora=lora.dora,
            use_rslora=lora.rslora,
            init_lora_weights="pissa_niter_16" if lora.start == "pissa" else True,  # fast SVD, section 5.4
        )
        with warnings.catch_warnings():
            # peft detects by itself which layers store their weight transposed.
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")
            with _stand_in([model.get_submodule(name) for name in names]):
                build_seeded(seed, "lora", lambda: inject_adapter_in_model(config, model))  # type: ignore[arg-type]
        _speed_up(model)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(id(parameter) in trained or ".lora_" in name)


def _speed_up(model: nn.Module) -> None:
    """peft has no way to choose the class of its layers that leaves those of other kinds (4-bit, Conv1D) alone."""
    from peft.tuners.lora.layer import Linear

    from medvlm.models.lora_layer import LoraLinear

    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LoraLinear


def merge(model: nn.Module) -> int:
    """Merges every adapter into its layer, in the layer's precision, and trained rows into their table. Returns the
    number of adapters.

    4-bit layers are dequantized to float32 first: merging into 4 bits would round the adapters away."""
    adapted = _find_adapters(model)
    with torch.no_grad():
        for layer in adapted.values():
            if is_quantized(layer.get_base_layer()):
                full = _dequantize_layer(layer.get_base_layer())
                full.weight += layer.get_delta_weight("default").to(full.weight)
                layer.base_layer = full
            else:
                _merge_layer(layer)
    _unwrap(model, adapted)
    new_rows.fold(model)
    dequantize(model)
    return len(adapted)


def _merge_layer(layer: Any) -> None:
    base: Any = layer.get_base_layer()
    if (source := deferred.source_of(base.weight)) is not None and not layer.lora_variant:
        deferred.redefine(base.weight, _Merged(source, base.weight.dtype, layer))
        return
    deferred.fill(base)
    layer.merge(safe_merge=True)


class _Merged(deferred.Source):
    """A deferred weight and its adapter, added as peft does it."""

    reads_rows = False

    def __init__(self, base: deferred.Source, dtype: torch.dtype, layer: Any):
        super().__init__()
        self.base, self.dtype, self.layer = base, dtype, layer

    @torch.no_grad()
    def read(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        whole = self.base.read().to(self.dtype, copy=True)
        whole += self.layer.get_delta_weight("default").to(self.dtype)
        return whole[start:stop]


@contextmanager
def _stand_in(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Gives deferred weights of the layers a place on the CPU, without memory: peft puts adapters beside what they are
    on, and those on the meta device would lose the values that they start with."""
    own: dict[Any, Any] = {layer: layer.weight for layer in layers}
    own = {layer: weight for layer, weight in own.items() if deferred.source_of(weight) is not None}
    try:
        for layer, weight in own.items():
            place = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            layer.weight = nn.Parameter(place, requires_grad=False)
        yield
    finally:
        for layer, weight in own.items():
            layer.weight = weight


def take_off(model: nn.Module) -> tuple[Any, dict[str, torch.Tensor]]:
    """Removes the adapters from the model. Returns their peft config and their tensors by name."""
    adapted = _find_adapters(model)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    config = vars(model).get("peft_config", {}).get("default")
    _unwrap(model, adapted)
    dequantize(model)
    return config, tensors


def drop_adapters(named: Mapping[str, T], weights: Collection[str] = ()) -> dict[str, T]:
    """What is known of the weights of a stage by name, without its adapters: the base, under the names that it has in a
    model without them. weights: the names of its weights with those of its adapters, if `named` lacks these."""
    adapted = {name.partition(".lora_")[0] for name in weights or named if ".lora_" in name}
    base = {}
    for name, known in named.items():
        layer, _, rest = name.partition(".base_layer.")
        if ".lora_" not in name:
            base[f"{layer}.{rest}" if rest and layer in adapted else name] = known
    return base


def put_in(model: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Loads the adapters among the weights into those of the model. Raises CheckpointError if they are not the same."""
    own = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    given = {name: tensor for name, tensor in weights.items() if ".lora_" in name}
    wrong = [n for n in own.keys() | given.keys() if n not in own or n not in given or own[n].shape != given[n].shape]
    if wrong:
        raise CheckpointError(
            f"{where}: its adapters do not fit this model ({sorted(wrong)[0]}); were they trained with other model"
            " settings?"
        )
    for name, tensor in given.items():
        deferred.put(own[name], tensor)


def dequantize(model: nn.Module) -> None:
    """Replaces 4-bit layers by float32 layers with the same values, if there are any."""
    layers = [(n, m) for n, m in model.named_modules() if is_quantized(m)]
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _dequantize_layer(layer))


def _is_linear(module: nn.Module) -> bool:
    """Also true for GPT-2's Conv1D, whose weight is transposed. Checked by name, because importing transformers takes
    seconds."""
    return isinstance(module, nn.Linear) or (type(module).__name__, type(module).__module__) == (
        "Conv1D",
        "transformers.pytorch_utils",
    )


def _dequantize_layer(layer: Any) -> nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    full = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device=layer.weight.device)
    with torch.no_grad():
        full.weight.copy_(dequantize_4bit(layer.weight.data, layer.weight.quant_state))
        if layer.bias is not None:
            full.bias.copy_(layer.bias)
    return full.requires_grad_(False)


def _find_adapters(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _unwrap(model: nn.Module, adapted: dict[str, Any]) -> None:
    for name, layer in adapted.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    vars(model).pop("peft_config", None)  # otherwise peft warns about a second adapter later
