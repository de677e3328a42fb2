"""`medvlm lineage`: what a checkpoint was made from (stages, starting weights, data), and whether its files are
unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from medvlm import __version__
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder, find_changed, find_own_checkpoint, read_record, split_origin, write_json
from medvlm.core.stored import read_object
from medvlm.recipe.load import LoadedRecipe
from medvlm.recipe.sources import OpenSource
from medvlm.train import checkpoint


class LicenceRecord(TypedDict):
    id: str


class CardRecord(TypedDict):
    title: str
    licence: LicenceRecord


class SourceRecord(TypedDict):
    card: NotRequired[CardRecord | None]


class LineageRecord(TypedDict):
    """What is shown of lineage.json."""

    sources: NotRequired[dict[str, SourceRecord]]


class DescribedAdapters(TypedDict):
    rank: int
    targets: list[str]


DescribedMeta = TypedDict(
    "DescribedMeta",
    {
        "from": dict[str, str],
        "teachers": NotRequired[dict[str, str]],
        "sources": dict[str, str],
        "adapters": DescribedAdapters | None,
        "recipe": str,
        "medvlm": str,
        "code": NotRequired[str],
        "audits": NotRequired[dict[str, str]],
        "tokenizer": NotRequired[dict[str, str]],
    },
)


class DescribedState(TypedDict):
    """What is shown of a checkpoint's state.json."""

    step: int
    consumed: int
    meta: DescribedMeta


@dataclass(frozen=True)
class Lineage:
    """faults: what is missing, damaged or replaced; these are among the lines too."""

    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add_fault(self, line: str) -> None:
        self.lines.append(line)
        self.faults.append(line.strip())


def find_checkpoint(path: str) -> Path:
    """A checkpoint's folder, from its path, RUN:STAGE, or RUN (its last finished stage, in the order of the recipe).
    Raises CheckpointError if there is none."""
    if (Path(path) / "manifest.json").exists():
        return Path(path)
    run, stage = _split(path)
    folder = run.stage(stage or _list_finished(run, path)[-1])
    return folder / str(read_record(folder)["take"])


def describe_lineage(path: str) -> Lineage:
    """A checkpoint and everything it was made from, or all stages of a run."""
    if (Path(path) / "manifest.json").exists():
        folder = Path(path)
        return _describe_run(RunFolder(folder.resolve().parent.parent), [folder.resolve()])
    run, stage = _split(path)
    stages = [stage] if stage else _list_finished(run, path)
    return _describe_run(run, [run.stage(name) / str(read_record(run.stage(name))["take"]) for name in stages])


def write_lineage(loaded: LoadedRecipe, run: RunFolder, sources: dict[str, OpenSource]) -> None:
    """Writes what each stage was made from, for the report, the model card and readers of checkpoints."""
    finished = [s.name for s in loaded.recipe.stages if run.is_finished(s.name)]
    records = {name: read_record(run.stage(name)) for name in finished}
    write_json(
        run.lineage,
        {
            "recipe": loaded.recipe_hash,
            "medvlm": __version__,
            "sources": {name: s.describe() for name, s in sources.items()},
            "model": {"parameters": {m: n for record in records.values() for m, n in record["parameters"].items()}},
            "stages": {
                name: {
                    **{key: r[key] for key in ("from", "teachers") if key == "from" or r.get(key)},
                    "checkpoint": f"{name}/{r['take']}@{r['checkpoint']}",
                }
                for name, r in records.items()
            },
        },
    )


def _split(path: str) -> tuple[RunFolder, str]:
    """The run and the stage of RUN or RUN:STAGE. Raises CheckpointError if the stage is not finished."""
    root, _, stage = path.rpartition(":") if not Path(path).is_dir() and ":" in path else (path, "", "")
    if stage and not RunFolder(Path(root)).is_finished(stage):
        raise _explain_absence(path, f" {stage}", Path(root))
    return RunFolder(Path(root)), stage


def _list_finished(run: RunFolder, path: str) -> list[str]:
    """In the order of the recipe. Raises CheckpointError if no stage is finished or their order is unknown."""
    present = sorted(p.parent.name for p in run.root.glob("*/stage.json"))
    if not present:
        raise _explain_absence(path, "", run.root)
    if not run.recipe.is_file():
        raise CheckpointError(
            f"{path}: has no {run.recipe.name}, so the order of its stages is unknown; give RUN:STAGE (finished stages:"
            f" {', '.join(present)})"
        )
    if not (finished := run.list_finished()):
        raise _explain_absence(path, "", run.root)
    return finished


def _explain_absence(path: str, stage: str, root: Path) -> CheckpointError:
    run = RunFolder(root)
    present = run.list_finished() if run.recipe.is_file() else sorted(p.parent.name for p in root.glob("*/stage.json"))
    there = f" (finished stages: {', '.join(present)})" if present else ""
    return CheckpointError(
        f"{path}: not a checkpoint, and not a run with a finished stage{stage}{there}; give RUN, RUN:STAGE or"
        " RUN/STAGE/step-N"
    )


