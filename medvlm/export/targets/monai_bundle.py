"""A network of MONAI that draws masks, as a bundle: `monai.bundle.load` and `python -m monai.bundle run` take it.

configs/inference.json reads files, resamples them, runs the network in windows where the model has a spacing, and
writes masks on the grid of each file. The parity proof compares the network on prepared pixels. MONAI's transforms
interpolate otherwise than medvlm's, so a mask may differ at its edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from medvlm.core.config import component
from medvlm.core.contracts import Preprocess
from medvlm.core.decoder_config import DecoderConfig, list_drawing
from medvlm.core.run import write_json
from medvlm.export.audit import Audit, account, list_tensors
from medvlm.export.fits import library_of
from medvlm.export.proof import reference as references
from medvlm.export.trained import Holds, Trained
from medvlm.models.decoding import Decoding, Labelled, name_output
from medvlm.models.lora import merge
from medvlm.models.parts import module_of

LIBRARY, LOADER = "monai", "medvlm.export.proof.bundle_child"
HOLDS = Holds(Decoding, order=7)
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
AXES = "SPL"
"""Of a volume, see io/nifti.py: depth towards the head, height towards the back, width towards the patient's left."""
LOADING = """\
```
python -m monai.bundle run --config_file FOLDER/configs/inference.json --bundle_root FOLDER --dataset_dir FILES
```

FILES is a folder; the masks are written to FOLDER/eval. In Python, the folder's name is that of the bundle:

```python
import monai
network = monai.bundle.load("NAME", bundle_dir="WHERE", workflow_type="inference")
```"""


def reason(model: Any, stages: Sequence[Any], part: str = "") -> str | None:
    """Needs one decoder, a whole network of MONAI, and preprocessing that MONAI's transforms can do."""
    drawing = list_drawing(model.decoders, draws=False)
    if len(drawing) != 1:
        return f"it has {len(drawing)} decoders ({', '.join(drawing)}), and a bundle holds one network"
    ((name, decoder),) = drawing.items()
    if library_of("decoders", decoder) != LIBRARY:
        return f"decoders.{name} is of kind {decoder.kind}, not a network of MONAI"
    if why := component("decoders", decoder.kind).not_stock(decoder):
        return f"decoders.{name}.{why}"
    return next((why for n, e in model.encoders.items() if (why := _check_preprocessing(n, e.preprocess))), None)


def _check_preprocessing(encoder: str, before: Preprocess | None) -> str | None:
    where = f"encoders.{encoder}.preprocess"
    if before is None:
        return None
    if before.stack > 1 or before.tiles or before.windows:
        return f"{where} joins several views or windows, which a bundle of this form does not"
    if before.spacing_mm is None and before.fit == "crop":
        return f"{where}.fit is crop, which MONAI has no transform for; use squash, or spacing_mm"
    if len(before.size) == 3 and before.window is None and before.percentiles is None:
        return f"{where} has no window and no percentiles, so the range of a volume is that of its type of numbers"
    if len(before.size) == 3 and before.channels != 1:
        return f"{where}.channels is {before.channels}, and a bundle of this form takes volumes of one channel"
    return None


