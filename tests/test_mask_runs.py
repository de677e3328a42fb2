"""Networks for masks from an archive to a file: trained as MONAI's own loop trains them, with side outputs, and asked
for the mask of a file."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from medvlm import api, cli
from medvlm.compositions._open import open_model
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder
from medvlm.io.images import decode, encode_png
from tests.labelled_run import CARD, COUNT, recipe, write_run
from tests.stages.batches import first
from tests.tiny_run import staged, trained

GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}
INPUT = {"kind": "raw_pixels", "preprocess": {"size": [32, 32], **GREY}}
UNET = {
    "kind": "monai",
    "net": "UNet",
    "classes": ["square"],
    "args": {"channels": [8, 16], "strides": [2], "num_res_units": 1},
}
FIT: dict[str, Any] = {
    "name": "fit",
    "kind": "heads",
    "mix": {"films": 1},
    "trains": ["decoders"],
    "losses": {"square": ["dice", "cross_entropy"]},
    "steps": 20,
    "batch": 4,
    "optim": {"lr": 1.0e-2, "schedule": "constant", "warmup": 0.0, "max_norm": 1.0e6, "weight_decay": 0.0},
}


def write(folder: Path, decoder: dict[str, Any], encoder: dict[str, Any] = INPUT, **fit: Any) -> Path:
    """A recipe of squares of which every pixel is marked."""
    model = {"encoders": {"film": encoder}, "decoders": {"square": decoder}}
    path = write_run(folder, recipe(model=model, stages=[{**FIT, **fit}]))
    for number in range(0, COUNT, 7):
        file = folder / "archive" / f"m{number}.png"
        mask = decode(file.read_bytes(), "0.png")
        file.write_bytes(encode_png(np.where(mask == 9, 0, mask).astype(np.uint8)))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("masks"), UNET)


@pytest.fixture(scope="module")
def run(path: Path) -> RunFolder:
    return trained(path, path.parent / "runs")


def test_the_losses_are_those_of_monais_own_loop(path: Path, run: RunFolder, tmp_path: Path) -> None:
    ignite = pytest.importorskip("ignite.engine")
    from monai.engines import SupervisedTrainer
    from monai.losses import DiceCELoss

    logged = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    ours = [line["loss"] for line in logged if "loss" in line]
    stage = staged(path, tmp_path / "runs", "fit")
    batches = stage.read_batches(0)
    data = []
    for _ in range(20):
        _, items = next(batches)
        labels = torch.stack([item.labels["square"][0] for item in items])[:, None]
        data.append({"image": torch.stack([item.pixels for item in items]), "label": labels})
    batches.close()
    net, losses = stage.model.decoders["square"].net, []
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=data,
        network=net,
        optimizer=torch.optim.AdamW(net.parameters(), 1e-2, betas=(0.9, 0.98), weight_decay=0.0),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1, smooth_dr=1),
        decollate=False,
    )
    trainer.add_event_handler(ignite.Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"].item()))
    trainer.run()
    assert len(ours) == 20 and ours[-1] < 0.7 * ours[0]
    assert ours == pytest.approx(losses, abs=1e-5)


# --- side outputs and pyramids -------------------------------------------------------------------------------

DEEP = {
    **UNET,
    "net": "MedNeXt",
    "args": {
        "init_filters": 4,
        "kernel_size": 3,
        "blocks_down": [1, 1],
        "blocks_bottleneck": 1,
        "blocks_up": [1, 1],
        "deep_supervision": True,
    },
}


def test_losses_of_side_outputs_are_the_deep_supervision_of_monai(tmp_path: Path) -> None:
    from monai.losses import DeepSupervisionLoss, DiceCELoss

    path = write(tmp_path, DEEP, sides={"square": [0.5, 0.25]})
    stage = staged(path, tmp_path / "runs", "fit")
    (micro,) = stage.make_micros(first(stage), 1)
    measured = stage.compute_loss(stage.model, micro, 0)
    names = ["dice", "cross_entropy", "dice.1", "cross_entropy.1", "dice.2", "cross_entropy.2"]
    assert list(measured) == list(stage.weigh(micro)) == [f"square.{name}" for name in names]
    outputs = stage.model.decoders["square"].net(micro.media["film"][micro.rows["square"]])
    assert [tuple(each.shape[2:]) for each in outputs] == [(32, 32), (16, 16), (8, 8)]
    each = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, smooth_nr=1, smooth_dr=1)
    theirs = DeepSupervisionLoss(each, weight_mode="exp")(list(outputs), micro.labels["square"][:, None].float())
    ours = sum(loss.sum / loss.weight for loss in measured.values())
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-6)
    found = stage.validate(stage.model, 4)
    assert "square.dice" in found and "square.dice.1" not in found


@pytest.mark.parametrize(
    ("decoder", "sides", "message"),
    [
        (DEEP, {}, r"square has 2 side outputs, and 0 of them have a weight; give 2 weights, e.g. .*\[0.5, 0.25\]"),
        (DEEP, {"square": [1.0]}, "square has 2 side outputs, and 1 of them"),
        (UNET, {"square": [1.0]}, "square has no side outputs; remove it"),
        (UNET, {"sqare": [1.0]}, "there is no 'sqare' in `losses`, did you mean 'square'"),
    ],
)
def test_every_side_output_has_a_weight(decoder: Any, sides: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, decoder, sides=sides)
    with pytest.raises(RecipeError, match=message):
        staged(path, tmp_path / "runs", "fit")


TIMM = {"kind": "timm", "net": "resnet10t", "preprocess": {"size": [32, 32], **GREY}}


def test_a_pyramid_trains_its_encoder_and_needs_levels(tmp_path: Path) -> None:
    pyramid = {"kind": "fpn", "classes": ["square"], "width": 16}
    both = {"trains": ["encoders", "decoders"], "steps": 3}
    path = write(tmp_path, pyramid, {**TIMM, "levels": [-4, -3, -2, -1]}, **both)
    run = trained(path, tmp_path / "runs")
    assert sum("loss" in line for line in run.metrics.read_text().splitlines()) >= 3
    model: Any = open_model(run.root, needs="decode")[0]
    assert model.model.decoders["square"].pyramid is not None
    with pytest.raises(RecipeError, match=r"fpn reads several layers of its encoder; set `levels` of its encoder"):
        write_and_load(tmp_path, pyramid, TIMM)
    with pytest.raises(RecipeError, match="fpn reads several layers of its encoder; use an encoder that has `levels`"):
        write_and_load(tmp_path, pyramid, INPUT)


def write_and_load(folder: Path, decoder: dict[str, Any], encoder: dict[str, Any]) -> None:
    from medvlm.recipe.load import load

    load(write(folder, decoder, encoder))


# --- the mask of a file ---------------------------------------------------------------------------------------


def test_the_mask_of_a_file_lies_on_its_own_pixels(run: RunFolder, tmp_path: Path, capsys: Any) -> None:
    film, to, page = run.root.parent.parent / "archive" / "f3.png", tmp_path / "mask.png", tmp_path / "mask.html"
    assert cli.main(["segment", str(run.root), str(film), "--to", str(to), "--page", str(page)]) == 0
    said = capsys.readouterr().out
    found = decode(to.read_bytes(), "0.png")
    model: Any = open_model(run.root, needs="decode")[0]
    pixels = torch.from_numpy(decode(film.read_bytes(), "0.png"))
    assert found.shape == tuple(pixels.shape) == (40, 40) and found.dtype == np.uint8
    assert f"square: {int((found == 1).sum()):,} pixels, " in said and str(page) in said
    assert page.read_text().count("data:image/png") == 2
    truth = decode((film.parent / "m3.png").read_bytes(), "0.png")
    overlap = 2 * ((found == 1) & (truth == 1)).sum() / ((found == 1).sum() + (truth == 1).sum())
    assert overlap > 0.6
    with torch.no_grad():
        seen = model.prepare.transforms["film"](film.read_bytes(), "0.png", _medium_of(pixels))[0]
        logits = model.model.decoders["square"].net(seen[None]).softmax(1)
    expected = interpolate(logits, size=(40, 40), mode="bilinear")[0].argmax(0)
    assert (expected.numpy() == found).mean() > 0.999


def _medium_of(pixels: torch.Tensor) -> Any:
    from medvlm.core.sample import Medium

    return Medium("film", "0.png", tuple(pixels.shape))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "mask.nii.gz"], "the mask is of an image; name a file that ends in .png"),
        (["--to", "mask.jpg"], r"name a file that ends in \.nii\.gz, \.nii, \.dcm or \.png"),
        (["--to", "mask.png", "--largest", "sqare"], "has no class 'sqare', did you mean 'square'"),
        (["--to", "mask.png", "--least-ml", "square=1"], "has no spacing, so volumes in ml are unknown"),
        (["--to", "mask.png", "--flip", "depth"], r"--flip depth: there is no such axis \(there are height, width\)"),
        (["--to", "mask.png", "--decoder", "circle"], "--decoder circle: no decoder of masks"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(
    words: list[str], message: str, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    film = run.root.parent.parent / "archive" / "f3.png"
    assert cli.main(["segment", str(run.root), str(film), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


class Threshold(nn.Module):
    """Pixels above 0, between dark (-1) and bright (1), are of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(10.0))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.steepness * torch.cat([-pixels, pixels], 1)


