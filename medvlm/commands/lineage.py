"""`medvlm lineage`: what a checkpoint was made from (stages, starting weights, data), and whether its files are
unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder, find_own_checkpoint
from medvlm.train import checkpoint


def find_checkpoint(path: str) -> Path:
    """A checkpoint's folder, from its path, RUN:STAGE, or RUN (its last finished stage). Raises CheckpointError if
    there is none."""
    folder = Path(path)
    if (folder / "manifest.json").exists():
        return folder
    root, _, stage = path.partition(":")
    finished = [p.parent for p in sorted(Path(root).glob("*/stage.json"), key=lambda p: p.stat().st_mtime)]
    found = [p for p in finished if not stage or p.name == stage]
    if not found:
        there = f" (finished stages: {', '.join(p.name for p in finished)})" if finished else ""
        raise CheckpointError(
            f"{path}: not a checkpoint, and not a run with a finished stage{f' {stage}' if stage else ''}{there}; give"
            " RUN, RUN:STAGE or RUN/STAGE/step-N"
        )
    return found[-1] / str(_read(found[-1] / "stage.json")["take"])


def describe_lineage(path: str) -> list[str]:
    """Lines about a checkpoint and everything it was made from, or about all stages of a run."""
    whole = find_checkpoint(path)
    if (Path(path) / "manifest.json").exists() or ":" in path:
        return list(_describe_run(RunFolder(whole.parent.parent), {f"{whole.parent.name}/{whole.name}": ""}))
    stages = [
        (p.parent.name, _read(p)) for p in sorted(Path(path).glob("*/stage.json"), key=lambda p: p.stat().st_mtime)
    ]
    return list(
        _describe_run(
            RunFolder(Path(path)), {f"{name}/{record['take']}": record["checkpoint"] for name, record in stages}
        )
    )


def _describe_run(run: RunFolder, wanted: dict[str, str]) -> Iterator[str]:
    states = _collect_states(run, wanted)
    known = _read(run.lineage) if run.lineage.exists() else {}
    yield f"run {run.root.resolve().name}"
    for name, (state, stated) in states.items():
        meta = state["meta"]
        yield f"  {name}@{_digest(run.root / name)}  {_verify(run.root / name, stated)}"
        yield (
            f"    {state['step']} steps, {state['consumed']} samples; recipe {meta['recipe'][:12]}, medvlm"
            f" {meta['medvlm']}" + (f", code {meta['code']}" if "code" in meta else "")
        )
        for module, origin in sorted(meta["from"].items()):
            own = find_own_checkpoint(origin)
            yield f"    {module} from {origin}{' (no longer there)' if own and not (run.root / own).exists() else ''}"
        if not meta["from"]:
            yield "    from no earlier stage"
        for source, fingerprint in sorted(meta["sources"].items()):
            audit = meta.get("audits", {}).get(source)
            yield f"    data {_describe_source(known, source)}, fingerprint {fingerprint[:12]}, " + (
                f"audit {audit[:12]}" if audit else "no audit"
            )
        if meta["adapters"]:
            yield f"    adapters of rank {meta['adapters']['rank']} on {', '.join(meta['adapters']['targets'])}"


def _collect_states(run: RunFolder, wanted: dict[str, str]) -> dict[str, tuple[dict[str, Any], str]]:
    """Checkpoint -> its state, and the digest that later stages recorded for it ("" if none did). Origins come first;
    checkpoints that were removed are left out."""
    found: dict[str, tuple[dict[str, Any], str]] = {}

    def visit(name: str, stated: str) -> None:
        if name in found or not (run.root / name / "state.json").exists():
            return
        state = checkpoint.read_state(run.root / name)
        for origin in sorted(set(state["meta"]["from"].values())):
            if find_own_checkpoint(origin):
                visit(*origin.partition("@")[::2])
        found[name] = (state, stated)

    for name, stated in wanted.items():
        visit(name, stated)
    return found


def _verify(folder: Path, stated: str) -> str:
    if damage := checkpoint.find_damage(folder):
        return f"DAMAGED: {damage}"
    if stated and _digest(folder) != stated:
        return f"CHANGED: later stages started from {stated}"
    return "verified"


def _digest(folder: Path) -> str:
    return checkpoint.digest(folder) if (folder / "manifest.json").exists() else "?"


def _describe_source(known: dict[str, Any], source: str) -> str:
    card = known.get("sources", {}).get(source, {}).get("card")
    return f"{source} ({card['title']}, {card['licence']['id']})" if card else source


def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text())
    return read
