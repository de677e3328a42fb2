"""Every verb of the command line with its inputs damaged, in this process: what each reads, and what it may write."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medvlm.cli import main
from medvlm.commands.evidence import write_evidence
from medvlm.compositions import encoder
from medvlm.core.run import RunFolder, write_json
from medvlm.evaluate.saved import rescore
from medvlm.export.targets import custom
from medvlm.recipe.load import load
from tests import labelled_run
from tests.damage import WHOLE, damage_values, is_structured, reseal
from tests.fixtures.make_first_format import pull_film
from tests.fixtures.unpack import unpack

LIMIT_S = 120


@dataclass(frozen=True)
class Verb:
    """words: the command line. reads: patterns of the files that it reads. writes: what it may create or change.
    needs: what it also reads, and what is not damaged."""

    words: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


ODD = ("", " ", "nonsense", "../nowhere", "a" * 5000, "-1", "1e999", "ü\udcff", "recipe.yaml", "shards", "card.yaml",
       "film.png", ".", "/", "/dev/null", "hub:", "s3:", "none://x", "{a..b}.tar", "runs")  # fmt: skip
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
                   "runs/first/match/step-4/tensors/.metadata", "shards/*.json", "shards/train-*.tar",
                   "runs/first/metrics.jsonl"), ("runs", *INDEXES)),
    "validate": Verb(("validate", "small.yaml"), RECIPE),
    "plan": Verb(("plan", "small.yaml"), (*RECIPE, *SHARDS), ("runs", *INDEXES)),
    "dry_run": Verb(("dry-run", "small.yaml"), RECIPE, needs=("shards",)),
    "evaluate": Verb(("evaluate", "runs/first"), (*RUN, *STEP, *SHARDS, *TOKENIZER, "runs/first/evaluate/*.json*"),
                     ("runs/first/evaluate", "runs/cache", "runs/shards", *INDEXES)),
    "report": Verb(("report", "runs/first"),
                   (*RUN, "runs/first/metrics.jsonl", "runs/first/evaluate/*", "runs/first/ranks/*"),
                   ("runs/first/report.html",)),
    "rl_check": Verb(("rl-check", "runs/first", "evaluate.max_new_tokens=3", "--draws", "2"),
                     (*RUN, *STEP, *SHARDS, *TOKENIZER),
                     ("runs/first/rl-check", "runs/cache", "runs/shards", *INDEXES)),
    "rl_helps": Verb(("rl-helps", "runs/first", "--yes", "--seeds", "1", "stages.reinforced.steps=2",
                      "evaluate.samples=4", "evaluate.bootstrap=20", "evaluate.max_new_tokens=3"),
                     (*RUN, *STEP, *SHARDS, *TOKENIZER),
                     ("runs/first/rl-helps", "runs/cache", "runs/shards", *INDEXES)),
    "compare": Verb(("compare", "runs/first", "runs/second"),
                    ("runs/first/evaluate/*.json*", "runs/first/recipe.resolved.yaml"),
                    ("compare.html", "compare.json")),
    "export": Verb(("export", "runs/first", "--to", "out"), (*RUN, *STEP, *TOKENIZER, "runs/first/evaluate/*.json*"),
                   ("out", "runs/first/export")),
    "evidence": Verb(("evidence", "runs/scored", "--to", "out"),
                     (*(each.replace("first", "scored") for each in RUN), "runs/scored/evaluate/*.json*",
                      "runs/scored/metrics.jsonl"), ("out",)),
    "verify": Verb(("verify", "pack", "--model", "vlm"), ("pack/*", "pack/*/*", "vlm/*.json")),
    "consolidate": Verb(("consolidate", "runs/first", "--to", "out"), (*RUN, *STEP), ("out",)),
    "lineage": Verb(("lineage", "runs/first"), (*RUN, *STEP)),
    "chat": Verb(("chat", "vlm", "film.png", "--kind", "film", "--question", "Where?"),
                 ("vlm/*.json", "vlm/weights.safetensors", "vlm/tokenizer/*", "film.png")),
    "embed": Verb(("embed", "dual", "film.png", "shards", "--kind", "film", "--to", "film.parquet"),
                  ("dual/*.json", "dual/weights.safetensors", "dual/text_tokenizer/*", "film.png", *SHARDS),
                  ("film.parquet", *INDEXES)),
    "segment": Verb(("segment", "masks", "film.png", "--kind", "film", "--to", "mask.png"),
                    ("masks/*.json", "masks/weights.safetensors", "film.png"), ("mask.png",)),
    "predict": Verb(("predict", "vlm", "--on", "film.png", "--on", "shards:test", "--kind", "film", "--question",
                     "Where?", "--max-new-tokens", "3", "--to", "film.parquet"),
                    ("vlm/*.json", "vlm/weights.safetensors", "vlm/tokenizer/*", "film.png", *SHARDS),
                    ("film.parquet", "unfinished", *INDEXES)),
    # With a port that there is, it would not end.
    "serve": Verb(("serve", "vlm", "--port", "99999", "--token-file", "token.txt"), ("token.txt",)),
    "demo": Verb(("demo", "--runs", "demo-runs", "stages.align.steps=nonsense")),
    "schema": Verb(("schema", "recipe")),
    "pack": Verb(("data", "pack", "squares.yaml", "--root", "archive", "--out", "packed", "--workers", "1"),
                 ("squares.yaml", "archive/table.csv", "archive/f1.png", "archive/m1.png"),
                 ("packed", ".packed.lock", "packed.quarantine.jsonl", "packed.packing", ".packed.work")),
    "audit": Verb(("data", "audit", "shards"), (*SHARDS, "shards/card.yaml"), ("shards/audit.json", *INDEXES)),
    "stats": Verb(("data", "stats", "shards", "--to", "stats.html"), SHARDS, ("stats.html", *INDEXES)),
    "tasks": Verb(("data", "tasks", "shards", "--to", "tasks"), (*SHARDS, "shards/card.yaml"), ("tasks", *INDEXES)),
    "turns": Verb(("data", "turns", "shards", "--recipe", "tools.yaml", "--to", "taught"),
                  ("tools.yaml", "card.yaml", *SHARDS, "shards/card.yaml"), ("taught", *INDEXES)),
    "completion": Verb(("completion", "bash")),
    "test": Verb(("tasks", "test", "cases.yaml"), ("cases.yaml",)),
    "show": Verb(("data", "show", "shards", "--to", "show.html"), SHARDS, ("show.html", *INDEXES)),
}  # fmt: skip


SIDE = {"task": "choice", "answer": "left", "choices": ["left", "right"]}
CASES = {
    "rewards": {"choice": 0.9, "format": {"weight": 0.1}},
    "cases": [
        {"answer": "left", "truth": SIDE, "score": 1.0},
        {"answer": "right", "truth": SIDE, "is": "wrong", "source": "films", "steps": {"side": "left"}},
        {"answer": "left or right", "truth": SIDE, "is": "cheat", "image_gain": 0.5},
    ],
}
"""Of `medvlm tasks test`."""


def make_world(to: Path) -> Path:
    """A folder with inputs for every verb. Nothing of it is trained here."""
    unpack(to)
    pull_film(to)
    shutil.copytree(to / "runs/first/evaluate", to / "runs/second/evaluate")
    shutil.copytree(to / "runs/first", to / "runs/scored")
    write_json(to / "runs/scored/evaluate/results.json", rescore(to / "runs/scored/evaluate"))
    write_evidence(RunFolder(to / "runs/scored"), to / "pack")
    labelled_run.write_archive(to / "archive")
    write_masks_model(to / "masks")
    (to / "squares.yaml").write_text(yaml.safe_dump(labelled_run.CARD))
    (to / "cases.yaml").write_text(yaml.safe_dump(CASES))
    (to / "token.txt").write_text("a-token-of-a-test-0123456789")
    (to / "token.txt").chmod(0o600)
    whole = yaml.safe_load((to / "recipe.yaml").read_text())
    whole["stages"] = [stage for stage in whole["stages"] if stage["name"] in ("pair", "read")]
    (to / "small.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    tool = {"kind": "zoom", "least_px": 8, "taught_by": "boxes:finding"}
    (to / "tools.yaml").write_text(
        yaml.safe_dump({**whole, "environment": {"turns": 2, "tools": [tool]}}, sort_keys=False)
    )
    (to / "model").mkdir()
    (to / "model" / "config.json").write_text(
        json.dumps({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]})
    )
    return to


def write_masks_model(to: Path) -> None:
    """An exported model with a decoder of masks."""
    model = {"encoders": {"film": labelled_run.ENCODER}, "decoders": {"square": labelled_run.DECODERS["square"]}}
    fit = {**labelled_run.FIT, "losses": {"square": ["dice"]}}
    with tempfile.TemporaryDirectory() as folder:
        whole = load(labelled_run.write_run(Path(folder), labelled_run.recipe(model=model, stages=[fit]))).recipe
    built = encoder.build_decoding(whole.model.encoders, whole.model.decoders, 0)
    to.mkdir()
    custom.store(built, to, lambda name: True)
    described = encoder.describe(built, None, whole, whole.stages[0])
    write_json(to / custom.MANIFEST, described.model_dump(mode="json", by_alias=True))


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


SURE = (
    "empty",
    "null",
    "half",
    "binary",
    "zeros",
    "an image",
    "a page",
    "a deep list",
    "a list",
    "a number",
    "an empty object",
)
"""Damage after which no recipe, card or record of a stage can be read."""
CHEAP: dict[str, tuple[str, ...]] = {
    "train": ("recipe.yaml", "card.yaml"),
    "plan": RECIPE,
    "dry_run": RECIPE,
    "evaluate": ("runs/first/recipe.resolved.yaml", "runs/first/places.json", "runs/first/instruct/stage.json"),
    "rl_helps": ("runs/first/recipe.resolved.yaml", "runs/first/cards/tiny.yaml", "runs/first/instruct/stage.json"),
    "pack": ("squares.yaml",),
    "export": ("runs/first/recipe.resolved.yaml", "runs/first/cards/tiny.yaml", "runs/first/instruct/stage.json"),
}
"""Verbs that do long work if their inputs are good enough -> files without which they end at once."""
NEEDS_BROKEN = ("dry_run",)
"""Verbs that are not tried with a recipe that is still valid after the change: they would do all their work."""


def list_cases(name: str, world: Path) -> list[Case]:
    """Every kind of damage to every file, changes of single values, and odd arguments."""
    verb = VERBS[name]
    files = _list_files(verb, world)
    cases = [
        Case(name, f"{file}: {how}", verb.words, file, how, is_sealed="step-" in file and i % 2 == 0)
        for file in files
        for i, how in enumerate(WHOLE)
    ]
    structured = [file for file in files if is_structured(world / file)]
    values = 30 if name == "export" else 300
    for seed in range(values if structured else 0):
        file = structured[seed % len(structured)]
        cases.append(Case(name, f"{file}: value {seed}", verb.words, file, "", seed, is_sealed=True))
    for at in range(1, len(verb.words)):
        if verb.words[at].startswith("--") or verb.words[at] in ("pack", "audit", "stats", "tasks", "show"):
            continue
        cases += [_replace(name, verb.words, at, word) for word in ODD]
    cases += [Case(name, f"and {word!r:.20}", (*verb.words, word)) for word in ODD]
    if len(cases) < MOST_FILES:  # verbs that read nothing but their arguments
        cases += [Case(name, f"and {a!r:.20} {b!r:.20}", (*verb.words, a, b)) for a in ODD for b in ODD]
    return cases


MOST_FILES = 100


def list_cheap_cases(name: str, world: Path) -> list[Case]:
    """Those that end within a second."""
    files = CHEAP.get(name, ())
    return [case for case in list_cases(name, world) if not files or (case.file in files and case.how in SURE)]


def copy_world(world: Path, to: Path, verb: Verb) -> Path:
    """A copy of what the verb reads and needs."""
    names = {each.partition("/")[0] for each in (*verb.reads, *verb.needs, *verb.words, "card.yaml")}
    to.mkdir(parents=True)
    for path in (world / name for name in sorted(names) if name and (world / name).exists()):
        (shutil.copytree if path.is_dir() else shutil.copy)(path, to / path.name)
    return to


def is_still_good(case: Case, folder: Path) -> bool:
    """Whether a verb that must not be tried with good inputs would get some."""
    return case.verb in NEEDS_BROKEN and case.how not in SURE and call(("validate", *case.words[1:]), folder).code == 0


def _replace(name: str, words: tuple[str, ...], at: int, word: str) -> Case:
    return Case(name, f"word {at}: {word!r:.20}", (*words[:at], word, *words[at + 1 :]))


def _list_files(verb: Verb, world: Path) -> list[str]:
    found = {path.relative_to(world).as_posix() for each in verb.reads for path in world.glob(each) if path.is_file()}
    return sorted(found)


@dataclass(frozen=True)
class Outcome:
    """code: the exit code, or what was raised. said: standard error. changed: files that are not as they were."""

    code: Any
    said: str
    changed: list[str]

    def find_fault(self, writes: Sequence[str], words: Sequence[str]) -> str:
        """What is wrong with the end of a verb, "" if nothing is. writes: what it may write besides its arguments."""
        if isinstance(self.code, BaseException):
            where = "".join(traceback.format_tb(self.code.__traceback__)[-2:])
            return f"{type(self.code).__name__}: {self.code}\n{where}"
        if self.code not in (0, 2) or "Traceback" in self.said:
            return f"ended with {self.code}: {self.said}"
        if self.code == 2 and not self.said.strip():
            return "nothing was said"
        named = (
            os.path.normpath(f"world/{words[at + 1]}")
            for at, word in enumerate(words[:-1])
            if word in ("--to", "--out", "--runs")
        )
        own = [*(f"world/{each}" for each in writes), *named]
        other = [name for name in self.changed if not any(_is_part(name, each) for each in own)]
        return f"changed {', '.join(other)}" if other else ""


def _is_part(name: str, place: str) -> bool:
    """Whether a file is a place, lies in it, or is its lock or quarantine beside it."""
    lock = os.path.join(os.path.dirname(place), f".{os.path.basename(place)}.lock")
    return name in (place, lock) or name.startswith(f"{place}/") or place == "world"


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
