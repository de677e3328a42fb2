"""Typed configs: what is accepted, and what the message says of what is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, model_validator

from medvlm.core.config import Config, KindName, Slot, component, is_available, kinds, list_permitted, permit
from medvlm.core.document import parse
from medvlm.core.errors import RecipeError, did_you_mean, shorten
from medvlm.core.problems import Problem, make_error, validate


class Inner(Config):
    rank: int = Field(16, gt=0)
    share: float = Field(0.5, ge=0, lt=1)


class Whole(Config):
    """Its fields are those that recipes have: numbers, texts, choices, lists, mappings, parts, slots, aliases."""

    name: str
    steps: int = Field(1, gt=0)
    lr: float = 1e-4
    is_on: bool = False
    schedule: Literal["cosine", "linear"] = "cosine"
    trains: tuple[str, ...] = ()
    betas: tuple[float, float] = (0.9, 0.98)
    mix: dict[str, float] = {}
    inner: Inner = Inner()
    maybe: Inner | None = None
    parts: dict[str, Inner] = {}
    from_: str | dict[str, str] = Field("", alias="from")
    encoders: dict[str, Annotated[Any, Slot("encoders")]] = {}
    connector: Annotated[Any, Slot("connectors", optional=True)] = None
    stages: tuple[Annotated[Any, Slot("connectors")], ...] = ()

    @model_validator(mode="after")
    def _even(self) -> Whole:
        if self.name == "odd":
            raise ValueError("odd names are refused")
        return self


def made(text: str, **context: Any) -> Whole:
    whole: Whole = validate(Whole, parse(f"name: x\n{text}" if "name:" not in text else text, "r.yaml"), context)
    return whole


def complaint(text: str, **context: Any) -> str:
    with pytest.raises(RecipeError) as refused:
        made(text, **context)
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("lr: 1e-4", "lr", 1e-4),
        ("lr: '1e-4'", "lr", 1e-4),
        ("lr: 1", "lr", 1.0),
        ("steps: 1e3", "steps", 1000),
        ("steps: '12'", "steps", 12),
        ("is_on: true", "is_on", True),
        ("is_on: on", "is_on", True),  # text since YAML 1.2, and still clear where only true or false can stand
        ("is_on: no", "is_on", False),
        ("maybe: null", "maybe", None),
        ("from: pair", "from_", "pair"),
        ("from: {encoders: pair}", "from_", {"encoders": "pair"}),
        ("connector: null", "connector", None),
        ("trains: [on, off]", "trains", ("on", "off")),
    ],
)
def test_what_is_meant_is_understood(text: str, field: str, value: object) -> None:
    assert getattr(made(text), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3", "r.yaml:2:1 step: unknown key, did you mean 'steps'? (accepts name, steps, lr, is_on, schedule,"),
        ("inner: {rnak: 3}", "r.yaml:2:9 inner.rnak: unknown key, did you mean 'rank'? (accepts rank, share)"),
        ("maybe: {rnak: 3}", "r.yaml:2:9 maybe.rnak: unknown key, did you mean 'rank'? (accepts rank, share)"),
        (
            "parts: {rank: {rnak: 3}}",
            "r.yaml:2:16 parts.rank.rnak: unknown key, did you mean 'rank'? (accepts rank, share)",
        ),
        ("zzz: 3", "r.yaml:2:1 zzz: unknown key (accepts name,"),
        ("form: pair", "r.yaml:2:1 form: unknown key, did you mean 'from'?"),
        ("from_: pair", "r.yaml:2:1 from_: unknown key, did you mean 'from'?"),
        ("steps: 0", "r.yaml:2:1 steps: expected more than 0, found 0"),
        ("steps: many", "r.yaml:2:1 steps: expected a whole number, found 'many'"),
        ("steps: 1.5", "r.yaml:2:1 steps: expected a whole number, found 1.5"),
        ("steps: yes", "r.yaml:2:1 steps: expected a whole number, found 'yes'"),
        ("steps: true", "r.yaml:2:1 steps: expected a number, found true"),
        ("name:", "r.yaml:1:1 name: expected text, found nothing"),
        ("lr: true", "r.yaml:2:1 lr: expected a number, found true"),
        ("lr: .nan", "r.yaml:2:1 lr: expected a finite number, found nan"),
        ("lr: 1e999", "r.yaml:2:1 lr: expected a finite number, found inf"),
        ("is_on: maybe", "r.yaml:2:1 is_on: expected true or false, found 'maybe'"),
        ("inner: {share: 1}", "r.yaml:2:9 inner.share: expected less than 1, found 1"),
        ("inner: 3", "r.yaml:2:1 inner: expected keys and values, found 3"),
        (
            "schedule: cosinus",
            "r.yaml:2:1 schedule: expected 'cosine' or 'linear', found 'cosinus', did you mean 'cosine'?",
        ),
        ("trains: lora", "r.yaml:2:1 trains: expected a list, found 'lora', write [lora]"),
        ("trains: [1]", "r.yaml:2:10 trains.0: expected text, found 1, write it in quotes"),
        ("betas: [0.9]", "r.yaml:2:1 betas.1: is missing"),
        ("betas: [0.9, 0.9, 0.9]", "r.yaml:2:1 betas: expected at most 2 entries, found [0.9, 0.9, 0.9]"),
        ("betas: [true, 0.9]", "r.yaml:2:9 betas.0: expected a number, found true"),
        ("mix: {vqa: true}", "r.yaml:2:7 mix.vqa: expected a number, found true"),
        ("mix: {vqa: lots}", "r.yaml:2:7 mix.vqa: expected a number, found 'lots'"),
        ("from: 7", "r.yaml:2:1 from: expected text or keys and values, found 7, write it in quotes"),
        ("from: {a: 7}", "r.yaml:2:8 from.a: expected text, found 7, write it in quotes"),
        ("steps: 3\nlr: .5\nstages: 3", "r.yaml:4:1 stages: expected a list, found 3"),
        ("name: odd", "r.yaml:1:1: odd names are refused"),
        ("name: 7", "r.yaml:1:1 name: expected text, found 7, write it in quotes"),
    ],
)
def test_a_mistake_is_placed_named_and_mended(text: str, message: str) -> None:
    found = complaint(text)
    assert found.startswith(message) and "\n" not in found


def test_every_mistake_gets_a_line_and_unknown_keys_come_first() -> None:
    lines = complaint("steps: 0\nlr: x\ninner: {rnak: 2, share: 2}").splitlines()
    assert [line.split(":")[1] for line in lines] == ["4", "2", "3", "4"]
    assert "unknown key" in lines[0]


def test_a_missing_key_is_placed_at_what_should_hold_it() -> None:
    with pytest.raises(RecipeError, match=r"^r.yaml:1:1 name: is missing$"):
        validate(Whole, parse("steps: 3", "r.yaml"))
    with pytest.raises(RecipeError, match=r"^r.yaml:1:1 name: is missing$"):
        validate(Whole, parse("", "r.yaml"))


# --- slots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "encoders: {a: {kind: tim}}",
            "r.yaml:2:16 encoders.a.kind: unknown kind of encoders 'tim', did you mean 'timm'? (accepts ",
        ),
        ("encoders: {a: {kind: 3}}", "r.yaml:2:16 encoders.a.kind: unknown kind of encoders 3 (accepts "),
        ("encoders: {a: {kind: [1]}}", "r.yaml:2:16 encoders.a.kind: unknown kind of encoders [1] (accepts "),
        (
            "encoders: {a: {knid: timm}}",
            "r.yaml:2:16 encoders.a.knid: unknown key, did you mean 'kind'? (accepts kind)",
        ),
        ("encoders: {a: {net: x}}", "r.yaml:2:12 encoders.a: `kind` is missing (accepts "),
        ("encoders: {a: timm}", "r.yaml:2:12 encoders.a: expected keys and values with a `kind`, found 'timm'"),
        ("encoders: {a: 3}", "r.yaml:2:12 encoders.a: expected keys and values with a `kind`, found 3"),
        ("connector: {kind: mlp, wdith: 3}", "r.yaml:2:24 connector.wdith: unknown key (accepts kind)"),
        (
            "encoders: {a: {kind: timm, net: x, preprocess: {size: [8, 8]}, connector: {kind: resampler, tokns: 4}}}",
            (
                "r.yaml:2:93 encoders.a.connector.tokns: unknown key, did you mean 'tokens'? (accepts kind, tokens,"
                " layers, heads, positions)"
            ),
        ),
        (
            "stages: [{kind: mlp}, {kind: resampler, tokens: 0}]",
            "r.yaml:2:41 stages.1.tokens: expected more than 0, found 0",
        ),
        (
            "encoders: {a: {kind: mylab.swin}}",
            (
                "r.yaml:2:16 encoders.a.kind: 'mylab.swin' is a plugin's, but 'mylab' is not listed; add `plugins:"
                " [mylab]`"
            ),
        ),
    ],
)
def test_mistakes_inside_slots_have_their_own_places(text: str, message: str) -> None:
    found = complaint(text)
    assert found.startswith(message) and "\n" not in found


def test_a_plugin_is_any_installed_module_with_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mylab"
    package.mkdir()
    (package / "__init__.py").write_text('"""Mine."""\n')
    (package / "swin.py").write_text(
        "from typing import Literal\nfrom medvlm.core.config import Config as Base\n\n\nclass Config(Base):\n    kind:"
        " Literal['mylab.swin']\n    depth: int = 2\n"
    )
    (package / "empty.py").write_text('"""No Config."""\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("mylab", "mylab.swin", "mylab.empty"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert made("connector: {kind: mylab.swin, depth: 3}", plugins=("mylab",)).connector.depth == 3
    assert "connector.dpeth: unknown key, did you mean 'depth'?" in complaint(
        "connector: {kind: mylab.swin, dpeth: 3}", plugins=("mylab",)
    )
    assert "the module 'mylab.empty' has no class Config" in complaint(
        "connector: {kind: mylab.empty}", plugins=("mylab",)
    )
    assert "cannot import 'mylab.none'" in complaint("connector: {kind: mylab.none}", plugins=("mylab",))


def test_what_is_dumped_loads_as_the_same() -> None:
    whole = made(
        "from: pair\nencoders: {a: {kind: timm, net: vit_tiny, preprocess: {size: [8, 8]}, connector: {kind:"
        " resampler}}}"
    )
    plain = whole.model_dump(mode="json", by_alias=True)
    assert plain["encoders"]["a"]["connector"] == {
        "kind": "resampler",
        "tokens": 64,
        "layers": 2,
        "heads": 4,
        "positions": False,
    }
    assert Whole.model_validate(plain, by_alias=True, by_name=False) == whole


def test_values_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        made("steps: 3").steps = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    "folder", ["encoders", "connectors", "texts", "backbones", "stages", "objectives.pairs", "archive.readers", "tasks"]
)
def test_every_component_says_its_kind(folder: str) -> None:
    """A file of a slot's folder is a component: its Config knows its own name and refuses another."""
    assert kinds(folder), f"medvlm/{folder.replace('.', '/')} is empty"
    for kind in kinds(folder):
        config = component(folder, kind).Config
        assert issubclass(config, Config)
        assert config.model_json_schema()["properties"]["kind"].get("const") == kind, (
            f"{folder}.{kind}: expected `kind: Literal[{kind!r}]`"
        )


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "accepted", "near"),
    [
        ("rnak", ["rank", "alpha"], "rank"),
        ("l", ["lr", "rank"], "lr"),
        ("no", ["on", "samples"], "on"),
        ("optmi", ["optim", "optimize"], "optim"),
        ("encoder", ["encoders", "decoders"], "encoders"),
        ("completely", ["other", "words"], ""),
        ("x", [], ""),
    ],
)
def test_the_nearest_word_is_offered(found: str, accepted: list[str], near: str) -> None:
    assert did_you_mean(found, accepted) == (f", did you mean {near!r}?" if near else "")


