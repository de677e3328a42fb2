"""`medvlm rl-check`: whether reinforcement can help a model, measured before it is trained.

Several answers are drawn to each question. Reinforcement can only strengthen what is drawn already, and learns nothing
where all answers earn the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlm.commands.evaluate import STOPPED, evaluate_found
from medvlm.commands.who import find_who
from medvlm.core.config import component, kinds
from medvlm.core.document import COMMAND_LINE, Document
from medvlm.core.errors import DataError
from medvlm.core.problems import validate
from medvlm.core.protocols import FOLDER, Row
from medvlm.core.run import RunFolder
from medvlm.train.stopping import raise_on_signal

FOLDER_NAME = "rl-check"
ABSENT = 0.2
"""If the whole interval of the pass rate of all draws is below, right answers are hardly ever drawn."""
GAIN = 0.05
"""The least gain in score of the best drawn answer over the greedy one that is worth reinforcement."""
SPENT = 0.9
"""If the whole interval of the share of questions without spread is above, hardly any question teaches anything."""


@dataclass(frozen=True)
class Finding:
    """What was measured of one task of a split. greedy, mean, best: the mean score of the greedy answers, of the drawn
    ones, and of the best of each question. passed: how often one of the drawn answers is right. verdict: see
    `judge`."""

    dataset: str
    split: str
    task: str
    n: int
    greedy: float
    mean: float
    best: float
    passed: float
    no_spread: float
    verdict: str
    why: str


def rl_check(
    who: str | Path,
    on: Sequence[str] = (),
    stage: str = "",
    overrides: Sequence[str] = (),
    runs: Path = Path("runs"),
    draws: int = 8,
    temperature: float = 1.0,
) -> list[Finding]:
    """A finding for each task of each split. who, on, overrides, runs: as of `medvlm evaluate`; by default the
    validation samples of the sources in `evaluate.on`. The answers are kept in RUN/rl-check."""
    with raise_on_signal(STOPPED):
        found = find_who(str(who), on, overrides, runs)
        pairs = found.pairs if on else [(source, "val") for source, _ in found.pairs]
        protocol = _make_protocol({"draws": draws, "temperature": temperature})
        rows = evaluate_found(replace(found, pairs=pairs), stage, [protocol], RunFolder(found.run.root / FOLDER_NAME))
    return judge_rows(rows)


def _make_protocol(settings: dict[str, Any]) -> Any:
    """The protocol that draws answers. Raises RecipeError for settings that it does not take."""
    kind = next(kind for kind in kinds(FOLDER) if component(FOLDER, kind).NEEDS == "draw")
    document = Document({"kind": kind, **settings}, {(): (COMMAND_LINE, 0, 0)})
    return validate(component(FOLDER, kind).Config, document)


def judge_rows(rows: Sequence[Row]) -> list[Finding]:
    """Raises DataError if nothing was drawn."""
    by_task: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        name, _, task = row["metric"].partition(":")
        if task:
            by_task.setdefault((row["dataset"], row["split"], task), {})[name] = row
    if rows and not by_task:
        raise DataError("no answers were drawn")
    findings = []
    for (dataset, split, task), of in by_task.items():
        passed = of[max((name for name in of if name.startswith("pass_")), key=_get_number)]
        verdict, why = judge(passed, of["best"], of["no_spread"])
        findings.append(
            Finding(
                dataset, split, task, passed["n"], of["best"]["baselines"]["greedy"], of["mean"]["value"],
                of["best"]["value"], passed["value"], of["no_spread"]["value"], verdict, why,
            )
        )  # fmt: skip
    return findings


def _get_number(metric: str) -> int:
    return int(metric.removeprefix("pass_"))


def judge(passed: Row, best: Row, spread: Row) -> tuple[str, str]:
    """(verdict, reason): `supervised first`, `nothing to gain`, `may help`, or `not clear` if the intervals allow
    several. passed: of all draws."""
    if passed["ci"] is None or best["paired"] is None or best["paired"]["ci"] is None:
        return "not clear", "there are no intervals; check on more patients"
    gain, ci = best["paired"]["difference"], best["paired"]["ci"]
    if passed["ci"][1] < ABSENT:
        return "supervised first", f"a right answer is drawn for {passed['value']:.0%} of the questions only"
    gained = f"the best drawn answer scores {gain:+.3f} compared with the greedy one"
    if ci[1] < GAIN:
        return "nothing to gain", gained
    if spread["ci"] is not None and spread["ci"][0] > SPENT:
        return "nothing to gain", f"all answers to {spread['value']:.0%} of the questions earn the same"
    if ci[0] > GAIN:
        return "may help", gained
    return "not clear", f"{gained}, between {ci[0]:+.3f} and {ci[1]:+.3f}; check on more patients"


def format_findings(findings: Sequence[Finding]) -> str:
    rows = [("data", "task", "n", "greedy", "mean", "best", "pass", "no spread", "verdict")]
    rows += [
        (
            f"{each.dataset}:{each.split}", each.task, str(each.n), f"{each.greedy:.3f}", f"{each.mean:.3f}",
            f"{each.best:.3f}", f"{each.passed:.3f}", f"{each.no_spread:.3f}", f"{each.verdict}: {each.why}",
        )
        for each in findings
    ]  # fmt: skip
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if at in (0, 1, 8) else text.rjust(width)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(lines)
