"""Sets of findings: what an answer names and denies, how sets are compared, and the ontology beside a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medvlm.core.card import Card, copy_text, load_card
from medvlm.core.errors import DataError, RecipeError
from medvlm.metrics.bootstrap import value
from medvlm.tasks import findings
from medvlm.tasks._ontology import Ontology
from medvlm.tasks.findings import MEASURES, Config, Truth

CHEST: dict[str, Any] = {
    "findings": {
        "lung opacity": {"synonyms": ["opacity"]},
        "consolidation": {"synonyms": ["airspace consolidation"], "parents": ["lung opacity"]},
        "pneumonia": {"parents": ["consolidation"]},
        "pleural effusion": {"synonyms": ["effusion"]},
        "pneumothorax": {},
        "mass": {},
    },
    "nothing": ["no finding", "normal", "no findings"],
}
FLAT = Ontology.model_validate(CHEST).flatten()
MEASURE = {measure.metric: measure for measure in MEASURES}


def truth(*names: str) -> Truth:
    return findings.make_truth(names, FLAT)


def read(text: str) -> set[str] | None:
    found = findings.parse(text, truth())
    return None if found is None else {*found}


# --- what an answer names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pleural effusion; pneumothorax", {"pleural effusion", "pneumothorax"}),
        ("1. Effusions\n2. Masses", {"pleural effusion", "mass"}),
        ("The answer is: pneumonia.", {"pneumonia"}),
        ("<answer>mass</answer>", {"mass"}),
        ("effusion / pneumothorax", {"pleural effusion", "pneumothorax"}),
        ("possible pneumonia", {"pneumonia"}),
        ("airspace consolidation", {"consolidation"}),
        ('["Effusion", "no mass"]', {"pleural effusion"}),
        ('{"findings": []}', set()),
        ('{"effusion": false, "mass": false}', set()),
        ('{"effusion": "absent", "mass": 1}', {"mass"}),
        ('["effusion"', {"pleural effusion"}),
        ("massive", None),
        ("dragon", None),
        ("", None),
        ("{}", set()),
    ],
)
def test_lists_and_json(text: str, expected: set[str] | None) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion.", set()),
        ("no effusion; mass", {"mass"}),
        ("no effusion, mass", {"mass"}),
        ("no effusion, pneumothorax, or mass", set()),
        ("No effusion or pneumothorax. There is a mass.", {"mass"}),
        ("Mass without effusion", {"mass"}),
        ("no effusion but a mass", {"mass"}),
        ("There is no evidence of pneumonia, pneumothorax or effusion", set()),
        ("Effusion is absent.", set()),
        ("The effusion and the pneumothorax are not seen, mass", {"mass"}),
        ("Effusion: none. Mass: present.", {"mass"}),
        ("mass no effusion", {"mass"}),
        ("negative for pneumothorax, positive for effusion", {"pleural effusion"}),
        ("neither effusion nor mass", set()),
        ("No right effusion. Small left effusion.", {"pleural effusion"}),
        ("without doubt a mass", {"mass"}),
        ("sin effusion", set()),
    ],
)
def test_what_is_denied_is_no_finding(text: str, expected: set[str]) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No finding", set()),
        ("Normal.", set()),
        ("There are no findings in particular.", None),
        ("None", set()),
        ("no findings of pneumonia; mass", {"mass"}),
        ("The mass is normal in size", {"mass"}),
        ("No finding; mass", None),
        ("mass, normal", None),
        ("No finding. No effusion.", set()),
        ("abnormal", None),
    ],
)
def test_no_finding_excludes_every_finding(text: str, expected: set[str] | None) -> None:
    assert read(text) == expected


# --- sets -------------------------------------------------------------------------------------------


def test_a_finding_stands_for_its_parents() -> None:
    assert truth("pneumonia").members_of_set == {"pneumonia", "consolidation", "lung opacity"}
    assert truth("pneumonia", "consolidation").members_of_set == truth("pneumonia").members_of_set
    assert truth().members_of_set == {"no finding"}
    assert findings.score("opacity", truth("pneumonia")) == pytest.approx(2 * 1 / (1 + 3))
    assert findings.score("pneumonia", truth("lung opacity")) == pytest.approx(2 * 1 / (3 + 1))
    assert findings.score("consolidation; mass", truth("pneumonia")) == pytest.approx(2 * 2 / (3 + 3))


def test_naming_the_same_again_changes_nothing_and_naming_all_costs() -> None:
    one, everything = truth("mass"), "; ".join(CHEST["findings"])
    assert findings.score("mass; mass; mass", one) == 1
    assert findings.score(everything, one) == pytest.approx(2 / (1 + 6))
    assert findings.score(everything, truth()) == findings.score(f"{everything}; no finding", one) == 0


def measure(name: str, answers: list[str], truths: list[Truth]) -> Any:
    columns: Any = MEASURE[name].columns
    found = [columns(answer, each) for answer, each in zip(answers, truths, strict=True)]
    if not MEASURE[name].by_class:
        return value(np.array(found, float), MEASURE[name].statistic)
    return {
        name_: value(np.array([each[name_] for each in found]), MEASURE["macro_f1"].statistic) for name_ in found[0]
    }


def test_measures_are_those_of_scikit_learn_on_sets_with_their_parents() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng, names = np.random.default_rng(0), FLAT.names
    drawn = [[str(n) for n in rng.choice(names[:-1], rng.integers(0, 3), replace=False)] for _ in range(120)]
    truths, answers = [truth(*each) for each in drawn[:60]], [truth(*each).answer for each in drawn[60:]]
    answers[3], answers[4] = "unreadable", "no finding; mass"
    sets = [findings.parse(answer, truths[0]) for answer in answers]
    told = np.array([[found is not None and name in FLAT.close(found) for name in names] for found in sets])
    true = np.array([[name in each.members_of_set for name in names] for each in truths])
    for average, name in (("micro", "micro_f1"), ("samples", "set_f1")):
        expected = metrics.f1_score(true, told, average=average, zero_division=0)
        assert measure(name, answers, truths) == pytest.approx(expected, abs=1e-9)
    by_class = metrics.f1_score(true, told, average=None)
    assert list(measure("macro_f1", answers, truths).values()) == pytest.approx(by_class.tolist(), abs=1e-9)
    assert measure("exact", answers, truths) == pytest.approx(metrics.accuracy_score(true, told), abs=1e-9)


def test_each_measure_has_a_constant_that_no_other_beats() -> None:
    truths = [truth("mass")] * 4 + [truth("mass", "pleural effusion")] * 3 + [truth()] * 2
    everything = "; ".join(CHEST["findings"])
    candidates = ["mass", "mass; pleural effusion", "no finding", "pleural effusion", everything]
    for name in ("set_f1", "exact", "micro_f1"):
        best = findings.best_constant(truths, MEASURE[name])
        found = {each: measure(name, [each] * 9, truths) for each in [*candidates, best]}
        assert found[best] == max(found.values()), name
    assert findings.best_constant(truths, MEASURE["exact"]) == "mass"
    assert findings.best_constant(truths, MEASURE["macro_f1"]) == "pleural effusion; mass"


def test_the_form_that_is_asked_for() -> None:
    assert findings.is_formatted("pleural effusion; mass", truth()) and findings.is_formatted("no finding", truth())
    for text in ("effusion", "mass; mass", "mass, pneumothorax", "no finding; mass", "normal", ""):
        assert not findings.is_formatted(text, truth("mass")), text


# --- truths of an archive ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Effusion|Mass", ("pleural effusion", "mass")),
        ("mass; EFFUSION, mass", ("pleural effusion", "mass")),
        ("No Finding", ()),
        ("effusion; dragon", None),
        ("No finding; mass", None),
        ("There is an effusion", None),
        ("", None),
    ],
)
def test_a_text_of_an_archive_is_a_list_of_known_names(text: str, expected: tuple[str, ...] | None) -> None:
    found = findings.from_text(text, Config(kind="findings", ontology=Ontology.model_validate(CHEST)))
    assert (found and found.findings) == expected


def test_a_truth_is_read_without_its_card() -> None:
    """Synonyms, parents and the ways to say that there is none are in the shard."""
    stored = Truth.from_json(json.loads(json.dumps(truth("pneumonia").to_json())))
    assert stored == truth("pneumonia") and findings.score("airspace consolidation", stored) == pytest.approx(4 / 5)


def test_a_name_that_cannot_be_read_is_refused_when_the_truth_is_packed() -> None:
    odd = Ontology.model_validate({"findings": {"st. elevation": {}, "no lung": {}}}).flatten()
    with pytest.raises(DataError, match="give the findings names in the ontology without full stops"):
        findings.check(findings.make_truth(["st. elevation"], odd), ())
    findings.check(findings.make_truth(["no lung"], odd), ())


# --- the ontology beside a card ---------------------------------------------------------------------

CARD: dict[str, Any] = {
    "name": "films", "title": "Films", "summary": "Made up.", "licence": {"id": "CC0-1.0", "commercial": True},
    "access": "open", "phi": {"status": "synthetic"}, "media": ["film"], "splits": {"by": "image"},
    "reader": {
        "kind": "table", "file": "t.csv", "key": "{id}",
        "questions": [
            {"text": "Which findings?", "answer": "{f}", "template": "findings",
             "task": {"kind": "findings", "ontology": "chest.yaml"}},
        ],
    },
}  # fmt: skip


def write_card(folder: Path, ontology: Any = CHEST) -> Path:
    (folder / "chest.yaml").write_text(yaml.safe_dump(ontology, sort_keys=False))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    return folder / "card.yaml"


def ontology_of(card: Card) -> Ontology:
    found: Ontology = card.reader.questions[0].task.ontology
    return found


def test_a_card_holds_the_contents_of_its_ontology_and_so_do_its_copies(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    card = load_card(path)
    assert ontology_of(card).flatten() == FLAT
    copied = tmp_path / "elsewhere" / "card.yaml"
    copied.parent.mkdir()
    copied.write_text(copy_text(card, path))
    assert load_card(copied).model_dump() == card.model_dump()
    plain = {**CARD, "reader": {**CARD["reader"], "questions": []}}
    path.write_text(f"# a remark\n{yaml.safe_dump(plain)}")
    assert copy_text(load_card(path), path) == path.read_text()


@pytest.mark.parametrize(
    ("ontology", "message"),
    [
        ({"findings": {}}, "at least 1"),
        ({"findings": {"mass": {"parents": ["lesion"]}}}, "'lesion', a parent of 'mass', is none of the findings"),
        ({"findings": {"a b": {"parents": ["c d"]}, "c d": {"parents": ["a b"]}}}, "among its own parents"),
        ({"findings": {"mass": {"synonyms": ["nodule"]}, "Nodule": {}}}, "is a name of 'mass' and of 'Nodule'"),
        ({"findings": {"mass": {"synonyms": ["normal"]}}}, "is a name of 'mass' and of 'no finding'"),
        ({"findings": {"mass; lesion": {}}}, "expected words without comma"),
        ({"findings": {"mass": {"synonym": ["nodule"]}}}, "did you mean 'synonyms'"),
    ],
)
def test_an_ontology_that_cannot_be_told_apart_is_refused(ontology: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=message):
        load_card(write_card(tmp_path, ontology))


@pytest.mark.parametrize("name", ["../chest.yaml", "other.yaml"])
def test_an_ontology_that_is_not_beside_the_card_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_card(tmp_path)
    text = (tmp_path / "card.yaml").read_text().replace("chest.yaml", name)
    (tmp_path / "sub" / "card.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"there is no file .* beside the card"):
        load_card(tmp_path / "sub" / "card.yaml")
    with pytest.raises(ValueError, match="write its contents instead"):
        Config.model_validate({"kind": "findings", "ontology": "chest.yaml"})
