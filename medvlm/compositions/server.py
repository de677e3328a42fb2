"""A model behind an OpenAI-compatible server, such as vLLM, SGLang or llama.cpp. It is evaluated and not trained."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from medvlm.compositions._outside import OutsideModel, write_chat
from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.composition import Assembly, CompositionConfig
from medvlm.core.connection import Address, Connection
from medvlm.core.errors import RecipeError
from medvlm.core.families import IMAGE
from medvlm.tasks._writing import Writing

CAN = frozenset({"answer"})
PARTS = ()
TAKES_ANY_SIZE = False
MODEL = OutsideModel
NOUN, HUB_TASK = "a model behind a server", "image-text-to-text"
SUMMARY = "A vision-language model that a server runs"
TOKENIZER = ""
Manifest = None


class Config(CompositionConfig, Address):
    HOW: ClassVar[frozenset[str]] = frozenset({"key_variable", "sends_images", "parallel", "timeout_s"})
    kind: Literal["server"]


def reason(model: Any) -> str | None:
    return None if isinstance(model.composition, Config) else "no server is named in model.composition"


def serves(model: Any) -> Mapping[str, tuple[str, ...] | None]:
    return {IMAGE: None}


def prepare(recipe: Any, folder: Path, train: Callable[[int], Any]) -> Assembly:
    raise RecipeError("model.composition: a model behind a server cannot be trained; remove the stages")


def open_published(where: str, device: str) -> None:
    """None: a server is not a folder or a hub id."""


def open_as_is(model: Any, device: str) -> ServedModel:
    """device: not used, because the server computes."""
    return ServedModel(model.composition, Writing(model.boxes.codec, model.boxes.scale) if model.boxes.codec else None)


class ServedModel(OutsideModel):
    """Greedy answers of a server (temperature 0). Each ask is a conversation of its own: its pictures as PNG, and the
    question."""

    def __init__(self, config: Config, boxes: Writing | None):
        """Raises RecipeError if the server cannot be reached, has no such model, or is not on this machine although the
        recipe does not allow that."""
        self.config, self.boxes = config, boxes
        self._server = Connection(config, "model.composition")
        self.name = self._server.choose_model()
        self.find_origin = lambda: {"server": urlsplit(config.url).netloc.rpartition("@")[2], "model": self.name}

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        with ThreadPool(self.config.parallel) as pool:  # its threads do not keep a process alive that was asked to end
            return pool.map(self._answer, asks, chunksize=1)

    def _answer(self, ask: Ask) -> str:
        request = {
            "model": self.name,
            "messages": write_chat(ask, lambda picture: {"type": "image_url", "image_url": {"url": _encode(picture)}}),
            "max_tokens": self.max_new_tokens,
            "temperature": 0,
        }
        reply = self._server.send("chat/completions", request)
        try:
            choice = reply["choices"][0]
            text = (choice["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RecipeError(
                f"{self.config.url}: answered in another form than chat completions of OpenAI:"
                f" {json.dumps(reply)[:300]}"
            ) from None
        return CutAnswer(text) if choice.get("finish_reason") == "length" else text


def _encode(picture: Any) -> str:
    """A PIL image as PNG in a data URL."""
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"
