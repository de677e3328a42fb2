"""Checks the YAML of a page. What it is, the page says (`is`, blocks.py):

recipe     by default: a whole one, or some of its sections, to which those of a small whole one are added
model      keys of the section of this name; `stage`: of a stage
card       a whole one, or some of its keys; `reader`: of its key of this name
ontology   a file of findings
cases      a file of answers, for rewards
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from medvlm.commands.reward_cases import check_cases
from medvlm.core.card import load_card
from medvlm.core.config import component
from medvlm.core.document import read_yaml
from medvlm.recipe.load import validate

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
LANGUAGE = {"model_type": "qwen2", **TINY, "num_hidden_layers": 2, "num_key_value_heads": 1}
TOWER = {"model_type": "siglip_vision_model", **TINY, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
CARD = {
    "name": "part",
    "title": "Part of a page",
    "summary": "Made for a check.",
    "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "open",
    "phi": {"status": "synthetic"},
    "patient_key": "patient",
    "media": ["film"],
}
READER = {
    "kind": "table",
    "file": "a.csv",
    "key": "{k}",
    "media": [{"file": "{a}.png", "kind": "film"}],
    "patient": "{p}",
}


def check_yaml(text: str, folder: Path, what: str = "recipe") -> str:
    """What was checked. Files are written to the folder, the current one. Raises what the check raises."""
    path = folder / "block.yaml"
    path.write_text(textwrap.dedent(text))
    found = read_yaml(path).data
    if what == "cases":
        wrong = [str(case) for case in check_cases(path) if case.wrong]
        assert not wrong, wrong
    elif what == "ontology":
        task = {"kind": "findings", "ontology": path.name}
        _check_card({"reader": {**READER, "questions": [{"text": "?", "answer": "{a}", "task": task}]}}, folder)
    elif what in ("card", "reader"):
        _check_card({"reader": {**READER, **found}} if what == "reader" else found, folder)
    else:
        _check_recipe({"recipe": found, "model": {"model": found}, "stage": {"stages": [found]}}[what], path)
    return f"YAML ({what})"


def _check_card(part: Mapping[str, Any], folder: Path) -> None:
    reader = part.get("reader", READER)
    reader = {**READER, **reader} if reader["kind"] == "table" else reader
    media = {each["kind"] for each in reader.get("media", ()) if isinstance(each, Mapping)}
    media |= {each for each in reader.get("media", ()) if isinstance(each, str)} or {reader.get("medium", "film")}
    (folder / "part.yaml").write_text(yaml.safe_dump({**CARD, "media": sorted(media), **part, "reader": reader}))
    load_card(folder / "part.yaml")


# --- parts of recipes --------------------------------------------------------------------------------------


def _check_recipe(part: Mapping[str, Any], path: Path) -> None:
    folder = path.parent
    is_over_another = any((folder / base).is_file() for base in part.get("extends", ()))
    if is_over_another or {"name", "model", "data", "stages", "evaluate"} <= part.keys():
        validate(path)
        return
    whole = _complete(dict(part))
    if "extends" in whole:
        shutil.copytree(Path("recipes"), folder, dirs_exist_ok=True)
        whole["model"] = part.get("model", {})
    for name, source in whole["data"].items():
        card = _make_card(name, whole)
        source["card"] = f"{name}.yaml"
        (folder / source["card"]).write_text(yaml.safe_dump(card))
    (folder / "whole.yaml").write_text(yaml.safe_dump(whole))
    validate(folder / "whole.yaml")


def _complete(whole: dict[str, Any]) -> dict[str, Any]:
    """With a small model, data and a stage, where the part lacks them."""
    model = whole.setdefault("model", {})
    if "template" in model:
        model.setdefault("pretrained", "Qwen/Qwen3-VL-8B-Instruct")
    if "pretrained" not in model:
        tower = {"kind": "transformers", "config": TOWER, "connector": {"kind": "mlp"}}
        model.setdefault("encoders", {"film": tower})
    if "pretrained" not in model and "decoders" not in model:
        model.setdefault("language", {"kind": "causal", "config": LANGUAGE})
    is_net = "decoders" in model and "language" not in model
    stages = whole.setdefault("stages", [{}])
    for number, stage in enumerate(stages):
        stage.setdefault("name", f"stage-{number}")
        is_paid = "environment" in whole or "rewards" in stage
        stage.setdefault("kind", "heads" if is_net else "grpo" if is_paid else "supervised")
        stage.setdefault("trains", ["decoders"] if is_net else ["lora"] if "pretrained" in model else ["connectors"])
        stage.setdefault("steps", 1)
        if stage["kind"] == "heads" and "losses" not in stage:
            stage["losses"] = {name: ["cross_entropy"] for name in model["decoders"]}
        if stage["kind"] == "grpo":
            stage.setdefault("rewards", {"choice": 1})
        named = {*stage.get("loss_weights", {}).get("sources", ()), *_list_sources(stage.get("rewards"))}
        stage.setdefault("mix", dict.fromkeys(named or {"films"}, 1))
        if any(each.startswith("lora") for each in stage["trains"]) and not any("lora" in each for each in stages):
            stage["lora"] = {"rank": 4}
    earlier = [name for stage in stages for name in _list_origins(stage.get("from")) if "/" not in name]
    for name in {*earlier} - {stage["name"] for stage in stages}:
        stages.insert(0, {**stages[0], "name": name, "from": None})
    data = whole.setdefault("data", {})
    for name in _list_data(whole):
        data.setdefault(name, {})
    target = {"target": "native" if "pretrained" in model else "custom"}
    return {"name": "part", "evaluate": {"on": [f"{next(iter(data))}:test"]}, "export": target, **whole}


def _list_data(whole: Mapping[str, Any]) -> Iterator[str]:
    for stage in whole["stages"]:
        yield from stage["mix"]
        if "probe" in stage:
            yield stage["probe"]["source"]
    yield from (on.split(":")[0] for on in whole.get("evaluate", {}).get("on", ()))


def _list_sources(rewards: Any) -> Iterator[str]:
    for each in rewards.values() if isinstance(rewards, Mapping) else ():
        yield from each.get("sources", ()) if isinstance(each, Mapping) else ()


def _list_origins(origin: Any) -> Iterator[str]:
    """Names of stages that `from` names."""
    if isinstance(origin, str):
        yield origin
    for key, each in origin.items() if isinstance(origin, Mapping) else ():
        yield from (each if key == "merge" else _list_origins(each))


def _make_card(name: str, whole: Mapping[str, Any]) -> dict[str, Any]:
    """A card of the media that the model reads, with a question for each of its parts."""
    model = whole["model"]
    media = list(model.get("encoders") or model.get("views") or {"film": None})
    if "extends" in whole:
        bases = [(Path("recipes") / base).read_text() for base in whole["extends"]]
        media = [kind for kind in ("film", "volume") if any(f" {kind}:" in base for base in bases)]
    questions: list[dict[str, Any]] = [
        {"text": "?", "answer": "{a}", "choices": ["yes", "no"], "template": template}
        for template in ("view", "grade", "plane")
    ]
    questions += [{"text": "Write it.", "answer": "{r}", "task": "report"}]
    questions += [{"text": "Which?", "answer": "{c}", "rejected": "{d}", "template": "pairs"}]
    reader = {**READER, "report": "{r}", "groups": {key: f"{{{key}}}" for key in ("site", "modality")}}
    for title, decoder in (model.get("decoders") or {}).items():
        template, classes = decoder.get("answers", title), decoder["classes"]
        kind = component("decoders", decoder["kind"])
        answers = getattr(kind, "ANSWERS", kind.OUTPUT)
        if answers == "scores":
            task = {"kind": "labels", "classes": classes}
            questions += [{"text": "?", "answer": "{v}", "template": template, "task": task}]
        elif answers == "detections":
            names = {each: {"one": each, "many": f"{each}s"} for each in classes}
            corners = ["x1", "y1", "x2", "y2"]
            detect = {"wordings": ["Where?"], "template": template}
            reader["objects"] = {"named": "c", "corners": corners, "classes": names, "detect": detect}
        else:
            values = {each: number for number, each in enumerate(classes, 1)}
            reader["mask"] = {"file": "{m}.png", "values": values, "template": template}
    reader |= {"media": [{"file": "{a}", "kind": kind} for kind in media], "questions": questions}
    return {**CARD, "name": name, "media": media, "reader": reader}
