"""One encoder out of a trained model: what becomes of its tensors, and what stays behind."""

from __future__ import annotations

from medvlm.export.audit import Audit, account, named
from medvlm.export.trained import Trained
from medvlm.models.lora import merge
from medvlm.models.parts import module_of


def tower_audit(trained: Trained, under: str, with_behind: bool = False) -> Audit:
    """Folds the adapters in, for good. under: what of the encoder is exported, e.g. its `tower`; "" is all of it.

    with_behind: the connector or head behind it goes along. The parts that stay behind are named under `left_out`.
    """
    model, name = trained.model, trained.encoder
    root = ".".join(filter(None, ("encoders", name, under)))
    exported = {root: model.get_submodule(root)}
    if with_behind:
        behind = next(f"{slot}.{name}" for slot in ("connectors", "heads") if hasattr(model, slot))
        exported[behind] = model.get_submodule(behind)
    adapters = [
        n
        for n, _ in model.named_parameters()
        if ".lora_" in n and n.startswith(tuple(f"{prefix}." for prefix in exported))
    ]
    merge(model)
    source = {full: tensor for prefix, module in exported.items() for full, tensor in named(prefix, module).items()}
    # The modules themselves are what is written, so a tensor's place is its name within the tower.
    place = {full: full.removeprefix(f"{root}.") if under else full for full in source}
    _, audit = account(
        source, place.get, {place[full]: tensor for full, tensor in source.items()}, adapters, trained.is_trained
    )
    stayed = {module_of(full) for full in model.state_dict() if full not in source}
    audit.left_out.update(dict.fromkeys(sorted(stayed), "this folder is one encoder of the trained model"))
    return audit
