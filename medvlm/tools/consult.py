"""Says what a knowledge provider knows: `consult atelectasis`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from medvlm.core.config import Slot, component
from medvlm.core.errors import DataError
from medvlm.core.experts import Images
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tool_config import ToolConfig
from medvlm.knowledge._contract import open_provider
from medvlm.tools._contract import Scene, Shown


class Config(ToolConfig):
    kind: Literal["consult"]
    provider: Annotated[Any, Slot("knowledge")]


def use(config: Config, asked: str, scene: Scene) -> Shown:
    """Raises DataError if nothing is asked, or nothing known."""
    if not asked.strip():
        raise DataError(f"expected a question, as in {config.write('atelectasis')}")
    own = replace(scene.sample, media=scene.sample.media[: scene.first])
    known = open_provider(config.provider).look_up(asked, Images(own, scene.files, scene.open_expert))
    if not known:
        raise DataError("nothing is known about it")
    return Shown("\n".join(known))


def write_call(config: Config, truth: Any) -> Truth:
    """An expert asks about what there is: the label of a truth, or its answer."""
    asked = getattr(truth, "label", "") or truth.answer
    if not asked or "\n" in asked:
        raise DataError("an expert asks in a line")
    return make_truth("open", config.write(asked))


def fingerprint(config: Config) -> str:
    """Of the provider's files."""
    module = component("knowledge", config.provider.kind)
    return str(module.fingerprint(config.provider)) if hasattr(module, "fingerprint") else ""
