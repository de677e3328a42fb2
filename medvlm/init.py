"""`medvlm init`: a table of images and texts becomes a recipe, a data card and a split that keeps patients apart."""

from __future__ import annotations

import math
import os
import secrets
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.archive.deal import keyed, split_of
from medvlm.archive.records import cell_text, format_of, records
from medvlm.core.card import Splits
from medvlm.core.config import kinds
from medvlm.core.document import as_yaml
from medvlm.core.errors import DataError, RecipeError, did_you_mean
from medvlm.preflight.known import Known, known

SOURCE = "table"
"""What the recipe calls the data."""
MAX_CHOICES, MIN_EACH = 12, 3
"""Answers that are few, each given a few times, are choices."""
MAX_BAD = 0.01
"""As in packing: more rows that cannot be used are a mistake to be mended first."""
KINDS = {
    ".png": "image",
    ".jpg": "image",
    ".jpeg": "image",
    ".tif": "image",
    ".tiff": "image",
    ".dcm": "image",
    ".dicom": "image",
    ".nii": "volume",
    ".gz": "volume",
}
"""What the card calls the media, by the suffix of their files."""
EPOCHS, BATCH = 3, 16


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; "" where there is none. Either question and answer, or captions."""

    image: str
    question: str = ""
    answer: str = ""
    captions: str = ""
    patient: str = ""


@dataclass(frozen=True)
class Row:
    """place: `line 7`."""

    place: str
    image: str
    answer: str
    patient: str


def init(model: str, table: Path, columns: Columns, to: Path) -> list[str]:
    """Writes recipe.yaml, card.yaml and the secret file `salt` into `to`; returns what to tell.

    Raises DataError for a table that cannot be used, naming lines and columns, and RecipeError for a model that is not
    there or of the wrong kind."""
    found = known(model)
    if to.exists() and any((to / name).exists() for name in ("recipe.yaml", "card.yaml", "salt")):
        raise RecipeError(
            f"{to}: holds a recipe, card or salt already; choose another folder with --to, or remove them"
        )
    rows, notes = _rows(table, columns)
    root, file = _root(table, rows)
    kind = _kind(rows)
    groups = Counter(row.patient or row.image for row in rows)
    splits, dealt = _splits(table.stem, groups, bool(columns.patient))
    name = _name(table.stem)
    recipe = (
        _dual(name, found, kind, dealt["train"]) if columns.captions else _tuning(name, found, kind, dealt["train"])
    )
    to.mkdir(parents=True, exist_ok=True)
    recipe["data"] = {SOURCE: {"card": "card.yaml", "root": str(root), "salt_file": str((to / "salt").resolve())}}
    head = f"# Made by medvlm init from {table.name}: look it over, it is yours.\n"
    (to / "card.yaml").write_text(head + as_yaml(_card(name, file, kind, columns, rows, splits)), encoding="utf-8")
    (to / "recipe.yaml").write_text(head + as_yaml(recipe), encoding="utf-8")
    with os.fdopen(os.open(to / "salt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as secret:
        secret.write(secrets.token_hex(32) + "\n")
    what = "patients" if columns.patient else "images"
    return [
        (
            f"{to / 'recipe.yaml'}, {to / 'card.yaml'} and {to / 'salt'} (a secret: it hides patients and file names in"
            " the shards; keep it, and out of version control)"
        ),
        f"{len(rows)} rows, {len({row.image for row in rows})} images; {what} dealt out: "
        + ", ".join(f"{split} {n}" for split, n in dealt.items()),
        *notes,
        *(
            []
            if columns.patient
            else [
                "no --patient: images are dealt out one by one, so images of one patient may stand on both sides and"
                " the results look better than they are"
            ]
        ),
        *(
            []
            if found.folder
            else [
                f"{model}: whether you may download it was not checked; a gated model needs `hf auth login`, without a"
                " network give --model the path of its folder"
            ]
        ),
        f"next: medvlm validate {to / 'recipe.yaml'}; medvlm plan ...; medvlm dry-run ...; medvlm train ...",
    ]


def _rows(table: Path, columns: Columns) -> tuple[list[Row], list[str]]:
    """The rows that can be used, and what is said of the others."""
    wanted = [
        name for name in (columns.image, columns.question, columns.answer, columns.captions, columns.patient) if name
    ]
    rows: list[Row] = []
    bad: list[tuple[str, str]] = []
    for number, record in records(table, format_of(table.name)):
        if not rows and not bad:
            _check_columns(table, wanted, record)
        place, cells = f"line {number}", {name: cell_text(record.get(name)) or "" for name in wanted}
        if empty := [name for name, text in cells.items() if not text]:
            bad.append((place, f"no value in column {empty[0]}"))
        elif not (table.parent / cells[columns.image]).is_file():
            bad.append((place, f"the file in column {columns.image} is not there"))
        else:
            rows.append(
                Row(
                    place,
                    cells[columns.image],
                    cells.get(columns.answer) or cells[columns.captions],
                    cells.get(columns.patient, ""),
                )
            )
    told = "; ".join(f"{place}: {why}" for place, why in bad[:5]) + (
        f" and {len(bad) - 5} more" if len(bad) > 5 else ""
    )
    if not rows or len(bad) > MAX_BAD * (len(rows) + len(bad)):
        raise DataError(
            f"{table}: {len(bad)} of {len(rows) + len(bad)} rows cannot be used ({told or 'it has none'}); paths are"
            " relative to the table's folder, or absolute"
        )
    return rows, [f"{len(bad)} rows cannot be used and will be quarantined ({told})"] if bad else []


def _check_columns(table: Path, wanted: list[str], record: Any) -> None:
    names = [str(name) for name in record] if isinstance(record, dict) else []
    for name in wanted:
        if name not in names:
            raise DataError(
                f"{table}: no column {name!r}{did_you_mean(name, names)} ({len(names)} columns; the first line must"
                " hold their names)"
            )


def _root(table: Path, rows: list[Row]) -> tuple[Path, str]:
    """The folder that holds table and images, and the table's path in it."""
    folders = {table.parent.resolve(), *(Path(row.image).parent for row in rows if Path(row.image).is_absolute())}
    root = Path(os.path.commonpath(folders))
    if root != table.parent.resolve() and not all(Path(row.image).is_absolute() for row in rows):
        raise DataError(
            f"{table}: some paths are relative and others lead out of its folder; make all of them relative to it, or"
            " all absolute"
        )
    return root, table.resolve().relative_to(root).as_posix()


