"""The model card: README.md with the front matter that the Hub reads, and what a clinician or a lawyer would ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from medvlm.core.card import Card, merge_licences
from medvlm.core.config import component
from medvlm.export.card.about import About
from medvlm.export.card.front import list_base_models, make_front_matter
from medvlm.export.card.licence import describe_licences
from medvlm.export.card.text import (
    ACCESS,
    LIMITS,
    PASSES_ON,
    PHI,
    PRIVACY,
    WINDOW,
    format_interval,
    format_number,
    make_table,
)
from medvlm.export.language import ASKING, ASKING_ENCODER
from medvlm.tasks._writing import Writing

ORDER = {"train": 0, "val": 1, "test": 2}


def make_model_card(about: About) -> str:
    front = yaml.safe_dump(make_front_matter(about), sort_keys=False, allow_unicode=True, width=120)
    """The README.md of an exported model: front matter and sections, in Markdown."""
    body = [
        f"# {about.recipe['name']}",
        _describe_model(about),
        _explain_loading(about),
        "## Intended use and limits\n\n" + LIMITS + _list_limits(about),
        _describe_data(about),
        _describe_privacy(about),
        _describe_licence(about),
        _describe_training(about),
        _describe_results(about),
        _describe_preprocessing(about),
        _describe_proof(about),
        _describe_lineage(about),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in body if part) + "\n"


# --- sections ---------------------------------------------------------------------------------------


def _describe_model(about: About) -> str:
    rows = [
        [name, description, f"{about.parameters[name]:,}" if name in about.parameters else ""]
        for name, description in _list_parts(about)
    ]
    return f"{about.what}, trained with medvlm from a recipe.\n\n" + make_table(
        ["part", "what it is", "parameters"], rows
    )


def _list_parts(about: About) -> list[tuple[str, str]]:
    model, parts = about.recipe["model"], []
    if model.get("pretrained"):
        whole = f"of {next(iter(list_base_models(about.recipe)), about.parity['class'])}"
        return [(name, whole) for name in ("encoders.image", "connectors.image", "language")]
    for name, encoder in (model.get("encoders") or {}).items():
        parts.append((f"encoders.{name}", _describe_part(encoder)))
        if encoder.get("connector"):
            parts.append((f"connectors.{name}", _describe_part(encoder["connector"])))
    if model.get("language") and "language" in about.parts:
        return [*parts, ("language", _describe_part(model["language"]))]
    texts = [stage["text"] for stage in about.recipe["stages"] if stage["name"] in about.stages and stage.get("text")]
    return [*parts, *(("text", _describe_part(text)) for text in texts[-1:])]


def _describe_part(part: Mapping[str, Any]) -> str:
    from_scratch = f"{part['config'].get('model_type', '')}, from scratch" if part.get("config") else ""
    start = part.get("model") or part.get("net") or from_scratch
    return f"{part['kind']}: {start}" if start else str(part["kind"])


def _explain_loading(about: About) -> str:
    target: Any = component("export.targets", about.kind)
    lines = target.LOADING(about.base) if callable(target.LOADING) else target.LOADING
    if about.parity.get("has_encoder"):
        lines = lines.replace(ASKING, ASKING_ENCODER)
    if others := ", ".join(f"`{name}`" for name in about.parity.get("adapters", ())):
        lines += (
            f"\n\nFurther adapters on the same base are in subfolders: {others}. Add one with"
            ' `model.load_adapter("FOLDER/NAME", "NAME")` and switch to it with `model.set_adapter("NAME")`.'
        )
    if about.needs_medvlm:
        why = about.why_custom or "its recipe requests it (export.target: custom)"
        return f"## How to load\n\nLoading this folder needs the package medvlm: {why}.\n\n{lines}"
    return f"## How to load\n\nWith {target.LIBRARY}, without code from this folder:\n\n{lines}"


def _list_limits(about: About) -> str:
    lines = [f"- {card.name}: {card.limits.strip()}" for card in about.cards.values() if card.limits.strip()]
    return "\n\nKnown limits of the training data:\n\n" + "\n".join(lines) if lines else ""


def _describe_data(about: About) -> str:
    rows = []
    for source, card in about.cards.items():
        counts = about.counts.get(source, {})
        splits = sorted(counts, key=lambda split: (ORDER.get(split, len(ORDER)), split))
        rows.append(
            [
                f"{card.title} (`{card.name}`)",
                card.licence.id,
                ACCESS[card.access],
                PASSES_ON[card.passes_on],
                _describe_patients(card),
                ", ".join(f"{split} {counts[split]:,}" for split in splits),
            ]
        )
    text = "## Training data\n\n" + make_table(
        ["data set", "licence", "access", "models may be passed on to", "patients", "samples"], rows
    )
    cited = [f"- {card.name}: {card.citation.strip()}" for card in about.cards.values() if card.citation.strip()]
    terms = [f"- {card.name}: {card.terms.strip()}" for card in about.cards.values() if card.terms.strip()]
    text += "\n\nAudit of the splits (`medvlm data audit`):\n\n" + "\n".join(
        f"- {card.name}: {_describe_audit(about, source)}" for source, card in about.cards.items()
    )
    return (
        text
        + ("\n\nTerms:\n\n" + "\n".join(terms) if terms else "")
        + ("\n\nTo cite:\n\n" + "\n".join(cited) if cited else "")
    )


def _describe_patients(card: Card) -> str:
    if card.access == "generated":
        return "none: generated"
    if card.splits.by == "patient" and card.patient_key:
        return "no patient is in more than one split"
    if card.splits.by == "image":
        return "unknown: split by image, so a patient may be in several splits and results may be too good"
    return "unknown: the archive's own splits, not checked by patient"


def _describe_audit(about: About, source: str) -> str:
    """The result of one source's audit with its findings, or that there was none."""
    audit = about.audits.get(source)
    if not audit:
        return "not audited: it was not checked whether a patient or an image is in more than one split"
    others = [about.cards[name].name for name in audit["compared_with"] if name in about.cards]
    compared = f", compared with {', '.join(others)}" if others else ""
    benchmarks = f", and against {', '.join(audit['against'])}" if audit["against"] else ""
    verdict = "**failed**" if not audit["passed"] else "passed"
    findings = "".join(f"\n  - {finding['severity']}: {finding['text']}" for finding in audit["findings"])
    return f"{verdict}{compared}{benchmarks} (receipt `{audit['hash'][:16]}`){findings}"


