"""Exports of one encoder of a trained model: where its tensors go and what is left out."""

from __future__ import annotations

from typing import Any

from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.trained import Trained
from medvlm.models.lora import merge
from medvlm.models.parts import module_of


def merge_and_audit(trained: Trained, under: str, with_behind: bool = False) -> Audit:
    """Folds the adapters in permanently and accounts for the tensors of one encoder.

    under: the submodule of the encoder that is exported, e.g. `tower`; "" for all of it. with_behind: also export the
    connector, head or decoders after the encoder. Parts of the model that are not exported are listed under `left_out`.
    """
    model, name = trained.model, trained.encoder
    root = ".".join(filter(None, ("encoders", name, under)))
    exported = {root: model.get_submodule(root)}
    if with_behind:
        exported |= {behind: model.get_submodule(behind) for behind in list_behind(model, name)}
    adapters = [
        n
        for n, _ in model.named_parameters()
        if ".lora_" in n and n.startswith(tuple(f"{prefix}." for prefix in exported))
    ]
    merge(model)
    source = {
        full: tensor for prefix, module in exported.items() for full, tensor in list_tensors(prefix, module).items()
    }
    # The modules themselves are written, so a tensor's exported name is its name within the tower.
    place = {full: full.removeprefix(f"{root}.") if under else full for full in source}
    _, audit = account(
        source, place.get, {place[full]: tensor for full, tensor in source.items()}, adapters, trained.is_trained
    )
    stayed = {module_of(full) for full in model.state_dict() if full not in source}
    audit.left_out.update(dict.fromkeys(sorted(stayed), "this folder holds only one encoder of the trained model"))
    return audit


def list_behind(model: Any, encoder: str) -> list[str]:
    """The submodules that read the features of an encoder."""
    slot = next((slot for slot in ("connectors", "heads") if hasattr(model, slot)), "")
    if slot:
        return [f"{slot}.{encoder}"]
    return [f"decoders.{decoder}" for decoder, read in model.reads.items() if read == encoder]
