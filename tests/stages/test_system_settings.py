"""What makes a published system and stands in its recipe, beside data and rewards: without it, the model sees or trains
something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medvlm.core.config import component
from medvlm.core.sample import Medium, Sample
from medvlm.data.mixture import Mixture, temper
from medvlm.data.native import make_native_prepare
from medvlm.data.processor import Processor
from medvlm.data.views import Views, make_pictures
from medvlm.preflight.rehearsal.ready import save_tiny
from medvlm.recipe.load import load
from medvlm.train.optim import make_optimizer

Make = Callable[..., Any]


def test_the_first_stage_of_medmo_sees_less_than_the_second(tmp_path: Path) -> None:
    recipe = load("systems/medmo.yaml").recipe
    general, fine = recipe.stages[:2]
    assert general.max_pixels and not fine.max_pixels
    prepare = make_native_prepare(Processor(save_tiny("qwen3_vl", tmp_path), recipe.model.processor), {}, "", 1000)
    size = (1280, 1600)
    sample = Sample("k", "s", "train", (Medium("film", "0", size),))
    files = {"0": np.zeros(size, np.uint8)}
    counts, canvases = [], []
    for stage in (general, fine):
        own = prepare.limit(stage.max_pixels) if stage.max_pixels else prepare
        seen = own.see(sample, files)
        counts.append(own.num_image_tokens(seen))
        canvases.append(seen.canvas)
    shares = [count / pixels for count, pixels in zip(counts, (general.max_pixels, 1280 * 1280), strict=True)]
    assert counts[0] < counts[1] and abs(shares[0] / shares[1] - 1) < 0.05
    for canvas in canvases:  # a box lies where it lay
        assert canvas is not None
        x1, y1, x2, y2 = canvas.to_canvas((400, 256, 800, 768))
        height, width = canvas.size
        assert np.allclose([x1 / width, y1 / height, x2 / width, y2 / height], [0.25, 0.2, 0.5, 0.6], atol=0.01)


def test_a_volume_of_fleming_vl_is_eleven_pictures_in_a_window_of_its_own() -> None:
    views = load("systems/fleming_vl.yaml").recipe.model.views["volume"]
    volume = np.random.default_rng(0).normal(40, 10, (32, 16, 16)).astype(np.float32)
    medium = Medium("volume", "0", volume.shape, unit="raw")
    shown, plain = make_pictures(volume, medium, views), make_pictures(volume, medium, Views(percentiles=(0, 100)))
    assert (len(shown), len(plain)) == (11, 16)
    assert min(map(np.min, shown)) < 60 and max(map(np.max, shown)) > 200
    brighter = make_pictures(3 * volume + 500, medium, views)
    assert np.abs(np.stack(brighter).astype(int) - np.stack(shown)).max() <= 1


def test_bimedix2_trains_its_connector_alone_and_then_with_adapters_at_a_rate_of_its_own(stage_of: Make) -> None:
    align, instruct = load("systems/bimedix2.yaml").recipe.stages

    def find_rates(config: Any, **changes: Any) -> dict[str, float]:
        """Module -> the rate of its trained parameters."""
        optim = config.optim.model_copy(update=changes)
        lora = config.lora and config.lora.model_dump(exclude_defaults=True)
        stage = stage_of("supervised", trains=list(config.trains), lora=lora, optim=optim.model_dump(by_alias=True))
        optimizer = make_optimizer(stage.model, optim, stage.matches, "s")
        factor_of = {id(p): group["factor"] for group in optimizer.param_groups for p in group["params"]}
        trained = [(name, p) for name, p in stage.model.named_parameters() if p.requires_grad]
        return {("lora" if "lora" in n else n.partition(".")[0]): optim.lr * factor_of[id(p)] for n, p in trained}

    alone, both = find_rates(align), find_rates(instruct)
    assert set(alone) == {"connectors"} and set(both) == {"connectors", "lora"}
    assert both["connectors"] < 0.2 * both["lora"]
    without = find_rates(instruct, lr_of={})
    assert without["connectors"] == without["lora"]


def test_nv_reason_ct_hands_all_tokens_of_a_volume_to_its_language_model() -> None:
    encoder = load("systems/nv_reason_ct.yaml").recipe.model.encoders["volume"]
    facts = component("encoders", encoder.kind).facts(encoder)
    connector = encoder.connector
    assert component("connectors", connector.kind).tokens(connector, facts.grid, facts.width) == 13_824
    pool = component("connectors", "pool3d")
    assert pool.tokens(pool.Config(kind="pool3d", to=[12, 12, 12]), facts.grid, facts.width) == 13_824 // 8


def test_sources_of_vila_m3_come_as_often_as_in_the_paper() -> None:
    stage = load("systems/vila_m3.yaml").recipe.stages[0]
    sizes = {"exams": 80, "vqarad": 10, "slake": 10, "path": 10, "films": 20, "experts": 20}
    weights = temper(stage.mix, sizes, stage.sampling.temperature)
    counts = {name: round(stage.sampling.epochs[name] * size) for name, size in sizes.items()}
    mixture = Mixture(weights, 7, stage.name, counts)
    whole = sum(counts.values())
    assert counts["slake"] == 40 and counts["experts"] == 40 and mixture.length == whole
    assert mixture.used(whole) == counts
    plain = Mixture(stage.mix, 7, stage.name, {})
    assert plain.used(whole)["slake"] != counts["slake"]
