"""Published systems at toy size, from archives in the layout of their own cards to their evaluation."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from zlib import crc32

import nibabel as nib
import numpy as np
import pytest

from medvlm.cli import main
from medvlm.core.scoring import dump_rule
from medvlm.io.images import encode_npy
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.preflight.rehearsal.small_recipe import make_small_recipe
from medvlm.recipe.load import LoadedRecipe, find_shipped, load
from tests.archive import made_layouts
from tests.openai_server import complete, serve

pytest.importorskip("pyarrow")

SYSTEMS = sorted(path.stem for path in find_shipped("recipes").glob("systems/*.yaml"))
OTHERS = ["bccd", "vqa_rad"]
"""phantom and phantom_3d generate their data: tests/test_recipes.py takes them this way."""
"""Recipe -> the card of which only reports are held out."""


def make_ct(name: str) -> bytes:
    """A NIfTI file: air around a body of water."""
    rng = np.random.default_rng(crc32(name.encode()))  # names of equal letters in another order differ too
    voxels = np.full((40, 48, 24), -1000, np.int16)
    voxels[6:34, 6:42] = rng.integers(-60, 90, (28, 36, 24))
    image = nib.Nifti1Image(voxels, np.diag([6.0, 6.0, 10.0, 1.0]))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes())


def make_drawn(name: str) -> bytes:
    """As make_ct(); or a mask of the same size, with twenty structures."""
    if not name.endswith("_mask"):
        return make_ct(name)
    labels = np.zeros((40, 48, 24), np.uint8)
    for number in range(20):
        labels[6 + number : 10 + number, 8 + number : 20 + number, 4:20] = number + 1
    image = nib.Nifti1Image(labels, np.diag([6.0, 6.0, 10.0, 1.0]))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes())


def make_organs(name: str) -> bytes:
    """The same body, or labels of organs within it."""
    if not name.startswith("label"):
        return make_ct(name)
    labels = np.zeros((40, 48, 24), np.uint8)
    for organ in range(13):
        labels[8 + 4 * (organ % 6) : 12 + 4 * (organ % 6), 8 + 10 * (organ // 6) : 16 + 10 * (organ // 6), 4:20] = (
            organ + 1
        )
    image = nib.Nifti1Image(labels, np.diag([6.0, 6.0, 10.0, 1.0]))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes())


def make_slices(name: str) -> bytes:
    """As the authors of M3D-Cap store them: 1 x 32 x 256 x 256 from 0 to 1."""
    rng = np.random.default_rng(int(name.rpartition("/")[2]))
    return encode_npy(rng.random((1, 32, 256, 256), dtype=np.float32))


SIZES: dict[str, Callable[[Path], None]] = {
    # card -> makes an archive of some dozen samples of every split
    "bccd": partial(made_layouts.bccd, cases=30, zoom=16),
    "bccd_boxes": partial(made_layouts.bccd, cases=30, zoom=16),
    "btcv": partial(made_layouts.btcv, cases=4, make=make_organs),
    "busi": partial(made_layouts.busi, cases=8, zoom=12),
    "chaos_ct": partial(made_layouts.chaos_ct, cases=6, zoom=4),
    "chaos_mr": partial(made_layouts.chaos_mr, cases=6, zoom=4),
    "chest_imagenome": partial(made_layouts.chest_imagenome, cases=8, zoom=12),
    "chexpert": partial(made_layouts.chexpert, cases=6, zoom=12),
    "ct_rate": partial(made_layouts.ct_rate, cases=4, make=make_ct),
    "ct_rate_labels": partial(made_layouts.ct_rate, cases=4, make=make_ct),
    "dsb2018_boxes": partial(made_layouts.dsb2018_boxes, cases=5, zoom=12),
    "iu_xray": partial(made_layouts.iu_xray, cases=24, zoom=12),
    "kvasir_seg": partial(made_layouts.kvasir_seg, cases=8, zoom=12),
    "llava_med_instruct": partial(made_layouts.llava_med_instruct, cases=6, zoom=12),
    "m3d_cap": partial(made_layouts.m3d_cap, cases=6, make=make_slices),
    "m3cotbench": partial(made_layouts.m3cotbench, cases=6, zoom=12),
    "med_mat": partial(made_layouts.med_mat, cases=30, zoom=12),
    "med_multi_points": partial(made_layouts.med_multi_points, cases=20, zoom=12),
    "med_sg": partial(made_layouts.med_sg, cases=100, zoom=8),
    "medmnist_chest": partial(made_layouts.medmnist_chest, cases=4),
    "medmnist_path": partial(made_layouts.medmnist_path, cases=4),
    "medreg_instruct": partial(made_layouts.medreg_instruct, cases=100, zoom=8),
    "medthink_rad": partial(made_layouts.medthink_rad, cases=12, zoom=12),
    "medthink_slake": partial(made_layouts.medthink_slake, cases=12, zoom=12),
    "medtrinity": partial(made_layouts.medtrinity, cases=8, zoom=12),
    "medxpertqa_mm": partial(made_layouts.medxpertqa_mm, cases=6, zoom=12),
    "merlin": partial(made_layouts.merlin, cases=6, make=make_ct),
    "mimic_cxr": partial(made_layouts.mimic_cxr, cases=8, zoom=12),
    "mimic_cxr_pairs": partial(made_layouts.mimic_cxr, cases=8, zoom=12),
    "omnimedvqa": partial(made_layouts.omnimedvqa, cases=6, zoom=12),
    "paxray": partial(made_layouts.paxray, cases=5, zoom=12),
    "puma": partial(made_layouts.puma, cases=5),
    "path_vqa": partial(made_layouts.path_vqa, cases=10, zoom=12),
    "pmc_oa": partial(made_layouts.pmc_oa, cases=10, zoom=12),
    "pmc_vqa": partial(made_layouts.pmc_vqa, cases=10, zoom=12),
    "quilt_1m": partial(made_layouts.quilt_1m, cases=10, zoom=12),
    "rocov2": partial(made_layouts.rocov2, cases=10, zoom=12),
    "slake": partial(made_layouts.slake, cases=10, zoom=12),
    "vindr_cxr": partial(made_layouts.vindr_cxr, cases=8, zoom=12),
    **dict.fromkeys(
        ("vindr_cxr_attributes", "vindr_cxr_boxes", "vindr_cxr_known", "vindr_cxr_unknown"),
        partial(made_layouts.vindr_cxr, cases=8, zoom=12),
    ),
    "medmcqa": partial(made_layouts.medmcqa, cases=12),
    "ct_rate_structured": partial(made_layouts.ct_rate, cases=4, make=make_ct),
    **dict.fromkeys(
        ("medvision_sizes", "medvision_distances", "medvision_angles"),
        partial(made_layouts.medvision, cases=12, zoom=12),
    ),
    "bimed_v": partial(made_layouts.bimed_v, cases=20, zoom=12),
    "bimed_v_captions": partial(made_layouts.bimed_v, cases=20, zoom=12, stage=1),
    "mmxu": partial(made_layouts.mmxu, cases=100, zoom=8),
    "vocomni": partial(made_layouts.vocomni, cases=40, make=make_drawn),
    "vqa_rad": partial(made_layouts.vqa_rad, cases=40, zoom=12),
    "vqa_rad_published": partial(made_layouts.vqa_rad, cases=40, zoom=12),
}


FULL = {
    "bccd": (480, 640),
    "busi": (500, 600),
    "chaos_ct": (512, 512),
    "chaos_mr": (320, 320),
    "chest_imagenome": (3056, 2544),
    "chexpert": (320, 390),
    "ct_rate": (300, 512, 512),
    "ct_rate_labels": (300, 512, 512),
    "iu_xray": (2048, 2496),
    "kvasir_seg": (1072, 1920),
    "llava_med_instruct": (1500, 1500),
    "med_mat": (1000, 1000),
    "med_multi_points": (1072, 1920),
    "med_sg": (1024, 1024),
    "medreg_instruct": (1024, 1024),
    "medthink_rad": (1024, 1024),
    "medthink_slake": (1024, 1024),
    "medtrinity": (1024, 1024),
    "merlin": (160, 512, 512),
    "mimic_cxr": (3056, 2544),
    "mimic_cxr_pairs": (3056, 2544),
    "path_vqa": (1000, 800),
    "paxray": (512, 512),
    "puma": (1024, 1024),
    "pmc_oa": (1500, 1500),
    "pmc_vqa": (1500, 1500),
    "quilt_1m": (1080, 1920),
    "rocov2": (1500, 1500),
    "slake": (1024, 1024),
    "vindr_cxr": (3000, 2500),
    **dict.fromkeys(("vindr_cxr_attributes", "vindr_cxr_boxes", "vindr_cxr_known", "vindr_cxr_unknown"), (3000, 2500)),
    "bccd_boxes": (480, 640),
    "dsb2018_boxes": (1040, 1388),
    "ct_rate_structured": (300, 512, 512),
    **dict.fromkeys(("medvision_sizes", "medvision_distances", "medvision_angles"), (512, 512)),
    "bimed_v": (1500, 1500),
    "bimed_v_captions": (1500, 1500),
    "mmxu": (3056, 2544),
    "vocomni": (300, 512, 512),
    "vqa_rad": (1024, 1024),
}
"""Card -> the size of large images of the published data, on which the plan is made."""


def enlarge(shards: Path, size: tuple[int, ...] | None) -> Path:
    """The same samples with images of this size, without their pixels: a plan reads only how large they are."""
    if size is None:
        return shards
    whole, out = open_shards(shards), shards.with_name(f"{shards.name}-full")
    for split in [] if out.is_dir() else whole.splits:
        with closing(ShardWriter(out, split)) as writer:
            for i in range(whole.count(split)):
                sample, files = whole.read(split, i)
                media = tuple(replace(medium, size=size) for medium in sample.media)
                writer.write(replace(sample, media=media), dict.fromkeys(files, b""))
    return out


def pack(card: str, folder: Path) -> Path:
    """The shards of a made archive."""
    root, salt, shards = folder / f"{card}-archive", folder / "salt", folder / f"{card}-shards"
    if shards.is_dir():
        return shards
    root.mkdir(parents=True)
    SIZES[card](root)
    salt.write_text("5b1f0c9a7d3e48621f7a95d0c36be842\n")
    salt.chmod(0o600)
    command = ["data", "pack", f"data_cards/{card}.yaml", "--root", str(root), "--out", str(shards)]
    assert main([*command, "--salt-file", str(salt), "--workers", "1"]) == 0
    return shards


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"systems/{name}" for name in SYSTEMS), *OTHERS])
def test_a_system_goes_from_archives_of_its_cards_to_its_evaluation(
    name: str, archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(f"{name}.yaml")
    shards = {source: pack(Path(entry.card).stem, archives) for source, entry in loaded.recipe.data.items()}
    full = {source: enlarge(where, FULL.get(loaded.cards[source].name)) for source, where in shards.items()}
    places = [f"data.{source}.shards={where}" for source, where in full.items()]
    assert main(["validate", f"{name}.yaml", *places]) == 0
    if not loaded.recipe.stages:
        return evaluate_as_it_is(loaded, shards, tmp_path)
    assert main(["plan", f"{name}.yaml", "--gpus", "h100:8", *places]) == 0
    planned = capsys.readouterr().out
    assert planned.count("  fits: ") == len(loaded.recipe.stages) and "not used:" not in planned, planned
    small, _ = make_small_recipe(loaded, shards, tmp_path)
    run = tmp_path / "runs" / loaded.recipe.name
    assert main(["train", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs")]) == 0
    steps = [json.loads((run / stage.name / "stage.json").read_text())["step"] for stage in small.recipe.stages]
    assert steps == [stage.steps for stage in small.recipe.stages]
    if loaded.recipe.evaluate.pairs():  # a card without labels has nothing to ask of an encoder
        assert main(["evaluate", str(run)]) == 0
        check_results(loaded, run)


def evaluate_as_it_is(loaded: LoadedRecipe, shards: dict[str, Path], folder: Path) -> None:
    """A recipe without stages: all of its protocols on all samples, by a tiny model, or one behind a server."""
    make_small_recipe(loaded, shards, folder)
    run = folder / "runs" / loaded.recipe.name
    composition = loaded.recipe.model.composition
    command = ["evaluate", str(folder / "recipe.yaml"), "--runs", str(folder / "runs"), "evaluate.samples=0"]
    with serve(lambda body: complete("yes")) as url:
        where = [f"model.composition.url={url}", "model.composition.model=tiny"] if composition else []
        assert main([*command, *where]) == 0
    check_results(loaded, run)
    for config in loaded.recipe.evaluate.protocols:
        kind = config if isinstance(config, str) else config.kind
        assert (run / "evaluate" / f"{kind}.jsonl").read_text(), kind
    assert main(["report", str(run)]) == 0


def check_results(loaded: LoadedRecipe, run: Path) -> None:
    """Every split of `evaluate.on` has results, those of reports and of the card's own scoring rules too."""
    rows = json.loads((run / "evaluate" / "results.json").read_text())
    for source, split in loaded.recipe.evaluate.pairs():
        card = loaded.cards[source].name
        found = {row["task"] for row in rows if (row["dataset"], row["split"]) == (card, split)}
        rules = {dump_rule(rule)["kind"] for rule in loaded.cards[source].scoring}
        assert found and rules <= found, rows
