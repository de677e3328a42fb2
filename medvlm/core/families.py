"""What medvlm has to know of a family of ready vision-language models, beyond what the family's own classes do.

A family is a file: families/MODEL_TYPE.py, named after the `model_type` in config.json, with a `FAMILY`. Written for
transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.config import component, is_available, kinds, permitted
from medvlm.core.errors import RecipeError, did_you_mean
from medvlm.core.geometry import Canvas

if TYPE_CHECKING:
    import torch

    from medvlm.core.sample import Batch

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Processed:
    """The first picture of a sample, and what the family's processor made of it.

    size: of the stored picture. tensors: of all the sample's pictures. expansion: the text that stands for this one.
    pictures: how many the sample has.
    """

    processor: Any
    size: Size
    tensors: Mapping[str, Any]
    expansion: str
    pictures: int


class Described(Protocol):
    """A published model of which the files are not here. config, preprocessor: as in its config.json and
    preprocessor_config.json."""

    @property
    def model(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def preprocessor(self) -> dict[str, Any]: ...

    @property
    def vision(self) -> dict[str, Any]:
        """The config of its tower."""


IMAGE = "image"
"""What the only encoder of a ready model is called."""


@dataclass(frozen=True)
class Family:
    """Paths are of modules or parameters below the `model` of the family's ForConditionalGeneration class."""

    tower: str
    """What looks at pixels, without what `connectors` takes out of it."""
    connectors: tuple[str, ...]
    language: str
    """The language model, whose head is `lm_head`."""
    codec: str
    """How it was taught to write boxes: a file of tasks/codecs."""
    canvas: Callable[[Processed], Canvas]
    """Where the stored picture lies on what the model perceives: resized, padded, cropped, tiled. Tiles of a picture
    and its small overview show the same whole: the canvas is that whole."""
    tiny: Callable[[Described | None], tuple[dict[str, Any], Any]]
    """Arguments of its config class, and its processor with a small tokenizer: at the sizes of a described model, or of
    a model of a few thousand parameters."""
    types: str = ""
    """The argument that marks image tokens; "" where there is none."""
    first_position: int = 0
    """Of the first token."""
    position_axes: int = 1
    """3 where positions are of time, height and width (M-RoPE)."""
    positions: Callable[[torch.Tensor, Batch, Any], torch.Tensor] | None = None
    """Plain positions [B, T], batch, config of the model -> positions [axes, B, T]; None: the plain ones."""
    sees_whole_pictures: bool = False
    """The tokens of a picture see each other in both directions."""
    reads_prompt_both_ways: bool = False
    """The prompt's tokens see each other in both directions (a prefix language model)."""
    template: str = ""
    """The chat template of a family whose processors come without one."""
    lay_out: Callable[[str, Sequence[str], str], tuple[str, list[str]]] | None = None
    """What its processor does to a prompt: text before the first image, after each image, and the tokenizer's first
    token -> the same parts as the model reads them; None: nothing."""


def family_of(model_type: str) -> Family:
    """The family of medvlm, or of a permitted plugin, in PLUGIN/families/MODEL_TYPE.py.

    Raises RecipeError for a model that is of none."""
    known = kinds("families")
    for kind in (model_type, *(f"{plugin}.families.{model_type}" for plugin in permitted())):
        if is_available("families", kind):
            family: Family = component("families", kind).FAMILY
            return family
    raise RecipeError(
        f"model.pretrained: a {model_type!r} is no vision-language model that medvlm"
        f" knows{did_you_mean(model_type, known)} (known are {', '.join(known)}); a plugin can add"
        f" families/{model_type}.py"
    )