def _kind(rows: list[Row]) -> str:
    kinds: dict[str, str] = {}
    for row in rows:
        suffix = Path(row.image).suffix.lower()
        if suffix not in KINDS:
            raise DataError(
                f"{row.place}: a file that ends in {suffix or 'nothing'} is no picture or volume that is read here"
                f" (expected {', '.join(KINDS)})"
            )
        kinds.setdefault(KINDS[suffix], row.place)
    if len(kinds) > 1:
        raise DataError(
            "pictures and volumes in one table ("
            + ", ".join(f"{kind}: {place}" for kind, place in kinds.items())
            + "); make a table and a card for each"
        )
    return next(iter(kinds))


def _splits(name: str, groups: Counter[str], by_patient: bool) -> tuple[Splits, Counter[str]]:
    """A salt whose hash gives every split about its share of the patients, however few there are."""
    if len(groups) < 3:
        raise DataError(
            f"{len(groups)} {'patients' if by_patient else 'images'} cannot be dealt into train, val and test; expected"
            " 3 at least, and some dozens for a result that means something"
        )
    tried: list[tuple[float, Splits, Counter[str]]] = []
    for attempt in range(64):
        splits = Splits(by="patient" if by_patient else "image", salt=f"{name}-{attempt}" if attempt else name)
        dealt: Counter[str] = Counter(dict.fromkeys(splits.ratios, 0))
        for group in groups:
            dealt[split_of(keyed(group, splits.salt, "patient") if by_patient else group, splits)] += 1
        off = max(abs(dealt[split] / len(groups) - ratio) for split, ratio in splits.ratios.items())
        tried.append((off if all(dealt.values()) else math.inf, splits, dealt))
        if off < 0.02 and all(dealt.values()):
            break
    _, splits, dealt = min(tried, key=lambda each: each[0])
    return splits, dealt


def _name(stem: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem).strip("_-")
    return kept[:80] or "own_table"


