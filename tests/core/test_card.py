"""The card's own rules: what it declares, and the secret that it carries and never shows."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from medvlm.core.card import Card
from medvlm.recipe.json_schema import build_schema

PLAIN: dict[str, Any] = {
    "name": "made",
    "title": "Made",
    "summary": "Made for a test.",
    "access": "open",
    "media": ["film"],
    "licence": {"id": "MIT", "commercial": True},
    "phi": {"status": "deidentified"},
    "reader": {"kind": "table", "file": "table.csv", "key": "{id}"},
}
SECRET = "zq-0123456789abcdef"


def card(**phi: Any) -> Card:
    return Card.model_validate({**PLAIN, "phi": {**PLAIN["phi"], **phi}})


def test_nothing_counts_as_checked_unless_it_is_said_and_by_whom():
    assert card().phi.checked == ()
    assert card(checked=["dates", "text"], note="Two readers read all reports.").phi.checked == ("dates", "text")
    with pytest.raises(ValidationError, match="a note that says who checked it"):
        card(checked=["dates"], note=" ")
    with pytest.raises(ValidationError, match="checked"):
        card(checked=["everything"], note="x")


def test_the_secret_names_and_is_shown_by_nothing_that_is_written():
    plain, secret = card(), card().add_secret(SECRET)
    assert (plain.naming_salt, plain.salt_id) == ("medvlm", "")
    assert secret.naming_salt == SECRET and secret.splits.salt == "medvlm" and len(secret.salt_id) == 16
    assert secret.salt_id != card().add_secret(SECRET + "x").salt_id
    assert SECRET not in "".join(
        [repr(secret), str(secret), secret.model_dump_json(), json.dumps(build_schema("card")), secret.salt_id]
    )
    assert secret.model_dump() == plain.model_dump() and plain.naming_salt == "medvlm", (
        "the card it was made from stays as it was"
    )


def test_the_secret_reaches_a_process_that_decodes():
    assert pickle.loads(pickle.dumps(card().add_secret(SECRET))).naming_salt == SECRET


def test_a_card_cannot_hold_the_secret():
    with pytest.raises(ValidationError):
        Card.model_validate({**PLAIN, "_secret": SECRET})


@pytest.mark.parametrize("name", ["bccd", "cxr-2.1_b", "A" * 100, "3d"])
def test_the_name_of_a_card_names_one_folder(name: str):
    assert Card.model_validate({**PLAIN, "name": name}).name == name


@pytest.mark.parametrize(
    "name",
    ["../../../escaped", "/tmp/card", "a/b", "a\\b", "..", ".hidden", "", "a\nb", "a\n", "A" * 101, "a b", "-x", "C:x"],
)
def test_a_card_whose_name_leads_elsewhere_is_refused(name: str):
    with pytest.raises(ValidationError, match="cannot be a folder's name; expected letters, digits, dot, - and _"):
        Card.model_validate({**PLAIN, "name": name})
