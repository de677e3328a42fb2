"""`medvlm evidence`: a folder from which others can check the results of a run without its data and its machine.

It is laid out like a run: recipe, data cards, lineage, stages, logged numbers, and what was evaluated, with the page of
all that. evidence.json has a SHA-256 of every file, and of every file of the exported model. Keys of samples are
replaced by numbers, and there are no images.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medvlm import __version__
from medvlm.core.document import to_yaml
from medvlm.core.durable import require_local
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.run import RunFolder, hash_code, read_record, write_json
from medvlm.core.stored import explain_misfit, read_object, require_type
from medvlm.evaluate.measures import VERSION
from medvlm.evaluate.passed_on import explain_refusal, hash_records, hide_keys
from medvlm.evaluate.saved import SETTINGS, read_saved, rescore
from medvlm.export.proof.seal import FILES, find_added, find_changed
from medvlm.export.redact import find_leaks, find_traces, strip_paths
from medvlm.recipe.load import LoadedRecipe, load_run
from medvlm.report.run import write_report
from medvlm.train.environment import describe_environment

MANIFEST, FORM = "evidence.json", 1
STAGE_KEYS = (
    "name", "kind", "finished", "step", "identity", "take", "trains", "frozen", "from", "teachers", "seconds",
    "checkpoint", "parameters", "environment",
)  # fmt: skip
"""What is passed on of stage.json."""
REMEDY = "copy it again from where the run was trained"
LOGGED = {"skipped"}
"""What is not passed on of metrics.jsonl: keys of samples."""


def write_evidence(run: RunFolder, to: Path, model: Path | None = None) -> list[str]:
    """Writes the folder `to`, which must not exist or must already be this evidence, and returns lines that say what it
    has and what it lacks. model: the exported folder of this run.

    Raises RecipeError for a run that is not evaluated and for what may not leave this machine, DataError if the saved
    results are not those of the saved answers."""
    loaded = load_run(run.root)
    require_local(to)
    is_taken = to.exists() and (not to.is_dir() or any(to.iterdir()))
    if is_taken and not (to / MANIFEST).is_file():
        raise RecipeError(f"{to}: exists; choose another folder, or remove it")
    if not (run.answers.parent / SETTINGS).is_file():
        raise RecipeError(f"{run.root}: is not evaluated; evidence is about results, so evaluate it first")
    exported = _hash_model(loaded, model) if model else {}
    place = to.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".part", dir=place.parent) as own:
        folder = Path(own) / place.name
        withheld = _write_evaluation(run, RunFolder(folder), loaded)
        _write_provenance(run, RunFolder(folder), loaded)
        write_report(RunFolder(folder))
        files = hash_folder(folder)
        manifest = {
            "form": FORM,
            "run": run.root.resolve().name,
            "recipe": loaded.recipe_hash,
            "measures": VERSION,
            "written_by": {"medvlm": __version__, "code": hash_code(), "environment": describe_environment()},
            "withheld": withheld,
            "model": exported,
            "files": files,
        }
        write_json(folder / MANIFEST, manifest)
        _require_clean(folder, [run.root.resolve(), place.parent, Path.cwd(), Path(tempfile.gettempdir()) / "medvlm-"])
        if is_taken:  # by an earlier call, e.g. one that was interrupted when everything was written
            _require_same(to, folder, files)
        else:
            if place.exists():
                place.rmdir()
            folder.rename(place)
    return [
        f"{to}: {len(files)} files, evidence {hash_file(to / MANIFEST)[:16]}",
        *(f"  answers to {where} are left out: {record['why']}" for where, record in withheld.items()),
        *([] if exported else ["  has no hashes of an exported model; give its folder with --model"]),
    ]


def _require_same(to: Path, folder: Path, files: dict[str, str]) -> None:
    """Raises RecipeError unless `to` holds what was written to `folder`. files: see hash_folder()."""
    if hash_folder(to) != files or hash_file(to / MANIFEST) != hash_file(folder / MANIFEST):
        raise RecipeError(f"{to}: exists and is other evidence; choose another folder, or remove it")


def hash_folder(folder: Path) -> dict[str, str]:
    """File -> SHA-256, of all but the manifest. Links are files that nobody may add."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    return {
        name: "a link" if path.is_symlink() else hash_file(path) for name, path in found.items() if name != MANIFEST
    }


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_model(loaded: LoadedRecipe, model: Path) -> dict[str, str]:
    """File -> SHA-256 of an exported folder. Raises RecipeError for one that is not an export of this run, or was
    changed."""
    if not (model / FILES).is_file():
        raise RecipeError(f"--model {model}: is not an export of medvlm (it has no {FILES})")
    remedy = "export the model again"
    record: dict[str, Any] = read_object(model / "medvlm" / "export.json", dict[str, Any], remedy, RecipeError)
    if record.get("recipe") != loaded.recipe_hash:
        raise RecipeError(f"--model {model}: was exported from another recipe than that of {loaded.recipe.name}")
    if wrong := [*find_changed(model), *find_added(model)]:
        raise RecipeError(f"--model {model}: {wrong[0]} is not as it was exported; export the model again")
    sealed: dict[str, str] = read_object(model / FILES, dict[str, str], remedy, RecipeError)
    return sealed


