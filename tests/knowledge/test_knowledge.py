"""Dictionaries, retrieval and experts, compared with what is computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medvlm.compositions._outside import OutsideModel
from medvlm.compositions._with_context import give_context
from medvlm.core.ask import Ask
from medvlm.core.config import component
from medvlm.core.context_config import ContextConfig
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.experts import Images
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.text import MEDIUM
from medvlm.core.turns import tell
from medvlm.knowledge._contract import add_context, open_provider
from medvlm.knowledge.dictionary import Dictionary
from medvlm.knowledge.retrieval import Index
from medvlm.tasks._writing import Writing
from medvlm.tools._contract import Scene, Shown
from tests.tiny_run import INSTRUCT, REASON, recipe, staged, written
from tests.tools.no_expert import no_expert

SCENE = Scene(Sample("k", "s", "test"), {}, 0, lambda: None, Writing(), no_expert)
PASSAGES = ["a nodule is a small round opacity", "a mass is larger", "an effusion is fluid and an effusion is heavy"]


def test_terms_are_found_whole_and_the_longest_first() -> None:
    known = Dictionary({"nodule": "small", "pulmonary nodule": "small, in the lung", "mass": "larger"})
    assert known.look_up("Is it a  Pulmonary Nodule or a mass?") == [
        "pulmonary nodule: small, in the lung",
        "mass: larger",
    ]
    parts = Dictionary({"lung": "organ", "lung base": "its lower part"})
    assert parts.look_up("a lung base") == ["lung base: its lower part"]
    assert known.look_up("nodules, massive") == [] and known.look_up("mass, mass") == ["mass: larger"]


def test_passages_are_ranked_by_bm25() -> None:
    """By the formula, for each passage and word."""
    index, asked = Index(PASSAGES, most=2), "is a nodule an effusion"
    words = [passage.split() for passage in PASSAGES]
    mean = sum(map(len, words)) / 3

    def score(own: list[str]) -> float:
        total = 0.0
        for word in dict.fromkeys(asked.split()):
            n, times = sum(word in each for each in words), own.count(word)
            total += (
                math.log(1 + (3 - n + 0.5) / (n + 0.5)) * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(own) / mean))
            )
        return total

    assert index.score(asked) == pytest.approx({n: score(own) for n, own in enumerate(words)})
    assert index.look_up(asked) == [PASSAGES[2], PASSAGES[0]]
    assert index.look_up("pneumothorax") == []


def consult(provider: dict[str, Any]) -> tuple[Any, Any]:
    module = component("tools", "consult")
    return module, module.Config.model_validate({"kind": "consult", "provider": provider})


def test_a_model_consults_what_files_hold(tmp_path: Path) -> None:
    (tmp_path / "terms.yaml").write_text("effusion: fluid\n")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in PASSAGES))
    (tmp_path / "texts.txt").write_text("\n".join(PASSAGES))
    module, config = consult({"kind": "dictionary", "file": str(tmp_path / "terms.yaml")})
    assert module.use(config, "effusion", SCENE) == Shown("effusion: fluid")
    with pytest.raises(DataError, match="nothing is known"):
        module.use(config, "mass", SCENE)
    for name in ("texts.jsonl", "texts.txt"):
        module, config = consult({"kind": "retrieval", "file": str(tmp_path / name), "most": 1})
        assert module.use(config, "an effusion", SCENE).text == PASSAGES[2]
    call = module.write_call(config, make_truth("boxes", boxes=((0, 0, 1, 1),), label="effusion"))
    assert call == make_truth("open", "consult effusion")
    before = module.fingerprint(config)
    (tmp_path / "texts.txt").write_text("an effusion is other")
    assert module.fingerprint(config) != before
    assert module.use(config, "an effusion", SCENE).text == "an effusion is other", "what is described is what is asked"
    assert open_provider(config.provider) is open_provider(config.provider), "read once"


def test_files_in_another_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- effusion")
    (tmp_path / "b.yaml").write_text("effusion: [fluid")
    (tmp_path / "c.yaml").write_text('"": fluid')
    (tmp_path / "a.jsonl").write_text('{"passage": 1}')
    (tmp_path / "empty.txt").write_text("\n")
    wrong = [
        ("dictionary", "a.yaml", "terms and their meanings"),
        ("dictionary", "b.yaml", "b.yaml: neither YAML nor JSON"),
        ("dictionary", "c.yaml", "terms and their meanings"),
        ("retrieval", "a.jsonl", "a line for each passage"),
    ]
    for kind, name, why in [
        *wrong,
        ("retrieval", "empty.txt", "no passage"),
        ("retrieval", "none.txt", "cannot be read"),
    ]:
        with pytest.raises(RecipeError, match=why):
            open_provider(consult({"kind": kind, "file": str(tmp_path / name)})[1].provider)
    with pytest.raises(Exception, match="either `terms` or a `file`"):
        component("knowledge", "dictionary").Config(kind="dictionary")
    with pytest.raises(Exception, match="a term or its meaning is empty"):
        component("knowledge", "dictionary").Config(kind="dictionary", terms={" ": "fluid"})


CONTEXT = ContextConfig.model_validate({"provider": {"kind": "dictionary", "terms": {"side": "left or right"}}})
SAID = "Background: side: left or right\n"


class Network:
    """Tells three findings of the first medium, of which one is only in images of the kind film; looked: at which."""

    def __init__(self) -> None:
        self.looked: list[str] = []

    def look(self, sample: Sample, files: Any) -> tuple[dict[str, float], dict[str, Any]]:
        assert sample.media[0].member in files
        self.looked += [medium.member for medium in sample.media]
        return {"effusion": 0.95, "edema": 0.3, "mass": 0.1}, {}


TWO = (Medium("ct", "0.npy", (4, 8, 8)), Medium("film", "1.npy", (8, 8)))


@pytest.mark.parametrize(
    ("settings", "known", "looked"),
    [
        ({}, ["effusion: yes", "edema: no", "mass: no"], ["0.npy"]),
        (
            {"media": ["film"], "words": "grades"},
            ["effusion: definitely there", "edema: a small possibility"],
            ["1.npy"],
        ),
        ({"words": "names", "threshold": 0.2}, ["effusion, edema"], ["0.npy"]),
        ({"words": "names", "threshold": 0.99}, ["no finding"], ["0.npy"]),
        ({"words": "probabilities"}, ["effusion: 0.95", "edema: 0.30", "mass: 0.10"], ["0.npy"]),
        ({"media": ["slide"]}, [], []),
    ],
)
def test_an_expert_says_what_it_finds_in_one_image(settings: Any, known: list[str], looked: list[str]) -> None:
    provider = component("knowledge", "expert").Config(kind="expert", run="runs/cxr", **settings)
    network, sample = Network(), Sample("k", "s", "test", TWO)
    images = Images(sample, {"0.npy": b"", "1.npy": b""}, {"runs/cxr": network}.__getitem__)
    assert list(open_provider(provider).look_up("Which side?", images)) == known
    assert network.looked == looked and provider.list_experts() == ("runs/cxr",)
    assert list(open_provider(provider).look_up("Which side?")) == [], "there is no image"
    context = ContextConfig.model_validate({"provider": provider.model_dump(mode="json"), "says": "Seen:\n{}\n"})
    said = "Seen:\n" + "\n".join(known) + "\n" if known else ""
    assert add_context(context, ask_about("Which side?"), images).text == f"{said}Which side?"
    module, config = consult(provider.model_dump(mode="json"))
    on = replace(SCENE, sample=sample, files=images.files, first=2, open_expert=images.open_expert)
    if known:
        assert module.use(config, "what is there?", on) == Shown("\n".join(known))
    else:
        with pytest.raises(DataError, match="nothing is known"):
            module.use(config, "what is there?", on)


def test_an_expert_that_only_draws_is_refused() -> None:
    class Draws(Network):
        def look(self, sample: Sample, files: Any) -> tuple[dict[str, float], dict[str, Any]]:
            return {}, {"mass": None}

    provider = component("knowledge", "expert").Config(kind="expert", run="runs/cxr", words="names")
    images = Images(Sample("k", "s", "test", TWO), {}, lambda run: Draws())
    with pytest.raises(RecipeError, match="runs/cxr has no decoder that says something of a whole image"):
        open_provider(provider).look_up("", images)


def ask_about(text: str, *before: Question) -> Question:
    return Question(text, make_truth("open", "left"), "own", before=before)


def test_what_is_known_stands_before_the_first_turn_and_behind_its_images() -> None:
    assert add_context(CONTEXT, ask_about("Which side?"), None).text == f"{SAID}Which side?"
    assert add_context(CONTEXT, ask_about("Which lobe?"), None) == ask_about("Which lobe?")
    shown = add_context(CONTEXT, ask_about(f"{MEDIUM}{MEDIUM}Which side? {MEDIUM}"), None)
    assert shown.text == f"{MEDIUM}{MEDIUM}{SAID}Which side? {MEDIUM}"
    later = add_context(CONTEXT, ask_about("And the other side?", ask_about("Which side?")), None)
    assert later.text == "And the other side?" and [turn.text for turn in later.before] == [f"{SAID}Which side?"]
    with pytest.raises(ValueError, match="once, as in Background"):
        ContextConfig.model_validate({"provider": {"kind": "dictionary", "terms": {"a": "b"}}, "says": "Background"})


class Echo(OutsideModel):
    """Says what it is asked."""

    can = frozenset({"answer"})
    max_new_tokens = 9

    @property
    def identity(self) -> Any:
        return {"model": "echo"}

    def answer(self, asks: Any) -> list[str]:
        return [tell(ask.question) for ask in asks]


def test_a_model_is_asked_with_the_same_context_as_it_is_trained_with(tmp_path: Path) -> None:
    asked = Ask(Sample("k", "s", "test"), {}, ask_about("Which side?"), "none")
    (model,) = give_context([Echo()], CONTEXT, no_expert)
    assert model.answer([asked]) == [f"{SAID}Which side?"] and give_context([Echo()], None, no_expert)[0].answer(
        [asked]
    )
    assert model.identity == {"model": "echo", "context": CONTEXT.model_dump(mode="json")}
    model.max_new_tokens = 5
    assert model.max_new_tokens == 5
    for stage in (INSTRUCT, {**REASON, "trains": ["connectors"], "lora": None}):
        plain, told = (
            staged(written(tmp_path / name, recipe(stages=[stage], **own)), tmp_path / "runs", str(stage["name"]))
            for name, own in (("plain", {}), ("told", {"context": CONTEXT.model_dump(mode="json")}))
        )
        view = told.setup.open_source("films", "train", told.wants)
        sample, files = next(view.read(n)[:2] for n in range(len(view)) if _asks(view.read(n)[0]))
        (question, *_) = (q for q in sample.questions if "side" in q.text)
        seen = told.setup.prepare.see(sample, files)
        own, other = (
            each.setup.prepare.turn(sample, q, seen, ["media"], True)
            for each, q in ((told, question), (plain, add_context(CONTEXT, question, None)))
        )
        assert own == other and SAID.strip() in told.setup.tokenizer.decode(own.prompt)
        assert own != plain.setup.prepare.turn(sample, question, seen, ["media"], True)


def _asks(sample: Sample) -> bool:
    return any("side" in question.text for question in sample.questions)
