"""Operating points, such as thresholds, chosen on the answers to the validation samples and never on those that are
evaluated."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medvlm.core.ask import Ask
from medvlm.core.protocols import Asked, Split
from medvlm.core.sample import Question, Sample, Truth, truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.protocols._majority import say_why_unseen

AT_ONCE = 64
"""Number of validation samples whose questions are asked together."""
Points = Mapping[str, Mapping[str, Any]]
"""Template -> its operating points."""


def choose_points(
    model: Asked,
    split: Split,
    say: Callable[[Sequence[Ask]], Sequence[Any]],
    is_asked: Callable[[Question], bool],
    samples: Sequence[Sample],
) -> Points:
    """The operating points of each template that needs some, {} for one without validation questions.

    samples: those that are evaluated, which say what is needed. Validation samples of their patients are not used. A
    note tells if none are left.
    """
    asked = (question for sample in samples for question in sample.questions if is_asked(question))
    templates = {question.template for question in asked if find_task(question.truth.task).choose_points}
    if not templates:
        return {}
    keys, patients = {sample.key for sample in samples}, {sample.patient for sample in samples} - {""}
    places = split.validation()
    pieces = [places[at : at + AT_ONCE] for at in range(0, len(places), AT_ONCE)]

    def do(number: int) -> list[tuple[str, dict[str, Any], Any]]:
        """(template, truth, answer) of each question."""
        asks: list[Ask] = []
        for place in pieces[number]:
            sample, files = split.shards.read(*place)
            if sample.key not in keys and sample.patient not in patients:
                asked = (q for q in sample.questions if q.template in templates and is_asked(q))
                asks += (ask for ask in (Ask(sample, files, q) for q in asked) if not say_why_unseen(model, ask))
        answers = say(asks) if asks else ()
        return [
            (ask.question.template, ask.question.truth.to_json(), answer)
            for ask, answer in zip(asks, answers, strict=True)
        ]

    answers_of: dict[str, list[Any]] = defaultdict(list)
    truths_of: dict[str, list[Truth]] = defaultdict(list)
    for done in split.pieces.collect("validation", list(map(len, pieces)), do, split.progress):
        for template, truth, answer in done:
            answers_of[template].append(answer)
            truths_of[template].append(truth_from_json(truth))
    if not truths_of:
        split.notes.append(
            f"{', '.join(sorted(templates))}: no validation samples of other patients to choose thresholds on; metrics"
            " at a default threshold say so in their names"
        )
    return {template: _choose(answers_of[template], truths_of[template]) for template in sorted(templates)}


def _choose(answers: Sequence[Any], truths: Sequence[Truth]) -> Mapping[str, Any]:
    """{} without questions. The tasks of a template have the same form of answer, so the first one stands for all."""
    if not truths:
        return {}
    choose = find_task(truths[0].task).choose_points
    return choose(answers, truths) if choose else {}