def _describe_run(run: RunFolder, wanted: list[Path]) -> Lineage:
    made, states = Lineage(), _collect_states(run, [f"{folder.parent.name}/{folder.name}" for folder in wanted])
    known = _read(run.lineage) if run.lineage.exists() else {}
    made.lines.append(f"run {run.root.resolve().name}")
    for name, (state, stated) in states.items():
        verdict = _verify(run.root / name, stated)
        line = f"  {name}@{_digest(run.root / name)}  {verdict or 'verified'}"
        (made.add_fault if verdict else made.lines.append)(line)
        if state:
            made.lines.extend(_describe_state(run, known, state))
            changed = find_changed(run.tokenizer, state["meta"].get("tokenizer") or {})
            for file in changed:
                made.add_fault(f"    CHANGED: {run.tokenizer.name}/{file} is not the file it was trained with")
    return made


def _describe_state(run: RunFolder, known: dict[str, Any], state: dict[str, Any]) -> Iterator[str]:
    meta = state["meta"]
    yield (
        f"    {state['step']} steps, {state['consumed']} samples; recipe {meta['recipe'][:12]}, medvlm"
        f" {meta['medvlm']}" + (f", code {meta['code']}" if "code" in meta else "")
    )
    for module, origin in sorted(meta["from"].items()):
        own = [found for part in split_origin(origin) if (found := find_own_checkpoint(part))]
        is_gone = any(not (run.root / name).exists() for name in own)
        yield f"    {module} from {origin}{' (no longer there)' if is_gone else ''}"
    if not meta["from"]:
        yield "    from no earlier stage"
    for key, origin in sorted(meta.get("teachers", {}).items()):
        yield f"    {key}: {origin}"
    for source, fingerprint in sorted(meta["sources"].items()):
        audit = meta.get("audits", {}).get(source)
        yield f"    data {_describe_source(known, source)}, fingerprint {fingerprint[:12]}, " + (
            f"audit {audit[:12]}" if audit else "no audit"
        )
    if meta["adapters"]:
        yield f"    adapters of rank {meta['adapters']['rank']} on {', '.join(meta['adapters']['targets'])}"


def _collect_states(run: RunFolder, wanted: list[str]) -> dict[str, tuple[dict[str, Any], set[str]]]:
    """Checkpoint -> its state ({} if it cannot be read), and the digests that its stage and later stages recorded for
    it. Origins come first; origins that were removed are left out."""
    found: dict[str, tuple[dict[str, Any], set[str]]] = {}
    begun: set[str] = set()

    def visit(name: str, stated: str) -> None:
        if name in found:
            found[name][1].update({stated} - {""})
            return
        if name in begun:  # it is said to be made from itself
            return
        begun.add(name)
        folder = run.root / name
        if name not in wanted and not folder.exists():
            return
        state = _read_state(folder)
        made_from = set(state["meta"]["from"].values()) if state else set()
        for origin in sorted({part for text in made_from for part in split_origin(text)}):
            if find_own_checkpoint(origin):
                visit(*origin.partition("@")[::2])
        found[name] = (state, {stated, _read_stated(folder)} - {""})

    for name in wanted:
        visit(name, "")
    return found


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_object(folder / "state.json", DescribedState, "")
    except CheckpointError:
        return {}
    return state


def _read_stated(folder: Path) -> str:
    """The digest in the stage.json of a stage that ended with this checkpoint, else ""."""
    if not (folder.parent / "stage.json").exists():
        return ""
    record = read_record(folder.parent)
    return str(record.get("checkpoint", "")) if record["take"] == folder.name else ""


def _verify(folder: Path, stated: set[str]) -> str:
    """What is wrong, "" if nothing is."""
    if not folder.exists():
        return "MISSING: its folder is no longer there"
    if damage := checkpoint.find_damage(folder):
        return f"DAMAGED: {damage}"
    if others := sorted(stated - {_digest(folder)}):
        return f"CHANGED: its stage or a later one recorded {', '.join(others)}"
    return ""


def _digest(folder: Path) -> str:
    return checkpoint.digest(folder) if (folder / "manifest.json").exists() else "?"


def _describe_source(known: dict[str, Any], source: str) -> str:
    card = known.get("sources", {}).get(source, {}).get("card")
    return f"{source} ({card['title']}, {card['licence']['id']})" if card else source


def _read(path: Path) -> dict[str, Any]:
    """{} for a damaged file: the fields it would add are then left out."""
    try:
        read: dict[str, Any] = read_object(path, LineageRecord, "")
    except CheckpointError:
        return {}
    return read
