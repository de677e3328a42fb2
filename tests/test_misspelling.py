"""Every schema key of every shipped recipe and card, misspelt by one letter, is refused at its place with the right
word offered.

Names that users choose (sources, encoders, stages, rewards, columns) and what is passed on to other libraries
(`config`, `args`) are no schema keys.
"""

from __future__ import annotations

import re
import string
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from medvlm.core.card import Card, load_card
from medvlm.core.config import Slot, component, kinds
from medvlm.core.contracts import RewardConfig
from medvlm.core.document import Document, KeyPath, read_yaml
from medvlm.core.errors import RecipeError
from medvlm.recipe.load import find_shipped, load
from medvlm.recipe.schema import Recipe

RECIPES = sorted(find_shipped("recipes").rglob("*.yaml"))
CARDS = sorted(find_shipped("data_cards").rglob("*.yaml"))


def schema_keys(annotation: Any, data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, list[str]]]:
    """(path of a key that a schema names, all keys accepted there), for what a file holds."""
    slot = (
        next((a for a in get_args(annotation)[1:] if isinstance(a, Slot)), None)
        if get_origin(annotation) is Annotated
        else None
    )
    if slot is not None:
        if isinstance(data, dict) and data.get("kind") in kinds(slot.folder):
            yield from schema_keys(component(slot.folder, data["kind"]).Config, data, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = {field.alias or name: field for name, field in annotation.model_fields.items()}
        for key, value in data.items() if isinstance(data, dict) else ():
            yield (*path, key), list(fields)
            inner = Annotated[Any, *fields[key].metadata] if fields[key].metadata else fields[key].annotation
            has_slot = any(isinstance(m, Slot) for m in fields[key].metadata)
            yield from schema_keys(inner if has_slot else fields[key].annotation, value, (*path, key))
    elif get_origin(annotation) is dict:
        inner = get_args(annotation)[1]
        for key, value in data.items() if isinstance(data, dict) else ():
            reward = value.get("kind", key) if inner is RewardConfig and isinstance(value, dict) else ""
            own = component("rewards", reward).Config if reward in kinds("rewards") else inner
            if own is not inner:  # without `kind`, its name is refused as a reward that there is not
                value = {name: each for name, each in value.items() if name != "kind"}
            yield from schema_keys(own, value, (*path, key))
    elif get_origin(annotation) in (tuple, list):
        for i, value in enumerate(data if isinstance(data, list) else ()):
            yield from schema_keys(get_args(annotation)[0], value, (*path, i))
    else:
        for member in get_args(annotation):
            yield from schema_keys(member, data, path)


def misspellings(key: str, seed: int) -> Iterator[str]:
    """One letter deleted, replaced, swapped with the next, or put in; which one and where depends on `seed` alone."""
    at = seed % len(key)
    letter = string.ascii_lowercase[seed % 26]
    yield key[:at] + key[at + 1 :]
    yield key[:at] + (letter if letter != key[at] else "x") + key[at + 1 :]
    at = seed % max(len(key) - 1, 1)
    yield key[:at] + key[at + 1 : at + 2] + key[at] + key[at + 2 :]
    yield key[:at] + letter + key[at:]


def cases(document: Document, config: type[BaseModel]) -> list[tuple[KeyPath, str, str]]:
    """(path of a key, what it is among which others, one of its misspellings): all that are none of the others."""
    found: list[tuple[KeyPath, str, str]] = []
    for at, accepted in schema_keys(config, document.data):
        key = str(at[-1])
        # A swap of two equal letters changes nothing; another letter can make another key, or none at all.
        wrong = [w for w in dict.fromkeys(misspellings(key, zlib.crc32(repr(at).encode()))) if w and w not in accepted]
        found += [(at, f"{key} of {accepted}", w) for w in wrong]
    return found


def schema_of(path: Path) -> type[BaseModel]:
    return Card if path in CARDS else Recipe


def refused_at(document: Document, text: str, copy: Path, at: KeyPath, wrong: str, is_card: bool) -> tuple[bool, bool]:
    """(refused with the place and the dotted key, right word offered), with the key misspelt in a copy of the file."""
    _, line, column = document.marks[at]
    lines = text.splitlines(keepends=True)
    key, before = str(at[-1]), lines[line - 1]
    assert before[column - 1 :].startswith(key), (line, column, key)
    lines[line - 1] = before[: column - 1] + wrong + before[column - 1 + len(key) :]
    copy.write_text("".join(lines), encoding="utf-8")
    try:
        load_card(copy) if is_card else load(copy)
    except RecipeError as refused:
        for complaint in str(refused).splitlines():
            if re.match(rf"{re.escape(str(copy))}:{line}:{column} (.+\.)?{re.escape(wrong)}: unknown key", complaint):
                return True, f", did you mean {key!r}? (accepts " in complaint
    return False, False


def check(tried: dict[Path, list[tuple[KeyPath, str]]], tmp_path: Path, record_property: Any) -> None:
    silent, not_offered, number = list[str](), list[str](), 0
    for path, misspelt in tried.items():
        document, text = read_yaml(path), path.read_text(encoding="utf-8")
        for at, wrong in misspelt:
            refused, offered = refused_at(document, text, tmp_path / path.name, at, wrong, path in CARDS)
            where = f"{path.name}: {'.'.join(map(str, at))} as {wrong}"
            silent += [] if refused else [where]
            not_offered += [] if offered else [where]
            number += 1
    assert not silent, f"not refused at its place: {silent}"
    record_property("misspellings", number)
    record_property("right_word_offered", 1 - len(not_offered) / number)
    assert len(not_offered) <= 0.05 * number, not_offered


def test_every_key_of_the_schema_misspelt_is_refused_and_the_right_one_offered(tmp_path, record_property) -> None:
    """Each key of each schema in the first file that has it, the kinds of misspelling in turn."""
    tried, keys = defaultdict[Path, list[tuple[KeyPath, str]]](list), dict[str, int]()
    for path in (*RECIPES, *CARDS):
        here = defaultdict[tuple[KeyPath, str], list[str]](list)
        for at, key, wrong in cases(read_yaml(path), schema_of(path)):
            here[at, key].append(wrong)
        for (at, key), wrongs in here.items():
            if key not in keys:
                keys[key] = len(keys)
                tried[path].append((at, wrongs[keys[key] % len(wrongs)]))
    words = {str(at[-1]) for misspelt in tried.values() for at, _ in misspelt}
    easily_overlooked = {"kind", "name", "connector", "steps", "lr", "validate", "every", "on", "mix"}
    assert easily_overlooked <= words, "`kind` of a slot, keys inside slots and lists of stages, aliases"
    check(tried, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("path", [*RECIPES, *CARDS], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_all_misspellings_in_all_files_are_refused_and_the_right_word_offered(
    path: Path, tmp_path: Path, record_property: Any
) -> None:
    check({path: [(at, w) for at, _, w in cases(read_yaml(path), schema_of(path))]}, tmp_path, record_property)
