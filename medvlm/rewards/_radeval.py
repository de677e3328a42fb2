"""RadEval in a process of its own, in the environment that its settings name."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvlm.core.errors import RecipeError

CHILD = Path(__file__).with_name("_radeval_child.py")


class RadEvalProcess:
    """It lives for all texts, since its models take long to load. where: of the settings, for messages.

    Raises RecipeError if there is no such interpreter, or no RadEval in its environment."""

    def __init__(self, python: str, where: str):
        self.where = where
        shut = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        pipe = subprocess.PIPE
        try:
            command = [python, str(CHILD)]
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=shut, text=True
            )
        except OSError as reason:
            raise RecipeError(f"{where}.python: {python} cannot be started ({reason.strerror})") from None
        self.replies: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        hello = self._next(60.0)
        if "version" not in hello:
            self.process.kill()
            raise RecipeError(
                f"{where}.python: {python} has no RadEval ({hello.get('error', 'it says nothing')}); run:"
                f" {python} -m pip install radeval==2.2.1"
            )
        self.version = str(hello["version"])

    def ask(self, content: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Raises RecipeError if there is no reply in time."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(f"{json.dumps(content)}\n")
            self.process.stdin.flush()
        except OSError:
            return {"error": "its process ended"}
        return self._next(timeout_s)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.replies.put(line)
        self.replies.put("")

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            line = self.replies.get(timeout=timeout_s)
            found = json.loads(line) if line else {"error": "its process ended"}
            return found if isinstance(found, dict) else {"error": "no reply that can be read"}
        except queue.Empty:
            self.process.kill()
            raise RecipeError(
                f"{self.where}: no scores within timeout_s ({timeout_s:g} s); set a longer time and run again"
            ) from None
        except ValueError:
            return {"error": "no reply that can be read"}

    def stop(self) -> None:
        """Frees the memory of its models."""
        self.process.kill()
        self.process.wait()
