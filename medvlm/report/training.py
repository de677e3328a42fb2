"""How the model was trained: its stages, curves, and which weights changed."""

from __future__ import annotations

from statistics import median

from medvlm.report import numbers
from medvlm.report.curves import Series, draw_curve
from medvlm.report.markup import Child, Html, join, tag
from medvlm.report.page import Section, make_section, make_table
from medvlm.report.reading import Record, RunRecord, StageLog, StageRecord


def make_stages_table(run: RunRecord) -> Html | None:
    """Stages in the recipe's order, with what each trains, its data and its duration."""
    if not run.stages:
        return None
    rows: list[list[Child]] = []
    for name, stage in run.stages.items():
        settings, done, planned = stage.settings, stage.done, stage.planned
        trains = settings.get("trains") or list(done.get("trains") or {})
        speeds = [value for _, value in stage.log.get_points("samples_per_s")]
        rows.append(
            [
                name,
                str(settings.get("kind") or done.get("kind") or ""),
                ", ".join(map(str, trains)) or None,
                _describe_mix(settings.get("mix") or {}),
                f"{numbers.format_whole(stage.steps)} of {numbers.format_whole(planned)}"
                if planned
                else numbers.format_whole(stage.steps),
                numbers.format_duration(stage.seconds) if stage.seconds else "\N{EN DASH}",
                f"{median(speeds):,.0f}" if speeds else "\N{EN DASH}",
                _describe_state(stage),
            ]
        )
    columns = ["stage", "kind", "trains", "data", "steps", "time", "samples/s", "state"]
    return make_table("Stages in order; samples/s is the median", columns, rows, {4, 5, 6})


def _describe_mix(mix: dict[str, float]) -> str:
    """The name of a single source, or the names and weights of several."""
    return ", ".join(f"{n} {w:g}" for n, w in mix.items()) if len(mix) > 1 else ", ".join(mix)


def _describe_state(stage: StageRecord) -> Html:
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


def make_curves_section(run: RunRecord) -> Section | None:
    blocks = [_draw_stage(name, s) for name, s in run.stages.items() if s.log.train or s.log.validation]
    if not blocks:
        return None
    about = (
        "Faint lines are logged values, strong lines their running mean. Dots are validations on samples that are not"
        " trained on. The horizontal axis is the step; hover over a chart to read its values."
    )
    return make_section("Training curves", "curves", *blocks, about=about)


def _draw_stage(name: str, stage: StageRecord) -> Html:
    log, planned, kind = stage.log, stage.planned, stage.settings.get("kind")
    large, small = [draw_curve("loss", _pair_series(log, "loss", "loss"), x_max=planned)], []
    for group, members in _group_terms(log).items():
        if len(members) == 1 and members[0] not in log.validation:
            small.append((members[0], f"terms/{members[0]}"))
            continue
        series = (
            _pair_series(log, f"terms/{members[0]}", members[0])
            if len(members) == 1
            else _list_series(log, group, members)
        )
        large.append(draw_curve(_format_name(group), series, x_max=planned))
    small += [(title, key) for title, key in SMALL.items() if any(v for _, v in log.get_points(key))]
    drawn = [
        draw_curve(_format_name(title), [Series(title, log.get_points(key))], height=SMALL_HEIGHT, x_max=planned)
        for title, key in small
    ]
    # Two small charts take the space of a large one.
    stacked = [tag("div", *drawn[i : i + 2]) for i in range(0, len(drawn), 2)]
    return tag(
        "div",
        tag("h3", name, tag("span", f" {kind}", class_="muted") if kind else None),
        tag("div", *large, *stacked, class_="curves"),
        class_="stage",
    )


SMALL = {"gradient norm": "grad_norm", "learning rate": "lr", "samples/s": "samples_per_s", "tokens/s": "tokens_per_s"}
"""Curves that are drawn small. Curves that are always 0 (tokens/s of a stage without text) are left out."""
SMALL_HEIGHT = 86


def _pair_series(log: StageLog, train: str, validation: str) -> list[Series]:
    found = [Series("train", log.get_points(train)), Series("validation", log.get_validations(validation), marks=True)]
    return [s for s in found if s.points]


def _list_series(log: StageLog, group: str, members: list[str]) -> list[Series]:
    short = {m: _format_name(m.removeprefix(f"{group}/")) for m in members}
    series = [Series(short[m], log.get_points(f"terms/{m}")) for m in members if f"terms/{m}" in log.train]
    return series + [
        Series(f"{short[m]}, validation", log.get_validations(m), marks=True) for m in members if m in log.validation
    ]


def _group_terms(log: StageLog) -> dict[str, list[str]]:
    """Chart -> its terms. `reward` and `reward/choice` share a chart. A term that equals the loss is left out."""
    names = [n.removeprefix("terms/") for n in log.train if n.startswith("terms/")]
    names += [n for n in log.validation if n != "loss" and n not in names]
    groups: dict[str, list[str]] = {}
    for name in names:
        if log.train.get(f"terms/{name}") != log.train.get("loss"):
            groups.setdefault(name.split("/")[0], []).append(name)
    return groups


def _format_name(name: str) -> str:
    return name.replace("_", " ")


def make_proof_section(run: RunRecord) -> Section | None:
    """Which groups of weights changed in which stage, and the hashes of those that must not change."""
    done = {name: s.done for name, s in run.stages.items() if s.done.get("trains") or s.done.get("frozen")}
    if not done:
        return None
    groups = list(dict.fromkeys(g for r in done.values() for g in (*(r.get("trains") or {}), *(r.get("frozen") or {}))))
    rows = [[group, *(_make_cell(group, record) for record in done.values())] for group in groups]
    about = (
        "Checked during training: every group that a stage trains must get a gradient and change, and every frozen"
        " group is hashed before and after. The same hash in two columns means the same weights, bit for bit."
    )
    return make_section(
        "Trained and frozen weights",
        "proof",
        make_table("Groups of weights by stage", ["group", *done], rows),
        about=about,
    )


def _make_cell(group: str, record: Record) -> Html:
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
            tag("span", numbers.format_parameters(count), class_="muted small", title=numbers.format_whole(count))
            if count
            else None
        )
        if moved is None:
            mark = tag("span", "\N{BLACK CIRCLE} trained, not checked", class_="part")
        elif moved:
            mark = tag("span", "\N{BLACK CIRCLE} changed", class_="good")
        else:
            mark = tag("span", "\N{WHITE CIRCLE} did not change", class_="bad")
        # A part may be partly frozen, for example a head that no loss reaches.
        return join([tag("span", join([mark, size], " "), class_="nowrap"), tag("br") if stayed else None, stayed])
    return stayed or tag("span", "\N{EN DASH}", class_="muted", title="not part of this stage")
