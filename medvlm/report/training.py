"""How the model was trained: stages in order, curves, and the proof of which weights changed."""

from __future__ import annotations

from statistics import median

from medvlm.report import numbers
from medvlm.report.curves import Series, curve
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import Section, section, table
from medvlm.report.reading import Record, RunRecord, StageLog, StageRecord


def stages_table(run: RunRecord) -> Html | None:
    """Stages in the recipe's order: what each trains, on what, for how long."""
    if not run.stages:
        return None
    rows: list[list[Child]] = []
    for name, stage in run.stages.items():
        settings, done, log, planned = stage.settings, stage.done, stage.log, stage.planned
        trains = settings.get("trains") or list(done.get("trains") or {})
        rows.append(
            [
                name,
                str(settings.get("kind") or done.get("kind") or ""),
                ", ".join(map(str, trains)) or None,
                _mix(settings.get("mix") or {}),
                f"{numbers.whole(stage.steps)} of {numbers.whole(planned)}" if planned else numbers.whole(stage.steps),
                numbers.duration(stage.seconds) if stage.seconds else "\N{EN DASH}",
                f"{median(speeds):,.0f}" if (speeds := [v for _, v in log.points("samples_per_s")]) else "\N{EN DASH}",
                _state(stage),
            ]
        )
    columns = ["stage", "kind", "trains", "on", "steps", "time", "samples/s", "state"]
    return table("Stages in the order they run; samples/s is the median", columns, rows, {4, 5, 6})


def _mix(mix: dict[str, float]) -> str:
    """A single source by its name, several with their weights."""
    return ", ".join(f"{n} {w:g}" for n, w in mix.items()) if len(mix) > 1 else ", ".join(mix)


def _state(stage: StageRecord) -> Html:
    done, log, planned = stage.done, stage.log, stage.planned
    if done.get("finished"):
        early = planned and (done.get("step") or planned) < planned
        return tag("span", "\N{CHECK MARK} finished" + (" early" if early else ""), class_="good nowrap")
    if log.train:
        return tag(
            "span",
            f"\N{HORIZONTAL ELLIPSIS} {100 * log.step / planned:.0f} %" if planned else "begun",
            class_="part nowrap",
        )
    return tag("span", "not started", class_="muted nowrap")


def curves_section(run: RunRecord) -> Section | None:
    blocks = [_stage_curves(name, s) for name, s in run.stages.items() if s.log.train or s.log.validation]
    if not blocks:
        return None
    about = (
        "A faint line is what was logged, the strong line its running mean; dots are validations on samples that are"
        " not trained on. The horizontal axis counts steps; hover to read values."
    )
    return section("Training curves", "curves", *blocks, about=about)


def _stage_curves(name: str, stage: StageRecord) -> Html:
    log, planned, kind = stage.log, stage.planned, stage.settings.get("kind")
    large, small = [curve("loss", _pair(log, "loss", "loss"), x_max=planned)], []
    for group, members in _term_groups(log).items():
        if len(members) == 1 and members[0] not in log.validation:
            small.append((members[0], f"terms/{members[0]}"))
            continue
        series = _pair(log, f"terms/{members[0]}", members[0]) if len(members) == 1 else _several(log, group, members)
        large.append(curve(_words(group), series, x_max=planned))
    small += [(title, key) for title, key in SMALL.items() if any(v for _, v in log.points(key))]
    drawn = [
        curve(_words(title), [Series(title, log.points(key))], height=SMALL_HEIGHT, x_max=planned)
        for title, key in small
    ]
    # Two small charts share the place of a large one.
    stacked = [tag("div", *drawn[i : i + 2]) for i in range(0, len(drawn), 2)]
    return tag(
        "div",
        tag("h3", name, tag("span", f" {kind}", class_="muted") if kind else None),
        tag("div", *large, *stacked, class_="curves"),
        class_="stage",
    )


SMALL = {"gradient norm": "grad_norm", "learning rate": "lr", "samples/s": "samples_per_s", "tokens/s": "tokens_per_s"}
"""Curves that are drawn small; those that are always 0 (tokens/s of a stage without text) are left out."""
SMALL_HEIGHT = 86


def _pair(log: StageLog, train: str, validation: str) -> list[Series]:
    found = [Series("train", log.points(train)), Series("validation", log.validations(validation), marks=True)]
    return [s for s in found if s.points]


def _several(log: StageLog, group: str, members: list[str]) -> list[Series]:
    short = {m: _words(m.removeprefix(f"{group}/")) for m in members}
    series = [Series(short[m], log.points(f"terms/{m}")) for m in members if f"terms/{m}" in log.train]
    return series + [
        Series(f"{short[m]}, validation", log.validations(m), marks=True) for m in members if m in log.validation
    ]


def _term_groups(log: StageLog) -> dict[str, list[str]]:
    """`reward` and `reward/choice` share a chart. A term that equals the loss is not drawn again."""
    names = [n.removeprefix("terms/") for n in log.train if n.startswith("terms/")]
    names += [n for n in log.validation if n != "loss" and n not in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        if log.train.get(f"terms/{name}") != log.train.get("loss"):
            groups.setdefault(name.split("/")[0], []).append(name)
    return groups


def _words(name: str) -> str:
    return name.replace("_", " ")


def proof_section(run: RunRecord) -> Section | None:
    """Which group of weights moved in which stage, and the hash of those that must not."""
    done = {name: s.done for name, s in run.stages.items() if s.done.get("trains") or s.done.get("frozen")}
    if not done:
        return None
    groups = list(dict.fromkeys(g for r in done.values() for g in (*(r.get("trains") or {}), *(r.get("frozen") or {}))))
    rows = [[group, *(_cell(group, record) for record in done.values())] for group in groups]
    about = (
        "Checked while training, not assumed: every group that a stage trains had to get a gradient and change; every"
        " frozen group is hashed before and after. The same hash in two columns is the same weights, bit for bit."
    )
    return section(
        "What moved and what stayed", "proof", table("Groups of weights by stage", ["group", *done], rows), about=about
    )


def _cell(group: str, record: Record) -> Html:
    trained, frozen = (record.get("trains") or {}).get(group), (record.get("frozen") or {}).get(group)
    stayed = (
        tag(
            "span",
            "rest " if trained else None,
            "frozen ",
            tag("code", str(frozen).split(":")[-1][:8], title=str(frozen)),
            class_="muted nowrap",
        )
        if frozen
        else None
    )
    if trained is not None:
        moved = trained.get("moved") if isinstance(trained, dict) else None
        count = trained.get("parameters") if isinstance(trained, dict) else None
        size = (
            tag("span", numbers.parameters(count), class_="muted small", title=numbers.whole(count)) if count else None
        )
        if moved is None:
            mark = tag("span", "\N{BLACK CIRCLE} trained, not checked", class_="part")
        elif moved:
            mark = tag("span", "\N{BLACK CIRCLE} moved", class_="good")
        else:
            mark = tag("span", "\N{WHITE CIRCLE} did not move", class_="bad")
        # Some of a part may be frozen while the rest is trained, e.g. a head that no loss reaches.
        return join([tag("span", join([mark, size], " "), class_="nowrap"), tag("br") if stayed else None, stayed])
    return stayed or tag("span", "\N{EN DASH}", class_="muted", title="not part of this stage")