def _card(name: str, file: str, kind: str, columns: Columns, rows: list[Row], splits: Splits) -> dict[str, Any]:
    reader: dict[str, Any] = {"kind": "table", "file": file, "media": [{"file": f"{{{columns.image}}}", "kind": kind}]}
    if columns.patient:
        reader["patient"] = f"{{{columns.patient}}}"
    if columns.captions:
        reader["report"] = f"{{{columns.captions}}}"
    else:
        reader["questions"] = [{"text": f"{{{columns.question}}}", "answer": f"{{{columns.answer}}}", **_answers(rows)}]
    return {
        "name": name,
        "title": name,
        "summary": (
            f"Images with {'captions' if columns.captions else 'questions and answers'}. Say here what they are, where"
            " they come from and who wrote the texts."
        ),
        "licence": {"id": "custom", "commercial": False, "redistribute": False},
        "access": "credentialed",
        "terms": (
            "Not stated yet. Until you say otherwise the data and what is trained on them are taken to be for"
            " yourselves."
        ),
        "phi": {
            "status": "unknown",
            "note": (
                "Not stated yet: say who de-identified the images and texts, and how. Packing refuses what it finds."
            ),
        },
        "patient_key": columns.patient,
        "media": [kind],
        "limits": "Not stated yet." if columns.patient else "Not stated yet. No patients are known.",
        "splits": splits.model_dump(mode="json", exclude={"folds"}),
        "reader": reader,
    }


def _answers(rows: list[Row]) -> dict[str, Any]:
    given = Counter(row.answer for row in rows)
    lower = Counter(row.answer.lower() for row in rows)
    if len(lower) <= MAX_CHOICES and min(lower.values()) >= MIN_EACH:
        return {"choices": sorted(lower), "lower": True} if len(lower) < len(given) else {"choices": sorted(given)}
    words = sorted(len(row.answer.split()) for row in rows)
    return {"task": "report"} if words[len(words) // 2] > 12 else {}


def _tuning(name: str, found: Known, kind: str, train: int) -> dict[str, Any]:
    """LoRA on the language model of a ready vision-language model."""
    if found.config.get("model_type") not in kinds("families"):
        raise RecipeError(
            f"{found.model}: a {found.config.get('model_type')!r} is no ready vision-language model (expected one of"
            f" {', '.join(kinds('families'))}); with --captions towers of CLIP or SigLIP are trained"
        )
    steps = _steps(train, BATCH)
    return {
        "name": name,
        "seed": 0,
        "model": {"pretrained": found.folder or found.model},
        "data": {},
        "stages": [
            {
                "name": "instruct",
                "kind": "supervised",
                "mix": {SOURCE: 1},
                "trains": ["lora"],
                "lora": {"rank": 16, "alpha": 32},
                "batch": BATCH,
                "accumulate": 4,
                "steps": steps,
                "optim": {"lr": 1.0e-4},
                "validate": {"every": max(1, steps // 6), "samples": 200},
                "keep": "best",
            }
        ],
        "engine": {"precision": "bf16-mixed", "recompute": ["language"]},
        "evaluate": {"on": [f"{SOURCE}:test"]},
        "export": {"target": "stock"},
    }


def _dual(name: str, found: Known, kind: str, train: int) -> dict[str, Any]:
    """Both towers of a CLIP or SigLIP model, each against the other."""
    family = str(found.config.get("model_type"))
    if family not in ("clip", "siglip", "siglip2") or kind != "image":
        raise RecipeError(
            f"{found.model}: captions train the two towers of a CLIP or SigLIP model on pictures; this is a {family!r}"
            f" and the table holds media of kind {kind!r}"
        )
    where, batch = found.folder or found.model, 64
    length = found.text.get("max_position_embeddings", 77 if family == "clip" else 64)
    steps = _steps(train, batch)
    return {
        "name": name,
        "seed": 0,
        "model": {"encoders": {kind: {"kind": "transformers", "model": where}}},
        "data": {},
        "stages": [
            {
                "name": "pair",
                "kind": "contrastive",
                "mix": {SOURCE: 1},
                "trains": ["encoders", "text", "heads"],
                "text": {"kind": "transformers", "model": where, "max_tokens": length, "overlong": "cut"},
                "loss": {"kind": "clip" if family == "clip" else "siglip"},
                **({"width": found.config.get("projection_dim", 512)} if family == "clip" else {"width": None}),
                "alike": "text",
                "batch": batch,
                "steps": steps,
                "optim": {"lr": 1.0e-5},
                "validate": {"every": max(1, steps // 6), "samples": 500},
                "keep": "best",
            }
        ],
        "engine": {"precision": "bf16-mixed"},
        "evaluate": {"on": [f"{SOURCE}:test"]},
        "export": {"target": "stock"},
    }


def _steps(train: int, batch: int) -> int:
    return max(20, math.ceil(EPOCHS * train / batch))
