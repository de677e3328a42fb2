"""The findings that a report of a chest radiograph names, with their sides: F1 against those of the reference.

The rules that read them are those of evaluation (tasks/chest), so reports must be in English, and the card must say so
(`findings: english_chest_radiograph`). A normal report has the finding that there is none."""

from __future__ import annotations

from medvlm.core.contracts import RewardConfig
from medvlm.core.sample import Truth, make_truth
from medvlm.core.tasks import find_task
from medvlm.tasks._words import is_too_long
from medvlm.tasks.chest.compare import count_findings_with_side


class Config(RewardConfig):
    pass


def applies(truth: Truth, config: Config) -> bool:
    is_read = find_task(truth.task).IS_LONG and bool(getattr(truth, "findings", ""))
    return is_read and sum(count_findings_with_side(truth.answer, truth.answer)) > 0


def score(completion: str, truth: Truth, config: Config) -> float:
    if is_too_long(completion, truth):
        return 0.0
    both, only_answer, only_truth = count_findings_with_side(completion, truth.answer)
    return 2 * both / (2 * both + only_answer + only_truth)


def _write(text: str) -> Truth:
    return make_truth("report", text, findings="english_chest_radiograph")


_SICK = _write("There is a left pleural effusion. The heart is enlarged.")
_NORMAL = _write("The lungs are clear. No pleural effusion or pneumothorax.")
_ALL = (
    "Pleural effusion, pneumothorax, consolidation, edema, pneumonia, atelectasis, cardiomegaly, fracture, nodule and"
    " enlarged mediastinum."
)

EXAMPLES = [
    ("Left pleural effusion. Cardiomegaly.", _SICK, 1.0),
    ("The lungs are clear. No effusion.", _NORMAL, 1.0),
    ("Left pleural effusion. The heart size is normal.", _SICK, 2 / 3),
    ("Right pleural effusion.", _SICK, 0.0),
    ("There is no left pleural effusion. The heart is not enlarged.", _SICK, 0.0),
    ("Left pleural effusion.", _NORMAL, 0.0),
    # Nothing, and the words of the reference without a statement.
    ("", _NORMAL, 0.0),
    ("", _SICK, 0.0),
    ("left the is enlarged", _SICK, 0.0),
]
