"""YAML with places, one file over another, and values from the command line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from medvlm.core.document import Document, merge_documents, parse, place_of, read_yaml, set_value, to_yaml
from medvlm.core.errors import RecipeError


def data(text: str) -> object:
    return parse(f"key: {text}", "x.yaml").data["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1.0e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("-3.", -3.0), ("-.inf", float("-inf")),
        ("12", 12), ("010", 10), ("0x1F", 31), ("0o17", 15), ("+7", 7),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        # YAML 1.1 makes booleans, a base-60 number, a date and a number with separators of these.
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"),
        ("3:20", "3:20"), ("2024-05-01", "2024-05-01"), ("1_000", "1_000"), ("<<", "<<"), ("1.2.3", "1.2.3"),
        ("'12'", "12"), ('"true"', "true"), ("[1, a]", [1, "a"]),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = data(text)
    assert found == value and type(found) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert parse("on: 1\nno: 2\n3: 3\ntrue: 4\nnull: 5\n", "x.yaml").data == {
        "on": 1,
        "no": 2,
        "3": 3,
        "true": 4,
        "null": 5,
    }


def test_every_key_and_item_has_its_line_and_column() -> None:
    marks = parse("a: 1\nb:\n  - c: 2\n  - {d: 3,\n     é: [4, 5]}\n", "x.yaml").marks
    expected = {
        (): (1, 1),
        ("a",): (1, 1),
        ("b",): (2, 1),
        ("b", 0): (3, 5),
        ("b", 0, "c"): (3, 5),
        ("b", 1, "d"): (4, 6),
        ("b", 1, "é"): (5, 6),
    }
    assert {path: marks[path] for path in expected} == {path: ("x.yaml", *at) for path, at in expected.items()}
    assert marks[("b", 1, "é", 1)] == ("x.yaml", 5, 13)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "x.yaml:3:1 a: duplicate key"),
        ("m:\n  a: 1\n  'a': 3\n", "x.yaml:3:3 m.a: duplicate key"),
        ("a: [1, 2\nb: 3\n", "x.yaml:2:2: not valid YAML"),
        ("a: 'open\n", "x.yaml:2:1: not valid YAML"),
        ("\ta: 1\n", "x.yaml:1:1: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: not valid YAML"),
        ("a: \x07\n", "x.yaml: not valid YAML"),
        ("[1, 2]\n", "x.yaml:1:1: expected keys and values, found a list"),
        ("only words\n", "x.yaml:1:1: expected keys and values, found text"),
        ("5f0c93ab71e8d264\n", "x.yaml:1:1: expected keys and values, found text"),
        ("1234567890123456\n", "x.yaml:1:1: expected keys and values, found nothing but a number or a word"),
        ("!5f0c93ab71e8d264\n", "x.yaml:1:1: expected keys and values, found one with a tag"),
        ("*5f0c93ab71e8d264\n", "x.yaml:1:1: not valid YAML: found an alias of nothing"),
        ("a: 1\n? [b, c]\n: 2\n", "x.yaml:2:3: a key must be plain text"),
        (
            "a: !!python/object/apply:os.system [echo no]\n",
            "x.yaml:1:4: the tag tag:yaml.org,2002:python/object/apply:os.system is not used here",
        ),
        ("a: !!set {b}\n", "x.yaml:1:4: the tag"),
        ("a: !!binary aGk=\n", "x.yaml:1:4: the tag tag:yaml.org,2002:binary is not used here"),
        ("a: !!bool maybe\n", "x.yaml:1:4: 'maybe' is not a YAML bool"),
        ("a: !!float abc\n", "x.yaml:1:4: 'abc' is not a YAML float"),
        ("a: *nobody\n", "x.yaml:1:4: not valid YAML: found undefined alias 'nobody'"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        parse(text, "x.yaml")
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 3000 + "]" * 3000,
        "a: " + "{b: " * 200 + "1" + "}" * 200,
        "a: &a [*a]",
        # The billion laughs: 9 aliases of 9 aliases of ..., nine deep.
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
    ],
    ids=["3000 lists", "200 mappings", "an alias of itself", "billion laughs"],
)
def test_bombs_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="nested too deeply"):
        parse(text, "x.yaml")


def test_an_alias_is_the_value_it_stands_for() -> None:
    document = parse("a: &same {b: 1}\nc: *same\n", "x.yaml")
    assert document.data == {"a": {"b": 1}, "c": {"b": 1}}


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    for path, reason in (
        (tmp_path / "none.yaml", "FileNotFoundError"),
        (tmp_path, "IsADirectoryError"),
        (tmp_path / "latin.yaml", "UnicodeDecodeError"),
    ):
        with pytest.raises(RecipeError, match=f"mine.yaml: cannot be read .{reason}"):
            read_yaml(path, "mine.yaml")


def test_an_empty_file_still_has_a_place(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "x.yaml", "x.yaml") == Document({}, {(): ("x.yaml", 1, 1)})


# --- one laid over another -------------------------------------------------------------------------


def test_keys_merge_lists_replace_and_places_stay_with_who_wrote_them() -> None:
    base = parse("a: {x: 1, y: 2}\nl: [1, 2, 3]\nk: 0\n", "base.yaml")
    top = parse("l: [9]\na:\n  y: 3\n  z: 4\n", "top.yaml")
    merged = merge_documents(base, top)
    assert merged.data == {"a": {"x": 1, "y": 3, "z": 4}, "l": [9], "k": 0}
    assert merged.marks[("a", "x")] == ("base.yaml", 1, 5)
    assert merged.marks[("a", "y")] == ("top.yaml", 3, 3)
    assert merged.marks[("l", 0)] == ("top.yaml", 1, 5)
    assert ("l", 1) not in merged.marks
    assert base.data["a"] == {"x": 1, "y": 2}, "the base is left as it was"


@pytest.mark.parametrize(
    ("base", "top", "merged"),
    [
        ("{kind: a, x: 1}", "{kind: b, y: 2}", {"kind": "b", "y": 2}),  # x means nothing to b
        ("{kind: a, x: 1}", "{kind: a, y: 2}", {"kind": "a", "x": 1, "y": 2}),
        ("{kind: a, x: 1}", "{y: 2}", {"kind": "a", "x": 1, "y": 2}),
        ("{x: 1}", "{kind: b, y: 2}", {"x": 1, "kind": "b", "y": 2}),
        ("{x: 1}", "null", None),
        ("null", "{x: 1}", {"x": 1}),
        ("[1]", "{x: 1}", {"x": 1}),
    ],
)
def test_another_kind_replaces(base: str, top: str, merged: object) -> None:
    assert merge_documents(parse(f"s: {base}", "base.yaml"), parse(f"s: {top}", "top.yaml")).data == {"s": merged}


# --- from the command line -------------------------------------------------------------------------

STAGES = (
    "seed: 1\nstages:\n  - {name: align, steps: 5}\n  - {name: instruct, steps: 6}\ndata: {cells: {card: x.yaml}}\n"
)


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("seed=2", ("seed",), 2),
        ("stages.instruct.steps=1e1", ("stages", 1, "steps"), 10.0),
        ("stages.0.steps=7", ("stages", 0, "steps"), 7),
        ("data.cells.root=/x=y", ("data", "cells", "root"), "/x=y"),
        ("stages.align.optim.lr=1e-4", ("stages", 0, "optim", "lr"), 1e-4),
        ("stages.align={name: align, steps: 3}", ("stages", 0, "steps"), 3),
        ("plugins=[mylab]", ("plugins", 0), "mylab"),
        ("stages.align.validate=null", ("stages", 0, "validate"), None),
        ("seed.deeper=1", ("seed", "deeper"), 1),
    ],
)
def test_an_override_sets_one_value(override: str, where: tuple[str | int, ...], value: object) -> None:
    before = parse(STAGES, "x.yaml")
    after = set_value(before, override)
    found: object = after.data
    for part in where:
        found = found[part]  # type: ignore[index]
    assert found == value
    assert place_of(where, after.marks) == "command line"
    assert before.data == parse(STAGES, "x.yaml").data, "the document is left as it was"


def test_an_override_leaves_other_places_alone() -> None:
    after = set_value(parse(STAGES, "x.yaml"), "stages.align.steps=7")
    assert place_of(("stages", 0, "name"), after.marks) == "x.yaml:3:6"
    assert place_of(("stages", 1, "steps"), after.marks) == "x.yaml:4:22"


def test_null_removes_an_item_of_a_list_and_later_items_keep_their_places() -> None:
    after = set_value(parse(STAGES, "x.yaml"), "stages.align=null")
    assert after.data["stages"] == [{"name": "instruct", "steps": 6}]
    assert place_of(("stages", 0, "steps"), after.marks) == "x.yaml:4:22"
    assert place_of(("data", "cells"), after.marks) == "x.yaml:5:8"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "command line: 'seed' is not an override; expected key.path=value"),
        ("=3", "command line: '=3' is not an override"),
        ("a..b=3", "command line: 'a..b=3' is not an override"),
        (
            "stages.instrct.steps=3",
            (
                "command line stages.instrct.steps: there is no 'instrct' in this list, did you mean 'instruct'?"
                " (accepts align, instruct)"
            ),
        ),
        ("stages.2.steps=3", "command line stages.2.steps: there is no '2' in this list (accepts align, instruct)"),
        ("seed=[1", "command line seed: not valid YAML"),
        ("seed={a: 1, a: 2}", "command line seed.a: duplicate key"),
        ("seed=!!set {a}", "command line seed: the tag"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        set_value(parse(STAGES, "x.yaml"), override)
    assert str(refused.value).startswith(message)


# --- written again ----------------------------------------------------------------------------------


def test_what_is_written_reads_back_the_same_under_both_versions_of_yaml() -> None:
    tricky = [
        "1e-4",
        "1e5",
        "010",
        "0o7",
        "3:20",
        "yes",
        "on",
        "true",
        "null",
        "~",
        "",
        "2024-05-01",
        "1_000",
        "<<",
        "=",
        "a: b",
        "# c",
        "é",
        "x\ny",
        "- z",
        ".5",
        ".inf",
    ]
    numbers = [1e-05, 0.1, 1e300, 5, -3, 1.0, True, None]
    content = {"tricky": tricky, "numbers": numbers, "keys": dict.fromkeys(tricky, 1)}
    text = to_yaml(content)
    assert parse(text, "x.yaml").data == content
    assert yaml.safe_load(text) == content


ALIASES = {
    "a text": "a: &x " + "y" * 100_000 + "\nb: [" + ", ".join(["*x"] * 2000) + "]\n",
    "a list": "a: &x [" + ", ".join(["word"] * 2000) + "]\nb: [" + ", ".join(["*x"] * 2000) + "]\n",
    "a mapping": "a: &x {" + ", ".join(f"k{i}: 1" for i in range(500)) + "}\nb: [" + ", ".join(["*x"] * 3000) + "]\n",
    "a text within": "a: &x {b: "
    + "y" * 50_000
    + "}\nc: &z ["
    + ", ".join(["*x"] * 30)
    + "]\nd: ["
    + "*z, " * 30
    + "]\n",
    "itself in a mapping": "a: &x {b: *x}\n",
}


@pytest.mark.parametrize("what", ALIASES)
def test_aliases_of_much_are_refused_within_a_second(what: str) -> None:
    began = time.process_time()
    with pytest.raises(RecipeError, match="too large to be a recipe or a card"):
        parse(ALIASES[what], "x.yaml")
    assert time.process_time() - began < 2


def test_a_file_that_is_much_too_long_is_refused_before_it_is_read() -> None:
    began = time.process_time()
    with pytest.raises(RecipeError, match=r"x\.yaml: 1,200,003 letters are too many for a recipe or a card"):
        parse("a: " + "[1, 2]" * 200_000, "x.yaml")
    assert time.process_time() - began < 0.5


def test_an_alias_stays_an_alias() -> None:
    assert parse("a: &x [1, 2]\nb: *x\nc: {d: *x}\n", "x.yaml").data == {"a": [1, 2], "b": [1, 2], "c": {"d": [1, 2]}}
