"""Networks by import path: what they give becomes maps, tokens or a vector, and nothing runs that nobody permitted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from medvlm.core import config as core_config
from medvlm.core.config import component
from medvlm.core.errors import RecipeError, ShapeError

KIND = component("encoders", "imported")
SEEN = {"size": [32, 32]}
RESNET: dict[str, Any] = {"kind": "imported", "path": "torchvision.models.resnet18", "preprocess": SEEN}


def built(**settings: Any) -> Any:
    return KIND.build(KIND.Config.model_validate({**RESNET, **settings})).eval()


@pytest.fixture
def permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_config, "_PERMITTED", {"torchvision", "timm"})


@pytest.mark.usefixtures("permitted")
def test_maps_vectors_and_tokens_become_features() -> None:
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        maps = built(module="layer3")
        found, again = maps(pixels), maps.tower
        before = again.layer2(again.layer1(again.maxpool(again.relu(again.bn1(again.conv1(pixels))))))
        assert maps.width == 256 and maps.grid == (2, 2)
        torch.testing.assert_close(found.patches, again.layer3(before).flatten(2).transpose(1, 2))
        vector = built(args={"num_classes": 5})
        assert vector.width == 5 and vector.grid == (1, 1)
        torch.testing.assert_close(vector(pixels).pooled, vector.tower(pixels))
        vit = {"path": "timm.create_model", "module": "norm", "prefix_tokens": 1}
        args = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "depth": 1, "num_classes": 0}
        tokens = built(**vit, args=args)
        assert tokens.width == 192 and tokens.grid == (2, 2)
        torch.testing.assert_close(tokens(pixels).patches, tokens.tower.forward_features(pixels)[:, 1:])
        with pytest.raises(ShapeError, match="5 tokens are no square"):
            built(**{**vit, "prefix_tokens": 0}, args=args)


def test_code_that_the_recipe_does_not_list_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_config, "_PERMITTED", set())
    with pytest.raises(RecipeError, match=r"add plugins: \[torchvision\]"):
        built()


@pytest.mark.usefixtures("permitted")
def test_paths_and_modules_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"torchvision.models.resnet19 cannot be imported"):
        built(path="torchvision.models.resnet19")
    with pytest.raises(ShapeError, match="no submodule 'layer9'"):
        built(module="layer9")