def _write_evaluation(run: RunFolder, pack: RunFolder, loaded: LoadedRecipe) -> dict[str, dict[str, Any]]:
    """Returns what is left out: DATASET:SPLIT -> why, number of records and their hash."""
    rows = rescore(run.answers.parent)
    if not _is_same(read_object(run.results, list[Any], "evaluate again to write it", DataError), rows):
        raise DataError(f"{run.results}: is not what the saved answers give; evaluate again")
    cards = {card.name: card for card in loaded.cards.values()}
    numbers: dict[str, str] = {}
    entries, records, withheld = [], dict[str, list[Any]](), {}
    for saved in read_saved(run.answers.parent):
        where = f"{saved.dataset}:{saved.split}"
        if why := explain_refusal(cards.get(saved.dataset), saved):
            count = sum(map(len, saved.records.values()))
            withheld[where] = {"why": why, "records": count, "sha256": hash_records(saved)}
            continue
        entries.append(strip_paths(saved.settings))
        for kind, of_kind in hide_keys(saved, numbers).items():
            records.setdefault(kind, []).extend(of_kind)
    write_json(pack.answers.parent / SETTINGS, entries)
    for kind, of_kind in records.items():
        text = "".join(f"{json.dumps(record)}\n" for record in of_kind)
        (pack.answers.parent / f"{kind}.jsonl").write_text(text, encoding="utf-8")
    write_json(pack.results, rows)
    kept = [row for row in rows if f"{row['dataset']}:{row['split']}" not in withheld]
    assert rescore(pack.answers.parent) == kept, "answers without keys have other scores"
    return withheld


def _is_same(saved: Any, rows: list[Any]) -> bool:
    """Whether they are equal but for what an earlier release did not record."""
    strip = ({key: value for key, value in row.items() if key != "measured"} for row in rows)
    return saved == rows or saved == list(strip)


def _write_provenance(run: RunFolder, pack: RunFolder, loaded: LoadedRecipe) -> None:
    plain = strip_paths(loaded.resolve())
    for source, card in loaded.cards.items():
        plain["data"][source]["card"] = f"cards/{source}.yaml"
        copied = pack.root / "cards" / f"{source}.yaml"
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(to_yaml(strip_paths(card.model_dump(mode="json", by_alias=True))), encoding="utf-8")
    pack.recipe.write_text(f"# {loaded.recipe_hash}\n{to_yaml(plain)}", encoding="utf-8")
    if run.lineage.is_file():
        write_json(pack.lineage, strip_paths(read_object(run.lineage, dict[str, Any], REMEDY, DataError)))
    for name in run.list_finished():
        record = read_record(run.stage(name))
        kept = {key: record[key] for key in STAGE_KEYS if key in record}
        write_json(pack.stage(name) / "stage.json", strip_paths(kept))
    if run.metrics.is_file():
        pack.metrics.write_text("".join(_copy_metrics(run.metrics)), encoding="utf-8")


def _copy_metrics(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            require_type(record, dict[str, Any])
        except (ValueError, RecursionError) as reason:
            raise DataError(f"{path}:{number}: is damaged ({explain_misfit(reason)}); {REMEDY}") from None
        yield f"{json.dumps(strip_paths({key: value for key, value in record.items() if key not in LOGGED}))}\n"


def _require_clean(folder: Path, places: Iterable[Path]) -> None:
    """Raises RecipeError if a file has a path or the name of this machine, or an access token."""
    found = [*find_traces(folder, places), *find_leaks(folder)]
    name = platform.node()
    if len(name) > 3:
        texts = ((path, path.read_text("utf-8", "replace")) for path in sorted(folder.rglob("*")) if path.is_file())
        found += [f"{path.relative_to(folder)}: the name of this machine" for path, text in texts if name in text]
    if found:
        raise RecipeError("the evidence must not leave this machine:\n" + "\n".join(f"  {line}" for line in found))
