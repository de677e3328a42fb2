"""Networks for masks in the hands of other programs: a bundle of MONAI, and a graph of ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from medvlm import api
from medvlm.core.config import component
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.export.proof import bundle_child, parity, stock_child
from medvlm.export.targets import monai_bundle
from medvlm.io.images import decode, encode_png
from tests.test_mask_runs import GREY, UNET, write
from tests.tiny_run import trained, written

SIZE = (24, 40, 48)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    path = write(tmp_path_factory.mktemp("masks"), UNET)
    return trained(path, path.parent / "runs")


def prove_here(folder: Path, made: Path, loader: str = "stock") -> dict[str, Any]:
    """The proof in this process; the slow test starts its own."""
    import torch

    expected = json.loads((made / "reference.json").read_text())
    tensors = torch.load(made / "reference.pt", weights_only=True)
    with torch.inference_mode():
        is_bundle = loader.endswith("bundle_child")
        found = (
            bundle_child.compare(folder, expected, tensors) if is_bundle else stock_child.compare(made, folder, loader)
        )
    return parity.judge(expected, found)


def run_bundle(folder: Path, images: Path, **overrides: Any) -> dict[str, Path]:
    """File -> its mask, by MONAI's own workflow."""
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        workflow_type="inference",
        config_file=str(folder / "configs" / "inference.json"),
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=False,
        bundle_root=str(folder),
        dataset_dir=str(images),
        device="cpu",
        **overrides,
    )
    workflow.initialize()
    assert not workflow.check_properties(), "it has all that MONAI asks of a bundle"
    workflow.run()
    return {file.name.partition(".")[0].removesuffix("_trans"): file for file in (folder / "eval").rglob("*_trans.*")}


def test_monai_draws_what_the_model_draws(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "prove", prove_here)
    (receipt,) = api.export(run.root, tmp_path / "squares", targets=["monai_bundle"])
    proof = json.loads((tmp_path / "squares" / "medvlm" / "parity.json").read_text())
    assert receipt.kind == "monai_bundle" and proof["class"] == "UNet" and proof["max_abs_embedding_diff"] <= 1e-4
    images, rng = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    square = rng.normal(60, 20, (50, 70))
    square[10:30, 20:50] += 110
    (images / "a.png").write_bytes(encode_png(square.clip(0, 255).astype(np.uint8)))
    found = decode(run_bundle(tmp_path / "squares", images)["a"].read_bytes(), "a")
    api.segment(run.root, images / "a.png", tmp_path / "own.png")
    own = decode((tmp_path / "own.png").read_bytes(), "own")
    assert found.shape == own.shape == (50, 70) and 0 < (own > 0).mean() < 1
    assert ((found > 0) == (own > 0)).mean() > 0.97


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    ready = {"size": [16, 32, 32], "spacing_mm": [8.0, 8.0, 8.0], "fit": "crop", "window": [-1000, 400], **GREY}
    decoder = {**UNET, "classes": ["nodule", "clip"], "exclusive": True}
    model = {
        "encoders": {"volume": {"kind": "raw_pixels", "preprocess": ready}},
        "decoders": {"structures": decoder},
    }
    fit = {"name": "fit", "kind": "heads", "mix": {"volumes": 1}, "trains": ["decoders"], "steps": 4, "batch": 2}
    fit |= {"losses": {"structures": ["dice"]}, "optim": {"lr": 1.0e-2}}
    whole = {
        "name": "volumes",
        "seed": 7,
        "model": model,
        "data": {"volumes": {"card": "card.yaml"}},
        "stages": [fit],
        "engine": {"device": "cpu", "workers": 1},
        "export": {"target": "monai_bundle"},
    }
    card = {
        "name": "tiny",
        "title": "Tiny volumes",
        "summary": "Generated volumes for tests.",
        "licence": {"id": "CC0-1.0", "commercial": True},
        "access": "generated",
        "phi": {"status": "synthetic"},
        "patient_key": "patient",
        "media": ["volume"],
        "reader": {"kind": "phantom", "volumes": 24, "masks": True, "volume_size": list(SIZE)},
    }
    path = written(tmp_path_factory.mktemp("volumes"), whole, card)
    return trained(path, path.parent / "runs")


