"""The JSON schemas that editors use: they accept what we ship and refuse what we refuse."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from medvlm.core.config import kinds
from medvlm.core.document import read_yaml
from medvlm.recipe.json_schema import build_schema
from medvlm.recipe.load import find_shipped

RECIPES = sorted(find_shipped("recipes").rglob("*.yaml"))
CARDS = sorted(find_shipped("data_cards").rglob("*.yaml"))


@pytest.fixture(scope="module")
def recipes() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(build_schema("recipe"))


@pytest.fixture(scope="module")
def cards() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(build_schema("card"))


@pytest.mark.parametrize("what", ["recipe", "card"])
def test_the_schemas_are_schemas(what: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(build_schema(what))
    assert "$ref" not in str(build_schema(what)), "editors and people read it without following references"


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_shipped_recipes_fit_the_schema(path: Path, recipes: jsonschema.Draft202012Validator) -> None:
    recipes.validate(read_yaml(path).data)


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.name)
def test_shipped_cards_fit_the_schema(path: Path, cards: jsonschema.Draft202012Validator) -> None:
    cards.validate(read_yaml(path).data)


WHOLE = read_yaml(next(path for path in RECIPES if path.parent.name != "base")).data


def broken(*path: Any, **change: Any) -> dict[str, Any]:
    """The first shipped recipe with keys added somewhere."""
    data = copy.deepcopy(WHOLE)
    inner: Any = data
    for part in path:
        inner = inner[part]
    inner.update(change)
    return data


@pytest.mark.parametrize(
    "data",
    [
        broken(sede=7),
        broken("stages", 0, stpes=3),
        broken("stages", 0, steps="many"),
        broken("stages", 0, steps=0),
        broken("stages", 0, kind="contrastiv"),
        broken("stages", 0, optim={"rl": 1e-4}),
        broken("model", encoders={"film": {"kind": "timm", "net": "x", "conector": {"kind": "mlp"}}}),
        broken(
            "model", encoders={"film": {"kind": "timm", "net": "x", "connector": {"kind": "resampler", "tokns": 3}}}
        ),
        {**WHOLE, "stages": [{k: v for k, v in WHOLE["stages"][0].items() if k != "kind"}]},
        {**WHOLE, "stages": [{k: v for k, v in WHOLE["stages"][0].items() if k != "steps"}]},
    ],
)
def test_a_recipe_that_is_wrong_does_not_fit(data: dict[str, Any], recipes: jsonschema.Draft202012Validator) -> None:
    assert not recipes.is_valid(data)


def test_a_part_of_a_recipe_fits_since_others_extend_it(recipes: jsonschema.Draft202012Validator) -> None:
    assert recipes.is_valid(
        {"extends": ["phantom.yaml"], "name": "mine", "model": {"encoders": {"film": {"layer": -2}}}}
    )


def test_every_component_and_its_fields_are_described(recipes: jsonschema.Draft202012Validator) -> None:
    encoders = build_schema()["properties"]["model"]["properties"]["encoders"]["additionalProperties"]["anyOf"]
    assert sorted(e["properties"]["kind"]["const"] for e in encoders if "const" in e["properties"]["kind"]) == kinds(
        "encoders"
    )
    stages = build_schema()["properties"]["stages"]["items"]["anyOf"]
    assert sorted(s["properties"]["kind"]["const"] for s in stages if "const" in s["properties"]["kind"]) == kinds(
        "stages"
    )
    supervised = next(s for s in stages if s["properties"]["kind"].get("const") == "supervised")
    assert supervised["properties"]["batch"]["description"] == "Samples per optimizer step, over all ranks."
    assert "validate" in supervised["properties"] and "validate_" not in supervised["properties"]
