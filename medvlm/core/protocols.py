"""The interface of evaluation protocols (medvlm/evaluate/protocols/KIND.py), and of the models that they evaluate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict
from typing import Protocol as Typed

from medvlm.core import config
from medvlm.core.ask import Ask, Files
from medvlm.core.config import component, kinds
from medvlm.core.content import Content
from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.sample import Question, Sample, Truth

if TYPE_CHECKING:
    import numpy as np

FOLDER = "evaluate.protocols"
MOST_RESAMPLES = 1_000_000
"""Draws for one interval. 1,000 take about 3 s for 100,000 patients."""
Place = tuple[str, int]
"""Split of the shards and number within it."""
Record = dict[str, Any]
"""A question and its answer in plain JSON, sufficient for scoring without the model."""


class SplitRecord(TypedDict):
    """What every saved record has: the split that it is of."""

    dataset: str
    split: str


class Asked(Typed):
    """A model under evaluation. Equal asks get equal answers; nothing is random."""

    @property
    def can(self) -> frozenset[str]:
        """What it can do, see NEEDS of Protocol."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides its answers, in plain JSON: hashes of its weights, the limit of answers, ..."""

    def find_box_extent(self, ask: Ask) -> tuple[float, float]:
        """(width, height) of the canvas that the model perceives, in the units in which boxes are written."""

    def place_truth(self, ask: Ask) -> Truth:
        """The truth as the model perceives it: boxes in answer coordinates, masks on its canvas."""

    def draw_thumbnail(self, ask: Ask) -> bytes:
        """PNG of the perceived canvas."""


