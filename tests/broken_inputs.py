"""Every verb of the command line with its inputs damaged, in this process: what each reads, and what it may write."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medvlm.cli import main
from tests import labelled_run
from tests.damage import WHOLE, damage_values, is_structured, reseal
from tests.fixtures.make_first_format import pull_film
from tests.fixtures.unpack import unpack

LIMIT_S = 60


@dataclass(frozen=True)
class Verb:
    """words: the command line. reads: patterns of the files that it reads. writes: what it may create or change."""

    words: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    bad_words: tuple[tuple[str, ...], ...] = ()


ODD = ("", " ", "nonsense", "../nowhere", "\x00", "a" * 5000, "-1", "1e999", "ü\udcff", "recipe.yaml", "shards", "card.yaml", "film.png", ".", "/", "/dev/null", "hub:", "s3:", "none://x", "{a..b}.tar", "runs")  # fmt: skip
"""Words that are no good argument for most."""

RECIPE = ("small.yaml", "card.yaml")
RUN = ("runs/first/*.json", "runs/first/*.yaml", "runs/first/cards/*", "runs/first/*/stage.json")
STEP = tuple(
    f"runs/first/{stage}/step-*/{file}"
    for stage in ("pair", "instruct")
    for file in ("*", "tensors/*", "tensors/.metadata")
)
INDEXES = tuple(f"shards/{split}-000000.tar.index.json" for split in ("train", "val", "test"))
"""Of shards without one, the first verb that opens them writes it."""
SHARDS = ("shards/*.json", "shards/test-*.tar")
TOKENIZER = ("runs/first/tokenizer/*",)
VERBS = {
    "init": Verb(
        ("init", "--model", "model", "--csv", "archive/table.csv", "--image", "png", "--question", "large",
         "--answer", "side", "--to", "own"), ("archive/table.csv", "model/config.json"), ("own",)),
    "train": Verb(("train", "recipe.yaml", "--runs", "runs", "--stage", "match"),
                  ("recipe.yaml", "card.yaml", *RUN, "runs/first/match/step-4/*", "runs/first/match/step-4/tensors/*",
                   "runs/first/match/step-4/tensors/.metadata", "shards/*.json", "shards/train-*.tar", "runs/first/metrics.jsonl"), ("runs", *INDEXES)),
    "validate": Verb(("validate", "small.yaml"), RECIPE),
    "plan": Verb(("plan", "small.yaml"), RECIPE, ("runs",)),
    "dry_run": Verb(("dry-run", "small.yaml"), RECIPE),
    "evaluate": Verb(("evaluate", "runs/first"), (*RUN, *STEP, *SHARDS, *TOKENIZER, "runs/first/evaluate/*.json*"),
                     ("runs/first/evaluate", "runs/cache", *INDEXES)),
    "report": Verb(("report", "runs/first"),
                   (*RUN, "runs/first/metrics.jsonl", "runs/first/evaluate/*", "runs/first/ranks/*"),
                   ("runs/first/report.html",)),
    "export": Verb(("export", "runs/first", "--to", "out"), (*RUN, *STEP, *TOKENIZER, "runs/first/evaluate/*.json*"),
                   ("out", "runs/first/export")),
    "consolidate": Verb(("consolidate", "runs/first", "--to", "out"), (*RUN, *STEP), ("out",)),
    "lineage": Verb(("lineage", "runs/first"), (*RUN, *STEP)),
    "chat": Verb(("chat", "vlm", "film.png", "--kind", "film", "--question", "Where?"),
                 ("vlm/*.json", "vlm/weights.safetensors", "vlm/tokenizer/*", "film.png")),
    "embed": Verb(("embed", "dual", "film.png", "shards", "--kind", "film", "--to", "film.parquet"),
                  ("dual/*.json", "dual/weights.safetensors", "dual/text_tokenizer/*", "film.png", *SHARDS),
                  ("film.parquet", *INDEXES)),
    "demo": Verb(("demo", "--runs", "demo-runs", "stages.align.steps=nonsense")),
    "schema": Verb(("schema", "recipe")),
    "pack": Verb(("data", "pack", "squares.yaml", "--root", "archive", "--out", "packed", "--workers", "1"),
                 ("squares.yaml", "archive/table.csv", "archive/f1.png", "archive/m1.png"),
                 ("packed", ".packed.lock", "packed.quarantine.jsonl", "packed.packing", ".packed.work")),
    "audit": Verb(("data", "audit", "shards"), (*SHARDS, "shards/card.yaml"), ("shards/audit.json", *INDEXES)),
    "stats": Verb(("data", "stats", "shards", "--to", "stats.html"), SHARDS, ("stats.html", *INDEXES)),
    "show": Verb(("data", "show", "shards", "--to", "show.html"), SHARDS, ("show.html", *INDEXES)),
}  # fmt: skip


def make_world(to: Path) -> Path:
    """A folder with inputs for every verb. Nothing of it is trained here."""
    unpack(to)
    pull_film(to)
    labelled_run.write_archive(to / "archive")
    (to / "squares.yaml").write_text(yaml.safe_dump(labelled_run.CARD))
    whole = yaml.safe_load((to / "recipe.yaml").read_text())
    whole["stages"] = [stage for stage in whole["stages"] if stage["name"] in ("pair", "read")]
    (to / "small.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    (to / "model").mkdir()
    (to / "model" / "config.json").write_text(
        json.dumps({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]})
    )
    return to


@dataclass(frozen=True)
class Case:
    verb: str
    name: str
    words: tuple[str, ...]
    file: str = ""
    how: str = ""
    seed: int = -1
    is_sealed: bool = False

    def break_it(self, world: Path) -> str:
        if not self.file:
            return ""
        path = world / self.file
        what = self.how
        if self.seed >= 0:
            what = damage_values(path, self.seed)
        else:
            WHOLE[self.how](path)
        step = next((each for each in path.parents if each.name.startswith("step-")), None)
        if step is not None and self.is_sealed and path.name != "manifest.json":
            reseal(step)
        return what


def list_files(verb: Verb, world: Path) -> list[str]:
    found = {path.relative_to(world).as_posix() for each in verb.reads for path in world.glob(each) if path.is_file()}
    return sorted(found)


def list_cases(name: str, world: Path, values: int = 300) -> list[Case]:
    """values: number of changes of single values."""
    verb = VERBS[name]
    files = list_files(verb, world)
    cases = [
        Case(name, f"{file}: {how}", verb.words, file, how, is_sealed="step-" in file and i % 2 == 0)
        for file in files
        for i, how in enumerate(WHOLE)
    ]
    structured = [file for file in files if is_structured(world / file)]
    for seed in range(values if structured else 0):
        file = structured[seed % len(structured)]
        cases.append(Case(name, f"{file}: value {seed}", verb.words, file, "", seed, is_sealed=True))
    for at in range(1, len(verb.words)):
        if verb.words[at].startswith("--") or verb.words[at] in ("pack", "audit", "stats", "show"):
            continue
        cases += [
            Case(name, f"word {at}: {word!r:.20}", (*verb.words[:at], word, *verb.words[at + 1 :])) for word in ODD
        ]
    cases += [Case(name, f"and {word!r:.20}", (*verb.words, word)) for word in ODD]
    return cases


@dataclass(frozen=True)
class Outcome:
    """code: the exit code, or what was raised. said: standard error. changed: files that are not as they were."""

    code: Any
    said: str
    changed: list[str]


class TookTooLong(BaseException):
    pass


@contextlib.contextmanager
def limit_time(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def take_stock(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (0, 0) if path.is_dir() else (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def call(words: tuple[str, ...], folder: Path, limit_s: int = LIMIT_S) -> Outcome:
    """Calls the command line in `folder`, with nothing on standard input."""
    out, err = io.StringIO(), io.StringIO()
    before, here, stdin = take_stock(folder.parent), Path.cwd(), sys.stdin
    os.chdir(folder)
    sys.stdin = io.StringIO("")
    code: Any
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limit_time(limit_s):
            code = main(list(words))
    except SystemExit as end:
        code = end.code
    except (Exception, TookTooLong) as raised:
        code = raised
    finally:
        os.chdir(here)
        sys.stdin = stdin
    after = take_stock(folder.parent)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return Outcome(code, err.getvalue(), changed)
