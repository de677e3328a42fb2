"""The `majority` baseline: for each question template the best constant answer, fitted on the training splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medvlm.core.ask import Ask
from medvlm.core.errors import DataError
from medvlm.core.measure import OfJudge
from medvlm.core.protocols import Asked, Split
from medvlm.core.sample import Question, Truth
from medvlm.core.tasks import find_task
from medvlm.rewards._compose import Composer

FIT_SAMPLES = 20_000
"""Maximum number of training samples to read, at equal distances. Constants need far fewer."""
FIT_PLACED = 400
"""Maximum number of questions per template whose images are processed. Only answers with coordinates need this, because
they are in the coordinates of what the model sees."""

REWARD_CANDIDATES = 20
"""Number of the most common correct answers that are tried as the constant with the highest reward."""

T = TypeVar("T")
Family = tuple[str, str]
"""(template, group of the measures): questions of one template share a constant, even if some are multiple choice and
others open, such as `Which plane?` where rare answers are no choices."""
Constants = dict[str, Any]
"""Metric -> the best constant answer for it; "" for the task's first measure and for metrics that are not listed."""


def find_family(question: Question) -> Family:
    measures = find_task(question.truth.task).MEASURES
    return question.template, measures[0].group if measures else question.truth.task


@dataclass(frozen=True)
class Majority:
    """constants: by (template, group), and by ("", group) over all templates, for templates that do not occur in
    training."""

    constants: dict[Family, Constants]

    def answer(self, question: Question) -> Any:
        """None if training has no question of this group."""
        return self._constants(question).get("")

    def list_others(self, question: Question) -> Constants:
        """Metric -> its best constant, if it differs from that of the first measure."""
        return {metric: answer for metric, answer in self._constants(question).items() if metric}

    def _constants(self, question: Question) -> Constants:
        template, group = find_family(question)
        return self.constants.get((template, group)) or self.constants.get(("", group)) or {}


def fit_majority(
    model: Asked, split: Split, is_asked: Callable[[Question], bool], composer: Composer | None
) -> Majority:
    """is_asked: whether the model answers a question. composer: of rewards, if they are measured too. Without training
    samples, as of a benchmark that is only for testing, it answers nothing and the user is told."""
    training = split.training()
    if not training:
        split.notes.append("no majority baseline, because there are no training samples")
    places = spread(training, FIT_SAMPLES)
    truths: dict[Family, list[Truth]] = defaultdict(list)
    unplaced: dict[Family, list[tuple[str, int, int]]] = defaultdict(list)
    for done, (name, i) in enumerate(places):
        for number, question in enumerate(split.shards.read(name, i)[0].questions):
            if not question.weight or not is_asked(question):
                continue
            if find_task(question.truth.task).NEEDS_CANVAS:
                unplaced[find_family(question)].append((name, i, number))
            else:
                truths[find_family(question)].append(question.truth)
        split.progress("majority", done + 1, len(places))
    for family, asked in unplaced.items():
        asks = (_read_ask(split, *place) for place in spread(asked, FIT_PLACED))
        truths[family] += [model.place_truth(ask) for ask in asks if not say_why_unseen(model, ask)]
    for (_, group), of_template in list(truths.items()):
        truths["", group] += of_template
    return Majority({family: _fit(found, composer) for family, found in truths.items() if found})


def say_why_unseen(model: Asked, ask: Ask) -> str:
    """Why the answer is outside of what the model sees; "" if it is inside."""
    if find_task(ask.question.truth.task).has_coordinates(ask.question.truth):
        try:
            model.place_truth(ask)
        except DataError as reason:
            return str(reason)
    return ""


def _fit(truths: Sequence[Truth], composer: Composer | None) -> Constants:
    """truths: of one group. Its tasks have the same form of answer, so the first task stands for all that share a
    measure."""
    task = find_task(truths[0].task)
    if task.best_constant is None:
        return {}
    constants = {"": task.best_constant(truths, None)}
    tasks_of: dict[str, list[str]] = defaultdict(list)  # metric -> the tasks that have it
    for kind in dict.fromkeys(truth.task for truth in truths):
        for measure in find_task(kind).MEASURES:
            tasks_of[measure.metric].append(kind)
    for metric, kinds in tasks_of.items():
        own, about = find_task(kinds[0]), [truth for truth in truths if truth.task in kinds]
        measure = next(each for each in own.MEASURES if each.metric == metric)
        if isinstance(measure.columns, OfJudge):
            continue  # the judge scores the first constant, so that it is not asked about many
        if own.best_constant and (constant := own.best_constant(about, measure)) != constants[""]:
            constants[metric] = constant
    judged = [truth for truth in spread(truths, FIT_PLACED) if composer and composer.applies(truth)]
    if composer and judged:
        constants |= _fit_rewards(composer, judged, list(constants.values()))
    return constants


def _fit_rewards(composer: Composer, truths: Sequence[Truth], constants: list[Any]) -> Constants:
    """For the total and each part of the reward, the answer with the highest sum, among the constants and the most
    common correct answers. Left out if that is the first constant."""
    written = Counter(find_task(truth.task).write(truth) for truth in truths)
    candidates = [*constants, *(answer for answer, _ in written.most_common(REWARD_CANDIDATES))]
    earned: dict[str, list[float]] = {}
    for answer in candidates:
        scores = [composer.score(answer, truth) for truth in truths]
        sums = Counter({"total": sum(total for total, _ in scores)})
        for _, parts in scores:
            sums.update(parts)
        for name, total in sums.items():
            earned.setdefault(name, []).append(total)
    best = {name: candidates[totals.index(max(totals))] for name, totals in earned.items()}
    return {name: answer for name, answer in best.items() if answer != constants[0]}


def _read_ask(split: Split, name: str, i: int, number: int) -> Ask:
    sample, files = split.shards.read(name, i)
    return Ask(sample, files, sample.questions[number])


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """At most `most` items, at equal distances."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else items
