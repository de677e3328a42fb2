"""Takes up a stage where its newest checkpoint left it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, TypeVar

from medvlm.core.errors import CheckpointError
from medvlm.core.published import explain_changed, find_packed
from medvlm.train import checkpoint
from medvlm.train.engine import Engine
from medvlm.train.log import Log
from medvlm.train.proof import Proof
from medvlm.train.state_file import build_state


class Resumable(Protocol):
    """What is needed of the state of a stage (loop.State)."""

    identity: str
    step: int
    meta: dict[str, Any]


State = TypeVar("State", bound=Resumable)


def resume(engine: Engine, folder: Path, log: Log, aliases: Collection[str], fresh: State, proof: Proof) -> State:
    """The state of the newest good checkpoint in `folder`, which is loaded into the engine, or `fresh` without one.

    aliases: identities of the same settings in earlier releases. Sets which tensors checkpoints leave out: those of
    meta["published"] (names and fingerprints of what the model was built from) that the stage does not change. Raises
    CheckpointError for a checkpoint of another stage."""
    published = fresh.meta.get("published", {})
    frozen = proof.list_frozen()
    fresh.meta["published"] = {n: text for n, text in published.items() if n in frozen or find_packed(n) in frozen}
    # Only one process verifies checkpoints, because several would try to rename the same damaged folder.
    found = checkpoint.find_newest_good(folder) if engine.is_first else None
    engine.barrier()
    found = found if engine.is_first else checkpoint.find_latest(folder)
    if found is None:
        log.forget_after(fresh.meta["stage"], 0)
        engine.unstored = frozenset(fresh.meta["published"])
        return fresh
    state: State = build_state(type(fresh), checkpoint.read_state(found), found)
    steps = fresh.meta.get("steps")  # those of `epochs` follow from the data
    if state.identity not in (fresh.identity, *aliases) or state.meta.get("steps", steps) != steps:
        raise CheckpointError(
            f"{folder.name}/{found.name} was trained with other settings, data or starting weights; use its"
            f" settings, train again from here with --from {folder.name}, or give the recipe another name"
        )
    state.identity = fresh.identity
    stated = state.meta.get("published", {})  # of earlier releases, whose checkpoints hold everything
    if changed := [name for name, text in stated.items() if fresh.meta["published"].get(name) != text]:
        raise explain_changed(f"{folder.name}/{found.name}", changed, len(stated))
    engine.unstored = frozenset(stated)
    checkpoint.restore(found, engine.load, engine.rank)
    log.forget_after(fresh.meta["stage"], state.step)
    if engine.is_first:
        print(f"stage {folder.name}: resuming from step {state.step}", flush=True)
    return state
