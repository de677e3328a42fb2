"""Data cards. A card says what a data set is, who owns it, and how it is read and split. Training requires a card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from medvlm.core import beside
from medvlm.core.config import Config, Slot, permit
from medvlm.core.document import read_yaml, to_yaml
from medvlm.core.errors import DataError, shorten
from medvlm.core.problems import validate
from medvlm.core.scoring import CardRule


def require_folder_name(name: str) -> str:
    """Raises ValueError for what cannot be the name of one folder on every system."""
    if not re.fullmatch(FOLDER_NAME, name):
        raise ValueError(
            f"{shorten(name)} cannot be a folder's name; expected letters, digits, dot, - and _, at most 100, the first"
            " a letter or digit"
        )
    return name


FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class Licence(Config):
    id: str
    """SPDX identifier, or `custom`."""
    url: str = ""
    commercial: bool
    """Whether the data may be used commercially."""
    share_alike: bool = False
    """Whether works derived from the data must carry the same licence."""
    redistribute: bool = True
    """Whether the data, or shards of it, may be redistributed."""
    attribution: bool = True


Reach = Literal["public", "private", "none"]
Checked = Literal[
    "pseudonyms", "identity", "patient", "dates", "descriptions", "institution", "device", "private", "pixels", "text"
]
"""What a person may have checked. All but the first two and the last are options of DICOM PS3.15 Annex E.3."""


MEANING: dict[Checked, str] = {
    "pseudonyms": "names and numbers of patients, studies and orders are codes that no outsider can resolve",
    "identity": "names, addresses, birth dates, physicians; only for data of no real person, such as phantoms",
    "patient": "sex, age, size, weight and other traits",
    "dates": "dates and times: shifted, or allowed to be known",
    "descriptions": "free text and structured content of headers",
    "institution": "hospitals and departments",
    "device": "machines: names, serial numbers",
    "private": "attributes and extensions of manufacturers and programs",
    "pixels": "text burnt into images, overlays, recognizable faces",
    "text": "reports, questions, answers",
}
"""What each word of `checked` is about, in words for a user."""


class Phi(Config):
    """Protected health information. Packing refuses headers and texts that could identify a person. It removes
    nothing."""

    status: Literal["synthetic", "none", "deidentified", "unknown"]
    note: str = ""
    checked: tuple[Checked, ...] = ()
    """What a person has checked in all files and found to identify no one, although packing would refuse it. `note`
    says who and how.

    pseudonyms: PatientName, PatientID, AccessionNumber and other numbers are codes that no outsider can resolve, even
    if a file does not say that the identity was removed. identity: names, addresses, birth dates, signatures; only in
    data without real persons (phantoms). patient: age, sex, size and other traits. dates: shifted, or allowed to be
    known. descriptions: free text and structured content of headers. institution, device: hospitals, machines. private:
    attributes of manufacturers. pixels: text burnt into images, overlays, recognizable faces. text: reports, questions,
    answers."""

    @model_validator(mode="after")
    def _require_note(self) -> Phi:
        if self.checked and not self.note.strip():
            raise ValueError("`checked` without `note`; expected a note that says who checked it, and how")
        return self


class Splits(Config):
    """How samples are split: by a keyed hash of what must stay together, or by a column of the archive."""

    by: Literal["patient", "image", "column"] = "patient"
    """`image`: for archives without patient ids; noted on the model card."""
    ratios: dict[Literal["train", "val", "test"], Annotated[float, Field(ge=0)]] = {
        "train": 0.8,
        "val": 0.1,
        "test": 0.1,
    }
    folds: int = Field(0, ge=0)
    """With N folds the splits are fold0..foldN-1. A source with `fold: k` tests on k and trains on the rest."""
    salt: str = "medvlm"
    """Determines the assignment to splits. Not a secret: it is stored in the card and with the shards."""

    @model_validator(mode="after")
    def _check_sum(self) -> Splits:
        if not self.folds and abs(sum(self.ratios.values()) - 1) > 1e-6:
            raise ValueError(f"ratios sum to {sum(self.ratios.values()):g}, expected 1")
        return self


class Card(Config):
    """A data card (YAML). `medvlm schema card` writes its JSON schema."""

    name: Annotated[str, AfterValidator(require_folder_name)]
    """Letters, digits, dot, - and _: shards of the data set are kept in a folder of this name."""
    title: str
    summary: str
    licence: Licence
    access: Literal["open", "registration", "credentialed", "generated"]
    terms: str = ""
    models: Reach | Literal[""] = ""
    """Who may get a model trained on the data: `public`, `private` (a repository of your own group) or `none`. By
    default `none` if access is credentialed or the data may not be redistributed, else `public`."""
    language: tuple[str, ...] = ()
    """Languages of the texts, as ISO 639-1: [en]."""
    phi: Phi
    patient_key: str = ""
    """The field of the archive that identifies a patient; empty if there is none."""
    patient_issuer: str = ""
    """Who issued the patient ids, e.g. a hospital. Equal ids from different issuers do not mean the same patient."""
    citation: str = ""
    homepage: str = ""
    media: tuple[str, ...]
    """Kinds of media in the data set, e.g. [film]; an encoder serves a kind."""
    units: str = ""
    """What a stored intensity means, e.g. `8-bit display`, `HU`."""
    limits: str = ""
    """Known limits of the data."""
    splits: Splits = Splits()
    scoring: tuple[CardRule, ...] = ()
    """Published rules that score the answers too, beside the strict score, e.g. [llava_med]."""
    plugins: tuple[str, ...] = ()
    """Packages whose readers, tasks and rules the card may use, e.g. `mylab.readers.ct`."""
    reader: Annotated[Any, Slot("archive.readers")]
    _secret: str = PrivateAttr("")
    _has_files: bool = PrivateAttr(False)

    def add_secret(self, secret: str) -> Card:
        """A copy of the card that hashes patients and keys with a secret salt. Dumps, copies and schemas do not contain
        the salt."""
        card = self.model_copy()
        card._secret = secret
        return card

    @property
    def passes_on(self) -> Reach:
        """`models`, or its default according to access and licence."""
        return self.models or ("none" if self.access == "credentialed" or not self.licence.redistribute else "public")

    @property
    def naming_salt(self) -> str:
        """The salt for hashing patients and keys: the secret, or the salt of the splits if identifiers are public
        anyway."""
        return self._secret or self.splits.salt

    @property
    def salt_id(self) -> str:
        """A hash that identifies the secret without revealing it; "" without a secret."""
        return hashlib.blake2b(self._secret.encode(), digest_size=8, person=b"salt").hexdigest() if self._secret else ""


SHIPPED_CARDS = "data_cards"


def load_card(path: Path, shown: str | None = None, plugins: Sequence[str] = ()) -> Card:
    """Raises RecipeError with file:line for an invalid card, DataError if there is no such file.

    plugins: packages that its reader and tasks may come from, in addition to those that the card lists.
    """
    if not path.is_file():
        raise DataError(
            f"{shown or path}: there is no such data card; every data set needs one (see data_cards/ for examples)"
        )
    document = read_yaml(path, shown)
    own = document.data.get("plugins") if isinstance(document.data, dict) else None
    allowed = (*plugins, *(own if isinstance(own, list) else ()))
    permit(allowed)
    read: list[str] = []
    card: Card = validate(Card, document, {"plugins": allowed, beside.FOLDER: path.parent, beside.READ: read})
    card._has_files = bool(read)
    return card


def copy_text(card: Card, path: Path) -> str:
    """The text of the card's file, to be written elsewhere: with the contents of files beside it, if it names some."""
    if card._has_files:
        return to_yaml(card.model_dump(mode="json", by_alias=True))
    return path.read_text(encoding="utf-8")


def merge_licences(licences: list[Licence]) -> dict[str, Any]:
    """The terms of a model trained on data under all of these licences. The strictest term applies, and every licence
    is listed."""
    return {
        "ids": sorted({x.id for x in licences}),
        "commercial": all(x.commercial for x in licences),
        "share_alike": any(x.share_alike for x in licences),
        "redistribute": all(x.redistribute for x in licences),
    }
