"""Headless Chromium, driven over the pipe of its DevTools: pictures of pages, and what they say on the console."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_S = 60


def find_browser() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A context manager with one page. errors: exceptions, refused resources, and console errors of the page."""

    def __enter__(self) -> Browser:
        if (program := find_browser()) is None:
            raise SystemExit(f"needs a browser: one of {', '.join(NAMES)}")
        self.folder = tempfile.TemporaryDirectory()
        (to_them, self.writes), (self.reads, from_them) = os.pipe(), os.pipe()
        words = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            f"--user-data-dir={self.folder.name}",
        ]
        # Chromium reads commands from file 3 and writes to file 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_them} 4>&{from_them}', "bash", *words]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(shell, stdout=quiet, stderr=quiet, pass_fds=(to_them, from_them))
        os.close(to_them)
        os.close(from_them)
        self.errors: list[str] = []
        self.waiting, self.number, self.session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self.writes)
        os.close(self.reads)
        shutil.rmtree(self.folder.name, ignore_errors=True)
        self.folder.cleanup()

    def send(self, method: str, **params: Any) -> Any:
        """The result of a DevTools command. Raises RuntimeError with what the browser refused."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> Any:
        while b"\0" not in self.waiting:
            if not (more := os.read(self.reads, 1 << 20)):
                raise RuntimeError("the browser ended")
            self.waiting += more
        one, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(one)

    def _note(self, event: Any) -> None:
        method, what = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.errors.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
        if method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning"):
            self.errors.append(str([each.get("value") for each in what["args"]]))
        if method == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> float:
        """Seconds until the page is loaded and can be used."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        began = time.monotonic()
        if failed := self.send("Page.navigate", url=url).get("errorText"):
            raise RuntimeError(f"{url}: {failed}")
        for _ in range(20 * WAIT_S):
            if self.run("document.readyState") == "complete" and self.run("location.href") != "about:blank":
                return time.monotonic() - began
            time.sleep(0.05)
        raise RuntimeError(f"{url} is not loaded after {WAIT_S} s")

    def run(self, script: str) -> Any:
        """The value of an expression. Raises RuntimeError for an exception."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"].get("exception", found)))
        return found["result"].get("value")

    def drag(self, selector: str, start: float, end: float) -> None:
        """With the mouse over an element, from one share of its width to another."""
        where = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; })()"
        )
        x, y, width, height = where
        places = [x + width * (start + (end - start) * part / 4) for part in range(5)]
        kinds = ["mousePressed", "mouseMoved", "mouseMoved", "mouseMoved", "mouseReleased"]
        for kind, at in zip(kinds, places, strict=True):
            held = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, x=at, y=y + height / 2, **held)

    def take(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(picture["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


def address(page: Path) -> str:
    return page.resolve().as_uri()
