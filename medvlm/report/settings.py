"""The recipe with every setting, and the versions and hardware of its stages and evaluations."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from medvlm.export.redact import strip_paths
from medvlm.report.markup import Child, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record, RunRecord

ABOUT = "Of local folders only the last part of the path is shown. Where data lies is not said here."


def make_settings_section(run: RunRecord) -> Section | None:
    made: list[Child] = []
    environments: dict[str, list[str]] = {}
    for name, environment in _list_environments(run):
        environments.setdefault(json.dumps(environment, sort_keys=True), []).append(name)
    for written, names in environments.items():
        where = ", ".join(dict.fromkeys(names))
        rows = [[name, value] for name, value in _list_lines(json.loads(written))]
        made.append(make_table(f"Versions and hardware: {where}", ["what", "value"], rows))
    if run.recipe:
        text = yaml.safe_dump(strip_paths(run.recipe), sort_keys=False, allow_unicode=True, width=100)
        recipe = tag("pre", tag("code", text), tabindex=0, class_="recipe")
        made.append(tag("details", tag("summary", "recipe.resolved.yaml"), recipe))
    return make_section("Recipe and versions", "settings", *made, about=ABOUT) if made else None


def _list_environments(run: RunRecord) -> Iterator[tuple[str, Record]]:
    for name, stage in run.stages.items():
        if stage.done.get("environment"):
            yield f"stage {name}", stage.done["environment"]
    for evaluated in run.evaluated:
        if evaluated.get("environment"):
            yield f"evaluation of {evaluated.get('dataset')}:{evaluated.get('split')}", evaluated["environment"]


def _list_lines(environment: Record) -> Iterator[tuple[str, Child]]:
    gpus = environment.get("gpus") or {}
    yield "system", f"{environment.get('system')}, Python {environment.get('python')}"
    yield "CPU", f"{environment.get('cpu') or 'not known'}, {environment.get('cores')} cores"
    if gpus:
        yield "GPU", f"{', '.join(f'{n} x {name}' for name, n in gpus.items())}, CUDA {environment.get('cuda')}"
    else:
        yield "GPU", "none"
    packages = environment.get("packages") or {}
    yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items())