def test_a_volume_comes_back_on_its_own_grid(
    volumes: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read in windows, turned and resampled by MONAI, and back."""
    monkeypatch.setattr(parity, "prove", prove_here)
    api.export(volumes.root, tmp_path / "ct")
    images, rng = tmp_path / "images", np.random.default_rng(0)
    images.mkdir()
    hu = (rng.normal(-800, 60, (48, 40, 24))).astype(np.int16)
    hu[10:30, 8:30, 6:18] = 40
    affine = np.array([[-6.5, 0, 0, 100], [0, 7.0, 0, -80], [0, 0, 8.0, 20], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(hu, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, images / "a.nii.gz")
    found: Any = nibabel.load(run_bundle(tmp_path / "ct", images)["a"])
    api.segment(volumes.root, images / "a.nii.gz", tmp_path / "own.nii.gz")
    own: Any = nibabel.load(tmp_path / "own.nii.gz")
    assert np.allclose(found.affine, affine) and np.allclose(own.affine, affine) and found.shape == own.shape
    labels, theirs = np.asarray(own.dataobj), np.asarray(found.dataobj)
    assert len(np.unique(labels)) > 1, "it draws something"
    agreement = (theirs == labels).mean()
    assert agreement > 0.9, "libraries interpolate differently"
    assert all((np.flip(theirs, axis) == labels).mean() < agreement - 0.05 for axis in range(3)), "no axis is turned"


@pytest.mark.parametrize("window", [None, [0, 1000]])
def test_pictures_of_16_bits_keep_their_range(window: list[int] | None, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    before = Preprocess.model_validate({"size": [4, 8], **GREY, "window": window})
    transforms = ConfigParser({"before": {"_target_": "Compose", "transforms": monai_bundle.list_transforms(before)}})
    pixels = (np.arange(32).reshape(4, 8) * (30 if window else 2000)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(encode_png(pixels))
    seen = transforms.get_parsed_content("before")({"image": str(tmp_path / "a.png")})["image"]
    expected = (pixels / (1000 if window else 65535) - 0.5) / 0.5
    np.testing.assert_allclose(np.asarray(seen)[0], expected, atol=1e-5)


HOSTILE = "$__import__('pathlib').Path('PLACE').touch()"


@pytest.mark.parametrize(
    ("classes", "exclusive", "ending", "shape", "values"),
    [
        (["a", "b", "c"], True, ".png", (50, 70), [0, 1, 2, 3]),
        (["a"], True, ".png", (50, 70), [0, 255]),
        (["a", "b"], False, ".nii.gz", (70, 50, 1, 2), [0, 1]),
        ([HOSTILE, "%LAA", "@network_def"], True, ".png", (50, 70), [0, 1, 2, 3]),
    ],
)
def test_an_image_of_several_classes_keeps_them(
    classes: list[str], exclusive: bool, ending: str, shape: tuple[int, ...], values: list[int], tmp_path: Path
) -> None:
    """Whatever they are called: MONAI runs and looks up texts that begin with a sign."""
    import torch
    from monai.bundle import load

    classes = [each.replace("PLACE", str(tmp_path / "ran")) for each in classes]
    module, (folder, images) = component("decoders", "monai"), (tmp_path / "bundle", tmp_path / "images")
    before = Preprocess.model_validate({"size": [32, 32], **GREY})
    config = module.Config.model_validate({**UNET, "classes": classes, "exclusive": exclusive})
    torch.manual_seed(1)
    net = module.build(config, 8, (2, 2), before.shape).net
    network = module.describe_network(config, before.shape)
    for each in (folder / "models", images):
        each.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    write_json(folder / "configs" / "inference.json", monai_bundle.describe_inference(network, before, config))
    trained_: Any = SimpleNamespace(recipe=SimpleNamespace(name="n"))
    about = monai_bundle.describe_bundle(trained_, config, network, before)
    write_json(folder / "configs" / "metadata.json", about)
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70)).astype(np.uint8)
    (images / "a.png").write_bytes(encode_png(pixels))
    file = run_bundle(folder, images)["a"]
    stored: Any = None if ending == ".png" else nibabel.load(file)
    drawn = decode(file.read_bytes(), "a") if stored is None else np.asarray(stored.dataobj)
    assert file.name.endswith(ending) and drawn.shape == shape and np.unique(drawn).tolist() == values
    load("bundle", bundle_dir=tmp_path, workflow_type="inference", device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_graph_gives_the_maps_of_every_decoder(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(parity, "prove", prove_here)
    (receipt,) = api.export(run.root, tmp_path / "graph", targets=["onnx"])
    proof = json.loads((tmp_path / "graph" / "medvlm" / "parity.json").read_text())
    assert set(proof["diffs"]) == {"image_patches", "image_pooled", "square"} and receipt.kind == "onnx"
    assert not any(name.startswith("decoders.") for name in receipt.audit.left_out)


@pytest.mark.slow
def test_the_proof_of_a_bundle_runs_in_a_process_of_its_own(run: RunFolder, tmp_path: Path) -> None:
    assert api.export(run.root, tmp_path / "squares", targets=["monai_bundle"])[0].kind == "monai_bundle"


@pytest.mark.parametrize(
    ("decoder", "encoder", "why"),
    [
        (
            {"kind": "conv_mask", "classes": ["square"]},
            {},
            "decoders.square is of kind conv_mask, not a network of MONAI",
        ),
        (UNET, {"fit": "crop"}, "preprocess.fit is crop, which MONAI has no transform for"),
    ],
)
def test_what_no_bundle_holds_is_refused(
    decoder: dict[str, Any], encoder: dict[str, Any], why: str, tmp_path: Path
) -> None:
    tower = {"kind": "raw_pixels", "preprocess": {"size": [32, 32], **GREY, **encoder}}
    path = write(tmp_path, decoder, tower)
    with pytest.raises(RecipeError, match=why):
        api.validate(path, overrides=["export.target=monai_bundle"])
