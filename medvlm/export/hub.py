"""An exported folder to the Hugging Face Hub: listed first, private unless asked otherwise, refused where something
forbids it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from medvlm.core.card import Card, load_card
from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.export.proof.seal import FILES, changed
from medvlm.export.redact import leaks

PREFIX, RECIPE = "hub:", "recipe.resolved.yaml"
ALLOWED = (
    "README.md", "LICENSE*", "*.safetensors", "*.json", "*.jinja", "*.yaml", "*.onnx", "*.onnx.data",
    "vocab.txt", "merges.txt", "*.model",  # tokenizers
)  # fmt: skip
"""Names of files that are sent. Anything else in the folder was put there by somebody and stops the upload: pickles run
code where they are loaded, pictures may show patients."""


@dataclass(frozen=True)
class Upload:
    """What would be sent. name: ORG/NAME. files: paths within the folder and their bytes."""

    folder: Path
    name: str
    is_public: bool
    files: dict[str, int]

    def __str__(self) -> str:
        lines = [f"  {path}  {_size(size)}" for path, size in self.files.items()]
        who = "public: everybody can load it" if self.is_public else "private"
        return "\n".join(
            [f"{PREFIX}{self.name}, {who}", *lines, f"{len(self.files)} files, {_size(sum(self.files.values()))}"]
        )


def prepare(folder: Path, name: str, is_public: bool) -> Upload:
    """Raises RecipeError with every reason why the folder must not be sent."""
    if name.count("/") != 1 or not all(name.split("/")):
        raise RecipeError(f"--to {PREFIX}{name}: expected {PREFIX}ORG/NAME")
    files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    if reasons := [
        *_unproven(folder),
        *_foreign(files),
        *forbidden(cards_of(folder).values(), is_public),
        *leaks(folder),
    ]:
        raise RecipeError(f"{folder}: is not sent:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return Upload(folder, name, is_public, files)


def send(upload: Upload) -> str:
    """The address of the commit. Whose account it is, and where the hub is (HF_ENDPOINT), is huggingface_hub's
    business.

    Raises RecipeError when the repository exists and everybody can read it, but that was not asked for.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(library_name="medvlm")
    try:
        if not upload.is_public and not api.repo_info(upload.name).private:
            raise RecipeError(f"{PREFIX}{upload.name}: exists and is public; make it private there, or say --public")
    except RepositoryNotFoundError:
        api.create_repo(upload.name, private=not upload.is_public)
    operations = [CommitOperationAdd(path, upload.folder / path) for path in upload.files]
    commit = api.create_commit(upload.name, operations, commit_message="Model exported by medvlm")
    return str(commit.commit_url)


def cards_of(folder: Path) -> dict[str, Card]:
    """Data cards of what the model has learnt from: those that bind it."""
    names = (
        json.loads((folder / "medvlm" / "export.json").read_text())["learnt_from"]
        if (folder / "medvlm" / "export.json").is_file()
        else []
    )
    where = folder / "cards" if (folder / "cards").is_dir() else folder / "medvlm" / "cards"
    return {name: load_card(where / f"{name}.yaml", plugins=_plugins(folder)) for name in names}


def forbidden(cards: Iterable[Card], is_public: bool) -> list[str]:
    """Why the terms of the data do not let the model be passed on, a line a data set."""
    lines = []
    for card in cards:
        if card.passes_on == "none" or (is_public and card.passes_on == "private"):
            why = (
                "its card says so"
                if card.models
                else (
                    f"access is {card.access}"
                    if card.access == "credentialed"
                    else "its licence does not let the data be passed on"
                )
            )
            remedy = (
                ""
                if card.models
                else "; where its terms allow that of models, say so in the card (models: private or public)"
            )
            lines.append(
                f"{card.name}: models of it are not for {'everybody' if is_public else 'others'}, {why}{remedy}"
            )
    return lines


def _unproven(folder: Path) -> list[str]:
    proof = folder / "medvlm" / "parity.json"
    if not proof.is_file() or not (folder / FILES).is_file():
        return [f"it is no export of medvlm ({proof.relative_to(folder)} and {FILES} are written by one)"]
    if not json.loads(proof.read_text())["passed"]:
        return ["its parity proof failed"]
    return [f"{path}: is not as it was when the export was proven" for path in changed(folder)]


def _foreign(files: Iterable[str]) -> list[str]:
    foreign = [
        path
        for path in files
        if Path(path).name.startswith(".") or not any(fnmatchcase(Path(path).name, pattern) for pattern in ALLOWED)
    ]
    return [f"{path}: no file of an exported model; take it away" for path in foreign]


def _plugins(folder: Path) -> list[str]:
    """Packages that a card's reader may come from, as the recipe lists them."""
    recipe = next(path for path in (folder / RECIPE, folder / "medvlm" / RECIPE) if path.is_file())
    plugins: Any = read_yaml(recipe).data.get("plugins")
    return list(plugins or ())


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
