"""Reads state.json of a checkpoint: what it holds besides tensors and random state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from medvlm.core.errors import CheckpointError
from medvlm.core.stored import Misfit, read_object, require_fields


class MetaRecord(TypedDict):
    """Of a checkpoint's meta, what is read again."""

    adapters: NotRequired[dict[str, Any] | None]
    tokenizer: NotRequired[dict[str, str]]
    texts: NotRequired[dict[str, str]]
    published: NotRequired[dict[str, str]]
    sources: NotRequired[dict[str, str]]
    audits: NotRequired[dict[str, str]]
    stage: NotRequired[str]
    medvlm: NotRequired[str]
    code: NotRequired[str]
    recipe: NotRequired[str]


class StateRecord(TypedDict):
    step: NotRequired[int]
    identity: NotRequired[str]
    meta: NotRequired[MetaRecord]


def read_state(folder: Path) -> dict[str, Any]:
    """state.json. Raises CheckpointError if it is not what a checkpoint has there."""
    state: dict[str, Any] = read_object(
        folder / "state.json", StateRecord, "take an earlier checkpoint or train the stage again"
    )
    return state


def read_published(folder: Path) -> dict[str, str]:
    """Fingerprints of the tensors that a checkpoint does not hold, because they are in the published files that the
    model is built from."""
    published: dict[str, str] = read_state(folder).get("meta", {}).get("published", {})
    return published


def build_state(form: Any, record: dict[str, Any], folder: Path) -> Any:
    """state.json as a dataclass with exactly its fields. Raises CheckpointError if it has others, or other types."""
    try:
        require_fields(record, form)
        return form(**record)
    except (Misfit, TypeError) as reason:
        raise CheckpointError(
            f"{folder.parent.name}/{folder.name}/state.json is not of this release ({reason}); train the stage again"
            f" with --from {folder.parent.name}"
        ) from None
