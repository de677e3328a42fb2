"""The front matter of a model card, which the Hub reads for its search and its licence filter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.export.card.about import About
from medvlm.export.card.licence import choose_hub_licence
from medvlm.export.card.text import describe_interval


def make_front_matter(about: About) -> dict[str, Any]:
    """Keys as in huggingface.co/docs/hub/model-cards. Keys without a value are left out."""
    holds = component("export.targets", about.kind).HOLDS
    task = about.task
    bases = list_base_models(about.recipe)
    front: dict[str, Any] = {
        **choose_hub_licence([card.licence for card in about.cards.values()], bool(bases)),
        "pipeline_tag": task,
    }
    front["library_name"] = component("export.targets", about.kind).LIBRARY
    if about.cards:
        front["datasets"] = [_name_dataset(card) for card in about.cards.values()]
    if language := sorted({code for card in about.cards.values() for code in card.language}):
        front["language"] = language
    if bases:
        front["base_model"] = bases
        front["base_model_relation"] = holds.relation
    front["tags"] = [
        "medical",
        "medvlm",
        *holds.tags,
        *sorted({m for c in about.cards.values() for m in c.media}),
    ]
    if results := _make_model_index(about, task):
        front["model-index"] = [{"name": about.recipe["name"], "results": results}]
    return front


def _name_dataset(card: Card) -> str:
    """The data set's id if its homepage is on the Hub, otherwise its name."""
    found = re.fullmatch(r"https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)/?", card.homepage)
    return found[1] if found else card.name


def list_base_models(recipe: Mapping[str, Any]) -> list[str]:
    """Hub ids that the parts started from. Local folders are left out, because they mean nothing to others."""
    model = recipe.get("model") or {}
    texts = [s["text"] for s in recipe.get("stages") or () if s.get("text")]
    parts = [*(model.get("encoders") or {}).values(), model.get("language") or {}, *texts]
    ids = [str(model.get("pretrained") or ""), *(str(p.get("model") or "") for p in parts)]
    return list(dict.fromkeys(i for i in ids if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", i)))


def _make_model_index(about: About, task: str) -> list[dict[str, Any]]:
    titles = {card.name: card.title for card in about.cards.values()}
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in about.results:
        if isinstance(row.get("value"), int | float):
            grouped.setdefault((row["dataset"], row["split"], row["task"]), []).append(row)
    out = []
    for (dataset, split, kind), rows in grouped.items():
        metrics = [
            {
                "type": row["metric"],
                "value": row["value"],
                "name": f"{row['metric']}{describe_interval(row)}",
                "args": {"ci95": row.get("ci"), "n": row.get("n"), "baselines": row.get("baselines") or {}},
            }
            for row in rows
        ]
        out.append(
            {
                "task": {"type": task, "name": kind},
                "dataset": {"type": dataset, "name": titles.get(dataset, dataset), "split": split},
                "metrics": metrics,
            }
        )
    return out