AFFINE = np.array([[-1.5, 0, 0, 30], [0, 0, 2.0, -10], [0, 1.25, 0, 5], [0, 0, 0, 1]])
"""x to the left, y to the head, z to the front."""


def test_the_mask_of_a_volume_has_the_grid_of_its_file_and_follows_the_lines(tmp_path: Path) -> None:
    """Two bright balls in a dark volume, and a network that knows bright from dark: the axes, the windows, the spacing
    and the components are what can go wrong."""
    folder = tmp_path / "archive"
    folder.mkdir()
    volume, truth = _draw_balls()
    for name, voxels in (("v0.nii.gz", volume), ("m0.nii.gz", truth)):
        image = nibabel.Nifti1Image(voxels, AFFINE)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, folder / name)
    (folder / "table.csv").write_text("id,patient\n0,a\n")
    run = trained(_write_volumes(tmp_path), tmp_path / "runs")
    ask: Any = partial(api.segment, run.root, folder / "v0.nii.gz")
    ask(tmp_path / "all.nii.gz")
    found: Any = nibabel.load(tmp_path / "all.nii.gz")
    assert found.shape == volume.shape and np.allclose(found.affine, AFFINE) and found.get_data_dtype() == np.uint8
    marked = np.asarray(found.dataobj)
    assert 2 * ((marked == 1) & (truth == 1)).sum() / ((marked == 1).sum() + (truth == 1).sum()) > 0.9
    (both,) = ask(tmp_path / "again.nii", overlap=0.25, flip=["depth", "width"])
    assert both.parts == 2 and both.ml == pytest.approx(both.pixels * 1.5 * 2 * 1.25 / 1000)
    (large,) = ask(tmp_path / "large.nii.gz", largest=["ball"], page=tmp_path / "page.html")
    (also,) = ask(tmp_path / "least.nii.gz", least_ml={"ball": large.ml / 2})
    assert (large.parts, large.pixels) == (1, also.pixels) and large.pixels < both.pixels
    large_file: Any = nibabel.load(tmp_path / "large.nii.gz")
    kept = np.asarray(large_file.dataobj)
    assert kept[20:30].sum() == 0 < kept[:20].sum() and (tmp_path / "page.html").read_text().count("<figure>") == 24


