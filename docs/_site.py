"""What mkdocs adds to the pages of docs/: the reference of recipes and cards, what is supported, and source files that
pages link to."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)\)")
"""A link to a file of the repository that is not in docs/."""
LANGUAGES = {".py": "python", ".yaml": "yaml"}


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File, InclusionLevel

    for what in ("recipe", "card"):
        files.append(File.generated(config, f"reference-{what}.md", content=write_reference(what)))
    files.append(File.generated(config, "reference-support.md", content=write_support()))
    for path in sorted(list_linked()):
        # Reached from the pages that link to it.
        how = {"content": write_source(ROOT / path), "inclusion": InclusionLevel.NOT_IN_NAV}
        files.append(File.generated(config, name_source(path), **how))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return OUTSIDE.sub(lambda link: f"]({name_source(link[1])})", markdown)


# --- sources ---------------------------------------------------------------------------------------------


def list_linked() -> set[str]:
    """Files and folders of the repository that pages link to."""
    return {path for page in (ROOT / "docs").glob("*.md") for path in OUTSIDE.findall(page.read_text("utf-8"))}


def name_source(path: str) -> str:
    return f"source-{path.strip('/').replace('/', '-')}.md"


def write_source(path: Path) -> str:
    """The page of a file, or of a folder with its files."""
    title = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        inside = sorted(each.relative_to(path).as_posix() for each in path.rglob("*") if each.suffix in LANGUAGES)
        return f"# {title}\n\n" + "".join(f"- `{name}`\n" for name in inside)
    return f"# {title}\n\n````{LANGUAGES[path.suffix]}\n{path.read_text('utf-8')}````\n"


# --- the reference -----------------------------------------------------------------------------------------

Schema = Mapping[str, Any]


def write_reference(what: str) -> str:
    """All keys of recipes or cards, from their JSON schema."""
    from medvlm import api

    schema = api.schema(what)  # type: ignore[arg-type]
    head = f"# Keys of a {what}\n\nFrom `medvlm schema {what}`, with their types, defaults and meanings.\n"
    return head + "".join(write_sections(what, schema))


def write_sections(what: str, whole: Schema) -> Iterator[str]:
    """A table of keys for each object that has some, breadth first. One that can be in several places (a connector, the
    preprocessing of an encoder) is written once."""
    waiting: list[tuple[str, Schema]] = [(what, whole)]
    written: set[str] = set()
    while waiting:
        name, schema = waiting.pop(0)
        content = json.dumps(schema, sort_keys=True)
        if content in written or not schema["properties"]:
            continue
        written.add(content)
        yield f"\n## {name}\n\n"
        if text := clean(schema.get("description", "")):
            yield f"{text}\n\n"
        yield "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
        for key, value in schema["properties"].items():
            cells = (f"`{key}`", name_type(value), name_default(value), clean(value.get("description", "")))
            yield f"| {' | '.join(cells)} |\n"
            place = key if schema is whole else f"{name}.{key}"
            waiting += [(f"{place}{suffix}", each) for suffix, each in list_objects(value)]


def list_objects(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The objects with keys that a value may be, or hold, each with the name of its kind."""
    if "properties" in schema:
        kind = schema["properties"].get("kind", {})
        yield (f" ({kind['const']})" if "const" in kind else ""), schema
        return
    for each in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from list_objects(each)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from list_objects(schema[key])


def name_type(schema: Schema) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    if options := [*schema.get("anyOf", ()), *schema.get("oneOf", ())]:
        names = [name_type(each) for each in options if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(names))
    if schema.get("type") == "array":
        return f"list of {name_type(schema['items'])}" if schema.get("items") else "list"
    if schema.get("type") == "object":
        value = schema.get("additionalProperties")
        return f"name: {name_type(value)}" if isinstance(value, Mapping) and value else "keys"
    words = {"integer": "whole number", "string": "text", "boolean": "true or false"}
    known = str(schema.get("type", "any"))
    return words.get(known, known)


def name_default(schema: Schema) -> str:
    if schema.get("default") in (None, "", [], {}):
        return ""
    return f"`{str(schema['default']).replace('|', '/')}`"


def clean(text: str) -> str:
    """One line, as a cell of a table holds it."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# --- what is supported -------------------------------------------------------------------------------------

SLOTS = {
    "encoders": "tests/encoders, tests/models/test_matrix.py",
    "connectors": "tests/connectors, tests/models/test_matrix.py",
    "backbones": "tests/backbones, tests/models/test_matrix.py",
    "texts": "tests/texts",
    "decoders": "tests/decoders, tests/objectives/test_heads.py",
    "objectives.heads": "tests/objectives/test_heads.py",
    "objectives.pairs": "tests/objectives/test_pairs.py",
    "objectives.ssl": "tests/objectives",
    "objectives.policies": "tests/objectives",
    "stages": "tests/stages",
    "tasks": "tests/tasks/test_contract.py",
    "rewards": "tests/rewards/test_contract.py",
    "scoring": "tests/scoring",
    "tools": "tests/tools",
    "compositions": "tests/compositions",
    "families": "tests/families",
    "archive.readers": "tests/archive/test_cards.py",
    "evaluate.protocols": "tests/evaluate",
    "export.targets": "tests/export",
}
"""Folder of medvlm -> the tests that walk it, or that have a case for each of its files."""


def write_support() -> str:
    """Every kind of every slot, from the files, and the tests that it passes."""
    text = (
        "# What is supported\n\nEvery kind that a recipe or a card can name, from the source files, with the tests that"
        " build, run and compare it. Which kinds fit together, the contract tests of their slot say; `medvlm validate`"
        " says it for a recipe. [families.md](families.md) has the ready models.\n"
    )
    for slot, tests in SLOTS.items():
        folder = ROOT / "medvlm" / slot.replace(".", "/")
        text += f"\n## {slot}\n\nTests: {', '.join(f'`{test}`' for test in tests.split(', '))}\n\n"
        text += "| kind | what it is |\n| --- | --- |\n"
        for path in sorted(folder.glob("*.py")):
            if not path.stem.startswith("_"):
                text += f"| `{path.stem}` | {clean(read_summary(path))} |\n"
    return text


def read_summary(path: Path) -> str:
    """The first paragraph of a module's docstring."""
    written = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return written.split("\n\n")[0]
