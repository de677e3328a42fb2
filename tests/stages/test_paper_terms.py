"""The terms that make a published system, as its recipe sets them: without one, loss and gradient are others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medvlm.core.sample import Sample
from medvlm.recipe.load import load
from medvlm.stages._captions import draw_texts
from medvlm.train.accumulate import accumulate, sum_weights
from medvlm.train.average import Average
from tests import labelled_run, studies
from tests.stages.batches import first
from tests.tiny_run import PAIR, recipe, staged, written

Make = Callable[..., Any]
KINDS = {"nodule": ["a small round density"], "band": ["a line"], "cavity": ["a ring"], "consolidation": ["a patch"]}


def read_settings(system: str) -> dict[str, Any]:
    """Of the last stage, which is the one with the terms. The question of the labels is one that the films here
    have."""
    settings = load(f"systems/{system}.yaml").recipe.stages[-1].model_dump(mode="json", by_alias=True)
    if settings["labels"]:
        dictionary = settings["labels"]["dictionary"]
        known = dictionary and {**dictionary, "entries": {**dictionary["entries"], **KINDS}}
        settings["labels"] |= {"of": "kind", "dictionary": known}
    return settings


@pytest.mark.parametrize(
    ("system", "key", "off"),
    [
        ("gloria", "terms", lambda terms: {}),
        ("gloria", "weight", lambda weight: 0),
        ("conceptclip", "terms", lambda terms: {}),
        ("medimageinsight", "labels", lambda labels: None),
        ("flair", "labels", lambda labels: {**labels, "dictionary": None}),
        ("flair", "labels", lambda labels: None),
    ],
)
def test_a_system_without_its_term_learns_something_else(
    system: str, key: str, off: Callable[[Any], Any], stage_of: Make
) -> None:
    settings = read_settings(system)
    assert settings[key], f"{system} has no {key}"
    stages = []
    for value in (settings[key], off(settings[key])):
        own = {name: settings[name] for name in ("terms", "weight", "labels", "alike")} | {key: value}
        stages.append(stage_of("contrastive", batch=8, loss=settings["loss"], trains=list_trained(own), **own))
    compare(*stages)


@pytest.mark.slow
def test_merlin_without_its_labels_learns_something_else(tmp_path: Path) -> None:
    """With all of its 1,692 codes, which are those that its card lists. Here, a code is what is said of a square."""
    settings = read_settings("merlin")
    term = settings["terms"]["labels"]
    classes = term["decoder"]["classes"]
    card: Any = load("systems/merlin.yaml").cards["ct"]
    (asked,) = (each for each in card.reader.questions if each.listed)
    assert classes == [*asked.listed.classes] and len(set(classes)) == 1692
    assert term["decoder"]["answers"] == asked.template
    codes = {"high": {"1": classes[3]}, "large": {"1": classes[-1], "0": classes[700]}}
    card = {**labelled_run.CARD, "reader": {**labelled_run.CARD["reader"], "rename": codes, "questions": [
        *labelled_run.CARD["reader"]["questions"][:1],
        {"text": "Which codes?", "template": asked.template,
         "listed": {"value": "{high};{large}", "classes": classes}},
    ]}}  # fmt: skip
    labelled = {"labels": term}
    stages = []
    for number, terms in enumerate((labelled, {})):
        own = {"loss": settings["loss"], "alike": settings["alike"], "terms": terms, "labels": {"of": "side"}}
        content = labelled_run.recipe(stages=[{**PAIR, "trains": list_trained(own), **own}])
        content["model"] = {"encoders": {"film": labelled_run.ENCODER}}
        folder = tmp_path / str(number)
        stages.append(staged(labelled_run.write_run(folder, content, card), folder, "pair"))
    compare(*stages)


@pytest.mark.parametrize(
    "name", ["whole", *(pytest.param(each, marks=pytest.mark.slow) for each in ("places", "clauses"))]
)
def test_anatomy_vlm_without_a_loss_learns_something_else(name: str, tmp_path: Path) -> None:
    settings = read_settings("anatomy_vlm")
    term = settings["terms"]["anatomy"]
    term |= {"width": 8, "heads": 2, "layers": 1, "findings": {**term["findings"], "entries": {
        finding: words for finding, words in term["findings"]["entries"].items() if finding in studies.FINDINGS
    }}}  # fmt: skip
    (tmp_path / "data").mkdir()
    data = {
        "films": {"card": str(tmp_path / "data" / "card.yaml"), "root": str(studies.write_studies(tmp_path / "data"))}
    }
    stages = []
    for number, weight in enumerate((1.0, 0.0)):
        own = {key: settings[key] for key in ("loss", "weight", "alike")}
        own |= {"terms": {"anatomy": {**term, name: weight}}, "batch": 12, "trains": ["encoders", "terms"]}
        content = recipe(stages=[{**PAIR, **own}], data=data)
        stages.append(staged(written(tmp_path / str(number), content), tmp_path / str(number), "pair"))
    compare(*stages)


def test_merlin_reads_whole_reports_and_single_sections_in_turn() -> None:
    config = load("systems/merlin.yaml").recipe.stages[0]
    report = "Liver and biliary tree: Normal. Spleen: No change."
    samples = [Sample(f"{n}", "ct", "train", (), report) for n in range(2)]

    def read(config: Any) -> list[set[str]]:
        """The texts of each of twenty steps with two samples."""
        places = range(0, 20 * config.batch, config.batch)
        return [
            {draw_texts(config, s, config.batch, 0, "pair", at + n)[0].text for n, s in enumerate(samples)}
            for at in places
        ]

    steps = read(config)
    assert {report} in steps and sum(report in texts for texts in steps) < 20
    assert all(texts == {report} or report not in texts for texts in steps), "all samples of a step read alike"
    assert read(config.model_copy(update={"reads": "report"})) == [{report}] * 20


def test_medimageinsight_hands_on_an_average_of_its_weights() -> None:
    config = load("systems/medimageinsight.yaml").recipe.stages[0]
    model = torch.nn.Linear(2, 2)
    average, before = Average(model), model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
        average.follow(model, config.ema)
    with average.stand_in(model):
        assert torch.allclose(model.weight, before + (1 - 0.999), atol=1e-6)


def list_trained(own: dict[str, Any]) -> list[str]:
    return ["encoders", "text", "heads", *(["terms"] if own["terms"] else [])]


def compare(whole: Any, less: Any) -> None:
    """Fails unless both have another loss, and another gradient of the encoders, with the same weights."""
    less.model.load_state_dict(whole.model.state_dict(), strict=False)  # a part that is left out has others drawn anew
    found = []
    for stage in (whole, less):
        stage.model.eval()
        micros = stage.make_micros(first(stage), 1)
        weights = sum_weights(stage, micros, stage.engine)
        terms = accumulate(stage.compute_loss, stage.model, micros, stage.engine, weights, 0)
        slope = torch.cat([p.grad.flatten() for p in stage.model.encoders.parameters() if p.grad is not None])
        found.append((sum(terms[name].sum / terms[name].weight for name in weights), slope))
    (loss, slope), (loss_without, slope_without) = found
    assert loss != pytest.approx(loss_without, rel=1e-6)
    assert (slope - slope_without).norm() > 1e-4 * slope.norm() > 0
