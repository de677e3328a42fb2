"""What medvlm needs to know about a family of ready vision-language models, in addition to the family's own classes.

A family is a file: families/MODEL_TYPE.py, named after the `model_type` in config.json, with a `FAMILY`. Written for
transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.config import component, is_available, kinds, list_permitted
from medvlm.core.errors import RecipeError, did_you_mean, list_some
from medvlm.core.geometry import Canvas

if TYPE_CHECKING:
    import torch

    from medvlm.core.sample import Batch

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Processed:
    """The first picture of a sample, and the output of the family's processor.

    size: of the stored picture. tensors: of all pictures of the sample. expansion: the placeholder text of this
    picture. pictures: the number of pictures of the sample. before: the placeholder texts of those before this one.
    """

    processor: Any
    size: Size
    tensors: Mapping[str, Any]
    expansion: str
    pictures: int
    before: Sequence[str] = ()

    @property
    def number(self) -> int:
        """Of this picture, from 0."""
        return len(self.before)


class Described(Protocol):
    """A published model whose files are not on this machine. config, preprocessor: as in its config.json and
    preprocessor_config.json."""

    @property
    def model(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def preprocessor(self) -> dict[str, Any]: ...

    @property
    def vision(self) -> dict[str, Any]:
        """The config of the vision tower."""


IMAGE = "image"
"""The name of the only encoder of a ready model."""


@dataclass(frozen=True)
class Family:
    """Paths are of modules or parameters below the `model` of the family's ForConditionalGeneration class."""

    tower: str
    """The vision tower, without the parts that are listed in `connectors`."""
    connectors: tuple[str, ...]
    language: str
    """The language model, whose head is `lm_head`."""
    unread: tuple[str, ...] = field(default=(), kw_only=True)
    """Parts for media that are never shown, such as audio. They are kept as they are; smaller models may lack them."""
    codec: str
    """How the models were trained to write boxes: a file of tasks/codecs."""
    canvas: Callable[[Processed], Canvas]
    """Where the stored picture lies on the canvas that the model perceives, after resizing, padding, cropping and
    tiling. Tiles of a picture and its thumbnail show the same picture; the canvas is that picture."""
    tiny: Callable[[Described | None], tuple[dict[str, Any], Any]]
    """Returns arguments of the config class, and a processor with a small tokenizer: at the sizes of a described model,
    or for a model with a few thousand parameters."""
    types: str = ""
    """The argument that marks image tokens; "" where there is none."""
    first_position: int = 0
    """The position of the first token."""
    position_axes: int = 1
    """3 if positions have axes for time, height and width (M-RoPE)."""
    positions: Callable[[torch.Tensor, Batch, Any], torch.Tensor] | None = None
    """Plain positions [B, T], batch, config of the model -> positions [axes, B, T]; None: the plain positions."""
    video_tensors: Mapping[str, str] = field(default_factory=dict)
    """For a family whose tower takes videos like pictures: what the processor calls a tensor of videos -> the same
    tensor of pictures. Empty: videos are shown as pictures only."""
    of_positions: tuple[str, ...] = ()
    """Tensors of `video_tensors` that only `positions` reads, one float32 per picture or video. They are held as int32
    with the same bits, because a float tensor of a batch is taken for pixels."""
    tiles_alone: bool = False
    """Pixels are [samples, tiles, ...], and the tower computes each tile by itself."""
    sees_whole_pictures: bool = False
    """The tokens of a picture attend to each other in both directions."""
    whole_in_windows: Callable[[Any], bool] | None = None
    """Config of a model -> whether they do so only in layers with a sliding window, and within it; None: no model
    does."""
    reads_prompt_both_ways: bool = False
    """The tokens of the prompt attend to each other in both directions (a prefix language model)."""
    has_encoder: bool = False
    """An encoder reads the prompt with its picture, and a decoder writes the answer."""
    begins_answers: bool = False
    """The decoder writes the first token of the language model (bos) before every answer, as it was trained to, also
    where generation_config.json does not say so."""
    places_picture: bool = False
    """The processor takes one picture with a text, and puts it before the text by itself."""
    shares_rows: bool = True
    """Several texts may share a row, and answers their prompt. False where what follows depends on the whole row before
    (recurrent layers, linear attention, convolutions, a prefix language model): each answer gets a row of its own with
    its prompt. Also False for an encoder, which reads one prompt; answers to it share its row."""
    template: str = ""
    """The chat template of a family whose processors come without one."""
    end: str = ""
    """The token that ends an answer, where the chat template does not write it."""
    lay_out: Callable[[Any, str, Sequence[str]], tuple[str, list[str]]] | None = None
    """How the processor changes a prompt: processor, text before the first image, texts after each image -> the same
    parts as the model reads them, with the tokens that begin and end them; None: no change."""

    @property
    def asks_once(self) -> bool:
        """Whether a model takes one question, without a dialogue or a system prompt around it."""
        return self.reads_prompt_both_ways or self.has_encoder


def family_of(model_type: str) -> Family:
    """The family in medvlm, or in PLUGIN/families/MODEL_TYPE.py of a permitted plug-in.

    Raises RecipeError for an unknown family."""
    known = kinds("families")
    for kind in (model_type, *(f"{plugin}.families.{model_type}" for plugin in list_permitted())):
        if is_available("families", kind):
            family: Family = component("families", kind).FAMILY
            return family
    raise RecipeError(
        f"model.pretrained: unknown family {model_type!r}{did_you_mean(model_type, known)}"
        f" (known are {list_some(known)}); a plug-in can add families/{model_type}.py"
    )
