"""Serves a folder over http, with or without range requests, and records the requests; and over s3 if moto is
installed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from medvlm.io.places import open_filesystem


class Server:
    """fail: number of following requests that get a 503. ranges: whether range requests are supported. asked: (path,
    range) of each GET."""

    def __init__(self, folder: Path) -> None:
        self.fail, self.ranges, self.asked = 0, True, list[tuple[str, str]]()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server_: Server, *args: Any, **how: Any) -> None:
        self.state = server_
        super().__init__(*args, **how)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.state.asked.append((self.path, asked))
        path = Path(self.translate_path(self.path))
        if self.state.fail:
            self.state.fail -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            data = path.read_bytes()
            first, _, last = asked.removeprefix("bytes=").partition("-")
            is_part = bool(asked) and self.state.ranges
            body = data[int(first) : int(last) + 1 if last else None] if is_part else data
            self.send_response(206 if is_part else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
            if is_part:
                self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def http(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = threading.Thread(target=server.httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.httpd.shutdown()
        server.httpd.server_close()
        thread.join()


@contextmanager
def s3(bucket: str) -> Iterator[tuple[str, int]]:
    """Host and port of a local s3 server with an empty bucket; `s3://` URLs go there meanwhile."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    with pytest.MonkeyPatch.context() as patch:
        running = server.ThreadedMotoServer(port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # a cached instance would still use an earlier server
        open_filesystem(f"s3://{bucket}")[0].mkdir(bucket)
        yield host, port
        # Without a reset, the next server in this process would have the same buckets.
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        running.stop()


class Line:
    """A proxy to a server that cuts the connection after `cut_after` bytes were sent, and then calls `on_cut`. sent:
    bytes sent so far."""

    def __init__(self, server: tuple[str, int], cut_after: float, on_cut: Callable[[], object]) -> None:
        self.sent = 0
        self._server, self._cut_after, self._on_cut, self._lock = server, cut_after, on_cut, threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, far = self._listening.accept()[0], socket.create_connection(self._server)
                for of, to, counts in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._pass_on, args=(of, to, counts), daemon=True).start()

    def _pass_on(self, of: socket.socket, to: socket.socket, counts: bool) -> None:
        with suppress(OSError):
            while data := of.recv(1 << 14):
                with self._lock:
                    was, self.sent = self.sent, self.sent + len(data) * counts
                if self.sent >= self._cut_after:
                    if was < self._cut_after:
                        to.sendall(data[: int(self._cut_after) - was])
                        self._on_cut()
                    break
                to.sendall(data)
        for each in (of, to):
            each.close()
