"""Uploads an exported folder to the Hugging Face Hub: privately by default, and only if nothing forbids it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm.core.card import Card, load_card
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.export.proof.seal import FILES, find_added, find_changed
from medvlm.export.redact import find_leaks

PREFIX, RECIPE = "hub:", "recipe.resolved.yaml"


@dataclass(frozen=True)
class Upload:
    """What will be uploaded. name: ORG/NAME. files: path within the folder -> size in bytes."""

    folder: Path
    name: str
    is_public: bool
    files: dict[str, int]

    def __str__(self) -> str:
        lines = [f"  {path}  {_format_size(size)}" for path, size in self.files.items()]
        who = "public: anyone can load it" if self.is_public else "private"
        return "\n".join(
            [
                f"{PREFIX}{self.name}, {who}",
                *lines,
                f"{len(self.files)} files, {_format_size(sum(self.files.values()))}",
            ]
        )


def prepare(folder: Path, name: str, is_public: bool) -> Upload:
    """Checks the folder and lists its files. Raises RecipeError with every reason why it must not be uploaded."""
    if name.count("/") != 1 or not all(name.split("/")):
        raise RecipeError(f"--to {PREFIX}{name}: expected {PREFIX}ORG/NAME")
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    if not (folder / FILES).is_file():
        raise RecipeError(f"{folder}: cannot be uploaded: it is not an export of medvlm, which has {FILES}")
    doubts = [
        *_check_proof(folder),
        *(f"{path}: was not written by the export; remove it" for path in find_added(folder)),
    ]
    # The terms are read from the folder's own files, so only if these are what was exported.
    terms = [] if doubts else find_restrictions(load_cards(folder).values(), is_public)
    if reasons := [*doubts, *terms, *find_leaks(folder)]:
        raise RecipeError(f"{folder}: cannot be uploaded:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return Upload(folder, name, is_public, files)


def send(upload: Upload) -> str:
    """Uploads and returns the URL of the commit. huggingface_hub chooses the account and the hub (HF_ENDPOINT).

    Raises RecipeError if the repository exists and is not what was asked for, public or private.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(library_name="medvlm")
    try:
        is_public = not api.repo_info(upload.name).private
        if is_public and not upload.is_public:
            raise RecipeError(f"{PREFIX}{upload.name}: exists and is public; make it private there, or pass --public")
        if upload.is_public and not is_public:
            raise RecipeError(
                f"{PREFIX}{upload.name}: exists and is private; make it public there, or leave out --public"
            )
    except RepositoryNotFoundError:
        api.create_repo(upload.name, private=not upload.is_public)
    operations = [CommitOperationAdd(path, upload.folder / path) for path in upload.files]
    commit = api.create_commit(upload.name, operations, commit_message="Model exported by medvlm")
    return str(commit.commit_url)


def load_cards(folder: Path) -> dict[str, Card]:
    """The data cards of what the model was trained on. Their terms bind the model."""
    names = (
        json.loads((folder / "medvlm" / "export.json").read_text())["learnt_from"]
        if (folder / "medvlm" / "export.json").is_file()
        else []
    )
    where = folder / "cards" if (folder / "cards").is_dir() else folder / "medvlm" / "cards"
    return {name: load_card(where / f"{name}.yaml", plugins=_read_plugins(folder)) for name in names}


def find_restrictions(cards: Iterable[Card], is_public: bool) -> list[str]:
    """Why the terms of the data forbid passing the model on, one line for each data set that does."""
    lines = []
    for card in cards:
        if card.passes_on == "none" or (is_public and card.passes_on == "private"):
            whom = "everybody" if is_public else "others"
            why, remedy = _explain_restriction(card)
            lines.append(f"{card.name}: models trained on it must not be passed on to {whom}: {why}{remedy}")
    return lines


def _explain_restriction(card: Card) -> tuple[str, str]:
    """Why models of a data set may not be passed on, and what to do about it."""
    if card.models:
        return "its card says so", ""
    why = (
        f"access is {card.access}"
        if card.access == "credentialed"
        else "its licence does not allow passing on the data"
    )
    return why, "; if its terms allow passing on models, say so in the card (models: private or public)"


def _check_proof(folder: Path) -> list[str]:
    proof = folder / "medvlm" / "parity.json"
    if not proof.is_file() or not (folder / FILES).is_file():
        return [f"it is not an export of medvlm, which has {proof.relative_to(folder)} and {FILES}"]
    with suppress(ValueError, TypeError, KeyError):  # an unreadable proof is one that was changed
        if not json.loads(proof.read_text(encoding="utf-8"))["passed"]:
            return ["its parity proof failed"]
    return [f"{path}: was changed or removed after the parity proof" for path in find_changed(folder)]


def _read_plugins(folder: Path) -> list[str]:
    """The packages that the recipe lists under `plugins`. A card's reader may come from one of them."""
    recipe = next(path for path in (folder / RECIPE, folder / "medvlm" / RECIPE) if path.is_file())
    plugins: Any = read_yaml(recipe).data.get("plugins")
    return list(plugins or ())


def _format_size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
