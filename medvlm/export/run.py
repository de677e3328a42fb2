"""Exports a trained model to a folder that is complete, checked by the parity proof and described by a model card."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from medvlm import __version__
from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.document import to_yaml
from medvlm.core.durable import require_local
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, read_record, write_json
from medvlm.core.stored import read_object
from medvlm.export.audit import Audit
from medvlm.export.card.about import About
from medvlm.export.card.page import make_model_card
from medvlm.export.proof import parity
from medvlm.export.proof.seal import FILES, find_added, seal
from medvlm.export.redact import find_traces, strip_paths
from medvlm.export.trained import Trained
from medvlm.recipe.targets import REMEDY, STOCK, resolve

PART, PART_TASK = "One image encoder of a larger model", "image-feature-extraction"


@dataclass(frozen=True)
class ExportReceipt:
    """folder: where the model is. kind: its target. parity: the record of the proof."""

    folder: Path
    kind: str
    parity: dict[str, Any]
    audit: Audit

    def __str__(self) -> str:
        diff = self.parity.get("max_abs_logit_diff", self.parity.get("max_abs_embedding_diff"))
        library = component("export.targets", self.kind).LIBRARY
        what = (
            f"loads with {library}"
            if library == parity.OURS
            else f"loads with plain {library} as {self.parity['class']}"
        )
        return (
            f"{self.folder}: {what}; parity proven in a fresh process (largest difference {diff:.1g})\n"
            f"tensors: {self.audit.summarize()}"
        )


def export(run: RunFolder, out: Path, trained: Trained, target: str) -> ExportReceipt:
    """Writes `out`, which appears only when it is complete and proven. target: `stock`, or the name of a file in
    medvlm/export/targets.

    Raises RecipeError if the model does not fit the target, or if `out` exists and is not an earlier export. Raises
    ParityError if the proof fails; the files are then kept in OUT.failed, or OUT.failed-2 if there is one already.
    """
    model, stages = trained.recipe.model, trained.stages
    kind, part, reason = resolve(target, model, stages)
    if reason:
        raise RecipeError(f"export: {reason}; {REMEDY}")
    place = out.resolve()
    _check_place(out, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    # A folder of our own beside `out`, so that nothing that others keep there is touched.
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".part", dir=place.parent) as own:
        folder = Path(own) / place.name
        folder.mkdir()
        try:
            receipt = _write(run, folder, replace(trained, part=part), kind)
        except parity.ParityError as failure:
            record = {"passed": False, "why": str(failure), **(failure.record or {})}
            write_json(folder / "medvlm" / "parity.json", record)
            failed = _find_free_name(place.with_name(f"{place.name}.failed"))
            folder.rename(failed)
            raise parity.ParityError(
                f"{failure}\nthe files are kept in {out.with_name(failed.name)}", failure.record
            ) from None
        _put(folder, place, Path(own) / "before")
    return replace(receipt, folder=out)


def _write(run: RunFolder, folder: Path, trained: Trained, kind: str) -> ExportReceipt:
    from transformers.utils import logging

    logging.disable_progress_bar()  # save_pretrained would show one for every file
    target: Any = component("export.targets", kind)
    with tempfile.TemporaryDirectory(prefix="medvlm-parity-") as scratch:
        reference = Path(scratch)
        target.write_reference(trained, reference)
        audit = target.write(trained, folder)
        _describe(run, folder, trained, audit, kind)
        record = parity.prove(folder, reference, target.LOADER)
    write_json(folder / "medvlm" / "parity.json", record)
    (folder / "README.md").write_text(
        make_model_card(_make_about(run, folder, trained, kind, record, audit)), encoding="utf-8"
    )
    if found := find_traces(
        folder,
        [run.root.resolve(), folder.resolve().parent, Path.cwd(), Path(tempfile.gettempdir()) / "medvlm-parity-"],
    ):
        raise RuntimeError(f"export: the folder contains details of this machine: {'; '.join(found)}")
    seal(folder)
    for file in folder.rglob("*"):
        if file.is_file():  # some libraries write files that only their owner can read
            file.chmod(0o666 & ~_read_umask())
    return ExportReceipt(folder, kind, record, audit)


def _describe(run: RunFolder, folder: Path, trained: Trained, audit: Audit, kind: str) -> None:
    """Writes medvlm/ into the model's folder: lineage, results, preprocessing, audit, recipe and cards.

    A custom folder has the recipe and the cards at its root, like a run."""
    notes = folder / "medvlm"
    write_json(notes / "lineage.json", strip_paths(_read_lineage(run)))
    write_json(notes / "results.json", strip_paths(list(trained.results)))
    write_json(
        notes / "preprocessing.json", {name: p.model_dump(mode="json") for name, p in trained.preprocess.items()}
    )
    write_json(
        notes / "export.json",
        {
            "target": kind,
            "part": trained.part,
            "stage": trained.stage,
            "recipe": trained.recipe_hash,
            "learnt_from": sorted(_list_binding_cards(trained)),
        },
    )
    write_json(notes / "audit.json", {"counts": audit.count(), **vars(audit)})
    plain = strip_paths(trained.plain)
    plain["stages"] = plain["stages"][: len(trained.stages)]  # later stages trained another model
    plain.setdefault("export", {})["target"] = f"{kind}.{trained.part}" if trained.part else kind
    for source in trained.cards:
        plain["data"][source]["card"] = f"cards/{source}.yaml"
    where = folder if component("export.targets", kind).LOADER == parity.OURS else notes
    for source, card in trained.cards.items():
        copied = where / "cards" / f"{source}.yaml"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(to_yaml(strip_paths(card.model_dump(mode="json", by_alias=True))), encoding="utf-8")
    (where / run.recipe.name).write_text(f"# {trained.recipe_hash}\n{to_yaml(plain)}", encoding="utf-8")


def _make_about(
    run: RunFolder, folder: Path, trained: Trained, kind: str, record: dict[str, Any], audit: Audit
) -> About:
    lineage = _read_lineage(run)
    is_part, composition = component("export.targets", kind).HOLDS.is_part, trained.composition
    stages = {s.name: read_record(run.stage(s.name)) for s in trained.stages if run.is_finished(s.name)}
    adapters = folder / "adapter_config.json"
    return About(
        kind=kind,
        what=PART if is_part else composition.SUMMARY,
        task=PART_TASK if is_part else composition.HUB_TASK,
        is_part=is_part,
        needs_medvlm=component("export.targets", kind).LOADER == parity.OURS,
        parts=composition.PARTS,
        recipe=strip_paths(trained.plain),
        cards=_list_binding_cards(trained),
        counts={name: source.get("counts") or {} for name, source in (lineage.get("sources") or {}).items()},
        audits={
            name: source["audit"] for name, source in (lineage.get("sources") or {}).items() if source.get("audit")
        },
        stages={name: done for name, done in stages.items() if done},
        results=[] if is_part else list(trained.results),
        preprocess={trained.encoder: trained.preprocess[trained.encoder]} if is_part else trained.preprocess,
        base=json.loads(adapters.read_text()).get("base_model_name_or_path", "") if adapters.is_file() else "",
        parity=record,
        audit=audit,
        recipe_hash=trained.recipe_hash,
        version=__version__,
        codec=trained.prepare.boxes.codec if trained.prepare else "",
        why_custom=resolve(STOCK, trained.recipe.model, trained.stages)[2],
        parameters=(lineage.get("model") or {}).get("parameters") or {},
    )


def _list_binding_cards(trained: Trained) -> dict[str, Card]:
    """The cards whose licences bind the model: those of its stages' data. If a tokenizer was trained for the run, all
    cards count, because it is trained on the texts of all sources."""
    language = trained.recipe.model.language
    used = {source for stage in trained.stages for source in stage.mix}
    own_tokenizer = any(
        not part.model
        for part in [language, *(text for s in trained.stages for text in s.list_text_towers().values())]
        if part is not None
    )
    return {name: card for name, card in trained.cards.items() if own_tokenizer or name in used}


def _read_lineage(run: RunFolder) -> dict[str, Any]:
    """{} for a run without one. Raises CheckpointError for a damaged one: the model card would not tell the truth."""
    if not run.lineage.exists():
        return {}
    remedy = "copy it again from where the run was trained; training again writes it too"
    lineage: dict[str, Any] = read_object(run.lineage, ExportedLineage, remedy)
    return lineage


class ExportedAudit(TypedDict):
    passed: bool
    hash: str
    against: list[str]
    compared_with: list[str]
    findings: list[dict[str, str]]


class ExportedSource(TypedDict, total=False):
    counts: dict[str, int] | None
    audit: ExportedAudit | dict[str, None] | None  # or {}, if there was no audit


class ExportedModel(TypedDict, total=False):
    parameters: dict[str, int] | None


class ExportedLineage(TypedDict, total=False):
    """What the model card says of lineage.json."""

    sources: dict[str, ExportedSource] | None
    model: ExportedModel | None


# --- the output folder ----------------------------------------------------------------------------


def _check_place(out: Path, place: Path) -> None:
    """Raises RecipeError for what is no folder on this machine, and for one that is neither empty nor an earlier
    export, which may be replaced. place: `out` without links."""
    require_local(out)
    if place.exists() and not place.is_dir():
        raise RecipeError(f"{out}: is a file; choose a folder")
    if not place.is_dir() or not any(place.iterdir()):
        return
    if not (place / "medvlm" / "parity.json").is_file():
        raise RecipeError(f"{out}: exists and is not an export of medvlm; choose another folder, or remove it")
    if (place / FILES).is_file() and (added := find_added(place)):
        raise RecipeError(f"{out}: holds {added[0]}, which no export wrote; choose another folder, or move it away")


def _put(folder: Path, place: Path, aside: Path) -> None:
    """Moves the folder to its place. What was there goes to `aside`, and back again if the move fails."""
    if place.exists():
        place.rename(aside)
    try:
        folder.rename(place)
    except BaseException:
        if aside.exists():
            aside.rename(place)
        raise


def _find_free_name(path: Path) -> Path:
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def _read_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
