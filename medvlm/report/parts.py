"""The parts of the model: what each is, and how large."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import table
from medvlm.report.reading import RunRecord


def parts_table(run: RunRecord) -> Html | None:
    """Parts with their parameters. Adapters sit inside other parts and are counted there: theirs are shown, not
    added."""
    parameters = run.parameters
    described = _describe_parts(run)
    names = list(dict.fromkeys([*described, *parameters]))
    if not names:
        return None
    rows: list[list[Child]] = [
        [name, described.get(name), _count(parameters.get(name) or _adapters(run, name))] for name in names
    ]
    if len(parameters) > 1:
        rows.append(["all", None, tag("strong", _count(sum(parameters.values())))])
    return table("Parts of the model", ["part", "what it is", "parameters"], rows, {2})


def _count(n: int | None) -> Child:
    return tag("span", numbers.parameters(n), title=numbers.whole(n)) if n else "\N{EN DASH}"


def _adapters(run: RunRecord, name: str) -> int | None:
    trained = (stage.done.get("trains") or {} for stage in run.stages.values())
    return max((t[name].get("parameters") or 0 for t in trained if isinstance(t.get(name), dict)), default=None)


def _describe_parts(run: RunRecord) -> dict[str, str]:
    model = run.recipe.get("model") or {}
    out = {}
    for name, encoder in (model.get("encoders") or {}).items():
        out[f"encoders.{name}"] = _what(encoder)
        if isinstance(encoder, dict) and encoder.get("connector"):
            out[f"connectors.{name}"] = _what(encoder["connector"])
    if model.get("pretrained"):
        out |= dict.fromkeys(("encoders.image", "connectors.image", "language"), f"of {model['pretrained']}")
    if model.get("language"):
        out["language"] = _what(model["language"])
    for stage in run.stages.values():
        if stage.settings.get("text"):
            out["text"] = _what(stage.settings["text"])
        if stage.settings.get("lora"):
            out["lora"] = f"adapters of rank {stage.settings['lora'].get('rank', '?')}, counted where they sit"
    return out


def _what(part: Any) -> str:
    """Kind and origin. A local folder is named by its last part: where it lies is nobody's business but its owner's."""
    if not isinstance(part, dict):
        return ""
    kind, origin, config = part.get("kind", ""), part.get("model") or part.get("net"), part.get("config") or {}
    if isinstance(origin, str) and origin.startswith(("/", ".", "~")):
        return f"{kind}, {PurePath(origin).name} (a local folder)"
    if isinstance(origin, str) and origin:
        return f"{kind}, {origin}"
    if isinstance(config, dict) and config.get("model_type"):
        return f"{kind}, {config['model_type']} from scratch"
    return str(kind)