def test_values_are_shown_as_yaml_would() -> None:
    assert [shorten(v) for v in (True, None, 1, "a", [1])] == ["true", "nothing", "1", "'a'", "[1]"]
    assert len(shorten("x" * 1000)) == 60


def test_a_refusal_names_list_items_by_their_name() -> None:
    document = parse("stages:\n  - {name: align, lora: {rank: 1}}\n", "r.yaml")
    assert (
        str(make_error([Problem(("stages", 0, "lora", "rank"), "is odd")], document))
        == "r.yaml:2:26 stages.align.lora.rank: is odd"
    )


# --- what may be imported -----------------------------------------------------------------------------


@pytest.fixture
def nothing_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvlm.core.config._PERMITTED", set())


@pytest.mark.parametrize("folder", ["encoders", "tasks", "rewards", "archive.readers", "stages", "decoders"])
def test_an_installed_module_that_no_plugins_list_is_not_imported(folder: str, nothing_permitted: None) -> None:
    """A kind comes from a file, perhaps a stranger's, and importing a module runs it."""
    name = "xml.dom.minidom"
    sys.modules.pop(name, None)
    with pytest.raises(RecipeError, match=r"'xml\.dom\.minidom' is a plugin's, .* add `plugins: \[xml\]`"):
        component(folder, name)
    assert name not in sys.modules and not is_available(folder, name)
    permit(["xml"])
    assert component(folder, name).__name__ == name and list_permitted() == ("xml",)


