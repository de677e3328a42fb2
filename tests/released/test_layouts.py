"""Every layout of a release names tensors of a composed model, and says which recipe holds it."""

from __future__ import annotations

import pytest
import yaml

from medvlm.core.config import component, kinds
from medvlm.core.layouts import Layout, find_layout
from medvlm.recipe.load import find_shipped
from medvlm.recipe.schema import Recipe

LAYOUTS = {
    f"{kind}-{number}": layout
    for kind in kinds("released")
    for number, layout in enumerate(component("released", kind).LAYOUTS)
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_its_recipe_is_one_and_its_rules_name_our_parts(layout: Layout) -> None:
    section = yaml.safe_load((find_shipped("recipes") / layout.recipe).read_text())["model"]
    recipe = Recipe.model_validate({"name": "a", "model": section, "data": {"a": {"card": "a.yaml"}}})
    assert len(recipe.model.encoders) == 1 and recipe.model.language is not None
    for rule in layout.rules:
        assert rule.ours.startswith(("encoders.{encoder}.", "connectors.{encoder}.", "language.")), rule
    assert all(reason for reason in layout.left_out.values())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_it_is_recognised_by_its_marks_and_no_other_is(layout: Layout) -> None:
    assert find_layout(layout.marks) is layout
    assert find_layout(layout.marks[1:]) is not layout
    assert all(layout.find_place(mark, "scan") or layout.is_left_out(mark) for mark in layout.marks)


def test_files_with_our_own_names_have_no_layout() -> None:
    assert find_layout(["language.model.norm.weight", "connectors.film.project.0.weight"]) is None
