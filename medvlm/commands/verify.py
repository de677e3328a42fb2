"""`medvlm verify`: checks a folder of evidence on another machine."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from medvlm import __version__
from medvlm.commands.evidence import FORM, MANIFEST, hash_file, hash_folder
from medvlm.core.config import permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import DataError, UserError
from medvlm.core.protocols import SplitRecord
from medvlm.core.run import RunFolder
from medvlm.core.stored import read_object
from medvlm.evaluate.measures import VERSION
from medvlm.evaluate.saved import read_saved, rescore
from medvlm.train.environment import describe_environment

NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Check:
    """One line. is_fault: whether the evidence is not what it says it is."""

    what: str
    found: str
    is_fault: bool = False

    def __str__(self) -> str:
        return f"{self.what:<12} {self.found}"


class WithheldRecord(TypedDict):
    why: str
    records: int
    sha256: str


class WriterRecord(TypedDict):
    medvlm: str
    code: str
    environment: dict[str, Any]


class ManifestRecord(TypedDict):
    form: int
    run: str
    recipe: str
    measures: int
    written_by: WriterRecord
    withheld: dict[str, WithheldRecord]
    model: dict[str, str]
    files: dict[str, str]


def verify(folder: Path, model: Path | None = None) -> list[Check]:
    """model: the exported folder that the evidence is about. Raises DataError for what is no evidence, or of a later
    release."""
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: is no evidence (it has no {MANIFEST}); medvlm evidence writes it")
    remedy = "get the evidence again from where it was published"
    manifest: ManifestRecord = read_object(folder / MANIFEST, ManifestRecord, remedy, DataError)
    if manifest["form"] != FORM:
        raise DataError(
            f"{folder}: is evidence of form {manifest['form']}, written by medvlm {manifest['written_by']['medvlm']};"
            f" this is medvlm {__version__}, which reads form {FORM}; install that release"
        )
    checks = [Check("evidence", f"{hash_file(folder / MANIFEST)}; compare it with the published one")]
    files = list(_check_files(folder, manifest["files"]))
    checks += files
    if any(each.is_fault for each in files):
        checks.append(Check("scores", f"{NOT_CHECKED}: files are not as they were"))
    else:
        checks += _check_scores(RunFolder(folder), manifest)
    checks += _check_model(model, manifest["model"])
    checks += [
        Check("answers", f"{where} {NOT_CHECKED}, {record['records']} records are left out: {record['why']}")
        for where, record in manifest["withheld"].items()
    ]
    checks.append(Check("data", f"{NOT_CHECKED}: the data are not here; their fingerprints are in lineage.json"))
    checks.append(Check("training", f"{NOT_CHECKED}: nothing is trained again"))
    return [*checks, *_compare_environments(manifest["written_by"])]


def _check_files(folder: Path, stated: dict[str, str]) -> Iterator[Check]:
    present = hash_folder(folder)
    wrong = [
        *(f"{name} is missing" for name in stated if name not in present),
        *(f"{name} was changed" for name, digest in stated.items() if name in present and present[name] != digest),
        *(f"{name} was added" for name in present if name not in stated),
    ]
    yield from (Check("files", line, is_fault=True) for line in wrong)
    if not wrong:
        yield Check("files", f"{len(stated)} are unchanged")


def _check_scores(pack: RunFolder, manifest: ManifestRecord) -> Iterator[Check]:
    """Scores the saved answers again, and draws the page again."""
    try:
        plugins = read_yaml(pack.recipe).data.get("plugins")
        rows = read_object(pack.results, list[SplitRecord], "get the evidence again", DataError)
        permit(plugins if isinstance(plugins, list) else ())
        saved = read_saved(pack.answers.parent)
        if manifest["measures"] != VERSION:
            why = f"measures of version {manifest['measures']}, and this medvlm has version {VERSION}"
            yield Check("scores", f"{NOT_CHECKED}: {why}")
            return
        again = rescore(pack.answers.parent)
    except UserError as reason:
        yield Check("scores", f"{NOT_CHECKED}: {reason}")
        return
    asked = {(each.dataset, each.split) for each in saved}
    stated = [row for row in rows if (row["dataset"], row["split"]) in asked]
    is_same = json.dumps(stated) == json.dumps(again)
    what = f"{len(again)} results of {len(asked)} splits, scored again from their answers"
    yield Check("scores", f"{what}: {'same bytes' if is_same else 'NOT the same'}", is_fault=not is_same)
    yield _check_page(pack)


def _check_page(pack: RunFolder) -> Check:
    from medvlm.report.run import draw_report

    with tempfile.TemporaryDirectory() as scratch:
        again = draw_report(pack, Path(scratch) / pack.report.name)
        is_same = again.read_bytes() == pack.report.read_bytes()
    why = "drawn again: same bytes" if is_same else f"{NOT_CHECKED}: this release draws it in another way"
    return Check("page", why)


def _check_model(model: Path | None, stated: dict[str, str]) -> Iterator[Check]:
    if not stated:
        yield Check("model", f"{NOT_CHECKED}: the evidence has no hashes of an exported model")
    elif model is None:
        yield Check("model", f"{NOT_CHECKED}: give its folder with --model")
    else:
        missing = [name for name in stated if not (model / name).is_file()]
        changed = [name for name in stated if name not in missing and hash_file(model / name) != stated[name]]
        yield from (Check("model", f"{name} is missing", is_fault=True) for name in missing)
        yield from (Check("model", f"{name} is another file", is_fault=True) for name in changed)
        if not missing and not changed:
            yield Check("model", f"{len(stated)} files are those of the evidence")


def _compare_environments(writer: WriterRecord) -> Iterator[Check]:
    own, there = describe_environment(), writer["environment"]
    differ = [
        f"{name} {theirs.get(name)} there, {ours.get(name)} here"
        for theirs, ours in ((there, own), (there.get("packages", {}), own["packages"]))
        for name in sorted(theirs.keys() | ours.keys())
        if name != "packages" and theirs.get(name) != ours.get(name)
    ]
    if writer["medvlm"] != __version__:
        differ.insert(0, f"medvlm {writer['medvlm']} there, {__version__} here")
    yield Check("environment", "; ".join(differ) if differ else "the same versions and hardware")
