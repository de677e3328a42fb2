"""Code of a model folder is never run, whatever stands on stdin."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

import medvlm
from medvlm.cli import EXIT_USER, main
from tests.tiny_run import INSTRUCT, LANGUAGE, PAIR, TOWER, recipe, written

CODE = "from pathlib import Path\nPath({marker!r}).write_text('ran')\nclass X:\n    pass\n"
NAMES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor")
CONFIG: Any = TOWER["config"]
MAPPED = {**CONFIG, "auto_map": {"AutoModel": "hostile--m.X"}}
PLACES: dict[str, dict[str, Any]] = {
    "language": {"language": {"kind": "causal", "model": "hostile"}},
    "encoder": {"encoders": {"film": {"kind": "transformers", "model": "hostile", "connector": {"kind": "mlp"}}}},
    "pretrained": {"pretrained": "hostile", "encoders": {}, "language": None},
    "config": {"encoders": {"film": {**TOWER, "config": MAPPED}}},
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `hostile` with code for every class, and `y` on stdin. The file that the code writes."""
    folder, found = tmp_path / "hostile", tmp_path / "ran"
    folder.mkdir()
    (folder / "m.py").write_text(CODE.format(marker=str(found)))
    of_classes = {"auto_map": dict.fromkeys(NAMES, "m.X")}
    (folder / "config.json").write_text(json.dumps({"model_type": "hostile", **of_classes}))
    tokenizer = {"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["m.X", None]}, "chat_template": "x"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name in ("preprocessor_config.json", "processor_config.json"):
        classes = {"AutoImageProcessor": "m.X", "AutoProcessor": "m.X"}
        (folder / name).write_text(json.dumps({"image_processor_type": "X", "auto_map": classes}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    return found


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("verb", ["train", "plan"])
def test_a_recipe_runs_no_code_of_a_model(verb: str, place: str, marker: Path) -> None:
    whole = recipe(stages=[PAIR] if place == "config" else [{**INSTRUCT, "lora": None, "trains": ["connectors"]}])
    whole["model"] = {**whole["model"], "language": {"kind": "causal", "config": LANGUAGE}, **PLACES[place]}
    code = main([verb, str(written(marker.parent, whole)), "data.films.augment=null"][:2])
    assert not marker.exists()
    assert code == EXIT_USER or place == "config"


@pytest.mark.parametrize("words", ["chat hostile --question x", "embed hostile a.png --to out.parquet"])
def test_a_model_that_is_opened_runs_no_code(words: str, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save("a.png")
    assert main(words.split()) == EXIT_USER
    assert not marker.exists() and "code of its own, which medvlm never runs" in capsys.readouterr().err


def test_every_call_of_an_auto_class_says_that_no_code_is_run() -> None:
    """`open_stock` says it for all models; its own call is one of those that are checked here."""
    silent = []
    for path in sorted(Path(medvlm.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("from_pretrained", "from_config") or "Auto" not in ast.unparse(node.func).title():
                continue
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if said.get("trust_remote_code") != "False" and said.get(None) != "_get_options()":
                silent.append(f"{path.name}:{node.lineno}")
    assert not silent
