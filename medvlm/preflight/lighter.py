"""Lighter forms of a recipe's model, for a stage that does not fit on the GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from medvlm.preflight.draft import Draft
from medvlm.recipe.schema import Recipe

MIXED = "bf16-mixed"


def list_lighter(given: Recipe, draft: Draft, number: int) -> Iterator[tuple[str, Draft]]:
    """(overrides for the recipe, its draft with them) for stage `number`: mixed precision, which holds frozen weights
    in bfloat16, and 4 bits for a published language model that is not trained. given: the recipe as the user wrote
    it."""
    says: list[str] = []
    if draft.recipe.engine.precision == "32-true":
        says.append(f"engine.precision={MIXED}")
        engine = draft.recipe.engine.model_copy(update={"precision": MIXED})
        draft = replace(draft, recipe=draft.recipe.model_copy(update={"engine": engine}))
        yield says[0], draft
    where = _find_quantizable(given, number)
    if not where:
        return
    model = draft.recipe.model
    if where == "model":
        model = model.model_copy(update={"quantize": "nf4"})
    else:
        language = model.language.model_copy(update={"quantize": "nf4"})
        model = model.model_copy(update={"language": language})
    assemblies = {name: replace(assembly, model=model) for name, assembly in draft.assemblies.items()}
    recipe = draft.recipe.model_copy(update={"model": model})
    yield " and ".join([*says, f"{where}.quantize=nf4"]), replace(draft, recipe=recipe, assemblies=assemblies)


def _find_quantizable(given: Recipe, number: int) -> str:
    """The section of the recipe whose key `quantize` would make the stage lighter, or ""."""
    model, trains = given.model, given.stages[number].trains
    is_trained = any(pattern.split(".")[0] == "language" for pattern in trains)
    if is_trained or given.engine.kind == "zero3":
        return ""
    if model.pretrained:
        return "" if model.quantize else "model"
    can = getattr(model.language, "model", "") and "quantize" in type(model.language).model_fields
    return "model.language" if can and not model.language.quantize else ""
