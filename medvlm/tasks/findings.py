"""Sets of findings: `cardiomegaly; pleural effusion`, or that there is none, with the names of an ontology.

Sets are compared with all parents of their findings (hierarchical F1, Kiritchenko et al. 2006,
https://doi.org/10.1007/11766247_34), so a more general finding earns a part. `no finding` is a member of its own that
excludes all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationInfo, field_validator

from medvlm.core import sample
from medvlm.core.beside import read_beside
from medvlm.core.config import Config as Base
from medvlm.core.errors import DataError
from medvlm.core.measure import Measure, OfItems, average
from medvlm.core.sample import Medium
from medvlm.tasks._findings import read_findings, read_list
from medvlm.tasks._made_up import draw_answer, make_question
from medvlm.tasks._ontology import Entry, Flat, Ontology, join_flat
from medvlm.tasks._words import is_too_long

if TYPE_CHECKING:
    import numpy as np

GLUE = "; "
TITLE = "Findings"
CANDIDATES, COMPARED = 100, 200
"""Numbers of sets among which the best constant is looked for, and that they are compared with."""


@dataclass(frozen=True)
class Truth(sample.Truth):
    """findings: their names, in the order of the ontology. entries, nothing: the ontology, so that an answer can be
    read without the card."""

    findings: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    nothing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.nothing or not {*self.findings} <= {name for name, *_ in self.entries}:
            raise DataError(f"findings {', '.join(self.findings) or 'none'} with an ontology that does not name them")
        if not self.answer:
            object.__setattr__(self, "answer", GLUE.join(self.findings) or self.nothing[0])

    @property
    def ontology(self) -> Flat:
        return join_flat(self.entries, self.nothing)

    @property
    def members_of_set(self) -> frozenset[str]:
        """With all parents; `no finding` if there is none."""
        return self.ontology.close(self.findings)


class Config(Base):
    kind: Literal["findings"]
    ontology: Ontology
    """The names, synonyms and parents of the findings, or the name of a YAML file beside the card that has them."""

    @field_validator("ontology", mode="before", json_schema_input_type=str | Ontology)
    @classmethod
    def _read_file(cls, ontology: Any, info: ValidationInfo) -> Any:
        return read_beside(ontology, info) if isinstance(ontology, str) else ontology


def make_truth(findings: Sequence[str], ontology: Flat) -> Truth:
    return Truth(findings=ontology.sort(findings), entries=ontology.findings, nothing=ontology.nothing)


def from_text(text: str, config: Config) -> Truth | None:
    """None for a text that is no list of names of the ontology, separated by commas, semicolons, | or lines."""
    ontology = config.ontology.flatten()
    found = read_list(text, ontology)
    return None if found is None else make_truth([*found], ontology)


# --- score and measures -----------------------------------------------------------------------------


@lru_cache(maxsize=4096)  # every measure reads the same answers
def parse(text: str, truth: Truth) -> frozenset[str] | None:
    """The findings that it names; None for a text that names and denies none, or contradicts itself."""
    return None if is_too_long(text, truth) else read_findings(text, truth.ontology)


def compare(answer: str, truth: Truth) -> tuple[float, float, float]:
    """Numbers of members that both sets have, that only the answer has, and that only the truth has."""
    found = parse(answer, truth)
    named, expected = frozenset[str]() if found is None else truth.ontology.close(found), truth.members_of_set
    return float(len(named & expected)), float(len(named - expected)), float(len(expected - named))


def score(answer: str, truth: Truth) -> float:
    """F1 of the two sets; 0 for an answer that cannot be read. Source: Kiritchenko et al. 2006."""
    both, only_answer, only_truth = compare(answer, truth)
    return 2 * both / (2 * both + only_answer + only_truth)


def is_exact(answer: str, truth: Truth) -> float:
    both, only_answer, only_truth = compare(answer, truth)
    return float(both > 0 and only_answer == only_truth == 0)


def _compare_by_class(answer: str, truth: Truth) -> dict[str, tuple[float, ...]]:
    found = parse(answer, truth)
    named, expected = frozenset[str]() if found is None else truth.ontology.close(found), truth.members_of_set
    return {
        name: (
            float(name in named and name in expected),
            float(name in named and name not in expected),
            float(name in expected and name not in named),
        )
        for name in truth.ontology.names
    }


def _f1(items_NK: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    from medvlm.metrics.f1 import f1  # numpy is imported where it is needed

    return f1(items_NK, times_RN)


def _list_positives(items_NK: np.ndarray) -> tuple[np.ndarray, ...]:
    return (items_NK[:, 0] + items_NK[:, 2] > 0,)


MEASURES = (
    Measure("set_f1", "findings", average(score), by_template=True, headline=True, words="F1 of sets"),
    Measure("exact", "findings", average(is_exact), by_template=True, headline=True, words="exact sets"),
    Measure("micro_f1", "findings", compare, statistic=OfItems(_f1), by_template=True, words="micro F1"),
    Measure(
        "macro_f1",
        "findings",
        _compare_by_class,
        statistic=OfItems(_f1),
        needs=_list_positives,
        by_template=True,
        by_class=True,
        headline=True,
        words="macro F1",
    ),
)


def is_formatted(text: str, truth: Truth) -> bool:
    """Names of the ontology as it writes them, each once, or that there is none."""
    names = text.split(GLUE)
    is_list = {*names} <= {name for name, *_ in truth.entries} and len({*names}) == len(names)
    return is_list or text == truth.nothing[0]


def best_constant(truths: Sequence[Truth], measure: Measure | None = None) -> str:
    """The best of the most frequent sets, and of the most frequent findings taken together, on these truths."""
    measure = measure or MEASURES[0]
    some = [truths[i * len(truths) // COMPARED] for i in range(COMPARED)] if len(truths) > COMPARED else truths
    sets = [findings for findings, _ in Counter(truth.findings for truth in truths).most_common(CANDIDATES)]
    frequent = [name for name, _ in Counter(name for truth in truths for name in truth.findings).most_common()]
    sets += [truths[0].ontology.sort(frequent[:count]) for count in range(1, len(frequent) + 1)]
    answers = list(dict.fromkeys(GLUE.join(findings) or truths[0].nothing[0] for findings in sets))
    return max(answers, key=lambda answer: _measure(answer, some, measure))


def _measure(answer: str, truths: Sequence[Truth], measure: Measure) -> float:
    import numpy as np

    from medvlm.metrics.bootstrap import value

    columns: Callable[[Any, Any], Any] = measure.columns
    found = [columns(answer, truth) for truth in truths]
    if not measure.by_class:
        return value(np.array(found), measure.statistic)
    values = [value(np.array([each[name] for each in found if name in each]), measure.statistic) for name in found[0]]
    return float(np.nanmean(values))


# --- rehearsal --------------------------------------------------------------------------------------

_CHEST = Ontology.model_validate(
    {
        "findings": {
            "cardiomegaly": {"synonyms": ["enlarged heart", "cardiac enlargement"]},
            "lung opacity": {"synonyms": ["opacity"]},
            "edema": {"synonyms": ["pulmonary edema", "oedema"], "parents": ["lung opacity"]},
            "pneumonia": {"parents": ["lung opacity"]},
            "pleural effusion": {"synonyms": ["effusion"]},
            "pneumothorax": {},
        },
        "nothing": ["no finding", "no findings", "normal", "no acute finding"],
    }
).flatten()


def example(rng: np.random.Generator, media: Sequence[Medium], report: str) -> tuple[str, Truth]:
    question = make_question(rng, "findings")
    count, _ = draw_answer(rng)
    names = [name for name, *_ in _CHEST.findings]
    return question, make_truth([str(name) for name in rng.choice(names, min(count, 2), replace=False)], _CHEST)


def check(truth: Truth, media: Sequence[Medium]) -> None:
    """Raises DataError if the right answer would not be read as such, because of a name like `st. elevation`."""
    if score(truth.answer, truth) < 1:
        named = ", ".join(truth.findings) or "no finding"
        raise DataError(
            f"{truth.answer!r} is not read as {named}; give the findings names in the ontology without full stops,"
            " colons, and words such as `but`"
        )


_TWO = make_truth(["cardiomegaly", "pleural effusion"], _CHEST)
_EDEMA = make_truth(["edema"], _CHEST)
_NONE = make_truth([], _CHEST)
_ALL = "cardiomegaly; lung opacity; edema; pneumonia; pleural effusion; pneumothorax"

EXAMPLES = [
    ("cardiomegaly; pleural effusion", _TWO, 1.0),
    ("- Pleural effusions\n- Enlarged heart", _TWO, 1.0),
    ('["effusion", "cardiomegaly"]', _TWO, 1.0),
    ('```json\n{"findings": ["effusion", "cardiomegaly"]}\n```', _TWO, 1.0),
    ('{"effusion": true, "cardiomegaly": "present", "pneumothorax": false}', _TWO, 1.0),
    ("There is cardiomegaly with a small effusion. No pneumothorax, edema, or pneumonia.", _TWO, 1.0),
    ("Cardiomegaly: present. Effusion: present. Pneumothorax: absent.", _TWO, 1.0),
    ("The heart is enlarged.", _TWO, 0.0),
    ("cardiomegaly", _TWO, 2 / 3),
    ("cardiomegaly, no effusion", _TWO, 2 / 3),
    ("cardiomegaly; pneumothorax", _TWO, 1 / 2),
    # A parent is a part of what was found, and a child says more than was seen.
    ("opacity", _EDEMA, 2 / 3),
    ("pneumonia", _EDEMA, 1 / 2),
    ("edema; opacity", _EDEMA, 1.0),
    ("No finding.", _NONE, 1.0),
    ("There is no acute finding seen.", _NONE, 1.0),
    ("No effusion or pneumothorax.", _NONE, 1.0),
    ("[]", _NONE, 1.0),
    ("effusion", _NONE, 0.0),
    # Everything, the same again and again, and two things that exclude each other.
    (_ALL, _TWO, 4 / 8),
    (_ALL, _EDEMA, 4 / 8),
    (_ALL, _NONE, 0.0),
    ("effusion; " * 20, _TWO, 2 / 3),
    ("cardiomegaly; " * 300, _TWO, 0.0),
    (f"no finding; {_ALL}", _TWO, 0.0),
    ("no finding; effusion", _NONE, 0.0),
    ("normal, cardiomegaly; pleural effusion", _TWO, 0.0),
    ("no finding", _TWO, 0.0),
    ("no cardiomegaly; no pleural effusion", _TWO, 0.0),
    ("", _NONE, 0.0),
    ("?", _NONE, 0.0),
]
