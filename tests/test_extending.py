"""The example of docs/extending.md works as it is written there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from medvlm.core.config import component
from medvlm.recipe.load import load, validate

PAGE = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()


def block(language: str, start: str) -> str:
    (found,) = re.findall(rf"^```{language}\n({start}.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


def test_its_connector_is_found_counts_its_tokens_and_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "gated.py").write_text(block("python", '"""A connector'))
    (tmp_path / "gated.yaml").write_text(block("yaml", "extends:"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:  # of another test
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = "\n".join(validate(tmp_path / "gated.yaml"))
    assert "through mylab.gated 64 tokens of width 128" in told
    config = load(tmp_path / "gated.yaml").recipe.model.encoders["film"].connector
    connector = component("connectors", config.kind).build(config, 6, 4, (2, 3))
    closed = torch.zeros(1, 6, 6)
    assert config.bias == 1.0 and connector(closed).shape == (1, 6, 4)
    torch.testing.assert_close(connector(closed), torch.sigmoid(torch.tensor(1.0)) * connector.project(closed))
