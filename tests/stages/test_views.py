"""Several films of a study against one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medvlm.compositions.dual import EmbeddingModel
from medvlm.core.errors import DataError
from medvlm.core.sample import Sample
from medvlm.data.augment import Augment
from medvlm.data.order import draw
from medvlm.io.images import decode
from medvlm.stages._base import augment_sample

Make = Callable[..., Any]


def make(stage_of: Make, **changes: Any) -> Any:
    stage = stage_of("contrastive", **{"batch": 4, "views": 2, **changes})
    stage.model.eval()
    return stage


def make_study(stage: Any, *numbers: int, kind: str = "") -> tuple[Sample, dict[str, bytes]]:
    """The films of several samples as one study, with the report of the first. kind: of the last film."""
    view = stage.setup.open_source("films", "train", stage.wants)
    read = [view.read(number) for number in numbers]
    media = [replace(sample.media[0], member=f"{n}.png") for n, (sample, _) in enumerate(read)]
    if kind:
        media[-1] = replace(media[-1], kind=kind)
    files = {f"{n}.png": files[sample.media[0].member] for n, (sample, files) in enumerate(read)}
    return replace(read[0][0], media=tuple(media)), files


def prepare(stage: Any, sample: Sample, files: dict[str, bytes], position: int = 0) -> Any:
    return stage.prepare_sample(sample, files, 0, position)


def test_a_study_is_the_mean_of_its_views_and_of_those_that_it_has(stage_of: Make) -> None:
    stage = make(stage_of)
    groups = [(0, 1), (2,), (3, 4), (5,)]
    (micro,) = stage.make_micros([prepare(stage, *make_study(stage, *group)) for group in groups], 1)
    assert micro.order_NV.tolist() == [[0, 1], [2, -1], [3, 4], [5, -1]] and micro.media["film"].shape[0] == 6
    outputs = stage.model(micro)
    single = make(stage_of, views=1)
    alone = [
        stage.model.embed_media({"film": prepare(single, *make_study(single, n)).pixels[None]})[0] for n in range(6)
    ]
    expected = torch.stack([normalize(torch.stack([alone[n] for n in group]).mean(0), dim=0) for group in groups])
    torch.testing.assert_close(outputs["media_NP"], expected, rtol=1e-5, atol=1e-6)
    assert outputs["texts_NP"].shape[0] == 4
    (slope,) = torch.autograd.grad(
        stage.compute_loss(stage.model, micro, 0)["loss"].sum, stage.model.heads["film"].weight
    )
    assert slope.abs().max() > 0


def test_of_more_films_some_are_drawn_by_the_position(stage_of: Make) -> None:
    stage = make(stage_of)
    study = make_study(stage, 0, 1, 2)
    films = [prepare(make(stage_of, views=1), *make_study(stage, n)).pixels for n in range(3)]

    def find_shown(position: int) -> tuple[int, ...]:
        pair = prepare(stage, *study, position)
        shown = [pair.pixels, *(pixels for _, pixels in pair.further)]
        return tuple(next(n for n, film in enumerate(films) if torch.equal(film, pixels)) for pixels in shown)

    drawn = [find_shown(position) for position in range(30)]
    assert set(drawn) == {(0, 1), (0, 2), (1, 2)} and drawn == [find_shown(position) for position in range(30)]


def test_films_that_no_encoder_takes_are_missing_views(stage_of: Make) -> None:
    stage = make(stage_of)
    pair = prepare(stage, *make_study(stage, 0, 1, kind="smear"))
    assert not pair.further and pair.encoder == "film"
    with pytest.raises(DataError, match="no encoder of the model takes any of its media"):
        prepare(stage, *make_study(stage, 0, kind="smear"))


def test_a_mirrored_study_is_mirrored_in_all_its_films_and_has_one_report(stage_of: Make) -> None:
    stage = make(stage_of)
    study, files = make_study(stage, 0, 1)
    study = replace(study, report="A mass on the left.", questions=())
    change, seen = Augment(flip=True, sides=(("left", "right"),)), set()
    for position in range(12):
        sample, arrays = augment_sample(study, files, change, partial(draw, 0, position), 2)
        is_mirrored = [not np.array_equal(arrays[name], decode(files[name], name)) for name in ("0.png", "1.png")]
        assert is_mirrored[0] == is_mirrored[1] == (sample.report == "A mass on the right.")
        for name in ("0.png", "1.png") if is_mirrored[0] else ():
            assert np.array_equal(arrays[name][:, ::-1], decode(files[name], name))
        seen.add(is_mirrored[0])
    assert seen == {True, False}
    only_first = augment_sample(study, files, Augment(rotate90=True), lambda: draw(0, 1), 1)[1]
    assert only_first["1.png"] is files["1.png"]


def test_an_embedded_study_is_that_of_training(stage_of: Make) -> None:
    stage = make(stage_of)
    study, short = make_study(stage, 0, 1, 2), make_study(stage, 3)
    opened = EmbeddingModel(stage.model, stage.setup.prepare, stage.tokenizer, stage.config.text, 2)
    (micro,) = stage.make_micros([prepare(stage, *make_study(stage, 0, 1)), prepare(stage, *short)], 1)
    expected = stage.model(micro)["media_NP"].detach().numpy()
    assert np.allclose(opened.embed_media([study, short]), expected, atol=1e-6), "the first two films"


def test_terms_read_one_film(stage_of: Make) -> None:
    terms: Any = {"local": {"kind": "word_regions", "width": 8}}
    with pytest.raises(Exception, match=r"views.*terms read the patches of one medium; leave it at 1"):
        stage_of("contrastive", terms=terms, views=2, trains=["encoders", "text", "heads", "terms"])