def _describe_privacy(about: About) -> str:
    lines = [
        f"- {card.name}: {PHI[card.phi.status]}{f' ({card.phi.note.strip()})' if card.phi.note.strip() else ''}"
        for card in about.cards.values()
    ]
    stated = "Patient data in each data set, according to its authors:\n\n" + "\n".join(lines)
    return f"## Privacy\n\n{PRIVACY}\n\n{stated}"


def _describe_licence(about: About) -> str:
    licences = [card.licence for card in about.cards.values()]
    bases = list_base_models(about.recipe)
    started = f"\n\nThe model started from {', '.join(bases)}; their licences apply as well." if bases else ""
    return (
        "## Licence\n\n"
        + describe_licences(merge_licences(licences), {c.name: c.licence for c in about.cards.values()})
        + started
    )


def _describe_training(about: About) -> str:
    settings = {s["name"]: s for s in about.recipe.get("stages") or ()}
    rows = []
    for name, done in about.stages.items():
        stage = settings.get(name, {})
        mix = ", ".join(f"{source} {weight:g}" for source, weight in (stage.get("mix") or {}).items())
        rows.append(
            [
                name,
                str(done.get("kind", "")),
                ", ".join(stage.get("trains") or done.get("trains") or ()),
                mix,
                f"{done.get('step', 0):,}",
                str(stage.get("batch", "")),
            ]
        )
    return (
        "## Training\n\nStages, in order:\n\n"
        + make_table(["stage", "kind", "trains", "data and weight", "steps", "batch"], rows)
        if rows
        else ""
    )


