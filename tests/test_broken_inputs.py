"""Broken inputs of every verb end with a message: exit code 2, or 0 where the verb can do without them. No traceback,
no hang, and nothing is created, changed or deleted but what the verb writes.

`broken_inputs.py` lists what each verb reads, `damage.py` how that is broken.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from medvlm.commands.arguments import make_parser
from tests.broken_inputs import VERBS, Case, call, copy_world, is_still_good, list_cases, list_cheap_cases, make_world

FAST, SLOW = 7, 200


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("inputs") / "world")


@pytest.fixture
def attempt(world: Path, tmp_path: Path) -> Iterator[Callable[[Case], str | None]]:
    """Tries a case in a copy of the world. Returns what is wrong with its end, "" if nothing is; None if the case is no
    broken input."""

    def attempt(case: Case) -> str | None:
        top = tmp_path / "try"
        shutil.rmtree(top, ignore_errors=True)
        folder = copy_world(world, top / "world", VERBS[case.verb])
        damage = case.break_it(folder)
        if is_still_good(case, folder):
            return None
        found = call(case.words, folder)
        wrong = found.find_fault(VERBS[case.verb].writes, case.words)
        return f"{case.name} {damage}: {wrong}" if wrong else ""

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield attempt
    torch.set_num_threads(threads)


def try_some(cases: list[Case], count: int, attempt: Callable[[Case], str | None]) -> list[str]:
    """What is wrong with so many cases, the same every time, from all files and kinds of damage."""
    tried, wrong = 0, []
    for case in random.Random(0).sample(cases, len(cases)):
        found = attempt(case)
        tried += found is not None
        if found:
            wrong.append(found)
        if tried == count:
            return wrong
    pytest.fail(f"only {tried} cases")


def list_verbs() -> set[str]:
    """As `medvlm --help` and `medvlm data --help` name them."""
    found: set[str] = set()
    parsers = [make_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            for name, parser in (action.choices or {}).items() if isinstance(action.choices, dict) else ():
                found.add(name.replace("-", "_"))
                parsers.append(parser)
    return found - {"data"}


def test_every_verb_is_tried() -> None:
    assert list_verbs() == VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_broken_is_said(verb: str, world: Path, attempt: Callable[[Case], str | None]) -> None:
    assert not try_some(list_cheap_cases(verb, world), FAST, attempt)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_is_broken_is_said(verb: str, world: Path, attempt: Callable[[Case], str | None]) -> None:
    assert not try_some(list_cases(verb, world), SLOW, attempt)