class Answerer(Asked, Typed):
    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """Greedy answers, in the order of the asks."""

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        """So many random answers to each ask. Equal arguments get equal answers."""

    def weigh(self, asks: Sequence[Ask], texts: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        """For each ask, the log-probability of each of its texts as the answer, and its number of tokens."""

    def embed_media(self, items: Sequence[tuple[Sample, Files]]) -> np.ndarray:
        """Unit vectors [N, E]."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, E]."""


class Decoder(Asked, Typed):
    def can_answer(self, question: Question) -> bool:
        """Whether it has a decoder for the question."""

    def decode(self, asks: Sequence[Ask]) -> list[Any]:
        """The answers of the decoders as plain data, in the order of the asks; None for an ask without media."""


class Shards(Typed):
    """The part of medvlm.io.shards.ShardSet that protocols use."""

    fingerprint: str

    def read(self, split: str, i: int) -> tuple[Sample, dict[str, bytes]]: ...


class Progress(Typed):
    def __call__(self, what: str, done: int, total: int) -> None: ...


def ignore_progress(what: str, done: int, total: int) -> None:
    pass


class Pieces(Typed):
    """Work that is done in pieces, each by one of the processes, and not again after a stop."""

    def collect(self, what: str, sizes: Sequence[int], do: Callable[[int], Any], progress: Progress) -> list[Any]:
        """The results of do(0), do(1), ... for each of `sizes`, which must be JSON. what: a name, other for each call.
        sizes: number of items of each piece, for the progress."""


class Judging(Typed):
    """What scores answers beside the tasks: a judge model, or another package. See medvlm/evaluate/judge.py."""

    def judge(self, records: Sequence[Record], split: Any) -> list[Record]:
        """The records of a protocol, with the scores of the judge where a task has a measure for them."""

    def describe(self) -> dict[str, Any]:
        """Its name -> what decides its scores, in plain JSON, for protocol.json; and `not_checked`: what it could not
        score -> why."""


def list_nothing() -> Sequence[Place]:
    return ()


def find_no_split(name: str) -> Sequence[Place]:
    return ()


@dataclass(frozen=True)
class Split:
    """The samples of a data set to evaluate, with settings.

    places: of the samples, in order. training: returns the places of training samples, for baselines that are fitted.
    baselines: the requested baselines of the protocol. rewards: weights or settings by name, from a stage; {} for none.
    gallery: a folder for pictures of what the model saw. pieces: does the work of a protocol.
    """

    shards: Shards
    places: Sequence[Place]
    training: Callable[[], Sequence[Place]]
    baselines: Sequence[str]
    rewards: Mapping[str, Any]
    seed: int
    gallery: Path
    pieces: Pieces
    progress: Progress
    validation: Callable[[], Sequence[Place]] = list_nothing
    """Returns the places of the validation samples, on which operating points are chosen."""
    groups: Sequence[str] = ()
    """Groups of the samples, such as `sex`, for each value of which there are results too."""
    judges: Sequence[Judging] = ()
    """They score answers in words."""
    find_split: Callable[[str], Sequence[Place]] = find_no_split
    """Returns the places of another split of the same source, such as `val`; none if it has no such split."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What one protocol has computed of the split and others use too, such as vectors of its images."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> questions that a protocol could not ask for it. The evaluation reports them."""
    notes: list[str] = field(default_factory=list)
    """What else the user should know about the results. The evaluation reports it."""


class Paired(TypedDict):
    """The value minus that of the baseline, on the same draws of patients. Above 0 is better, unless lower values are
    better (mae). verdict: `better` than all baselines, `worse` than the strongest, or "" if neither is proven."""

    against: str
    difference: float
    ci: list[float] | None
    verdict: str


class Measured(TypedDict):
    """What a result is of. data: fingerprint of the shards. model: hash of what identifies the model (`models` in
    protocol.json). recipe: hash of the recipe, which says how questions are put into prompts. prompt: hash of the
    wording of the questions. decoding: the protocol's settings and the limit of answers. measures: version of the
    measures that computed it. medvlm: the release that asked. None where an earlier release did not record it."""

    data: str | None
    model: str | None
    recipe: str | None
    prompt: str
    decoding: dict[str, Any]
    measures: int
    medvlm: str | None


class Row(TypedDict):
    """One result. metric: `accuracy`, or `accuracy:TEMPLATE` for the questions of one template. ci: 95 %; None with one
    patient. patients: how many the n items are of (a sample without a patient is its own). unanswered: how many items
    a baseline could not answer; it is compared on the others. group: `sex=f` for the samples of one group; its metric
    is `accuracy:sex=f`. unread: for how many questions a judge gave no readable score; they are not among the n."""

    dataset: str
    split: str
    task: str
    metric: str
    value: float
    ci: list[float] | None
    n: int
    patients: int
    baselines: dict[str, float]
    unanswered: dict[str, int]
    paired: Paired | None
    group: NotRequired[str]
    measured: NotRequired[Measured]
    unread: NotRequired[int]


class ProtocolConfig(config.Config):
    """`evaluate.protocols` of a recipe. A protocol may have keys of its own."""

    kind: str


class Protocol(Typed):
    """A module. Its records are saved in evaluate/KIND.jsonl, one per line."""

    Config: type[ProtocolConfig]
    NEEDS: str
    """What the model must be able to do: `answer`, `embed` or `decode`."""
    BASELINES: tuple[str, ...]
    """Names that `evaluate.baselines` accepts; by default all are measured."""
    BY_NAME_ONLY: bool
    """Present if a recipe has to name it, because it takes long; optional."""
    FORM: Any
    """The type of a saved record, a TypedDict that extends SplitRecord; optional. Others are damaged."""
    NOTHING: str
    """What is missing if there are no records, for a message: `no question that can be scored`."""

    def can_ask(self, content: Content, model: Any) -> bool:
        """Whether a card may have something to ask about; optional. model: the section `model` of the recipe."""

    def ask(self, config: Any, model: Any, split: Split) -> Iterator[Record]:
        """Yields the answers of the model and of its baselines, in the order of the places."""

    def rows_of(self, records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
        """The results of one split, from its records alone. settings: its entry of protocol.json (dataset, split,
        baselines, resamples, seed, rewards). evaluate/rows.py makes a row of a measure."""

    def list_parts(self, records: Sequence[Record], settings: Mapping[str, Any]) -> Iterator[Any]:
        """(measure, metric, parts) of each row, see evaluate/rows.py. For `medvlm compare`; optional, like `merge`."""

    def merge(self, records: Sequence[Record], others: Sequence[Record], name: str) -> list[Record]:
        """The records of what both models were asked, with the answers of the other one as a baseline `name`."""


def find_protocol(config: ProtocolConfig) -> Protocol:
    found: Any = component(FOLDER, config.kind)
    return found  # type: ignore[no-any-return]


def read_protocols(named: Sequence[Any]) -> list[ProtocolConfig]:
    """The settings of protocols given by name or as settings; by default those of every protocol of medvlm that is not
    asked for by name only."""
    given = named or [kind for kind in kinds(FOLDER) if not hasattr(component(FOLDER, kind), "BY_NAME_ONLY")]
    return [component(FOLDER, each).Config(kind=each) if isinstance(each, str) else each for each in given]


def list_baselines(protocols: Sequence[ProtocolConfig]) -> list[str]:
    """All baselines of these protocols."""
    return list(dict.fromkeys(name for each in protocols for name in find_protocol(each).BASELINES))


def refuse_baseline(name: str, protocols: Sequence[ProtocolConfig]) -> str:
    """Why a name is not a baseline of these protocols, or ""."""
    known = list_baselines(protocols)
    if name in known:
        return ""
    return f"unknown baseline {name!r}{did_you_mean(name, known)} (accepts {list_some(known)})"
