"""Opens a model and serves it."""

from __future__ import annotations

import os
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from stat import S_IRGRP, S_IROTH
from typing import TYPE_CHECKING, Any

from medvlm.core.connection import is_loopback
from medvlm.core.errors import RecipeError
from medvlm.core.secrets import read_secret

if TYPE_CHECKING:
    from medvlm.commands.serving.answering import Served

VARIABLE = "MEDVLM_TOKEN"
"""The environment variable with the token."""
LEAST = 16
"""Characters of a token; shorter ones can be guessed."""
MAKE = "make one with `openssl rand -hex 32`"
OTHER_FILES = 256
"""Open files beside those of images: weights, libraries, connections."""
END_S = 2
"""How long the end waits for answers that are being computed."""


@dataclass(frozen=True)
class Place:
    """Where to listen, and where the token is."""

    host: str
    port: int
    token_file: Path | None

    def read_token(self) -> str:
        """ "" without one. Raises RecipeError, which never shows it, for one that is missing or unsafe."""
        token, where = os.environ.get(VARIABLE, "").strip(), VARIABLE
        if self.token_file is not None:
            token = read_secret(self.token_file, "token", str(self.token_file), MAKE, S_IRGRP | S_IROTH, RecipeError)
            where = str(self.token_file)
        if not token and self.token_file is None and is_loopback(self.host):
            return ""
        if not token and self.token_file is None:
            raise RecipeError(
                f"--host {self.host}: other machines can reach it, so requests must bring a token: --token-file FILE,"
                f" or {VARIABLE}; {MAKE}"
            )
        if len(token) < LEAST or not token.isascii() or not token.isprintable():
            raise RecipeError(f"{where}: expected a token of at least {LEAST} ASCII characters; {MAKE}")
        return token

    def listen(self) -> socket.socket:
        """Raises RecipeError if the port is taken or not allowed."""
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family)
        except (OSError, OverflowError) as reason:
            raise RecipeError(
                f"cannot listen on {self.host} port {self.port} ({reason}); choose another --port"
            ) from None


def allow_files(images: int) -> None:
    """Raises the number of files that this process may have open, as each DICOM file of a request is one in memory.
    Raises RecipeError if the system does not allow so many."""
    least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = images + OTHER_FILES
    if most != resource.RLIM_INFINITY and needed > most:
        raise RecipeError(
            f"--max-images {images}: this system allows a process {most} open files; use at most {most - OTHER_FILES}"
        )
    if least != resource.RLIM_INFINITY and needed > least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def open_served(model: str, name: str, stage: str, kind: str, new_tokens: int, images: int, megapixels: int) -> Served:
    """Raises UserError if the model cannot be opened, or neither answers nor embeds, or the extra is missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise RecipeError("medvlm serve needs a web server: pip install 'medvlm[serve]'") from None
    from medvlm.commands.serving.answering import Limits, Served
    from medvlm.compositions._opened import find

    opened = _open(model, stage, new_tokens)
    embedder = find(opened, "embed") or find(opened, "represent")
    answerer = find(opened, "answer")
    if embedder is None and answerer is None:
        embedder = opened[0]  # a tower of transformers
    named = name or Path(model).resolve().name if Path(model).exists() else name or model
    return Served(named, answerer, embedder, Limits(images, megapixels * 1_000_000, new_tokens), kind)


def _open(model: str, stage: str, new_tokens: int) -> list[Any]:
    from medvlm.compositions._open import open_model

    try:
        return open_model(model, stage, device="auto", max_new_tokens=new_tokens)
    except RecipeError as answers:
        try:
            return open_model(model, stage, needs="embed", device="auto")
        except RecipeError as embeds:
            raise answers from embeds


def run(served: Served, listening: socket.socket, token: str, request_mib: int, seconds: int, waiting: int) -> None:
    """Serves until the process is interrupted or asked to end. Prints the address first, then a line per request."""
    import uvicorn

    from medvlm.commands.serving.app import make_app
    from medvlm.commands.serving.turnstile import Turnstile

    turnstile = Turnstile(waiting, float(seconds))
    app = make_app(served, turnstile, token, request_mib << 20, _log)
    config = uvicorn.Config(
        app, log_level="critical", access_log=False, server_header=False, timeout_graceful_shutdown=END_S
    )
    address, port, *_ = listening.getsockname()
    can = [what for what, able in (("chat", served.answerer), ("embeddings", served.embedder)) if able]
    host = f"[{address}]" if ":" in address else address
    print(f"{served.name}: {', '.join(can)} at http://{host}:{port}/v1", flush=True)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        turnstile.close()


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
