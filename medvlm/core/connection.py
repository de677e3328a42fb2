"""Requests to an OpenAI-compatible server, which are sent again if it is busy."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from medvlm.core.config import Config
from medvlm.core.errors import RecipeError

TRIES = 5
"""How often a question is sent if the server is busy or cannot be reached, with pauses of 1, 2, 4, ... seconds."""


class Address(Config):
    """How a server is reached."""

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
        if "@" in urlsplit(url).netloc:
            raise ValueError("holds a user or a password; leave them out, and put the key into `key_variable`")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"{url!r} is no address of a server; expected e.g. http://localhost:8000/v1")
        return url.rstrip("/")


class Connection:
    """where: the section of the recipe with the address, for messages. tries: how often something is sent. retries:
    how often something was sent again.

    Raises RecipeError for a server on another machine, unless the recipe allows that."""

    def __init__(self, address: Address, where: str, tries: int = TRIES):
        self.address, self.where, self.tries, self.retries = address, where, tries, 0
        is_here = is_loopback(urlsplit(address.url).hostname or "")
        # A proxy of the environment is another machine, which would get the images.
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_here else []))
        if not address.sends_images and not is_here:
            raise RecipeError(
                f"{where}.url: {urlsplit(address.url).hostname} is another machine, which would get the images and"
                f" questions, or of a judge the questions, references and answers; set {where}.sends_images to true if"
                " it may"
            )

    def choose_model(self) -> str:
        """The name of the model to ask. Raises RecipeError if the server has no such model, or several."""
        known = [each.get("id") for each in self.send("models").get("data", [])]
        asked = self.address.model
        if asked and known and asked not in known:
            raise RecipeError(f"{self.where}.model: the server has no {asked!r} (it has {_list(known)})")
        if not asked and len(known) != 1:
            raise RecipeError(f"{self.where}.model: say which of its models to ask (the server has {_list(known)})")
        return asked or str(known[0])

    def send(self, what: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The reply to a POST of `content`, or to a GET. Raises RecipeError if there is none."""
        found = self._send(what, content)
        try:
            reply = json.loads(found)
        except ValueError:
            url = f"{self.address.url}/{what}"
            raise RecipeError(f"{url}: answered something that is not JSON; is the address right?") from None
        if not isinstance(reply, dict):
            raise RecipeError(f"{self.address.url}/{what}: answered in another form than OpenAI's servers")
        return reply

    def tell(self, what: str, content: Mapping[str, Any]) -> None:
        """Posts `content`, whatever the reply says. Raises RecipeError if it is refused."""
        self._send(what, content)

    def _send(self, what: str, content: Mapping[str, Any] | None) -> bytes:
        url = f"{self.address.url}/{what}"
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.address.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        body = None if content is None else json.dumps(content).encode()
        for pause in [2**number for number in range(self.tries - 1)] + [0]:
            try:
                request = urllib.request.Request(url, body, headers)
                with self._opener.open(request, timeout=self.address.timeout_s) as reply:
                    return _read(reply, time.monotonic() + self.address.timeout_s)
            except urllib.error.HTTPError as refusal:
                why = f"{refusal.code} {refusal.reason}: {refusal.read(300).decode(errors='replace')}"
                if refusal.code not in (408, 409, 429) and refusal.code < 500:
                    break
            except (OSError, http.client.HTTPException) as broken:  # of urllib too; of a reply that is cut off
                why = str(getattr(broken, "reason", broken))
            if pause:
                self.retries += 1
            time.sleep(pause)
        raise RecipeError(f"{url}: no answer ({' '.join(why.split())}); check the server and run the command again")


def _read(reply: Any, deadline: float) -> bytes:
    """The timeout of a socket is only for each part that arrives."""
    parts = list[bytes]()
    while part := reply.read1(1 << 16):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    if reply.length:
        raise http.client.IncompleteRead(b"".join(parts), reply.length)
    return b"".join(parts)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, which no other machine reaches."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _list(names: list[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
