"""Reads YAML files as plain data with the position of every key, merges them, and sets values from the command line.

Scalars follow YAML 1.2: `on`, `no` and `2024-05-01` are strings, `1e-4` is a number, `010` is ten.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medvlm.core.errors import RecipeError, did_you_mean, list_some, shorten

KeyPath = tuple[str | int, ...]
Mark = tuple[str, int, int]
"""File as the user named it, line and column, both from 1; line 0 if there are none (the command line)."""

COMMAND_LINE = "command line"
MAX_DEPTH = 50
MAX_KEYS = 100_000
MAX_BYTES, MAX_LETTERS = 256 << 10, 4 << 20
"""Of a file, and of its texts with aliases expanded, which may be gigabytes. Reading takes 8 s per MB."""


@dataclass(frozen=True)
class Document:
    """Plain data, with the position of each key and list item. Keys are always strings."""

    data: dict[str, Any]
    marks: dict[KeyPath, Mark]


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Raises RecipeError if the file is missing, is not YAML, or holds a key twice."""
    shown = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise RecipeError(f"{shown}: cannot be read ({type(reason).__name__}); expected a YAML file in UTF-8") from None
    return parse(text, shown)


def parse(text: str, shown: str) -> Document:
    """Raises RecipeError, with file and line, if the text is not a YAML mapping."""
    node = _compose(text, shown)
    if node is None:
        return Document({}, {(): (shown, 1, 1)})
    marks: dict[KeyPath, Mark] = {}
    data = _to_plain(node, (), marks, shown)
    if not isinstance(data, dict):
        # Never what stands there: it may be the secret salt of a data set, given by mistake.
        raise RecipeError(f"{shown}:1:1: expected keys and values, found {_say_kind(data)}")
    return Document(data, marks)


def _say_kind(data: Any) -> str:
    """What something is, without its value."""
    return "a list" if isinstance(data, list) else "text" if isinstance(data, str) else "nothing but a number or a word"


def merge_documents(base: Document, top: Document) -> Document:
    """`top` extends `base`: mappings are merged key by key, everything else (lists too) is replaced.

    A mapping with another `kind` is replaced too, because each kind has its own keys.
    """
    marks = dict(base.marks)
    data = _merge(base.data, top.data, (), marks, top.marks)
    marks[()] = top.marks[()]
    return Document(data, marks)


def set_value(document: Document, override: str) -> Document:
    """The document with `key.path=value` set; items of a list are addressed by their `name` or position, and removed by
    `null`.

    Raises RecipeError for an invalid override, or a list item that does not exist. An unknown path is created as
    written, so that validation refuses it like one in a file.
    """
    dotted_path, equals, text = override.partition("=")
    keys = dotted_path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(
            f"{COMMAND_LINE}: {override!r} is not an override; expected key.path=value, e.g. stages.align.steps=500"
        )
    place = f"{COMMAND_LINE} {dotted_path}"
    node = _compose(text, place)
    inner_marks: dict[KeyPath, Mark] = {}
    value = None if node is None else _to_plain(node, (), inner_marks, place)
    data = copy.deepcopy(document.data)
    path = _set(data, keys, value, place)
    if value is None and isinstance(path[-1], int):
        return Document(data, _close_gap(document.marks, path[:-1], path[-1]))
    marks = {p: m for p, m in document.marks.items() if p[: len(path)] != path}
    marks |= {(*path, *p): (COMMAND_LINE, 0, 0) for p in ((), *inner_marks)}
    for end in range(1, len(path)):
        marks.setdefault(path[:end], (COMMAND_LINE, 0, 0))
    return Document(data, marks)


def to_yaml(data: dict[str, Any]) -> str:
    """Text that `parse` reads back as the same data in the same order, and YAML 1.1 readers too."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def place_of(path: KeyPath, marks: dict[KeyPath, Mark]) -> str:
    """file:line:column of the key, or of its nearest parent that was written in a file."""
    for end in range(len(path), -1, -1):
        if mark := marks.get(path[:end]):
            return f"{mark[0]}:{mark[1]}:{mark[2]}" if mark[1] else mark[0]
    raise AssertionError(f"a document without a mark for {path}")


def format_path(path: KeyPath, data: Any) -> str:
    """A dotted path, with list positions replaced by the `name` of the item: stages.2.lora -> stages.instruct.lora."""
    out = []
    for part in path:
        inner = step_into(data, part)
        named = isinstance(part, int) and isinstance(inner, dict) and isinstance(inner.get("name"), str)
        out.append(inner["name"] if named else str(part))
        data = inner
    return ".".join(out)


def step_into(data: Any, part: str | int) -> Any:
    """The value at a key or position; None if there is none."""
    if isinstance(data, dict):
        return data.get(part)
    if isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
        return data[part]
    return None


# --- YAML ---------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Composes nodes whose plain scalars are tagged as YAML 1.2's core schema has them (section 10.3.2)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that either version of YAML would take for another type, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_Loader.yaml_implicit_resolvers.get(first, [])]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
}


def _compose(text: str, shown: str) -> yaml.Node | None:
    if len(text) > MAX_BYTES:
        raise RecipeError(
            f"{shown}: {len(text):,} letters are too many for a recipe or a card (at most {MAX_BYTES:,}); move long"
            " lists into the data"
        )
    try:
        node = _Loader(text).get_single_node()
        if node is not None and _count_letters(node, {}) > MAX_LETTERS:
            raise RecipeError(f"{shown}: its aliases are nested too deeply or too large to be a recipe or a card")
        return node
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark and not shown.startswith(COMMAND_LINE) else ""
        problem = reason.problem or reason.context or ""
        if "undefined alias" in problem and mark and (mark.line, mark.column) == (0, 0):  # perhaps a secret
            problem = "found an alias of nothing"
        raise RecipeError(f"{shown}{place}: not valid YAML: {problem}") from None
    except yaml.YAMLError as reason:
        raise RecipeError(f"{shown}: not valid YAML: {str(reason).splitlines()[0]}") from None
    except RecursionError:
        raise RecipeError(f"{shown}: nested too deeply to be a recipe or a card") from None


def _count_letters(node: yaml.Node, known: dict[int, float]) -> float:
    """How many letters and nodes there are once aliases are expanded; infinitely many for an alias of itself. known:
    the count of each node, so that an alias is counted without being expanded."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # while it is being counted
        if isinstance(node, yaml.ScalarNode):
            known[id(node)] = 1 + len(node.value)
        else:
            inner = [n for each in node.value for n in (each if isinstance(each, tuple) else (each,))]
            known[id(node)] = 1 + sum(_count_letters(n, known) for n in inner)
    return known[id(node)]


