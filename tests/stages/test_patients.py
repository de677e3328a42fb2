"""Several media of a sample as one bag: a patient with one to five films, read by attention over those there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from medvlm.compositions._decoding import DecodingModel
from medvlm.core.ask import Ask
from medvlm.core.config import component
from medvlm.data.bags import choose_media
from medvlm.models.decoding import make_bags
from medvlm.models.parts import encode
from medvlm.recipe.load import load
from medvlm.train.terms import OfSource
from tests.labelled_run import ENCODER
from tests.patients_run import DECODERS, LOSSES, write_patients
from tests.stages.batches import first
from tests.tiny_run import staged

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("patients")


@pytest.fixture
def make(packed: Path) -> Make:
    def stage(*overrides: str, **changes: Any) -> Any:
        return staged(write_patients(packed, **changes), packed / "runs", "fit", *overrides)

    return stage


def read_all(stage: Any) -> list[tuple[Any, Any]]:
    view = stage.setup.open_source("films", "train", stage.wants)
    return [view.read(number) for number in range(len(view))]


def answer_by_hand(model: Any, name: str, films: torch.Tensor) -> torch.Tensor:
    """Ilse et al. 2018, equations 7 and 9, over the films of one patient alone."""
    decoder, vectors = model.decoders[name], encode(model.encoders["film"], films, "film").pooled
    pool = decoder.attend
    scores = [(pool.score.weight[0] * torch.tanh(pool.content(h)) * torch.sigmoid(pool.gate(h))).sum() for h in vectors]
    total = sum(map(torch.exp, scores))
    return decoder.classify(sum(torch.exp(s) / total * h for s, h in zip(scores, vectors, strict=True)))


def test_a_patient_is_the_weighted_mean_of_the_films_that_there_are(make: Make) -> None:
    """The loss of patients of different numbers of films, and its gradient in the encoder too, in float64."""
    stage = make(batch=8)
    stage.model.double()
    items = first(stage)
    films_of = [torch.stack([item.pixels, *item.further]).double() for item in items]
    assert {len(films) for films in films_of} == {1, 2, 3}
    (micro,) = stage.make_micros(items, 1)
    micro.media = {name: pixels.double() for name, pixels in micro.media.items()}
    assert len(micro.media["film"]) == sum(map(len, films_of)) and len(micro.rows["ill"]) == 8
    losses = stage.compute_loss(stage.model, micro, 0)
    assert losses["ill.cross_entropy"].weight == 8, "one loss a patient, whatever the number of films"
    labels = torch.stack([item.labels["ill"][0] for item in items])
    expected = torch.stack([answer_by_hand(stage.model, "ill", films) for films in films_of])
    torch.testing.assert_close(stage.model(micro)["decoders.ill"], expected)
    whole = [*stage.model.encoders.parameters(), *stage.model.decoders["ill"].parameters()]
    loss = cross_entropy(expected, labels, reduction="sum")
    found = torch.autograd.grad(losses["ill.cross_entropy"].sum, whole)
    for own, slope in zip(found, torch.autograd.grad(loss, whole), strict=True):
        torch.testing.assert_close(own, slope, rtol=1e-5, atol=1e-7)
    first_films = torch.stack([films[0] for films in films_of])
    pooled = encode(stage.model.encoders["film"], first_films, "film").pooled
    alone = stage.model.decoders["first"].classify(pooled)
    torch.testing.assert_close(stage.model(micro)["decoders.first"], alone)


def test_of_more_films_training_draws_some_and_counts_the_others(make: Make) -> None:
    stage = make(batch=8)
    sample, files = next(each for each in read_all(stage) if len(each[0].media) == 5)
    members = [medium.member for medium in sample.media]
    drawn = [[m.member for m in stage.choose_views(sample, position).media] for position in range(40)]
    assert all(len(each) == 3 and each == sorted(each) and each[0] == members[0] for each in drawn)
    assert {name for each in drawn for name in each} == set(members), "every film is seen in time"
    again = [[m.member for m in stage.choose_views(sample, position).media] for position in range(40)]
    assert drawn == again, "by the position, so that a resumed stage draws the same"
    assert len(stage.prepare_sample(sample, files, 0, 0).further) == 2
    items = first(stage)
    beyond = sum(item.left_out for item in items)
    assert beyond and stage.count(items) == {OfSource("films", "media_left_out"): (float(beyond), 0.0)}
    routes = stage.setup.prepare.routes
    assert [m.member for m in choose_media(sample, routes, 3)] == [members[0], members[2], members[4]]
    assert choose_media(sample, routes, 9) == sample.media


def test_a_decoder_of_fewer_media_than_another_reads_to_the_last_one() -> None:
    """Not the first ones alone, which would leave out the latest studies of a patient in every epoch."""
    assert make_bags([range(3, 9), range(2)], 3).tolist() == [[3, 5, 8], [0, 1, -1]]


def test_an_evaluated_patient_is_that_of_training(packed: Path, make: Make) -> None:
    """All three ways to ask: in batches, with scores of one sample, and with the number of what is not read."""
    stage = make(batch=8)
    opened = DecodingModel(stage.model, stage.setup.prepare, load(packed / "recipe.yaml").recipe.model.decoders)
    every = read_all(stage)
    short = [each for each in every if len(each[0].media) <= 3]
    asks = [Ask(sample, files, q) for sample, files in short for q in sample.questions if q.template == "ill"]
    answers = opened.decode(asks)
    items = [stage.prepare_sample(sample, files, 0, 0) for sample, files in short]
    (micro,) = stage.make_micros(items, 1)
    with torch.no_grad():
        stage.model.eval()
        shares = stage.model(micro)["decoders.ill"].softmax(1)
    for (sample, files), said, share in zip(short, answers, shares, strict=True):
        assert said == pytest.approx(share.tolist(), abs=1e-5)
        assert list(opened.score(sample, files)["ill"].values()) == pytest.approx(share.tolist(), abs=1e-5)
    beyond = [len(sample.media) - 3 for sample, _ in every if len(sample.media) > 3]
    (note,) = opened.note_media([sample for sample, _ in every])
    assert note.startswith(f"{sum(beyond)} media of {len(beyond)} samples are not read: attention.most allows 3")
    assert not opened.note_media([sample for sample, _ in short])


def test_what_bags_cannot_be(make: Make) -> None:
    with pytest.raises(Exception, match=r"blend.*ill reads all media of a sample, which are not mixed"):
        make(blend={"mixup": 0.2}, losses={"ill": LOSSES["ill"]})
    linear = component("decoders", "linear").Config
    with pytest.raises(ValueError, match="most counts the media of a sample, and `of` is tokens"):
        linear(kind="linear", classes=("a",), reads="attention", attention={"most": 3})
    stacked = {"kind": "slices", "stack": 2, "encoder": ENCODER}
    with pytest.raises(Exception, match="reads the media of a sample one by one, but its encoder stacks them"):
        make(model={"encoders": {"film": stacked}, "decoders": {"ill": DECODERS["ill"]}}, losses={"ill": LOSSES["ill"]})
    tree = component("decoders", "hierarchy").Config
    with pytest.raises(ValueError, match="prompts are for the tokens of one image"):
        tree(kind="hierarchy", classes=("a", "b"), parents={"b": "a"}, prompts=2,
             reads="attention", attention={"of": "media"})  # fmt: skip