def test_what_is_not_a_name_permits_nothing(nothing_permitted: None) -> None:
    permit([1, None, "mylab"])  # type: ignore[list-item]
    assert list_permitted() == ("mylab",)


class Asked(Config):
    tasks: tuple[Annotated[str, KindName("tasks")], ...] = ()
    made: Annotated[Any, Slot("tasks", or_name=True)] = "open"


def ask(text: str, plugins: tuple[str, ...] = ()) -> Any:
    return validate(Asked, parse(text, "r.yaml"), {"plugins": plugins})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [count, chioce]", "r.yaml:1:16 tasks.1: unknown kind of tasks 'chioce', did you mean 'choice'?"),
        ("made: cuont", "r.yaml:1:1 made: unknown kind of tasks 'cuont', did you mean 'count'?"),
        ("made: {kind: cuont}", "r.yaml:1:8 made.kind: unknown kind of tasks 'cuont', did you mean 'count'?"),
        ("made: {kind: count, lable: x}", "r.yaml:1:21 made.lable: unknown key, did you mean 'label'?"),
        ("tasks: [xml.dom]", "r.yaml:1:9 tasks.0: 'xml.dom' is a plugin's, but 'xml' is not listed"),
        ("made: xml.dom", "r.yaml:1:1 made: 'xml.dom' is a plugin's, but 'xml' is not listed"),
        ("tasks: [3]", "r.yaml:1:9 tasks.0: expected text, found 3"),
    ],
)
def test_the_name_of_a_kind_is_checked_where_it_stands(text: str, message: str, nothing_permitted: None) -> None:
    with pytest.raises(RecipeError) as refused:
        ask(text)
    assert str(refused.value).startswith(message)


def test_a_bare_name_stays_text_and_settings_are_typed() -> None:
    assert ask("tasks: [count, open]\nmade: count").model_dump() == {"tasks": ("count", "open"), "made": "count"}
    assert ask("made: {kind: count, label: cyst}").made.label == "cyst"
    assert ask("{}").model_dump(exclude_defaults=True) == ask("made: open").model_dump(exclude_defaults=True) == {}
    options = Asked.model_json_schema()["properties"]
    assert "count" in options["tasks"]["items"]["anyOf"][0]["enum"]
    assert any("count" in option.get("enum", ()) for option in options["made"]["anyOf"])
