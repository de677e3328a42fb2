"""From a trained model to a folder that is whole, proven and described, or to no folder at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from medvlm import __version__
from medvlm.core.card import Card
from medvlm.core.contracts import Preprocess
from medvlm.core.document import as_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.run import RunFolder, write_json
from medvlm.export import custom, dual, llava, parity
from medvlm.export.audit import Audit
from medvlm.export.card import About, model_card
from medvlm.export.redact import traces, without_paths
from medvlm.export.stock import REMEDY, stock_reason
from medvlm.models.parts import matches
from medvlm.models.towers import DualEncoder
from medvlm.models.vlm import VLM

CUSTOM_CHILD = ("-m", "medvlm.export.custom_child")


@dataclass(frozen=True)
class Trained:
    """What is exported. model: as `stage` left it, adapters still on it, float32, on the CPU.

    tokenizer: of the language model, or of the text tower of a dual encoder. recipe: typed (model, stages, plugins).
    plain: the same with every key, without where data lies. cards: source -> its data card. is_last: whether no later
    stage is finished, so that the run's evaluation is of this model.
    """

    model: VLM | DualEncoder
    tokenizer: Any
    preprocess: Mapping[str, Preprocess]
    stage: str
    recipe: Any
    plain: dict[str, Any]
    recipe_hash: str
    cards: Mapping[str, Card]
    is_last: bool = True


@dataclass(frozen=True)
class ExportReceipt:
    """folder: the model. kind: of stock class, or custom. parity: the record of the proof."""

    folder: Path
    kind: Literal["llava", "dual", "custom"]
    parity: dict[str, Any]
    audit: Audit

    def __str__(self) -> str:
        diff = self.parity.get("max_abs_logit_diff", self.parity.get("max_abs_embedding_diff"))
        what = {"custom": "loads with medvlm"}.get(self.kind, f"loads with plain transformers as {self.parity['class']}")
        return f"{self.folder}: {what}; parity proven in a fresh process (largest difference {diff:.1g})\ntensors: {self.audit.line()}"


def export(run: RunFolder, out: Path, trained: Trained, target: Literal["stock", "custom"]) -> ExportReceipt:
    """Writes `out`, which appears whole and proven or not at all.

    Raises RecipeError when no stock class holds the composition, or `out` is something else than an earlier export;
    ParityError when the proof fails: then what was written is left as OUT.failed.
    """
    reason = stock_reason(trained.recipe.model, trained.recipe.stages)
    if target == "stock" and reason:
        raise RecipeError(f"export: no stock class holds this model: {reason}; {REMEDY}")
    _check_place(out)
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        receipt = _write(run, part, trained, target, reason or "")
    except parity.ParityError as failure:
        write_json(part / "medvlm" / "parity.json", {"passed": False, "why": str(failure), **(failure.record or {})})
        failed = out.with_name(f"{out.name}.failed")
        _replace(part, failed)
        raise parity.ParityError(f"{failure}\nwhat was written is left in {failed}", failure.record) from None
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    _replace(part, out)
    return replace(receipt, folder=out)


def _write(run: RunFolder, part: Path, trained: Trained, target: str, reason: str) -> ExportReceipt:
    from transformers.utils import logging

    logging.disable_progress_bar()  # a folder of one file needs none
    kind: Literal["llava", "dual", "custom"] = "custom" if target == "custom" else "llava" if isinstance(trained.model, VLM) else "dual"
    before = {n: p if kind == "custom" else p.model_copy(update={"window": None}) for n, p in trained.preprocess.items()}
    patterns = [p for stage in _until(trained) for p in stage.trains]
    with tempfile.TemporaryDirectory(prefix="medvlm-parity-") as scratch:
        reference = Path(scratch)
        if isinstance(trained.model, VLM):
            parity.write_reference(trained.model, trained.tokenizer, before, reference)
        else:
            dual.write_reference(trained.model, trained.tokenizer, before, reference)
        audit = _save(kind, trained, part, lambda name: any(matches(name, p) for p in patterns))
        _describe(run, part, trained, audit, kind)
        record = parity.prove(part, reference, CUSTOM_CHILD if kind == "custom" else parity.STOCK)
    write_json(part / "medvlm" / "parity.json", record)
    (part / "README.md").write_text(model_card(_about(run, trained, kind, reason, record, audit)), encoding="utf-8")
    if found := traces(part, [run.root.resolve(), part.resolve().parent, Path.cwd(), Path(tempfile.gettempdir()) / "medvlm-parity-"]):
        raise RuntimeError(f"export: the folder would give away something of this machine: {'; '.join(found)}")
    for file in part.rglob("*"):
        if file.is_file():  # some writers make files that only their owner can read
            file.chmod(0o666 & ~_umask())
    return ExportReceipt(part, kind, record, audit)


def _save(kind: str, trained: Trained, folder: Path, is_trained: Callable[[str], bool]) -> Audit:
    model, tokenizer, recipe = trained.model, trained.tokenizer, trained.recipe
    if kind == "custom":
        return custom.save(model, _manifest(trained), tokenizer, folder, is_trained)
    (before,) = trained.preprocess.values()
    if isinstance(model, VLM):
        return llava.to_llava(model, tokenizer, before, folder, is_trained)
    assert recipe.model.encoders, "a dual encoder has an image tower"
    return dual.to_dual(model, tokenizer, before, folder, is_trained)


def _manifest(trained: Trained) -> custom.Manifest:
    recipe, model = trained.recipe, trained.model
    shared = {"plugins": recipe.plugins, "encoders": recipe.model.encoders, "box_scale": recipe.model.boxes.scale}
    if isinstance(model, VLM):
        image_token = trained.tokenizer.convert_ids_to_tokens(model.image_token_id)
        return custom.Manifest.model_construct(makes="vlm", language=recipe.model.language, image_token=image_token, **shared)
    stage = next(s for s in recipe.stages if s.name == trained.stage)
    return custom.Manifest.model_construct(makes="dual", text=stage.text, width=stage.width, has_bias=model.heads["scale"].bias is not None, **shared)


def _until(trained: Trained) -> Sequence[Any]:
    names = [s.name for s in trained.recipe.stages]
    stages: Sequence[Any] = trained.recipe.stages[: names.index(trained.stage) + 1]
    return stages


def _describe(run: RunFolder, folder: Path, trained: Trained, audit: Audit, kind: str) -> None:
    """medvlm/ beside the model: where it comes from, in files. A custom folder has recipe and cards where a run has them."""
    notes = folder / "medvlm"
    write_json(notes / "lineage.json", without_paths(_read(run.lineage, {})))
    write_json(notes / "results.json", without_paths(_results(run, trained)))
    write_json(notes / "preprocessing.json", {name: p.model_dump(mode="json") for name, p in trained.preprocess.items()})
    write_json(notes / "audit.json", {"counts": audit.counts(), **vars(audit)})
    plain = without_paths(trained.plain)
    plain.setdefault("export", {})["target"] = "custom" if kind == "custom" else "stock"
    for source in trained.cards:
        plain["data"][source]["card"] = f"cards/{source}.yaml"
    where = folder if kind == "custom" else notes
    for source, card in trained.cards.items():
        copied = where / "cards" / f"{source}.yaml"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(as_yaml(without_paths(card.model_dump(mode="json", by_alias=True))), encoding="utf-8")
    (where / run.recipe.name).write_text(f"# {trained.recipe_hash}\n{as_yaml(plain)}", encoding="utf-8")


def _about(run: RunFolder, trained: Trained, kind: str, reason: str, record: dict[str, Any], audit: Audit) -> About:
    lineage = _read(run.lineage, {})
    stages = {s.name: _read(run.stage(s.name) / "stage.json", {}) for s in _until(trained)}
    return About(
        kind=kind,
        answers=isinstance(trained.model, VLM),
        recipe=without_paths(trained.plain),
        cards=_learnt_from(trained),
        counts={name: source.get("counts") or {} for name, source in (lineage.get("sources") or {}).items()},
        audits={name: source["audit"] for name, source in (lineage.get("sources") or {}).items() if source.get("audit")},
        stages={name: done for name, done in stages.items() if done},
        results=_results(run, trained),
        preprocess=trained.preprocess,
        parity=record,
        audit=audit,
        recipe_hash=trained.recipe_hash,
        version=__version__,
        why_custom=reason,
        parameters=(lineage.get("model") or {}).get("parameters") or {},
    )


def _learnt_from(trained: Trained) -> dict[str, Card]:
    """Cards whose licences bind the model: those of the stages it went through, and all that a tokenizer was made from."""
    language = trained.recipe.model.language
    used = {source for stage in _until(trained) for source in stage.mix}
    own_tokenizer = any(not part.model for part in [language, *(getattr(s, "text", None) for s in _until(trained))] if part is not None)
    return {name: card for name, card in trained.cards.items() if own_tokenizer or name in used}


def _results(run: RunFolder, trained: Trained) -> list[dict[str, Any]]:
    """What was measured of this model: of a run with both, retrieval is the dual encoder's and the rest the other's."""
    retrieves = isinstance(trained.model, DualEncoder)
    return [row for row in _read(run.results, []) if trained.is_last and (row["task"] == "retrieval") == retrieves]


def _read(path: Path, missing: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else missing


# --- places ---------------------------------------------------------------------------------------


def _check_place(out: Path) -> None:
    """An earlier export is replaced, anything else is somebody's."""
    if out.is_dir() and any(out.iterdir()) and not (out / "medvlm" / "parity.json").is_file():
        raise RecipeError(f"{out}: exists and is no export of medvlm; choose another folder, or remove it")
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{out}: is a file; choose a folder")


def _replace(new: Path, old: Path) -> None:
    aside = old.with_name(f"{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
