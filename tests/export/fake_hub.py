"""A local server that answers huggingface_hub like huggingface.co: repositories, and commits of small
files."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """repos: name -> whether private, and the files of its commits. asked: method and path of every request."""

    url: str = ""
    repos: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


class HubHandler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append(f"GET {self.path}")
        name = self.path.partition("?")[0].removeprefix("/api/models/").partition("/revision/")[0]
        if name not in hub.repos:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(
                200,
                {
                    "id": name,
                    "modelId": name,
                    "private": hub.repos[name]["private"],
                    "sha": "0" * 40,
                    "siblings": [],
                    "tags": [],
                    "downloads": 0,
                },
            )

    def do_POST(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(f"POST {path}")
        hub.tokens.add(self.headers.get("authorization", ""))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            is_private = asked.get("private") or asked.get("visibility") == "private"
            hub.repos[name] = {"private": bool(is_private), "files": {}}
            self._answer(200, {"url": f"{hub.url}/{name}", "id": name})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in path:
            name = path.removeprefix("/api/models/").partition("/commit/")[0]
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    hub.repos[name]["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                200,
                {
                    "success": True,
                    "commitOid": "1" * 40,
                    "commitUrl": f"{hub.url}/{name}/commit/{'1' * 40}",
                    "hookOutput": "",
                },
            )
        else:
            self._answer(404, {"error": f"not served: {path}"})

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Writes no log."""


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (HubHandler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
