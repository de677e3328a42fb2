"""Damages files and settings in systematic ways, always the same ones: what broken_inputs.py feeds to every verb."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Damage = Callable[[Path], None]


def remove(path: Path) -> None:
    path.unlink()


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_loop(path: Path) -> None:
    """A link to itself: there, but nobody can read it, not even root."""
    path.unlink()
    path.symlink_to(path.name)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    """One bit in every 200 bytes."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data), 200):
        data[at] ^= 1 << (at % 8)
    path.write_bytes(data)


WHOLE: dict[str, Damage] = {
    "missing": remove,
    "a folder": put_folder,
    "a loop": put_loop,
    "empty": lambda path: path.write_bytes(b"") and None,
    "half": truncate,
    "one byte short": drop_end,
    "flipped bits": flip,
    "binary": lambda path: path.write_bytes(random.Random(0).randbytes(3000)) and None,
    "zeros": lambda path: path.write_bytes(bytes(4096)) and None,
    "an image": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)) and None,
    "a page": lambda path: path.write_text("<html><body>404 Not Found</body></html>\n") and None,
    "UTF-16": lambda path: path.write_bytes('{"a": 1}'.encode("utf-16")) and None,
    "a deep list": lambda path: path.write_text("[" * 100_000) and None,
    "a list": lambda path: path.write_text("[1, 2]") and None,
    "null": lambda path: path.write_text("null") and None,
    "a number": lambda path: path.write_text("7") and None,
    "an empty object": lambda path: path.write_text("{}") and None,
    "an object of something else": lambda path: path.write_text('{"a": {"b": [1]}}') and None,
}
"""What may happen to a file of any kind."""

WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1e308, float("nan"), float("inf"), "", "nonsense", "a" * 5000, "\x00", "../../up",
    "\ud800", [], [None], ["a", "b"], [[1, 2], [3]], {}, {"a": 1}, {"kind": "nonsense"},
)  # fmt: skip
"""Values of which each is wrong in most places."""


def list_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node of JSON or YAML; of a long list only the first and the last item."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from list_places(value[key], (*path, key))
    if isinstance(value, list):
        for i in sorted({0, len(value) - 1} if value else ()):
            yield from list_places(value[i], (*path, i))


def change(value: Any, path: tuple[Any, ...], how: Callable[[Any, Any], None]) -> Any:
    """The value, after `how` was called with the node that holds the last step of the path, and this step."""
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    how(inner, path[-1])
    return value


def rename(inner: Any, step: Any) -> None:
    inner[f"{step}x" if isinstance(inner, dict) else step] = inner.pop(step)


def double(inner: Any, step: Any) -> None:
    if isinstance(inner, list):
        inner += inner[-1:] * 3
    else:
        inner[step] = [inner[step]]


def damage_values(path: Path, seed: int) -> str:
    """Changes one value, or one key, of a file of JSON or YAML. Returns what."""
    draw = random.Random(f"{path.name} {seed}")
    is_yaml, is_lines = path.suffix == ".yaml", path.suffix == ".jsonl"
    text = path.read_text()
    lines = text.splitlines() if is_lines else [text]
    at = draw.randrange(len(lines))
    value = yaml.safe_load(lines[at]) if is_yaml else json.loads(lines[at])
    places = [place for place in list_places(value) if place]
    # Shallow places are few, and each is a kind of its own; deep ones are many, and alike.
    depth = draw.choice(sorted({len(place) for place in places}))
    place = draw.choice([place for place in places if len(place) == depth])
    how = draw.choice(["wrong", "wrong", "wrong", "wrong", "remove", "rename", "double"])
    wrong = draw.choice(WRONG)
    act: dict[str, Callable[[Any, Any], None]] = {
        "wrong": lambda inner, step: inner.__setitem__(step, wrong),
        "remove": lambda inner, step: inner.pop(step) and None,
        "rename": rename,
        "double": double,
    }
    changed = change(value, place, act[how])
    lines[at] = yaml.safe_dump(changed, sort_keys=False) if is_yaml else json.dumps(changed)
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass" if not is_yaml else "strict")
    return f"{'.'.join(map(str, place))} {how}{f' {wrong!r:.40}' if how == 'wrong' else ''}"


def is_structured(path: Path) -> bool:
    return path.suffix in (".json", ".yaml", ".jsonl")


def copy_world(world: Path, to: Path) -> Path:
    shutil.copytree(world, to, symlinks=True)
    return to
