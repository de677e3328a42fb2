"""What the page reads of the files of a run. A file, or a line of one, that is otherwise is left out with a note."""

from __future__ import annotations

from typing import Any, TypedDict


class TrainedPart(TypedDict, total=False):
    parameters: int | None
    moved: bool | None


class Environment(TypedDict, total=False):
    """Other values are shown as they are."""

    gpus: dict[str, int] | None
    packages: dict[str, str] | None


StageEnd = TypedDict(
    "StageEnd",
    {
        "kind": str,
        "finished": bool,
        "step": int | None,
        "seconds": float | None,
        "take": str,
        "identity": str,
        "from": dict[str, str] | None,
        "teachers": dict[str, str],
        "trains": dict[str, TrainedPart] | None,
        "frozen": dict[str, str] | None,
        "environment": Environment | None,
    },
    total=False,
)


class ShownFinding(TypedDict, total=False):
    severity: str
    text: str


class ShownAudit(TypedDict, total=False):
    passed: bool
    hash: str
    findings: list[ShownFinding]


class ShownCard(TypedDict, total=False):
    title: str
    summary: str
    terms: str
    access: str
    units: str
    limits: str
    citation: str
    homepage: str
    patient_key: str
    media: list[str]
    licence: dict[str, Any] | None
    phi: dict[str, Any] | None
    splits: dict[str, Any] | None


class ShownSource(TypedDict, total=False):
    card: ShownCard | None
    fingerprint: str
    counts: dict[str, int] | None
    patients: dict[str, int] | None
    quarantined: int | None
    fold: int | None
    audit: ShownAudit | None


class ShownModel(TypedDict, total=False):
    parameters: dict[str, int]


class RunLineage(TypedDict, total=False):
    recipe: str
    medvlm: str
    sources: dict[str, ShownSource] | None
    model: ShownModel | None


class RunStatus(TypedDict, total=False):
    status: str
    reason: str


class EvaluatedShards(TypedDict, total=False):
    samples: int
    limit: int | None


class ShownJudge(TypedDict, total=False):
    model: str


class EvaluatedSplit(TypedDict, total=False):
    dataset: str
    split: str
    shards: EvaluatedShards | None
    judge: ShownJudge | None
    not_checked: dict[str, str] | None
    environment: Environment | None


class ShownDifference(TypedDict, total=False):
    against: str
    difference: float | None
    ci: list[Any] | None
    verdict: str


class ResultRow(TypedDict, total=False):
    dataset: str
    split: str
    task: str
    metric: str
    n: int | None
    unread: int | None
    paired: ShownDifference | None
    baselines: dict[str, Any] | None


class ShownAnswer(TypedDict, total=False):
    question: str
    truth: dict[str, Any] | None
    key: str
    scale: float | list[float] | None
    rewards: dict[str, Any] | None
    judged: dict[str, dict[str, float | None]] | None


class DrawnAnswer(ShownAnswer, total=False):
    """One that was drawn in training."""

    answer: str
    before: list[list[str]]
    score: float | None
    advantage: float | None
    tokens: int | None


class MetricsLine(TypedDict, total=False):
    """Of metrics.jsonl."""

    stage: str
    step: int
    steps: int | None
    seconds: float | None
    terms: dict[str, Any] | None
    sources: dict[str, dict[str, Any]] | None
