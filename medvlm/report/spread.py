"""The distribution of a data set over splits, tasks and answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medvlm.core.sample import Sample, Truth
from medvlm.core.tasks import find_task, is_scored
from medvlm.io.shards import ShardSet
from medvlm.report import numbers
from medvlm.report.bars import draw_shares
from medvlm.report.markup import Child, tag
from medvlm.report.page import Section, make_section, make_table

READ = 1000
"""Number of samples read for the distribution of answers; counts come from the index and cover all samples."""
TEMPLATES = 12

Place = tuple[str, int]


def choose_evenly(places: list[Place], most: int) -> list[Place]:
    """At most `most` of the places, evenly spaced, starting with the first."""
    return [places[i * len(places) // most] for i in range(most)] if len(places) > most else places


def make_counts_section(shards: ShardSet, splits: Sequence[str]) -> Section:
    """Counts over all samples, from the index only."""
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
        [
            split,
            numbers.format_whole(shards.count(split)),
            numbers.format_whole(reports[split]),
            *(numbers.format_whole(asked[split][t]) for t in tasks),
        ]
        for split in splits
    ]
    if len(rows) > 1:
        sums = [sum(map(shards.count, splits)), reports.total(), *(sum(asked[s][t] for s in splits) for t in tasks)]
        rows.append(["all", *(tag("strong", numbers.format_whole(n)) for n in sums)])
    columns = ["split", "samples", "with report", *(f"{t} questions" for t in tasks)]
    return make_section(
        "Contents",
        "counts",
        make_table("Samples, reports and questions by split", columns, rows, set(range(1, len(columns)))),
    )


def make_answers_section(samples: list[Sample], total: int) -> Section | None:
    """The distribution of the true answers, except for free text. If an answer is common, a model can be right without
    using the image."""
    spread: dict[str, Counter[str]] = {}
    for sample in samples:
        for question in (q for q in sample.questions if is_scored(q.truth)):
            spread.setdefault(question.template, Counter())[_shorten_answer(question.truth)] += 1
    if not spread:
        return None
    ordered = sorted(spread, key=lambda t: (-spread[t].total(), t))
    tiles = []
    for template in ordered[:TEMPLATES]:
        n = spread[template].total()
        title = tag("h3", template, tag("span", f" {numbers.format_whole(n)} questions", class_="muted small"))
        tiles.append(tag("div", title, draw_shares(spread[template]), class_="tile"))
    counted = (
        "all samples"
        if total == len(samples)
        else f"{numbers.format_whole(len(samples))} of {numbers.format_whole(total)} samples, at equal distances"
    )
    rest = (
        f" The {TEMPLATES} most common of {len(ordered)} question templates are shown."
        if len(ordered) > TEMPLATES
        else ""
    )
    about = (
        f"The true answers by question template, counted over {counted}. The longest bar is the share that a constant"
        f" answer gets right without the image (for boxes: the number of boxes).{rest}"
    )
    return make_section("Answers", "answers", tag("div", *tiles, class_="tiles"), about=about)


def _shorten_answer(truth: Truth) -> str:
    words = find_task(truth.task).summarise(truth)
    return words if len(words) <= 60 else words[:57] + "\N{HORIZONTAL ELLIPSIS}"
