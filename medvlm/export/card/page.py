"""The model card: README.md with the front matter that the Hub reads, and what a clinician or a lawyer would ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from medvlm.core.card import Card, strictest
from medvlm.core.config import component
from medvlm.export.card.about import About
from medvlm.export.card.front import base_models, front_matter
from medvlm.export.card.licence import licence_words
from medvlm.export.card.text import ACCESS, LIMITS, PASSES_ON, PHI, PRIVACY, WINDOW, number, span, table
from medvlm.tasks._writing import Writing

ORDER = {"train": 0, "val": 1, "test": 2}


def model_card(about: About) -> str:
    front = yaml.safe_dump(front_matter(about), sort_keys=False, allow_unicode=True, width=120)
    body = [
        f"# {about.recipe['name']}",
        _what(about),
        _loading(about),
        "## Intended use and limits\n\n" + LIMITS + _limits_of_data(about),
        _data(about),
        _privacy(about),
        _licence(about),
        _training(about),
        _results(about),
        _preprocessing(about),
        _proof(about),
        _lineage(about),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in body if part) + "\n"


# --- sections ---------------------------------------------------------------------------------------


def _what(about: About) -> str:
    rows = [
        [name, description, f"{about.parameters[name]:,}" if name in about.parameters else ""]
        for name, description in _parts(about)
    ]
    return f"{about.what}, trained with medvlm from a recipe.\n\n" + table(["part", "what it is", "parameters"], rows)


def _parts(about: About) -> list[tuple[str, str]]:
    model, parts = about.recipe["model"], []
    if model.get("pretrained"):
        whole = f"of {next(iter(base_models(about.recipe)), about.parity['class'])}"
        return [(name, whole) for name in ("encoders.image", "connectors.image", "language")]
    for name, encoder in (model.get("encoders") or {}).items():
        parts.append((f"encoders.{name}", _described(encoder)))
        if encoder.get("connector"):
            parts.append((f"connectors.{name}", _described(encoder["connector"])))
    if model.get("language") and "language" in about.parts:
        return [*parts, ("language", _described(model["language"]))]
    texts = [stage["text"] for stage in about.recipe["stages"] if stage["name"] in about.stages and stage.get("text")]
    return [*parts, *(("text", _described(text)) for text in texts[-1:])]


def _described(part: Mapping[str, Any]) -> str:
    start = (
        part.get("model")
        or part.get("net")
        or (f"{part['config'].get('model_type', '')}, from scratch" if part.get("config") else "")
    )
    return f"{part['kind']}: {start}" if start else str(part["kind"])


def _loading(about: About) -> str:
    target: Any = component("export.targets", about.kind)
    lines = target.LOADING(about.base) if callable(target.LOADING) else target.LOADING
    if about.needs_medvlm:
        why = about.why_custom or "its recipe asks for that (export.target: custom)"
        return f"## How to load\n\nThis folder needs the package medvlm: {why}.\n\n{lines}"
    return f"## How to load\n\nPlain {target.LIBRARY}, no code from this folder:\n\n{lines}"


def _limits_of_data(about: About) -> str:
    lines = [f"- {card.name}: {card.limits.strip()}" for card in about.cards.values() if card.limits.strip()]
    return "\n\nKnown limits of the training data:\n\n" + "\n".join(lines) if lines else ""


def _data(about: About) -> str:
    rows = []
    for source, card in about.cards.items():
        counts = ", ".join(
            f"{split} {n:,}"
            for split, n in sorted(about.counts.get(source, {}).items(), key=lambda kv: (ORDER.get(kv[0], 3), kv[0]))
        )
        rows.append(
            [
                f"{card.title} (`{card.name}`)",
                card.licence.id,
                ACCESS[card.access],
                PASSES_ON[card.passes_on],
                _patients(card),
                counts,
            ]
        )
    text = "## Training data\n\n" + table(
        ["data set", "licence", "access", "models of it may go to", "patients", "samples"], rows
    )
    cited = [f"- {card.name}: {card.citation.strip()}" for card in about.cards.values() if card.citation.strip()]
    terms = [f"- {card.name}: {card.terms.strip()}" for card in about.cards.values() if card.terms.strip()]
    text += "\n\nAudit of the splits (`medvlm data audit`):\n\n" + "\n".join(
        f"- {card.name}: {_audited(about, source)}" for source, card in about.cards.items()
    )
    return (
        text
        + ("\n\nTerms:\n\n" + "\n".join(terms) if terms else "")
        + ("\n\nTo cite:\n\n" + "\n".join(cited) if cited else "")
    )


def _patients(card: Card) -> str:
    if card.access == "generated":
        return "none: generated"
    if card.splits.by == "patient" and card.patient_key:
        return "kept apart: no patient is in two splits"
    if card.splits.by == "image":
        return "unknown: split by image, one patient may be in two splits, results may be too good"
    return "as the archive's own split has them, not proven apart"


def _audited(about: About, source: str) -> str:
    """What was proven of one source, or that nothing was; findings in the words of the audit."""
    audit = about.audits.get(source)
    if not audit:
        return "not audited: that no patient and no image is on two sides was not checked"
    others = [about.cards[name].name for name in audit["compared_with"] if name in about.cards]
    compared = f", compared with {', '.join(others)}" if others else ""
    benchmarks = f", and against {', '.join(audit['against'])}" if audit["against"] else ""
    verdict = "**failed**" if not audit["passed"] else "passed"
    findings = "".join(f"\n  - {finding['severity']}: {finding['text']}" for finding in audit["findings"])
    return f"{verdict}{compared}{benchmarks} (receipt `{audit['hash'][:16]}`){findings}"


def _privacy(about: About) -> str:
    lines = [
        f"- {card.name}: {PHI[card.phi.status]}{f' ({card.phi.note.strip()})' if card.phi.note.strip() else ''}"
        for card in about.cards.values()
    ]
    return f"## Privacy\n\n{PRIVACY}\n\nPatients in the training data, by the makers of each data set:\n\n" + "\n".join(
        lines
    )


def _licence(about: About) -> str:
    licences = [card.licence for card in about.cards.values()]
    bases = base_models(about.recipe)
    started = f"\n\nIt started from {', '.join(bases)}: their licences apply as well." if bases else ""
    return (
        "## Licence\n\n"
        + licence_words(strictest(licences), {c.name: c.licence for c in about.cards.values()})
        + started
    )


def _training(about: About) -> str:
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
        + table(["stage", "kind", "trains", "data and weight", "steps", "batch"], rows)
        if rows
        else ""
    )


def _results(about: About) -> str:
    if about.is_part:
        return "## Results\n\nMeasured was the whole model that it was trained in, not this encoder by itself."
    if not about.results:
        return "## Results\n\nThis model was not evaluated: nothing here says how good it is."
    names = list(dict.fromkeys(name for row in about.results for name in row.get("baselines") or {}))
    rows = []
    for row in about.results:
        paired = row.get("paired") or {}
        difference = (
            f"{paired['difference']:+.3g} [{span(paired['ci'])}] against {paired['against']}"
            if paired.get("ci")
            else ""
        )
        baselines = [number((row.get("baselines") or {}).get(name)) for name in names]
        rows.append(
            [
                f"{row['dataset']}:{row['split']}",
                row["task"],
                row["metric"],
                number(row.get("value")),
                span(row.get("ci")),
                str(row.get("n", "")),
                *baselines,
                difference,
            ]
        )
    columns = ["data", "task", "metric", "value", "95 % interval", "n", *names, "paired difference [95 %]"]
    about_baselines = (
        "On held-out samples, with bootstrap intervals. Baselines were measured in the same run: `blind` is this model"
        " without the image, `shuffled` with the image of another sample, `majority` the most frequent training answer"
        " to that kind of question. A value counts only as far as it is beyond them."
    )
    return f"## Results\n\n{about_baselines}\n\n" + table(columns, rows)


def _preprocessing(about: About) -> str:
    lines = []
    for name, before in about.preprocess.items():
        fit = "resized to" if before.fit == "squash" else "short side resized, centre cut to"
        if before.spacing_mm:
            fit = (
                f"resampled to {' x '.join(f'{mm:g}' for mm in before.spacing_mm)} mm, centre cut or filled up with"
                " black to"
            )
        seen = f", windows {[list(w) for w in before.windows]}, each a channel" if before.windows else ""
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
            f"- Boxes in answers are x1, y1, x2, y2, integers from 0 to {boxes} of what the model sees after this"
            " preprocessing, origin at the upper left."
        )
    return "## Preprocessing\n\n" + "\n".join(lines)


def _proof(about: About) -> str:
    if "max_abs_logit_diff" in about.parity:
        found = (
            f"largest difference of a logit {about.parity['max_abs_logit_diff']:.2g}, same token ids, same greedy"
            " answers"
        )
    else:
        vectors, ids = ("unit embedding", ", same token ids") if "texts" in about.parity else ("feature", "")
        found = f"largest difference of a {vectors} {about.parity['max_abs_embedding_diff']:.2g}{ids}"
    where = (
        "with medvlm"
        if about.needs_medvlm
        else f"without medvlm, by plain {component('export.targets', about.kind).LIBRARY},"
    )
    versions = ", ".join(f"{k} {v}" for k, v in about.parity["versions"].items())
    left = "".join(f"\n\nNot in this folder: `{name}`: {why}." for name, why in about.audit.left_out.items())
    unused = (
        f" {len(about.audit.unused)} of them are loaded but not used by this class (listed in `medvlm/audit.json`)."
        if about.audit.unused
        else ""
    )
    return (
        f"## Parity proof\n\nA fresh process {where} loaded this folder and was compared with the trained model in"
        f" float32, on raw images of {len(about.parity['image_sizes'])} odd sizes: {found} (allowed:"
        f" {about.parity['tolerance']:g}). {versions}. Details: `medvlm/parity.json`.\n\nTensors:"
        f" {about.audit.line()}.{unused}{left}"
    )


def _lineage(about: About) -> str:
    return (
        f"## Lineage\n\nmedvlm {about.version}, recipe `{about.recipe_hash}`. The resolved recipe, lineage,"
        " preprocessing and results are in `medvlm/`."
    )
