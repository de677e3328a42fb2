"""Whether the accuracy of masks is worth what it costs: the U-Score of U-Bench (arXiv 2510.07041; FengheTan9/ubench).

Each of IoU, parameters, FLOPs and inputs per second becomes a number from 0 to 1 by where it lies between the 10th and
the 90th percentile of a population of networks, parameters and FLOPs by their logarithms. The three of cost are joined
by their harmonic mean, and so is that with the IoU. The score is relative to the population: without its percentiles it
means nothing. They are settings, and those of cost are by default of the paper's 100 networks.

Rows of the group `u_score`: `u_score`, from 0 to 1 (the paper has it times 100), `iou`, and `parameters_m` (million),
`gmacs` and `fps`. The paper's `GFLOPs` count a multiplication and its addition once. IoU is the mean over the classes
and images, of empty masks as in task mask; U-Bench has it over the pixels of whole batches. Speed depends on the
machine, and on what else it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from medvlm.core.content import Content
from medvlm.core.decoder_config import list_templates
from medvlm.core.measure import Measure, average, mean
from medvlm.core.protocols import ProtocolConfig, Record, Row, Split
from medvlm.core.sample import Question, truth_from_json
from medvlm.core.tasks import MAPS, find_task
from medvlm.evaluate.protocols import _questions, _rows
from medvlm.evaluate.rows import Part, make_row

NEEDS = "decode"
BASELINES = (_rows.SHUFFLED,)
NOTHING = "no question that a decoder of the model answers with a mask"
BY_NAME_ONLY = True
FLOOR = 0.05
"""The least of each number, so that a poor one does not make the harmonic mean 0."""
IOU = "iou"
Positive = Annotated[float, Field(gt=0)]


class Config(ProtocolConfig):
    kind: Literal["u_score"] = "u_score"
    iou: tuple[float, float]
    """The 10th and the 90th percentile of the IoU of the population on this data set, e.g. [0.5838, 0.7063] of the
    paper's 100 networks on BUSI."""
    parameters_m: tuple[Positive, Positive] = (1.48, 75.2)
    """The same of the number of parameters, in millions."""
    gmacs: tuple[Positive, Positive] = (2.41, 66.7)
    """The same of multiplications with additions, in 10^9. The paper's are for 256 x 256 pixels."""
    fps: tuple[float, float] = (24.28, 121.63)
    """The same of inputs per second, one at a time. The paper's GPU is not this machine."""

    @field_validator("iou", "parameters_m", "gmacs", "fps")
    @classmethod
    def _grows(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] >= bounds[1]:
            raise ValueError(f"{list(bounds)}: expected the 10th percentile before the 90th, which is larger")
        return bounds


class FORM(_rows.AskedRecord):
    parameters: int
    flops: int
    inputs_per_s: float
    population: dict[str, list[float]]


def can_ask(content: Content, model: Any) -> bool:
    return content.answered is None or bool(content.answered.keys() & list_templates(model.decoders).keys())


def ask(config: Config, model: Any, split: Split) -> Iterator[Record]:
    """Each record also has the cost of the model and the percentiles."""
    cost = model.measure_cost()
    population = {name: list(getattr(config, name)) for name in ("iou", "parameters_m", "gmacs", "fps")}
    own = {"parameters": cost.parameters, "flops": cost.flops, "inputs_per_s": cost.inputs_per_s}

    def is_asked(question: Question) -> bool:
        able: bool = find_task(question.truth.task).ANSWERED_BY == MAPS and model.can_answer(question)
        return able

    for record in _questions.ask_questions(model, split, model.decode, is_asked):
        yield {**record, **own, "population": population}


def rows_of(records: Sequence[Record], settings: Mapping[str, Any]) -> list[Row]:
    if not records:
        return []
    first = records[0]
    costs = {
        "parameters_m": first["parameters"] / 1e6,
        "gmacs": first["flops"] / 2e9,
        "fps": first["inputs_per_s"],
    }
    columns = {
        who: np.array([_find_iou(record, who) for record in records])
        for who in ("answer", *settings["baselines"])
        if any(record.get(who) is not None for record in records)
    }

    def rate(totals_RK: np.ndarray) -> np.ndarray:
        return find_u_score(mean(totals_RK), costs, first["population"])

    def row(metric: str, columns: Mapping[str, np.ndarray], **more: Any) -> Row:
        measure = Measure(metric, "u_score", average(lambda value, _: value), **more)
        part = Part(range(len(records)), columns, [record["cluster"] for record in records])
        return make_row(measure, metric, [part], settings)

    rows = [row("u_score", columns, statistic=rate, headline=True, words="U-Score"), row(IOU, columns, words="IoU")]
    for name, value in costs.items():
        constant = {"answer": np.array([(value, 1.0)] * len(records))}
        rows.append(row(name, constant, better=None, bounds=None))
    return rows


def find_u_score(
    iou_R: np.ndarray, costs: Mapping[str, float], population: Mapping[str, Sequence[float]]
) -> np.ndarray:
    """The U-Score of each IoU, from 0 to 1."""

    def rank(name: str, value: Any, scale: Callable[[Any], Any] = float) -> Any:
        low, high = (scale(bound) for bound in population[name])
        return np.clip((value - low) / (high - low), 0, 1)

    cheap = [1 - rank(name, np.log(costs[name]), np.log) for name in ("parameters_m", "gmacs")]
    efficiency = _harmonic([*cheap, rank("fps", costs["fps"])])
    return _harmonic([rank(IOU, iou_R), efficiency])


def _harmonic(numbers: Sequence[Any]) -> Any:
    return len(numbers) / sum(1 / np.maximum(number, FLOOR) for number in numbers)


def _find_iou(record: Record, who: str) -> tuple[float, float]:
    """(the mean over the classes, 1); NaN without an answer."""
    if record.get(who) is None:
        return float("nan"), float("nan")
    truth = truth_from_json(record["truth"])
    (measure,) = (each for each in find_task(truth.task).MEASURES if each.metric == IOU)
    of_class: Any = measure.columns(record[who], truth)
    return float(np.mean([value for value, _ in of_class.values()])), 1.0
