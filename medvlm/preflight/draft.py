"""A recipe for planning: models are built from configs, without weights, pixels and published files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.compositions._assemble import assemble
from medvlm.core.composition import Assembly
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.preflight.host import list_published
from medvlm.preflight.rehearsal.ready import save_config
from medvlm.preflight.samples import Look
from medvlm.recipe.known import inline_configs, look_up_model
from medvlm.recipe.schema import Model, Recipe


@dataclass(frozen=True)
class Draft:
    """assemblies: by composition. published: modules whose weights are read from published files. knows_words: whether
    the run's own tokenizers are used, so that text lengths are exact."""

    recipe: Recipe
    assemblies: Mapping[str, Assembly]
    knows_words: bool
    published: frozenset[str]


def make_draft(given: Recipe, looks: Mapping[str, Look], place: Path) -> Draft:
    """looks: samples with the texts to train a tokenizer on. place: an empty folder that must exist as long as the
    draft is used.

    Raises RecipeError for a model whose config is not known."""
    recipe, knows_words = inline_configs(given), _knows_words(given)
    model = recipe.model.model_copy(update={"language": _add_vocabulary(recipe.model.language)})
    if model.pretrained:
        model, knows_words = _find_files(model, place / "model")
    stages = tuple(
        stage.model_copy(update={name: _add_vocabulary(text) for name, text in stage.list_text_towers().items()})
        for stage in recipe.stages
    )
    recipe = recipe.model_copy(update={"model": model, "stages": stages})
    texts = list(_list_texts(looks)) or ["no text"]
    made = assemble(recipe, place / "tokenizer", lambda size: train_tokenizer(texts, size, IMAGE))
    return Draft(
        recipe,
        {name: assembly.estimate(knows_words) for name, assembly in made.items()},
        knows_words,
        list_published(given),
    )


def _knows_words(recipe: Recipe) -> bool:
    """Whether all tokenizers of the run are trained on its own texts."""
    texts = [text for stage in recipe.stages for text in stage.list_text_towers().values()]
    return not any(part.model for part in (recipe.model.language, *texts) if part is not None)


def _find_files(model: Model, place: Path) -> tuple[Model, bool]:
    """The model section with a folder of the ready model's config and processor, and whether the processor is the
    model's own. If it is not on this machine, a processor of the same family is made at the model's sizes."""
    found = look_up_model(model.pretrained)
    files = [Path(found.folder) / name for name in ("tokenizer.json", "tokenizer_config.json")] if found.folder else []
    is_exact = any(file.is_file() for file in files)
    folder = found.folder if is_exact else str(save_config(found, place))
    return model.model_copy(update={"pretrained": folder}), is_exact


def _add_vocabulary(part: Any) -> Any:
    """The config of a model from scratch, with the vocabulary size of its future tokenizer."""
    if part is None or not part.config or "vocab_size" in part.config:
        return part
    return part.model_copy(update={"config": {**part.config, "vocab_size": part.vocabulary}})


def _list_texts(looks: Mapping[str, Look]) -> list[str]:
    samples = [sample for look in looks.values() for sample in look.samples]
    found = [t for s in samples for t in (s.report, *(x for q in s.questions for x in q.texts))]
    return [text for text in found if text]