def write_reference(trained: Trained, folder: Path) -> None:
    (name,), encoder = trained.model.decoders, trained.encoder

    def compute(_: Any, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = trained.model(Labelled({encoder: pixels}, {name: torch.arange(len(pixels))}))
        return {"logits": outputs[name_output(name)]}

    references.write_features(trained, folder, compute)


def write(trained: Trained, folder: Path) -> Audit:
    """Folds adapters into the model permanently."""
    (name,), before = trained.model.decoders, trained.preprocess[trained.encoder]
    root = f"decoders.{name}.net"
    adapters = [each for each, _ in trained.model.named_parameters() if ".lora_" in each and each.startswith(root)]
    merge(trained.model)
    source = list_tensors(root, trained.model.get_submodule(root))
    stored = {full.removeprefix(f"{root}."): tensor.contiguous() for full, tensor in source.items()}
    _, audit = account(source, lambda full: full.removeprefix(f"{root}."), stored, adapters, trained.is_trained)
    others = {module_of(full) for full in trained.model.state_dict() if full not in source}
    audit.left_out |= dict.fromkeys(sorted(others), "the network of MONAI reads the pixels themselves")
    (folder / "models").mkdir()
    torch.save(stored, folder / "models" / "model.pt")
    decoder = list_drawing(trained.recipe.model.decoders, draws=False)[name]
    network = component("decoders", decoder.kind).describe_network(decoder, before.shape)
    write_json(folder / "configs" / "inference.json", describe_inference(network, before, decoder))
    write_json(folder / "configs" / "metadata.json", describe_bundle(trained, decoder, network, before))
    return audit


def describe_inference(network: dict[str, Any], before: Preprocess, decoder: DecoderConfig) -> dict[str, Any]:
    """The workflow of a bundle: files of `dataset_dir` -> masks in `output_dir`."""
    if before.spacing_mm is None:
        inferer: dict[str, Any] = {"_target_": "SimpleInferer"}
    else:
        inferer = {"_target_": "SlidingWindowInferer", "roi_size": list(before.size), "overlap": 0.5}
        inferer |= {"mode": "gaussian", "sw_batch_size": 2}
    return {
        "imports": ["$from pathlib import Path"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list_transforms(before)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': str(file)} for file in sorted(Path(@dataset_dir).iterdir())]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": inferer,
        "postprocessing": {"_target_": "Compose", "transforms": list_steps_back(before, decoder)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def list_steps_back(before: Preprocess, decoder: DecoderConfig) -> list[dict[str, Any]]:
    """From logits to a mask on the grid of its file. Of an image, a PNG of 0 and 255, or of the numbers of classes that
    exclude each other; others of several classes are a NIfTI with a channel for each, which a PNG cannot hold."""
    exclusive = decoder.exclusive
    back = {"transform": "@preprocessing", "orig_keys": "image", "nearest_interp": False, "to_tensor": True}
    chosen: dict[str, Any] = {"argmax": True} if exclusive else {"threshold": 0.5}
    picture: dict[str, Any] = {}
    if len(before.size) == 2:
        is_png, is_one = exclusive or len(decoder.classes) == 1, len(decoder.classes) == 1
        picture = {"output_ext": ".png" if is_png else ".nii.gz", "resample": False}
        picture |= {"scale": 255} if is_one else {}  # which makes 1 of all numbers above it
    stored = {"output_dir": "@output_dir", "output_dtype": "$np.uint8", **picture}
    return [
        {"_target_": "Activationsd", "keys": "pred", "softmax": exclusive, "sigmoid": not exclusive},
        {"_target_": "Invertd", "keys": "pred", **back},
        {"_target_": "AsDiscreted", "keys": "pred", **chosen},
        {"_target_": "SaveImaged", "keys": "pred", **stored},
    ]


def list_transforms(before: Preprocess) -> list[dict[str, Any]]:
    """MONAI's transforms for one file, in the order of medvlm: intensities first, so that black is what lies outside,
    then the size, then mean and standard deviation."""
    if len(before.size) == 2:
        reader = {"_target_": "PILReader", "converter": _write_converter(before)}
        steps: list[dict[str, Any]] = [
            {"_target_": "LoadImaged", "keys": "image", "reader": reader},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]},  # MONAI has the width first
        ]
    else:
        steps = [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": AXES, "labels": None},
        ]
    low, high = before.window or (0, 255)
    scale = {"keys": "image", "b_min": 0.0, "b_max": 1.0, "clip": True}
    if before.percentiles is not None:
        lower, upper = before.percentiles
        steps.append({"_target_": "ScaleIntensityRangePercentilesd", **scale, "lower": lower, "upper": upper})
    else:
        steps.append({"_target_": "ScaleIntensityRanged", **scale, "a_min": low, "a_max": high})
    size = list(before.size)
    if before.spacing_mm is not None:
        spacing = {"keys": "image", "pixdim": list(before.spacing_mm), "mode": "bilinear"}
        steps += [
            {"_target_": "Spacingd", **spacing},
            {"_target_": "SpatialPadd", "keys": "image", "spatial_size": size},
        ]
    else:
        mode = "bicubic" if len(size) == 2 else "trilinear"
        steps.append(
            {"_target_": "Resized", "keys": "image", "spatial_size": size, "mode": mode, "anti_aliasing": False}
        )
    normal = {"subtrahend": list(before.mean), "divisor": list(before.std), "channel_wise": True}
    return [*steps, {"_target_": "NormalizeIntensityd", "keys": "image", **normal}]


def _quote(name: str) -> str:
    """MONAI runs, looks up or reads from a file what begins with one of these signs."""
    return f"class {name}" if name.startswith(("$", "@", "%")) else name


def _write_converter(before: Preprocess) -> str:
    """Of a picture by Pillow, which makes white of all that is above 255 in one of 16 bits. Without a window their
    range is that of 8 bits; with one, values stay as they are."""
    mode = "RGB" if before.channels == 3 else "L"
    is_plain = before.window is None and before.percentiles is None
    deep = "file.convert('F')" + (".point(lambda grey: grey * (1 / 257) + 0)" if is_plain else "")
    deep += f".convert('L').convert('{mode}')" if mode != "L" else ""
    return f"$lambda file: {deep} if file.mode.startswith('I') else file.convert('{mode}')"


def describe_bundle(trained: Trained, decoder: Any, network: dict[str, Any], before: Preprocess) -> dict[str, Any]:
    """metadata.json. Each class is a channel; the background is the first one where classes exclude each other."""
    import monai
    import numpy

    names = [*(["background"] if decoder.exclusive else []), *decoder.classes]
    size = list(before.size)
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by medvlm"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__),
        "numpy_version": numpy.__version__,
        "required_packages_version": {"pytorch-ignite": "0.5.0", "nibabel": "5.0.0"},
        "name": trained.recipe.name,
        "task": f"masks of {', '.join(decoder.classes)}",
        "description": f"{network['_target_']} of MONAI, trained with medvlm. README.md names its data and its limits.",
        "authors": "see README.md",
        "copyright": "see README.md",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": before.channels,
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": before.spacing_mm is not None,
                    "channel_def": {str(number): f"channel {number}" for number in range(before.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "spatial_shape": size,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": before.spacing_mm is not None,
                    "channel_def": {str(number): _quote(name) for number, name in enumerate(names)},
                }
            },
        },
    }
