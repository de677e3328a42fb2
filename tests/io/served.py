"""A folder behind http, with ranges or without, and counted requests; and behind s3, where moto is installed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server:
    """fail: so many of the next requests get a 503. ranges: whether parts are served. asked: (path, range) of each GET."""

    def __init__(self, folder: Path) -> None:
        self.fail, self.ranges, self.asked = 0, True, list[tuple[str, str]]()
        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, server_: Server, *args: Any, **how: Any) -> None:
        self.told = server_
        super().__init__(*args, **how)

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.told.asked.append((self.path, asked))
        path = Path(self.translate_path(self.path))
        if self.told.fail:
            self.told.fail -= 1
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            data = path.read_bytes()
            first, _, last = asked.removeprefix("bytes=").partition("-")
            is_part = bool(asked) and self.told.ranges
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