def _draw_balls() -> tuple[np.ndarray, np.ndarray]:
    """[x, y, z] of 30 x 24 x 18 voxels: a ball of 9 mm at one end and one of 5 mm at the other."""
    at = np.stack(np.meshgrid(*map(np.arange, (30, 24, 18)), indexing="ij"), -1)
    mm = at * np.abs(AFFINE[:3, :3]).sum(0)
    truth = np.zeros(at.shape[:3], np.uint8)
    for centre, radius in (((9, 12, 9), 9.0), ((26, 14, 10), 5.0)):
        truth[np.linalg.norm(mm - np.array(centre) * np.abs(AFFINE[:3, :3]).sum(0), axis=-1) < radius] = 1
    return truth.astype(np.int16) * 900 + 50, truth


def _write_volumes(folder: Path) -> Path:
    import yaml

    reader = {
        "kind": "table",
        "file": "table.csv",
        "key": "{id}",
        "patient": "{patient}",
        "media": [{"file": "v{id}.nii.gz", "kind": "volume"}],
        "mask": {"file": "m{id}.nii.gz", "values": {"ball": 1}, "template": "ball"},
    }
    card = {**CARD, "name": "balls", "media": ["volume"], "units": "raw", "reader": reader}
    card["splits"] = {"by": "patient", "ratios": {"train": 1.0}}
    before = {"size": [8, 16, 16], "spacing_mm": [1.5, 1.5, 1.5], "fit": "crop", "window": [0, 1000], **GREY}
    model = {
        "encoders": {"volume": {"kind": "raw_pixels", "preprocess": before}},
        "decoders": {"ball": {"kind": "module", "path": "tests.test_mask_runs.Threshold", "classes": ["ball"]}},
    }
    fit = {**FIT, "mix": {"scans": 1}, "losses": {"ball": ["dice"]}, "steps": 1, "batch": 1}
    whole = recipe(model=model, stages=[fit], data={"scans": {"card": "card.yaml"}}, plugins=["tests"])
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    path = folder / "recipe.yaml"
    whole["data"]["scans"]["root"] = str(folder / "archive")
    path.write_text(yaml.safe_dump({key: value for key, value in whole.items() if key != "evaluate"}))
    return path
