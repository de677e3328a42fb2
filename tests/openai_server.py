"""An OpenAI-compatible server on this machine, which answers with a model that medvlm has opened."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from medvlm.core.ask import Ask
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.io.images import encode_png

Reply = tuple[int, Any]
"""Status and body."""


class CutOff(str):
    """A body of which half arrives before the connection ends."""


@contextmanager
def serve(
    reply: Callable[[dict[str, Any]], Reply], models: tuple[str, ...] = ("tiny",), port: int = 0
) -> Iterator[str]:
    """Yields its address. reply: to the body of a chat completion. port: 0 for a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": name} for name in models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*reply({**body, "key": self.headers.get("Authorization"), "path": self.path}))

        def _send(self, status: int, content: Any) -> None:
            sent = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent[: len(sent) // 2] if isinstance(content, CutOff) else sent)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def complete(text: str, ended: bool = True) -> Reply:
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop" if ended else "length"}]}


def ask_model(model: Any, limit: int) -> Callable[[dict[str, Any]], Reply]:
    """Replies with the answers of a model."""
    lock = threading.Lock()

    def reply(body: dict[str, Any]) -> Reply:
        assert body["max_tokens"] == limit and body["temperature"] == 0
        (message,) = body["messages"]
        pictures = [read_picture(part) for part in message["content"] if part["type"] == "image_url"]
        (question,) = (part["text"] for part in message["content"] if part["type"] == "text")
        media = tuple(Medium("film", f"{n}.png", picture.shape[:2]) for n, picture in enumerate(pictures))
        files = {medium.member: encode_png(picture) for medium, picture in zip(media, pictures, strict=True)}
        asked = Question(question, make_truth("open"), "own")
        with lock:
            (answer,) = model.answer([Ask(Sample("own", "own", "", media), files, asked, "media" if media else "none")])
        return complete(str(answer), type(answer) is str)

    return reply


def read_picture(part: dict[str, Any]) -> np.ndarray:
    kind, _, encoded = part["image_url"]["url"].partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
