"""How it was trained: stages in order, curves, and the proof of what moved and what did not."""

from __future__ import annotations

from statistics import median

from medvlm.report import numbers
from medvlm.report.curves import Series, curve
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import Section, section, table
from medvlm.report.reading import Record, RunRecord, StageLog


def stages_table(run: RunRecord) -> Html | None:
    """Stages in the recipe's order: what each trains, on what, for how long."""
    if not run.stages:
        return None
    rows: list[list[Child]] = []
    for name, (settings, done, log) in run.stages.items():
        planned = log.planned or settings.get("steps") or 0
        reached = max(log.step, done.get("step") or 0)
        trains = settings.get("trains") or list(done.get("trains") or {})
        seconds = done.get("seconds") or log.seconds
        rows.append(
            [
                name,
                str(settings.get("kind") or done.get("kind") or ""),
                ", ".join(map(str, trains)) or None,
                _mix(settings.get("mix") or {}),
                f"{numbers.whole(reached)} of {numbers.whole(planned)}" if planned else numbers.whole(reached),
                numbers.duration(seconds) if seconds else "\N{EN DASH}",
                f"{median(speeds):,.0f}" if (speeds := [v for _, v in log.points("samples_per_s")]) else "\N{EN DASH}",
                _state(done, log, planned),
            ]
        )
    columns = ["stage", "kind", "trains", "on", "steps", "time", "samples/s", "state"]
    return table("Stages in the order they run; samples/s is the median", columns, rows, {4, 5, 6})


def _mix(mix: dict[str, float]) -> str:
    """A single source by its name, several with their weights."""
    return ", ".join(f"{n} {w:g}" for n, w in mix.items()) if len(mix) > 1 else ", ".join(mix)


def _state(done: Record, log: StageLog, planned: int) -> Html:
    if done.get("finished"):
        early = planned and (done.get("step") or planned) < planned
        return tag("span", "\N{CHECK MARK} finished" + (" early" if early else ""), class_="good nowrap")
    if log.train:
        return tag("span", f"\N{HORIZONTAL ELLIPSIS} {100 * log.step / planned:.0f} %" if planned else "begun", class_="part nowrap")
    return tag("span", "not started", class_="muted nowrap")


def curves_section(run: RunRecord) -> Section | None:
    blocks = [_stage_curves(name, settings, log) for name, (settings, _, log) in run.stages.items() if log.train or log.validation]
    if not blocks:
        return None
    about = (
        "A faint line is what was logged, the strong line its running mean; dots are validations on samples that are not trained on. "
        "The horizontal axis counts steps; hover to read values."
    )
    return section("Training curves", "curves", *blocks, about=about)


def _stage_curves(name: str, settings: Record, log: StageLog) -> Html:
    planned = log.planned or settings.get("steps")
    loss = [Series("train", log.points("loss")), Series("validation", log.validations("loss"), marks=True)]
    charts = [curve("loss", [s for s in loss if s.points], x_max=planned)]
    for group, members in _term_groups(log).items():
        short = {m: m.removeprefix(f"{group}/") for m in members}
        series = [Series(short[m], log.points(f"terms/{m}")) for m in members if f"terms/{m}" in log.train]
        series += [Series(f"{short[m]}, validation", log.validations(m), marks=True) for m in members if m in log.validation]
        charts.append(curve(group, series, x_max=planned))
    for pair in SMALL:
        small = [curve(title, [Series(title, log.points(key))], height=SMALL_HEIGHT, x_max=planned) for key, title in pair.items() if log.points(key)]
        charts += [tag("div", *small)] if small else []
    kind = settings.get("kind")
    return tag("div", tag("h3", name, tag("span", f" {kind}", class_="muted") if kind else None), tag("div", *charts, class_="curves"), class_="stage")


SMALL = ({"grad_norm": "gradient norm", "lr": "learning rate"}, {"samples_per_s": "samples/s", "tokens_per_s": "tokens/s"})
"""What is worth a glance, not a study: two of these share the place of one chart."""
SMALL_HEIGHT = 88


def _term_groups(log: StageLog) -> dict[str, list[str]]:
    """`reward` and `reward/choice` are one chart. A term that is the loss itself is not drawn twice."""
    names = [n.removeprefix("terms/") for n in log.train if n.startswith("terms/")]
    names += [n for n in log.validation if n != "loss" and n not in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        if log.train.get(f"terms/{name}") != log.train.get("loss"):
            groups.setdefault(name.split("/")[0], []).append(name)
    return groups


def proof_section(run: RunRecord) -> Section | None:
    """Which group of weights moved in which stage, and the hash of those that must not."""
    done = {name: record for name, (_, record, _) in run.stages.items() if record.get("trains") or record.get("frozen")}
    if not done:
        return None
    groups = list(dict.fromkeys(g for r in done.values() for g in (*(r.get("trains") or {}), *(r.get("frozen") or {}))))
    rows = [[group, *(_cell(group, record) for record in done.values())] for group in groups]
    about = (
        "Checked while training, not assumed: every group that a stage trains had to get a gradient and change; every frozen group is hashed "
        "before and after. The same hash in two columns is the same weights, bit for bit."
    )
    return section("What moved and what stayed", "proof", table("Groups of weights by stage", ["group", *done], rows), about=about)


def _cell(group: str, record: Record) -> Html:
    trained, frozen = (record.get("trains") or {}).get(group), (record.get("frozen") or {}).get(group)
    if trained is not None:
        moved = trained.get("moved") if isinstance(trained, dict) else None
        count = trained.get("parameters") if isinstance(trained, dict) else None
        size = tag("span", numbers.parameters(count), class_="muted small", title=numbers.whole(count)) if count else None
        if moved is None:
            mark = tag("span", "\N{BLACK CIRCLE} trained, not checked", class_="part")
        elif moved:
            mark = tag("span", "\N{BLACK CIRCLE} moved", class_="good")
        else:
            mark = tag("span", "\N{WHITE CIRCLE} did not move", class_="bad")
        return tag("span", join([mark, size], " "), class_="nowrap")
    if frozen is not None:
        return tag("span", tag("span", "frozen ", class_="muted"), tag("code", str(frozen).split(":")[-1][:8], title=str(frozen)), class_="nowrap")
    return tag("span", "\N{EN DASH}", class_="muted", title="not part of this stage")