def _to_plain(node: yaml.Node, path: KeyPath, marks: dict[KeyPath, Mark], file: str) -> Any:
    """Converts a node to plain data, and adds the position of each key to `marks`."""
    here = (file, node.start_mark.line + 1, node.start_mark.column + 1)
    marks.setdefault(path, here)
    if len(path) > MAX_DEPTH or len(marks) > MAX_KEYS:
        raise RecipeError(f"{_format_mark(here)}: nested too deeply or too large to be a recipe or a card")
    if isinstance(node, yaml.CollectionNode) and node.tag not in ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
        raise RecipeError(_explain_tag(node, here))
    if isinstance(node, yaml.SequenceNode):
        return [_to_plain(item, (*path, i), marks, file) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for key, value in node.value:
            place = (file, key.start_mark.line + 1, key.start_mark.column + 1)
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{_format_mark(place)}: a key must be plain text")
            if key.value in data:
                between = "." if file.startswith(COMMAND_LINE) else " "
                raise RecipeError(
                    f"{_format_mark(place)}{between}{'.'.join(map(str, (*path, key.value)))}: duplicate key;"
                    " remove one of them"
                )
            marks[(*path, key.value)] = place
            data[key.value] = _to_plain(value, (*path, key.value), marks, file)
        return data
    return _to_scalar(node, here)


def _to_scalar(node: yaml.Node, place: Mark) -> Any:
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if kind == "str":
        return text
    if kind == "null":
        return None
    try:
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    except (KeyError, ValueError):
        raise RecipeError(f"{_format_mark(place)}: {shorten(text)} is not a YAML {kind}") from None
    raise RecipeError(_explain_tag(node, place))


def _explain_tag(node: yaml.Node, place: Mark) -> str:
    if not place[0].startswith(COMMAND_LINE) and place[1:] == (1, 1):  # not even a key: perhaps a secret
        return f"{_format_mark(place)}: expected keys and values, found one with a tag"
    return f"{_format_mark(place)}: the tag {node.tag} is not used here; write the value without it"


def _format_mark(mark: Mark) -> str:
    return mark[0] if mark[0].startswith(COMMAND_LINE) else f"{mark[0]}:{mark[1]}:{mark[2]}"


# --- merging and setting ---------------------------------------------------------------------------


def _merge(base: Any, top: Any, path: KeyPath, marks: dict[KeyPath, Mark], top_marks: dict[KeyPath, Mark]) -> Any:
    both = isinstance(base, dict) and isinstance(top, dict)
    if not both or ("kind" in base and base["kind"] != top.get("kind", base["kind"])):
        for p in [p for p in marks if p[: len(path)] == path]:
            del marks[p]
        marks |= {p: m for p, m in top_marks.items() if p[: len(path)] == path}
        return top
    if path in top_marks:
        marks[path] = top_marks[path]
    merged = dict(base)
    for key, value in top.items():
        merged[key] = _merge(base.get(key), value, (*path, key), marks, top_marks)
    return merged


def _set(data: Any, keys: list[str], value: Any, place: str) -> KeyPath:
    """Sets the value in place. Returns its path, with list positions."""
    path: list[str | int] = []
    for i, key in enumerate(keys):
        last = i == len(keys) - 1
        step: str | int = _find_position(data, key, place) if isinstance(data, list) else key
        path.append(step)
        if last and value is None and isinstance(step, int):
            del data[step]
        elif last:
            data[step] = value
        elif not isinstance(step_into(data, step), dict | list):
            data[step] = {}
        data = data[step]
    return tuple(path)


def _close_gap(marks: dict[KeyPath, Mark], of: KeyPath, removed: int) -> dict[KeyPath, Mark]:
    """The marks after an item of the list at `of` was removed: the later items move up."""
    at, kept = len(of), {}
    for path, mark in marks.items():
        position = path[at] if path[:at] == of and len(path) > at else -1
        if not isinstance(position, int) or position < removed:
            kept[path] = mark
        elif position > removed:
            kept[(*of, position - 1, *path[at + 1 :])] = mark
    return kept


def _find_position(items: list[Any], key: str, place: str) -> int:
    names = [item["name"] for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]
    for i, item in enumerate(items):
        if isinstance(item, dict) and item.get("name") == key:
            return i
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    accepted = list_some(names) if names else f"0 to {len(items) - 1}" if items else "the list is empty"
    raise RecipeError(f"{place}: there is no {key!r} in this list{did_you_mean(key, names)} (accepts {accepted})")
