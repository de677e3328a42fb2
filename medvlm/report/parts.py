"""The parts of the model and their sizes."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from medvlm.report import numbers
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import make_table
from medvlm.report.reading import RunRecord


def make_parts_table(run: RunRecord) -> Html | None:
    """Parts with their parameters. Adapters are inside other parts and counted there, so they are shown but not added
    to the sum."""
    parameters = run.parameters
    described = _describe_parts(run)
    names = list(dict.fromkeys([*described, *parameters]))
    if not names:
        return None
    rows: list[list[Child]] = [
        [name, described.get(name), _format_count(parameters.get(name) or _count_adapters(run, name))] for name in names
    ]
    if len(parameters) > 1:
        rows.append(["all", None, tag("strong", _format_count(sum(parameters.values())))])
    return make_table("Parts of the model", ["part", "what it is", "parameters"], rows, {2})


def _format_count(n: int | None) -> Child:
    return tag("span", numbers.format_parameters(n), title=numbers.format_whole(n)) if n else "\N{EN DASH}"


def _count_adapters(run: RunRecord, name: str) -> int | None:
    trained = (stage.done.get("trains") or {} for stage in run.stages.values())
    return max((t[name].get("parameters") or 0 for t in trained if isinstance(t.get(name), dict)), default=None)


def _describe_parts(run: RunRecord) -> dict[str, str]:
    model = run.recipe.get("model") or {}
    out = {}
    for name, encoder in (model.get("encoders") or {}).items():
        out[f"encoders.{name}"] = _describe_part(encoder)
        if isinstance(encoder, dict) and encoder.get("connector"):
            out[f"connectors.{name}"] = _describe_part(encoder["connector"])
    if model.get("pretrained"):
        out |= dict.fromkeys(("encoders.image", "connectors.image", "language"), f"of {model['pretrained']}")
    if model.get("language"):
        out["language"] = _describe_part(model["language"])
    for stage in run.stages.values():
        if stage.settings.get("text"):
            out["text"] = _describe_part(stage.settings["text"])
        if stage.settings.get("lora"):
            out["lora"] = f"adapters of rank {stage.settings['lora'].get('rank', '?')}, counted in their parts"
    return out


def _describe_part(part: Any) -> str:
    """Kind and origin. Of a local folder only the last part of its path is shown, because its path is private."""
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
