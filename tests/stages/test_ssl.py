"""The stage that trains encoders on images alone: views keyed by position, the teacher, and collapse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.errors import DataError, RecipeError
from medvlm.recipe.load import load
from medvlm.train.terms import LOSS
from tests.labelled_run import write_run
from tests.ssl_run import DINO, HI_END, MAE, SIMDINO, VOCO, VOCO_OMNI, recipe
from tests.stages.batches import first
from tests.tiny_run import staged

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ssl")


@pytest.fixture
def make(packed: Path) -> Make:
    def stage(*overrides: str, **changes: Any) -> Any:
        made = staged(write_run(packed, recipe(**changes)), packed / "runs", "look", *overrides)
        made.make_extra_models()
        return made

    return stage


def test_views_and_masks_depend_on_the_position_alone(make: Make) -> None:
    stage = make()
    a, b = first(stage), first(make())
    assert [item.key for item in a] == [item.key for item in b]
    assert all(torch.equal(x.tensors[name], y.tensors[name]) for x, y in zip(a, b, strict=True) for name in x.tensors)
    view = stage.setup.open_source("films", "train", stage.wants)
    sample, files = view.read(0)
    one, same, other = (stage.prepare_sample(sample, files, 0, position).tensors for position in (5, 5, 6))
    assert torch.equal(one["kept_K"], same["kept_K"]) and torch.equal(one["pixels"], same["pixels"])
    assert not torch.equal(one["kept_K"], other["kept_K"]) and not torch.equal(one["pixels"], other["pixels"])


def test_a_larger_canvas_keeps_more_detail_in_a_small_view(make: Make) -> None:
    loss = {**MAE, "crop": [0.1, 0.1], "changes": {"flip": False}}
    small, large = (first(make(loss=loss, canvas=canvas))[0].tensors["pixels"] for canvas in ([16, 16], [40, 40]))
    assert small.shape == large.shape == (1, 32, 32)
    rough = [view.diff(dim=-1).abs().mean() for view in (small, large)]
    assert rough[1] > 1.3 * rough[0]


@pytest.mark.parametrize("loss", [MAE, HI_END, DINO, SIMDINO, VOCO, VOCO_OMNI], ids=lambda loss: loss["kind"])
def test_all_that_is_trained_gets_a_gradient(loss: dict[str, Any], make: Make) -> None:
    stage = make("model.encoders.film.args.depth=2", loss=loss)
    (micro,) = stage.make_micros(first(stage), 1)
    measured = stage.compute_loss(stage.model, micro, 0)
    assert {name: measured[name].weight for name in stage.weigh(micro)} == stage.weigh(micro)
    sum(measured[name].sum for name in stage.weigh(micro)).backward()
    lacking = [name for name, p in stage.model.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == []


def test_the_teacher_is_the_average_and_is_kept_at_the_end(make: Make) -> None:
    stage = make(loss={**DINO, "momentum": 0.9, "centring": "mean"}, steps=2)
    (micro,) = stage.make_micros(first(stage), 1)
    start = {name: p.clone() for name, p in stage.model.named_parameters()}
    stage.compute_loss(stage.model, micro, 0)
    with torch.no_grad():
        for p in stage.model.parameters():
            p.add_(1)
        stage.after_step(0)
    for name, mean in stage.teacher.named_parameters():
        torch.testing.assert_close(mean, start[name] + 0.1)
    assert stage.teacher.memory["whole"].abs().max() > 0 and stage.teacher.memory["patches"].abs().max() > 0
    with torch.no_grad():
        stage.after_step(1)  # momentum 0.95
    for name, own in stage.model.named_parameters():
        added = 0.1 + 0.05 * 0.9 if name.startswith("encoders") else 1.0
        torch.testing.assert_close(own, start[name] + added)


def test_validation_gives_each_loss_and_their_sum(make: Make) -> None:
    stage = make(loss=SIMDINO)
    found = {name: term.sum / term.weight for name, term in stage.validate(stage.model, 12).items()}
    assert found[LOSS] == pytest.approx(found["whole"] + found["patches"] + found["expansion"])
    assert stage.validate(stage.model, 12)[LOSS] == stage.validate(stage.model, 12)[LOSS]


def test_a_planted_collapse_is_named_and_stops_the_stage(make: Make) -> None:
    stage = make(check_every=2)
    (micro,) = stage.make_micros(first(stage), 1)
    assert "spread" not in stage.compute_loss(stage.model, micro, 0)
    stage.after_step(0)
    healthy = stage.compute_loss(stage.model, micro, 1)
    assert healthy["spread"].sum > 1e-4 and healthy["rank"].sum > 1.5
    stage.after_step(1)
    with torch.no_grad():
        stage.model.encoders["film"].tower.norm.weight.zero_()
        stage.model.encoders["film"].tower.norm.bias.fill_(1)
    stage.compute_loss(stage.model, micro, 3)
    with pytest.raises(DataError, match=r"stage look, step 4: spread is .*, below 1e-05: the encoder has collapsed"):
        stage.after_step(3)


def test_a_teacher_that_tells_no_images_apart_stops_the_stage(make: Make) -> None:
    """The features differ, but all of them get the same prototype."""
    stage = make(check_every=1, loss={**DINO, "centring": "none", "koleo": 0.0})
    (micro,) = stage.make_micros(first(stage), 1)
    stage.compute_loss(stage.model, micro, 0)
    stage.after_step(0)
    with torch.no_grad():
        last = stage.teacher.objective.head.layers[-1]
        last.weight.zero_()
        last.bias.copy_(stage.teacher.objective.head.prototypes[0])
    assert stage.compute_loss(stage.model, micro, 1)["spread"].sum > 1e-4
    with pytest.raises(DataError, match=r"stage look, step 2: information is .*, below 1e-06"):
        stage.after_step(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"loss": DINO, "accumulate": 2},
            "dino compares the samples of a batch with each other, so it cannot be split",
        ),
        ({"loss": {"kind": "may"}}, r"unknown kind of objectives\.ssl 'may', did you mean 'mae'"),
        ({"encoder": "flim"}, r"encoder: there is no encoder 'flim', did you mean 'film'"),
        ({"canvas": [8, 32, 32]}, "canvas: expected 2 sides"),
        ({"loss": {**MAE, "crop": [0.5, 0.2]}}, "expected two shares in order"),
        ({"loss": {**MAE, "heads": 3}}, "3 heads do not divide the decoder's width of 16"),
        ({"loss": {**VOCO_OMNI, "losses": ["huber"]}}, "loss: losses: huber "),
        (
            {"loss": {**VOCO_OMNI, "decoder": {**VOCO_OMNI["decoder"], "answers": "sqare"}}},
            r"loss\.decoder: no source of `mix` asks 'sqare', did you mean 'square'",
        ),
        ({"trains": ["heads"]}, r"'heads' is not a part of a ssl stage \(accepts encoders, objective\)"),
        ({"loss": DINO, "keep": "best", "validate": {"every": 2}}, "keep: best goes by a loss that the teacher"),
        ({"loss": DINO, "validate": {"every": 2, "patience": 3}}, "validate.patience goes by a loss that the teacher"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused(change: dict[str, Any], message: str, packed: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load(write_run(packed, recipe(**change)))
