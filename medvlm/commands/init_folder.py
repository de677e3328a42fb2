"""`medvlm init --data FOLDER`: looks at a folder, and writes a data card and a recipe for what it found."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medvlm.archive.finders._folder import Found, find_layouts, list_folder
from medvlm.archive.trial import Trial, try_card
from medvlm.commands.first_files import describe_splits, make_name, require_free, write_first
from medvlm.commands.first_recipe import fill_card
from medvlm.commands.first_small import SOURCE, choose_goal, list_goals, make_first_recipe
from medvlm.commands.first_splits import FirstSplits, deal_images, deal_patients
from medvlm.core.card import MEANING, Card, Splits
from medvlm.core.cell_values import identify
from medvlm.core.content import ALL_SPLITS
from medvlm.core.document import Document, parse, set_value, to_yaml
from medvlm.core.durable import require_local
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.problems import validate
from medvlm.recipe.known import Known, look_up_model

MAX_BAD = 0.01
"""As in packing: with a larger share of samples that cannot be used, something must be set right first."""
LISTED = 12


def init_folder(
    data: Path,
    to: Path,
    *,
    model: str = "",
    goal: str = "",
    roles: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    table: str = "",
    parts: str = "",
) -> list[str]:
    """Writes recipe.yaml, card.yaml and the secret file `salt` to the folder `to`; returns lines to print.

    model: a pretrained model, "" for small networks from random weights. goal: answers, captions, labels or masks; by
    default what fits. roles: image, question, answer, captions, patient -> column of a table. settings:
    key.path=value, which replace those of the proposed card. table: the file of the table, under the folder; by
    default it is looked for. parts: a folder for small pretrained parts, which the recipe then names. Raises DataError
    with everything that is in the way of packing, and RecipeError for a model or a goal that the data do not serve."""
    require_local(to)
    known = look_up_model(model) if model else None
    require_free(to)
    if not data.is_dir():
        raise DataError(f"{data}: there is no such folder; give the one that holds the files")
    root = data.resolve()
    found, others = _choose(root, to, {role: column for role, column in (roles or {}).items() if column}, table)
    name = make_name(root.name)
    document = _propose_card(name, found, settings)
    trial = _try(validate(Card, document), root, document)
    splits = _deal(name, trial)
    document = _set_splits(document, splits, settings)
    card: Card = validate(Card, document)
    goals = list_goals(card)
    wanted = choose_goal(goals, goal, known, parts)
    recipe = make_first_recipe(name, card, wanted, found.window, splits.images, known, parts)
    source = {"card": "card.yaml", "root": str(root), "salt_file": str((to / "salt").resolve())}
    recipe["data"] = {SOURCE: {**source, **recipe["data"].get(SOURCE, {})}}
    head = f"# Written by medvlm init for {root.name}. Check it and change what does not fit.\n"
    write_first(to, head + to_yaml(recipe), head + _explain_card(found) + to_yaml(document.data))
    told = _describe(found, others, trial, splits, to)
    return told if parts else [*told, *_describe_recipe(wanted, goals, known, to)]


def place_table(data: Path | None, table: Path | None) -> tuple[Path, str]:
    """The folder to look at, and the table under it, "" for none. Raises RecipeError if neither is given, and DataError
    for a table that is not there or elsewhere."""
    if table is None:
        if data is None:
            raise RecipeError("init: give --data the folder to look at, or --csv a table")
        return data, ""
    if not table.is_file():
        raise DataError(f"{table}: there is no such table")
    folder = data or table.parent
    if not table.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{table}: the table is outside of {folder}; copy it there, or give a folder that holds both")
    return folder, table.resolve().relative_to(folder.resolve()).as_posix()


def _choose(root: Path, to: Path, roles: Mapping[str, str], table: str) -> tuple[Found, list[Found]]:
    """What is proposed, and what else the folder could be. Raises DataError if it is nothing to learn from."""
    folder = list_folder(root, to.resolve(), roles, table)
    every = find_layouts(folder)
    useful = [each for each in every if _asks(each.reader)]
    if useful:
        return useful[0], [each for each in useful[1:] if each.reader["kind"] != useful[0].reader["kind"]]
    suffixes = Counter(Path(name).suffix.lower() or "(none)" for name in folder.files)
    there = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8)) or "no files"
    seen = "".join(f"\n  {each.what}" for each in every)
    raise DataError(
        f"{root}: nothing to learn from was found ({there}){':' + seen if seen else ''}\nExpected one of: a table (CSV,"
        " TSV, JSON) with a column of files or of DICOM identifiers, and columns of questions and answers, texts, or"
        " classes; a folder for each class; images with masks (images/1.png, masks/1.png); COCO; conversations as JSON;"
        " parquet files. For other layouts, write a card (docs/data.md)"
    )


def _asks(reader: Mapping[str, Any]) -> bool:
    return any(reader.get(key) for key in ("questions", "report", "mask", "mask_file", "count", "objects", "turns"))


def _propose_card(name: str, found: Found, settings: Sequence[str]) -> Document:
    has_splits = bool(found.reader.get("split")) or isinstance(found.reader.get("file"), dict)
    by: Any = "column" if has_splits else "image"
    data = fill_card(
        name, f"{found.what[0].upper()}{found.what[1:]}.", found.reader, [found.media], found.patient, Splits(by=by)
    )
    if found.units:
        data["units"] = found.units
    document = parse(to_yaml(data), "the proposed card")
    for setting in settings:
        document = set_value(document, setting)
    return document


def _try(card: Card, root: Path, document: Document) -> Trial:
    """Raises DataError with one list of all that is in the way."""
    trial = try_card(card, root)
    lines = []
    if trial.words:
        lines += _list_privacy(trial, card)
    if trial.refused.total() > MAX_BAD * max(1, trial.tried) or not trial.samples:
        lines.append(f"{trial.refused.total()} of {trial.tried} samples cannot be read:")
        lines += [f"  {count} x {reason}" for reason, count in trial.refused.most_common(LISTED)]
        lines.append("  settings of the card can be given behind the command, as reader.nifti.orientation=LAS")
    if lines:
        raise DataError("\n".join([f"{root}: nothing was written, because packing would refuse these files:", *lines]))
    return trial


def _list_privacy(trial: Trial, card: Card) -> list[str]:
    """What may identify a person, and the words that say that somebody has checked it."""
    words = [word for word in MEANING if word in trial.words]
    kinds = [f"{kind} ({count})" for kind, count in trial.identifying.most_common(LISTED)]
    more = len(trial.identifying) - len(kinds)
    rest = f" and {more} more" if more > 0 else ""
    checked = ",".join([*card.phi.checked, *words])
    return [
        f"they may identify a person ({trial.tried} samples were read): {', '.join(kinds)}{rest}.",
        "  De-identify them (CTP, dicognito, deid). Or, if people have checked that no one can be identified by:",
        *(f"    {word:13} {MEANING[word]}" for word in words),
        "  say so, and who checked it and how, behind the same command:",
        f"    'phi.checked=[{checked}]' 'phi.note=who checked it, and how' phi.status=deidentified",
    ]


def _deal(name: str, trial: Trial) -> FirstSplits:
    """Raises DataError for fewer than three patients or images."""
    if trial.splits:
        return FirstSplits(Splits(by="column"), {}, trial.splits)
    if trial.patients:
        found = deal_patients(name, {sample: identify(patient) for sample, patient in trial.patients.items()})
        return replace(found, unreadable=trial.refused.total())
    found = deal_images(name, trial.images, trial.refused.total())
    if trial.is_whole:
        return found
    about: dict[str, int] = {split: round(ratio * trial.samples) for split, ratio in found.splits.ratios.items()}
    return FirstSplits(found.splits, {}, about, is_exact=False, unreadable=trial.refused.total())


def _set_splits(document: Document, found: FirstSplits, settings: Sequence[str]) -> Document:
    if any(setting.startswith("splits") for setting in settings):
        return document
    data = {**document.data, "splits": found.splits.model_dump(mode="json", exclude={"folds"})}
    return Document(data, document.marks)


def _explain_card(found: Found) -> str:
    """Comments above the card: what nobody but its owner can know, and the words of phi.checked."""
    lines = [
        "What only you can say:",
        "  title, summary, licence, access, terms, phi and limits, in place of `Not stated yet`",
    ]
    lines += [f"  {each}" for each in found.unknown]
    lines += [
        "Packing refuses what could identify a person. `phi.checked` lists what people have checked in all files:"
    ]
    lines += [f"  {word}: {meaning}" for word, meaning in MEANING.items()]
    return "".join(f"# {line}\n" for line in lines)


def _describe(found: Found, others: list[Found], trial: Trial, splits: FirstSplits, to: Path) -> list[str]:
    lines = [f"found {found.what}"]
    lines += [f"  also: {each.what}" for each in others]
    missing = [split for split in ALL_SPLITS if not splits.images.get(split)]
    lines.append(f"{trial.samples} samples; {describe_splits(splits)}")
    if missing:
        lines.append(f"no samples for {', '.join(missing)}: the archive has splits of its own without it")
    if not splits.patients and not trial.splits:
        lines.append(
            "no patients are known: images are split one by one, so images of one patient may be in several splits,"
            " which makes results look better than they are (--patient COLUMN, or reader.patient)"
        )
    lines += [f"left out: {count} x {reason}" for reason, count in trial.left_out.most_common(LISTED)]
    lines += [f"refused: {count} x {reason}" for reason, count in trial.refused.most_common(LISTED)]
    lines += [f"cannot know {each}" for each in found.unknown]
    lines.append(
        f"wrote {to / 'recipe.yaml'}, {to / 'card.yaml'} and {to / 'salt'} (a secret that hashes patients and file"
        " names in the shards; keep it, but not in version control)"
    )
    return lines


def _describe_recipe(goal: str, goals: Sequence[str], known: Known | None, to: Path) -> list[str]:
    who = known.model if known else "small networks from random weights"
    if "captions" in goals and goal != "captions" and known is None:
        goal += " (--for captions: on pairs of image and text)"
    recipe = shlex.quote(str(to / "recipe.yaml"))
    return [
        f"the recipe trains {who} on {goal}"
        + ("" if known else "; for a pretrained model, use --model, or `pretrained: true` where the encoder has it"),
        f"next: medvlm train {recipe}  (before it, medvlm validate and medvlm dry-run check it)",
    ]
