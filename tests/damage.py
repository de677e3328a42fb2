"""Damages files and settings in systematic ways, always the same ones: what broken_inputs.py feeds to every verb."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from medvlm.io.tar import TarReader, build_tar_header, read_members

Damage = Callable[[Path], object]


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
    "empty": lambda path: path.write_bytes(b""),
    "half": truncate,
    "one byte short": drop_end,
    "flipped bits": flip,
    "binary": lambda path: path.write_bytes(random.Random(0).randbytes(3000)),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "an image": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)),
    "a page": lambda path: path.write_text("<html><body>404 Not Found</body></html>\n"),
    "UTF-16": lambda path: path.write_bytes('{"a": 1}'.encode("utf-16")),
    "a deep list": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[1, 2]"),
    "null": lambda path: path.write_text("null"),
    "a number": lambda path: path.write_text("7"),
    "an empty object": lambda path: path.write_text("{}"),
    "an object of something else": lambda path: path.write_text('{"a": {"b": [1]}}'),
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
    if isinstance(inner, dict):
        inner[f"{step}x"] = inner.pop(step)
    else:
        inner.reverse()


def double(inner: Any, step: Any) -> None:
    if isinstance(inner, list):
        inner += inner[-1:] * 3
    else:
        inner[step] = [inner[step]]


def damage_values(path: Path, seed: int) -> str:
    """Changes one value, or one key, of a file of JSON or YAML. Returns what."""
    draw = random.Random(f"{path.name} {seed}")
    if path.suffix == ".tar":
        return damage_sample(path, draw)
    is_yaml, is_lines = path.suffix == ".yaml", path.suffix == ".jsonl"
    text = path.read_text()
    lines = text.splitlines() if is_lines else [text]
    at = draw.randrange(len(lines))
    value = yaml.safe_load(lines[at]) if is_yaml else json.loads(lines[at])
    what = damage_one(value, draw)
    lines[at] = yaml.safe_dump(value, sort_keys=False) if is_yaml else json.dumps(value)
    path.write_text("\n".join(lines) + "\n", errors="surrogatepass" if not is_yaml else "strict")
    return what


def damage_one(value: Any, draw: random.Random) -> str:
    """Changes one place of a value. Returns what was done."""
    places = [place for place in list_places(value) if place]
    # Shallow places are few, and each is a kind of its own; deep ones are many, and alike.
    depth = draw.choice(sorted({len(place) for place in places}))
    place = draw.choice([place for place in places if len(place) == depth])
    how = draw.choice(["wrong", "wrong", "wrong", "wrong", "remove", "rename", "double"])
    wrong = draw.choice(WRONG)
    act: dict[str, Callable[[Any, Any], None]] = {
        "wrong": lambda inner, step: inner.__setitem__(step, wrong),
        "remove": lambda inner, step: inner.pop(step),
        "rename": rename,
        "double": double,
    }
    change(value, place, act[how])
    return f"{'.'.join(map(str, place))} {how}{f' {wrong!r:.40}' if how == 'wrong' else ''}"


def damage_sample(tar: Path, draw: random.Random) -> str:
    """Changes a value in the record of a sample, and makes index and receipt agree, or removes them."""
    said = []

    def damage(record: Any) -> Any:
        said.append(damage_one(record, draw))
        return record

    is_indexed = draw.random() < 0.5
    name = write_sample(tar, draw.randrange(1 << 30), damage, is_indexed)
    return f"{name} {said[0]} ({'with an index that fits' if is_indexed else 'without an index'})"


def write_sample(tar: Path, number: int, damage: Callable[[Any], Any], is_indexed: bool) -> str:
    """Writes a tar again with another record of a sample. Index and receipt fit it, or there are none. Returns the key
    of the sample, the number-th, counted from the start again after the last."""
    with tarfile.open(tar) as opened:
        files = {m.name: f.read() for m in opened.getmembers() if (f := opened.extractfile(m))}
    records = [each for each in files if each.endswith(".json")]
    name = records[number % len(records)]
    files[name] = json.dumps(damage(json.loads(files[name]))).encode()
    with tar.open("wb") as out:
        for each, data in files.items():
            out.write(build_tar_header(each, len(data)) + data + bytes(-len(data) % 512))
        out.write(bytes(1024))
    index, receipt = tar.with_name(f"{tar.name}.index.json"), tar.parent / "packed.json"
    if is_indexed:
        _fit_index(tar, index, receipt)
    else:
        index.unlink()
        receipt.unlink(missing_ok=True)
    return name.removesuffix(".json")


def _fit_index(tar: Path, index: Path, receipt: Path) -> None:
    with tar.open("rb") as file:
        reader = TarReader(file, tar)
        places = list(read_members(reader))
        size, sha = reader.finish()
    columns = {"offset_M": [m.offset for m in places], "size_M": [m.size for m in places]}
    columns["crc_M"] = [m.crc32 for m in places]
    index.write_text(json.dumps({**json.loads(index.read_text()), **columns, "bytes": size, "sha256": sha}))
    if receipt.exists():
        record = json.loads(receipt.read_text())
        record["shards"][tar.name] = sha
        receipt.write_text(json.dumps(record))


def reseal(step: Path) -> None:
    """Makes the manifest of a checkpoint, and the record of its stage, fit what is there now, as an attacker would."""
    found = {}
    for path in sorted(step.rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(step))] = {"bytes": path.stat().st_size, "sha256": digest}
    (step / "manifest.json").write_text(json.dumps(found))
    if (record := step.parent / "stage.json").is_file():
        sha = hashlib.sha256((step / "manifest.json").read_bytes()).hexdigest()[:16]
        record.write_text(json.dumps({**json.loads(record.read_text()), "checkpoint": sha}))


def is_structured(path: Path) -> bool:
    is_text = path.suffix in (".json", ".yaml", ".jsonl") and path.parent.name != "ranks"
    return is_text or path.name.endswith("-000000.tar")
