"""The data card: what a data set is, whose it is, how it is read and split. No card, no training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from medvlm.core.config import Config, Slot, permit
from medvlm.core.document import read_yaml
from medvlm.core.errors import DataError
from medvlm.core.problems import validate


class Licence(Config):
    id: str
    """SPDX identifier, or `custom`."""
    url: str = ""
    commercial: bool
    """Whether the data may be used commercially."""
    share_alike: bool = False
    """Whether what is made from the data must carry the same licence."""
    redistribute: bool = True
    """Whether the data, or shards of it, may be passed on."""
    attribution: bool = True


Reach = Literal["public", "private", "none"]
Checked = Literal[
    "pseudonyms", "identity", "patient", "dates", "descriptions", "institution", "device", "private", "pixels", "text"
]
"""What people can have checked. All but the first two and the last are options of DICOM PS3.15 Annex E.3."""


class Phi(Config):
    """Protected health information. Packing refuses what could identify a person, in headers and in texts; it removes
    nothing."""

    status: Literal["synthetic", "none", "deidentified", "unknown"]
    note: str = ""
    checked: tuple[Checked, ...] = ()
    """What people have looked at, in all files, and found to identify nobody, although packing would refuse it. `note`
    says who and how.

    pseudonyms: PatientName, PatientID, AccessionNumber and other numbers are codes that nobody outside can resolve,
    also where a file doesn't say that the identity was removed. identity: names, addresses, birth dates, signatures,
    which only data of nobody hold (phantoms). patient: age, sex, size and other traits. dates: shifted, or free to be
    known. descriptions: free text and structured content of headers. institution, device: hospitals, machines. private:
    the attributes of manufacturers. pixels: text burnt into images, overlays, recognizable faces. text: reports,
    questions, answers. """

    @model_validator(mode="after")
    def _says_who_checked(self) -> Phi:
        if self.checked and not self.note.strip():
            raise ValueError("`checked` without `note`; expected a note that says who checked it, and how")
        return self


class Splits(Config):
    """How samples are dealt out. Either by a keyed hash of what must stay together, or by a column of the archive."""

    by: Literal["patient", "image", "column"] = "patient"
    """`image` where the archive knows no patients: said on the model card."""
    ratios: dict[Literal["train", "val", "test"], Annotated[float, Field(ge=0)]] = {
        "train": 0.8,
        "val": 0.1,
        "test": 0.1,
    }
    folds: int = Field(0, ge=0)
    """With N folds the shards are fold0..foldN-1; a source with `fold: k` tests on k and trains on the rest."""
    salt: str = "medvlm"
    """Decides who is dealt where, and is no secret: it stands here, and beside the shards."""

    @model_validator(mode="after")
    def _sum_is_one(self) -> Splits:
        if not self.folds and abs(sum(self.ratios.values()) - 1) > 1e-6:
            raise ValueError(f"ratios sum to {sum(self.ratios.values()):g}, expected 1")
        return self


class Card(Config):
    """A data card (YAML). `medvlm schema card` writes its JSON schema."""

    name: str
    title: str
    summary: str
    licence: Licence
    access: Literal["open", "registration", "credentialed", "generated"]
    terms: str = ""
    models: Reach | Literal[""] = ""
    """To whom a model that was trained on it may be given: `public`, `private` (a repository of one's own group),
    `none`. By default `none` where access is credentialed or the data may not be passed on, else `public`."""
    language: tuple[str, ...] = ()
    """Of its texts, as ISO 639-1: [en]."""
    phi: Phi
    patient_key: str = ""
    """Which field of the archive identifies a patient; empty where there is none."""
    patient_issuer: str = ""
    """Who gave the patients their numbers, e.g. a hospital: between two that are named and differ, equal numbers mean
    nothing."""
    citation: str = ""
    homepage: str = ""
    media: tuple[str, ...]
    """Kinds of media in the data set, e.g. [film]; an encoder serves a kind."""
    units: str = ""
    """What a stored intensity means, e.g. `8-bit display`, `HU`."""
    limits: str = ""
    """Known flaws and what the data cannot show."""
    splits: Splits = Splits()
    plugins: tuple[str, ...] = ()
    """Packages whose readers and tasks it may name, as `mylab.readers.ct`."""
    reader: Annotated[Any, Slot("archive.readers")]
    _secret: str = PrivateAttr("")

    def with_secret(self, secret: str) -> Card:
        """The same card, whose patients and keys are hashed with a salt that nobody else knows. No dump, copy or schema
        holds it."""
        card = self.model_copy()
        card._secret = secret
        return card

    @property
    def passes_on(self) -> Reach:
        """`models`, or what follows from access and licence."""
        return self.models or ("none" if self.access == "credentialed" or not self.licence.redistribute else "public")

    @property
    def naming_salt(self) -> str:
        """What patients and keys are hashed with: the secret, or, of data whose identifiers are public anyway, the salt
        of the splits."""
        return self._secret or self.splits.salt

    @property
    def salt_id(self) -> str:
        """Tells secrets apart without telling them; "" without one."""
        return hashlib.blake2b(self._secret.encode(), digest_size=8, person=b"salt").hexdigest() if self._secret else ""


SHIPPED_CARDS = "data_cards"


def load_card(path: Path, shown: str | None = None, plugins: Sequence[str] = ()) -> Card:
    """Raises RecipeError with file:line for a card that is wrong, DataError when there is none.

    plugins: packages that its reader and tasks may come from, beside those that the card lists.
    """
    if not path.is_file():
        raise DataError(
            f"{shown or path}: there is no such data card; every data set needs one (see data_cards/ for examples)"
        )
    document = read_yaml(path, shown)
    own = document.data.get("plugins") if isinstance(document.data, dict) else None
    allowed = (*plugins, *(own if isinstance(own, list) else ()))
    permit(allowed)
    card: Card = validate(Card, document, {"plugins": allowed})
    return card


def strictest(licences: list[Licence]) -> dict[str, Any]:
    """What a model trained on all of these may be used for: non-commercial and share-alike win, and every licence is
    named."""
    return {
        "ids": sorted({x.id for x in licences}),
        "commercial": all(x.commercial for x in licences),
        "share_alike": any(x.share_alike for x in licences),
        "redistribute": all(x.redistribute for x in licences),
    }
