"""`medvlm serve`: its arguments, and the same in Python. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.commands.data_arguments import add_verb
from medvlm.commands.data_verbs import Where
from medvlm.commands.number_arguments import read_count


def add_serve_verb(verbs: Any, add_model_options: Callable[[argparse.ArgumentParser], None]) -> None:
    serve = add_verb(verbs, "serve", "answer requests of OpenAI's API (chat, embeddings) with a model")
    serve.add_argument("model", metavar="MODEL", help="a run, an exported folder, or a transformers model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8000, help="0 for any free one (default: 8000)")
    serve.add_argument("--name", default="", help="name of the model in requests (default: that of its folder)")
    serve.add_argument(
        "--token-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="file with the token that requests must bring; needed if other machines can reach the server (default:"
        " the environment variable MEDVLM_TOKEN)",
    )
    for option, default, unit, what in (
        ("--max-new-tokens", 512, "N", "maximum length of an answer"),
        ("--max-request-mib", 64, "MIB", "maximum size of a request"),
        ("--max-images", 256, "N", "maximum number of images, or slices, in a request"),
        ("--max-megapixels", 128, "N", "maximum number of pixels, or voxels, of all images of a request, in millions"),
        ("--max-seconds", 120, "S", "maximum time for a request, with what it waits"),
        ("--max-waiting", 16, "N", "maximum number of requests that wait while one computes"),
    ):
        serve.add_argument(option, type=read_count, default=default, metavar=unit, help=f"{what} (default: {default})")
    add_model_options(serve)


def serve(
    model: Where,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = "",
    token_file: Where | None = None,
    stage: str = "",
    kind: str = "",
    max_new_tokens: int = 512,
    max_request_mib: int = 64,
    max_images: int = 256,
    max_megapixels: int = 128,
    max_seconds: int = 120,
    max_waiting: int = 16,
) -> None:
    """Answer requests of OpenAI's API with a model, until the process is interrupted."""
    from medvlm.commands.serving.run import Place, allow_files, run
    from medvlm.commands.serving.run import open_served as open_model

    place = Place(host, port, Path(token_file) if token_file else None)
    token = place.read_token()
    allow_files(max_images)
    with place.listen() as listening:  # before a model is read, which may take minutes; requests wait until then
        served = open_model(str(model), name, stage, kind, max_new_tokens, max_images, max_megapixels)
        run(served, listening, token, max_request_mib, max_seconds, max_waiting)


def serve_from_words(args: argparse.Namespace) -> None:
    serve(**{name: value for name, value in vars(args).items() if name != "verb"})
