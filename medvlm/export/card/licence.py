"""What a model may be used for, from the licences of its training data. The strictest licence applies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from medvlm.core.card import Licence

# Identifiers of the Hub (huggingface.co/docs/hub/repositories-licenses) that data and model cards use.
HUB = {
    "apache-2.0",
    "mit",
    "afl-3.0",
    "artistic-2.0",
    "bsl-1.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "c-uda",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "agpl-3.0",
    "gfdl",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl-2.1",
    "lgpl-3.0",
    "isc",
    "lppl-1.3c",
    "ms-pl",
    "mpl-2.0",
    "odc-by",
    "odbl",
    "osl-3.0",
    "postgresql",
    "ofl-1.1",
    "ncsa",
    "unlicense",
    "zlib",
    "pddl",
}


def choose_hub_licence(licences: Sequence[Licence], has_base: bool = False) -> dict[str, str]:
    """Front matter: `license` is the licence that is at least as strict as every other, or `other` with a name made of
    all of them.

    has_base: whether the model started from published weights. Their licence applies too and is not known here, so a
    single identifier would be incomplete.
    """
    ids = list(dict.fromkeys(x.id for x in licences))
    ruling = [x for x in licences if all(_covers(x, y) for y in licences)]
    names = list(dict.fromkeys(x.id for x in ruling))
    if len(names) == 1 and names[0].lower() in HUB and not has_base:
        return {"license": names[0].lower()}
    if len(names) == 1:
        ids = names
    if not ids and not has_base:
        return {"license": "unknown"}
    url = next((x.url for x in licences if x.id == ids[0] and x.url), "") if len(ids) == 1 and not has_base else ""
    parts = [*sorted(ids), *(["base-models"] if has_base else [])]
    return {
        "license": "other",
        "license_name": _make_slug("-and-".join(parts)),
        "license_link": url or "README.md#licence",
    }


def describe_licences(allowed: Mapping[str, Any], licences: Mapping[str, Licence]) -> str:
    """What the licences allow together. Each restriction names the data sets it comes from."""
    if not licences:
        return "The model was not trained on a data set with a card."
    uses = (
        "Commercial use is allowed."
        if allowed["commercial"]
        else f"**Non-commercial use only**, because of {_list_names(licences, lambda x: not x.commercial)}."
    )
    if allowed["share_alike"]:
        uses += (
            " **Share alike**: derived works must have the same licence, because of"
            f" {_list_names(licences, lambda x: x.share_alike)}."
        )
    if not allowed["redistribute"]:
        uses += (
            f" The data of {_list_names(licences, lambda x: not x.redistribute)} may not be passed on; ask the owner"
            " before you pass on these weights."
        )
    if any(x.attribution for x in licences.values()):
        uses += f" Credit the authors of {_list_names(licences, lambda x: x.attribution)}."
    listed = [f"- {name}: {x.id}{f', {x.url}' if x.url else ''}" for name, x in licences.items()]
    return f"The strictest of the licences of the training data applies. {uses}\n\n" + "\n".join(listed)


def _covers(x: Licence, y: Licence) -> bool:
    """Whether x forbids all that y forbids and requires all that y requires."""
    return (
        (y.commercial or not x.commercial)
        and (x.share_alike or not y.share_alike)
        and (y.redistribute or not x.redistribute)
        and (x.attribution or not y.attribution)
    )


def _list_names(licences: Mapping[str, Licence], has: Any) -> str:
    return ", ".join(name for name, x in licences.items() if has(x))


def _make_slug(text: str) -> str:
    """Lower-case letters, digits, dots and dashes, as the Hub requires."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