def _describe_results(about: About) -> str:
    if about.is_part:
        return "## Results\n\nOnly the whole model was evaluated, not this encoder by itself."
    if not about.results:
        return "## Results\n\nThis model was not evaluated, so nothing is known about its quality."
    names = list(dict.fromkeys(name for row in about.results for name in row.get("baselines") or {}))
    rows = []
    for row in about.results:
        paired = row.get("paired") or {}
        difference = (
            f"{paired['difference']:+.3g} [{format_interval(paired['ci'])}] against {paired['against']}"
            if paired.get("ci")
            else ""
        )
        baselines = [format_number((row.get("baselines") or {}).get(name)) for name in names]
        rows.append(
            [
                f"{row['dataset']}:{row['split']}",
                row["task"],
                row["metric"],
                format_number(row.get("value")),
                format_interval(row.get("ci")),
                str(row.get("n", "")),
                *baselines,
                difference,
            ]
        )
    columns = ["data", "task", "metric", "value", "95 % interval", "n", *names, "paired difference [95 %]"]
    about_baselines = (
        "Measured on held-out samples, with 95 % intervals. The baselines were measured in the same run: `blind`"
        " is this model without the image, `shuffled` with the image of another patient, `majority` always gives the"
        " best constant answer to that kind of question, `nearest` gives the answer of the training image that looks"
        " most alike, and `chance` picks one of the choices. A value means something only as far as it is better than"
        " its baselines."
    )
    return f"## Results\n\n{about_baselines}\n\n" + make_table(columns, rows)


def _describe_preprocessing(about: About) -> str:
    lines = []
    for name, before in about.preprocess.items():
        fit = "resized to" if before.fit == "squash" else "short side resized, center cropped to"
        if before.spacing_mm:
            fit = (
                f"resampled to {' x '.join(f'{mm:g}' for mm in before.spacing_mm)} mm, center cropped or padded with"
                " black to"
            )
        seen = f", one channel for each of the windows {[list(w) for w in before.windows]}" if before.windows else ""
        seen += (
            ", window from percentile {:g} to {:g} of each image".format(*before.percentiles)
            if before.percentiles
            else ""
        )
        lines.append(
            f"- `{name}`: {fit} {' x '.join(map(str, before.size))} px, {before.channels} channels{seen}, mean"
            f" {list(before.mean)}, std {list(before.std)}."
        )
        if not about.needs_medvlm:
            lines.append(
                WINDOW["window" if before.window else "plain"].format(
                    low=(before.window or (0, 0))[0], high=(before.window or (0, 0))[1]
                )
            )
    boxes = (about.recipe["model"].get("boxes") or {}).get("scale")
    for kind, views in (about.recipe["model"].get("views") or {}).items():
        lines.append(
            f"- Media of kind `{kind}` are shown as pictures by:"
            f" {', '.join(f'{k} {v}' for k, v in views.items() if v)}; the pictures come before the question."
        )
    if about.codec not in ("", Writing().codec):
        written = " ".join((component("tasks.codecs", about.codec).__doc__ or "").split())
        lines.append(f"- Boxes in answers: {written}")
    elif boxes and "language" in about.parts and not about.is_part:
        lines.append(
            f"- Boxes in answers are x1, y1, x2, y2, integers from 0 to {boxes} over the image after this"
            " preprocessing, with the origin at the upper left."
        )
    return "## Preprocessing\n\n" + "\n".join(lines)


def _describe_proof(about: About) -> str:
    if "max_abs_logit_diff" in about.parity:
        found = (
            f"largest difference of a logit {about.parity['max_abs_logit_diff']:.2g}, same token ids, same greedy"
            " answers"
        )
    else:
        vectors, ids = ("unit embedding", ", same token ids") if "texts" in about.parity else ("feature", "")
        found = f"largest difference of a {vectors} {about.parity['max_abs_embedding_diff']:.2g}{ids}"
    library = component("export.targets", about.kind).LIBRARY
    where = "with medvlm" if about.needs_medvlm else f"with only {library}, without medvlm,"
    versions = ", ".join(f"{k} {v}" for k, v in about.parity["versions"].items())
    left = "".join(f"\n\nNot in this folder: `{name}` ({why})." for name, why in about.audit.left_out.items())
    unused = (
        f" This class loads but does not use {len(about.audit.unused)} of them (listed in `medvlm/audit.json`)."
        if about.audit.unused
        else ""
    )
    return (
        f"## Parity proof\n\nA fresh process {where} loaded this folder. Its output was compared with the trained"
        f" model's in float32, on raw images of {len(about.parity['image_sizes'])} sizes: {found} (allowed:"
        f" {about.parity['tolerance']:g}). Versions: {versions}. Details: `medvlm/parity.json`.\n\nTensors:"
        f" {about.audit.summarize()}.{unused}{left}"
    )


def _describe_lineage(about: About) -> str:
    return (
        f"## Lineage\n\nmedvlm {about.version}, recipe `{about.recipe_hash}`. The resolved recipe, lineage,"
        " preprocessing and results are in `medvlm/`."
    )
