"""The gallery of a data set: samples as they are stored, boxes drawn, and how the answers are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medvlm.answers import boxes as box_text
from medvlm.core.errors import DataError
from medvlm.core.sample import BOXES_SLOT, Box, Medium, Question, Sample, Truth
from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.bars import shares
from medvlm.report.display import displayed
from medvlm.report.images import Drawn, box_key, picture
from medvlm.report.markup import Child, Html, tag
from medvlm.report.page import Section, facts, section, table, write_page
from medvlm.report.reading import in_order

READ = 1000
"""Samples that are read for the spread of answers; counts come from the index and cover all."""
TEMPLATES = 12
MANY = 3
"""More boxes than these are folded away: their numbers say less than the picture."""

Place = tuple[str, int]
Stored = tuple[Sample, dict[str, bytes]]


def write_gallery(shards: ShardSet, out: Path, split: str | None, count: int = 48) -> Path:
    """Writes one self-contained page of `count` samples of a split (None: of all) and returns its path.

    Samples are taken at equal distances, so that the page is the same each time and no part is left out.
    Raises DataError for a split that the shards do not have, and for a damaged shard.
    """
    splits = (split,) if split else in_order(shards.splits)
    places = [(s, i) for s in splits for i in range(shards.count(s))]
    gallery = [shards.read(*place) for place in _spread(places, count)]
    samples = [shards.read(*place)[0] for place in _spread(places, READ)]
    # The commonest label gets the plainest line: there will be many of it in one picture.
    labels = [label for label, _ in Counter(label for sample, _ in gallery for label, _ in _marked(sample)).most_common()]
    about = f"{len(gallery)} of {numbers.whole(len(places))} samples at equal distances, as they are stored. Boxes are in stored pixels."
    cards = tag("div", *(_card(sample, files, labels) for sample, files in gallery), class_="gallery")
    legend = box_key([(str(i), label) for i, label in enumerate(labels)]) if labels else None
    sections = [_counts(shards, splits), _answers(samples, len(places)), section("Samples", "samples", legend, cards, about=about)]
    sources = sorted({sample.source for sample in samples}) or ["no samples"]
    head: list[Child] = [
        tag("p", _lead(len(places), splits), class_="lead"),
        facts([("samples", numbers.whole(len(places))), ("splits", ", ".join(splits)), ("fingerprint", tag("code", shards.fingerprint[:16]))]),
    ]
    return write_page(out, title=", ".join(sources), eyebrow="data set", head=head, sections=sections)


def _lead(total: int, splits: Sequence[str]) -> str:
    where = f"split {splits[0]}" if len(splits) == 1 else f"{len(splits)} splits"
    return f"{numbers.whole(total)} samples in {where}: what a model will be shown, asked and expected to answer."


def _spread(places: list[Place], most: int) -> list[Place]:
    """At most that many, at equal distances, the first among them."""
    return [places[i * len(places) // most] for i in range(most)] if len(places) > most else places


def _counts(shards: ShardSet, splits: Sequence[str]) -> Section:
    """From the index alone, over every sample."""
    asked: dict[str, Counter[str]] = {}
    reports: Counter[str] = Counter()
    for split in splits:
        asked[split] = Counter()
        for i in range(shards.count(split)):
            entry = shards.entry(split, i)
            asked[split].update(entry.tasks)
            reports[split] += entry.has_report
    tasks = sorted({t for c in asked.values() for t in c})
    rows: list[list[Child]] = [
        [split, numbers.whole(shards.count(split)), numbers.whole(reports[split]), *(numbers.whole(asked[split][t]) for t in tasks)] for split in splits
    ]
    if len(rows) > 1:
        sums = [sum(map(shards.count, splits)), reports.total(), *(sum(asked[s][t] for s in splits) for t in tasks)]
        rows.append(["all", *(tag("strong", numbers.whole(n)) for n in sums)])
    columns = ["split", "samples", "with report", *(f"{t} questions" for t in tasks)]
    return section("What is in it", "counts", table("Samples, reports and questions by split", columns, rows, set(range(1, len(columns)))))


def _answers(samples: list[Sample], total: int) -> Section | None:
    """How the true answers are spread, but for those of free reports: where one of them is common, a model can be right without looking."""
    spread: dict[str, Counter[str]] = {}
    for sample in samples:
        for question in (q for q in sample.questions if q.truth.task != "report"):
            spread.setdefault(question.template, Counter())[_short_answer(question.truth)] += 1
    if not spread:
        return None
    ordered = sorted(spread, key=lambda t: (-spread[t].total(), t))
    tiles = []
    for template in ordered[:TEMPLATES]:
        n = spread[template].total()
        title = tag("h3", template, tag("span", f" {numbers.whole(n)} questions", class_="muted small"))
        tiles.append(tag("div", title, shares(spread[template]), class_="tile"))
    counted = "all samples" if total == len(samples) else f"{numbers.whole(len(samples))} of {numbers.whole(total)} samples, at equal distances"
    rest = f" The {TEMPLATES} commonest of {len(ordered)} question templates are shown." if len(ordered) > TEMPLATES else ""
    about = (
        f"The true answers by question template, counted over {counted}. The longest bar is what one constant answer gets right without looking "
        f"(for boxes: how many there are).{rest}"
    )
    return section("Answers", "answers", tag("div", *tiles, class_="tiles"), about=about)


def _short_answer(truth: Truth) -> str:
    if truth.task == "boxes":
        return f"{len(truth.boxes)} {'box' if len(truth.boxes) == 1 else 'boxes'}"
    return truth.answer if len(truth.answer) <= 60 else truth.answer[:57] + "\N{HORIZONTAL ELLIPSIS}"


def _card(sample: Sample, files: dict[str, bytes], labels: list[str]) -> Html:
    media = [_medium(sample, i, files, labels) for i in range(len(sample.media))]
    fold = tag("details", tag("summary", "report"), tag("p", tag("bdi", sample.report), class_="report-text")) if sample.report else None
    concept = tag("p", tag("span", "concept ", class_="muted"), sample.concept, class_="small") if sample.concept else None
    key = tag("p", tag("span", sample.split, class_="chip"), tag("code", sample.key, class_="muted"))
    questions = [_question(q) for q in sample.questions]
    return tag("article", *(m[0] for m in media), tag("div", key, *(m[1] for m in media), *questions, concept, fold, class_="body"), class_="card")


def _medium(sample: Sample, i: int, files: dict[str, bytes], labels: list[str]) -> tuple[Html, Html]:
    """The picture and the line of facts under it. What cannot be decoded is said where the picture would be."""
    medium = sample.media[i]
    flat = i == 0 and len(medium.size) == 2
    drawn = [Drawn(box, str(labels.index(label)), label) for label, box in _marked(sample)] if flat else []
    try:
        if medium.member not in files:
            raise DataError(f"{medium.member} is missing from the shard")
        png, words = displayed(files[medium.member], medium, medium.member)
    except DataError as reason:
        return tag("p", f"\N{BALLOT X} cannot be shown: {reason}", class_="bad body"), _facts_of(medium, "")
    frame = (float(medium.size[1]), float(medium.size[0])) if flat else None
    return picture(png, f"{medium.kind} of sample {sample.key}", drawn, frame), _facts_of(medium, words)


def _marked(sample: Sample) -> list[tuple[str, Box]]:
    """(label, box) of all questions. One that counts and one that locates carry the same boxes: each is there once."""
    return list(dict.fromkeys((q.truth.label or "box", b) for q in sample.questions for b in q.truth.boxes))


def _facts_of(medium: Medium, words: str) -> Html:
    size = " \N{MULTIPLICATION SIGN} ".join(map(str, reversed(medium.size)))
    spacing = " \N{MULTIPLICATION SIGN} ".join(f"{x:g}" for x in reversed(medium.spacing_mm)) + " mm" if medium.spacing_mm else "spacing unknown"
    parts = [medium.kind, medium.modality, f"{size} {'voxels' if len(medium.size) == 3 else 'px'}", spacing, medium.unit, words]
    return tag("p", " \N{MIDDLE DOT} ".join(p for p in parts if p), class_="muted small")


def _question(question: Question) -> Html:
    truth = question.truth
    written = tag("bdi", truth.answer.replace(BOXES_SLOT, box_text.write(truth.boxes)))
    folded = truth.answer == BOXES_SLOT and len(truth.boxes) > MANY
    answer = tag("details", tag("summary", f"{len(truth.boxes)} boxes, drawn"), tag("p", written)) if folded else written
    others = ", ".join(c for c in truth.choices if c != truth.answer)
    rest = tag("span", f" \N{EM DASH} not {others}", class_="muted") if others else None
    head = tag("p", tag("span", question.template, class_="muted verdicts"), tag("strong", question.text), class_="q")
    return tag("div", head, tag("p", answer, rest), class_="qa")
