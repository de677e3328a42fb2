"""One encoder of volumes as a checkpoint of nnssl, which nnU-Net's fine-tuning takes:
`nnUNetv2_preprocess_like_nnssl -pc FOLDER/checkpoint.pth`, then training with its trainers for pretrained networks.

nnU-Net reads the weights of the encoder and its stem, the spacing and the patch size; the decoder starts anew
(MIC-DKFZ/nnUNet, experiment_planning/like_nnssl.py and training/nnUNetTrainer/pretraining/pretrainedTrainer.py, at
0e49508). These are not in its release 2.8.1, whose `nnUNetv2_train -pretrained_weights` wants a whole network of the
planned form: with a residual encoder, the file has a decoder too, random as nnU-Net starts it. A Primus is refused
there: the widths of its decoder follow from the number of classes, and no tensor has a name that is left out. Both
scale intensities by mean and deviation of each volume, whatever the encoder was trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medvlm.core.config import component
from medvlm.export.audit import Audit
from medvlm.export.fits import choose_encoder, library_of
from medvlm.export.part import merge_and_audit
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained

LIBRARY, LOADER = "nnunet", "medvlm.export.proof.nnunet_child"
HOLDS = Holds(nn.Module, order=2, is_part=True)
NAME = "checkpoint.pth"
LOADING = """\
```
nnUNetv2_plan_and_preprocess -d DATASET
nnUNetv2_preprocess_like_nnssl -d DATASET -n NAME -pc FOLDER/checkpoint.pth -am like_pretrained
nnUNetv2_train DATASET 3d_fullres FOLD -p ptPlans__NAME____... -tr PretrainedTrainer_Primus
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs an encoder of a network of nnU-Net, of one of the forms that it builds."""
    name, encoder, why = choose_encoder(model, part)
    if why:
        return why
    if library_of("encoders", encoder) != LIBRARY:
        return f"encoders.{name} is of kind {encoder.kind}, not a network of nnU-Net"
    module = component("encoders", encoder.kind)
    if why := module.not_stock(encoder):
        return f"encoders.{name}.{why}"
    try:
        module.describe_network(encoder)
    except ValueError as reason:
        return f"encoders.{name}: {reason}"
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    references.write_features(trained, folder, compute)


def compute(encoder: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """The last tokens of a batch. The tower still has its adapters."""
    return {"hidden": encoder(pixels).patches}


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    audit = merge_and_audit(trained, "tower")
    config = trained.recipe.model.encoders[trained.encoder]
    module: Any = component("encoders", config.kind)
    before = trained.preprocess[trained.encoder]
    size = list(before.size)
    plan = {
        **module.describe_network(config),
        "pretrain_plan": {
            "configurations": {"medvlm": {"spacing": list(before.spacing_mm or ()) or None, "patch_size": size}}
        },
        "pretrain_num_input_channels": before.channels,
        "recommended_downstream_patchsize": size,
    }
    tower: Any = trained.model.encoders[trained.encoder].tower
    weights = {
        named: tensor.detach().float().clone()
        for name, tensor in tower.state_dict().items()
        for named in module.name_for_nnunet(name)
    }
    if hasattr(module, "complete_for_nnunet"):
        weights |= module.complete_for_nnunet(config, weights)
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": plan, "citations": []}, folder / NAME)
    return audit
