"""A model behind an OpenAI-compatible server, such as vLLM, SGLang or llama.cpp. It is evaluated and not trained."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from medvlm.compositions._outside import OutsideModel, write_chat
from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.composition import Assembly, CompositionConfig
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
TRIES = 5
"""How often a question is sent if the server is busy or cannot be reached, with pauses of 1, 2, 4, ... seconds."""


class Config(CompositionConfig):
    HOW: ClassVar[frozenset[str]] = frozenset({"key_variable", "sends_images", "parallel", "timeout_s"})
    kind: Literal["server"]
    url: str
    """The address up to the version, e.g. http://localhost:8000/v1."""
    model: str = ""
    """The name of the model at the server; by default the only one that it has."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable with the key of the server. Keys are never stored."""
    sends_images: bool = False
    """Allows a server on another machine, to which images and questions are sent; of a judge the questions, references
    and answers."""
    parallel: int = Field(8, gt=0)
    """How many questions are sent at the same time."""
    timeout_s: float = Field(300.0, gt=0)
    """How long the server may take to answer a question."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is no address of a server; expected e.g. http://localhost:8000/v1")
        return url.rstrip("/")


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
        is_here = _is_on_this_machine(config.url)
        # A proxy of the environment is another machine, which would get the images.
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_here else []))
        if not config.sends_images and not is_here:
            raise RecipeError(
                f"model.composition.url: {urlsplit(config.url).hostname} is another machine, which would get the images"
                " and questions, or of a judge the questions, references and answers; set"
                " model.composition.sends_images to true if it may"
            )
        known = [each.get("id") for each in self._send("models").get("data", [])]
        if config.model and known and config.model not in known:
            raise RecipeError(f"model.composition.model: the server has no {config.model!r} (it has {_list(known)})")
        if not config.model and len(known) != 1:
            raise RecipeError(
                f"model.composition.model: say which of its models to ask (the server has {_list(known)})"
            )
        self.name = config.model or known[0]
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
        reply = self._send("chat/completions", request)
        try:
            choice = reply["choices"][0]
            text = (choice["message"]["content"] or "").strip()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RecipeError(
                f"{self.config.url}: answered in another form than chat completions of OpenAI:"
                f" {json.dumps(reply)[:300]}"
            ) from None
        return CutAnswer(text) if choice.get("finish_reason") == "length" else text

    def _send(self, what: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The reply to a POST of `content`, or to a GET. Raises RecipeError if there is none."""
        url = f"{self.config.url}/{what}"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.config.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        body = None if content is None else json.dumps(content).encode()
        for pause in [2**number for number in range(TRIES - 1)] + [0]:
            try:
                request = urllib.request.Request(url, body, headers)
                with self._opener.open(request, timeout=self.config.timeout_s) as reply:
                    found = json.load(reply)
                if not isinstance(found, dict):
                    raise RecipeError(f"{url}: answered in another form than OpenAI's servers")
                return found
            except urllib.error.HTTPError as refusal:
                why = f"{refusal.code} {refusal.reason}: {refusal.read(300).decode(errors='replace')}"
                if refusal.code not in (408, 409, 429) and refusal.code < 500:
                    break
            except ValueError:
                raise RecipeError(f"{url}: answered something that is not JSON; is the address right?") from None
            except (OSError, http.client.HTTPException) as broken:  # of urllib too; of a reply that is cut off
                why = str(getattr(broken, "reason", broken))
            time.sleep(pause)
        raise RecipeError(f"{url}: no answer ({' '.join(why.split())}); check the server and run the command again")


def _is_on_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _encode(picture: Any) -> str:
    """A PIL image as PNG in a data URL."""
    stored = io.BytesIO()
    picture.save(stored, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _list(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
