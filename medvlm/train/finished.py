"""What a finished stage left behind, checked against what was noted when it ended."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medvlm.core.config import component
from medvlm.core.errors import CheckpointError
from medvlm.core.run import RunFolder, find_changed, read_record
from medvlm.core.stage_config import StageConfig
from medvlm.train import checkpoint


def find_final(stage_folder: Path) -> Path:
    """The checkpoint of a finished stage that the next stage starts from. Raises CheckpointError if another one stands
    in its place."""
    record = read_record(stage_folder)
    require_same(stage_folder / record["take"], str(record.get("checkpoint", "")))
    return stage_folder / str(record["take"])


def require_same(folder: Path, stated: str) -> None:
    """stated: its digest when its stage ended, "" if unknown. Raises CheckpointError for another checkpoint."""
    if not (folder / "manifest.json").is_file():
        raise CheckpointError(f"{folder.parent.name}/{folder.name} is missing; copy it again, or train the stage again")
    if stated and (found := checkpoint.digest(folder)) != stated:
        raise CheckpointError(
            f"{folder.parent.name}/{folder.name} was replaced: it is {found}, and the stage ended with {stated};"
            f" put the checkpoint back, or train the stage again with --from {folder.parent.name}"
        )


def require_tokenizer(run: RunFolder, stage: str, meta: dict[str, Any]) -> None:
    """Raises CheckpointError if a file of the run's tokenizer or processor is not the one that the stage was trained
    with. meta: of a checkpoint of the stage; earlier releases did not record the files."""
    stated = meta.get("tokenizer")
    if isinstance(stated, dict) and (changed := find_changed(run.tokenizer, stated)):
        raise CheckpointError(
            f"{run.root.name}/{run.tokenizer.name}/{changed[0]} is not the file that stage {stage} was trained with;"
            f" put it back, or train all stages again (medvlm train ... --from with the first stage)"
        )


def hash_texts(stage: StageConfig) -> dict[str, str]:
    """Field of a text tower that has its own tokenizer, from a folder or the hub -> a hash of its words and their ids.
    The run folder holds no copy of such a tokenizer."""
    towers = {field: tower for field, tower in stage.list_text_towers().items() if getattr(tower, "model", "")}
    hashes = {}
    for field, tower in towers.items():
        tokenizer = component("texts", tower.kind).tokenizer(tower, None)
        words = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.all_special_tokens)]
        hashes[field] = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
    return hashes


def require_texts(stage: StageConfig, meta: dict[str, Any]) -> None:
    """Raises CheckpointError if the tokenizer of a text tower is not the one that the stage was trained with. meta: of
    a checkpoint of the stage; earlier releases did not record it."""
    stated = meta.get("texts") or {}
    now = hash_texts(stage) if stated else {}
    for field, digest in stated.items():
        if now.get(field) != digest:
            tower = getattr(stage, field)
            raise CheckpointError(
                f"stages.{stage.name}.{field}: the tokenizer of {tower.model} has other words than the one that the"
                f" stage was trained with; put it back, or train the stage again with --from {stage.name}"
            )
