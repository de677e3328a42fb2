"""A recipe from its file: bases, overrides, cards, rules across sections, and what is written into the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.document import read_yaml
from medvlm.core.errors import RecipeError
from medvlm.core.stage_config import Optim
from medvlm.recipe.load import LoadedRecipe, find_card, find_shipped, load, load_run, validate

RECIPES = sorted(find_shipped("recipes").rglob("*.yaml"))
WHOLE = [path for path in RECIPES if path.parent.name != "base"]

CARD = """\
name: films
title: Films
summary: Made for tests.
licence: {id: CC0-1.0, commercial: true}
access: open
phi: {status: synthetic}
media: [film]
reader: {kind: phantom, films: 4}
"""

RECIPE = """\
name: tiny
model:
  encoders:
    film: {kind: transformers, config: {model_type: siglip_vision_model, hidden_size: 64, image_size: 64, \
patch_size: 8}, connector: {kind: mlp}}
  language: {kind: causal, config: {model_type: qwen2, hidden_size: 96}}
data:
  films: {card: cards/films.yaml}
stages:
  - name: pair
    kind: contrastive
    mix: {films: 1}
    trains: [encoders, text, heads]
    text: {kind: transformers, config: {model_type: bert}}
    loss: {kind: siglip}
    steps: 10
  - name: align
    kind: supervised
    mix: {films: 1}
    trains: [connectors]
    steps: 10
  - name: instruct
    kind: supervised
    mix: {films: 1}
    trains: [connectors.film, lora]
    lora: {rank: 4}
    steps: 10
  - name: reason
    kind: grpo
    mix: {films: 1}
    trains: [lora]
    rewards: {choice: 1}
    steps: 10
evaluate: {on: [films:test]}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, which is the current one: recipes/tiny.yaml with recipes/cards/films.yaml."""
    (tmp_path / "recipes" / "cards").mkdir(parents=True)
    (tmp_path / "recipes" / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "recipes" / "cards" / "films.yaml").write_text(CARD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def complaint(home: Path) -> Callable[..., str]:
    """The message for the recipe with some text replaced by other text."""

    def of(*changes: tuple[str, str], card: tuple[str, str] = ("", ""), overrides: tuple[str, ...] = ()) -> str:
        text = RECIPE
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        (home / "recipes" / "tiny.yaml").write_text(text)
        (home / "recipes" / "cards" / "films.yaml").write_text(CARD.replace(*card))
        with pytest.raises(RecipeError) as refused:
            load("recipes/tiny.yaml", overrides)
        return str(refused.value)

    return of


# --- loading ---------------------------------------------------------------------------------------


def test_a_recipe_loads_with_its_cards_and_its_defaults(home: Path) -> None:
    loaded = load("recipes/tiny.yaml")
    assert [stage.name for stage in loaded.recipe.stages] == ["pair", "align", "instruct", "reason"]
    assert loaded.recipe.stages[2].lora.rank == 4
    assert loaded.recipe.evaluate.pairs() == [("films", "test")]
    assert loaded.recipe.model.boxes.scale == 1000
    assert loaded.cards["films"].licence.id == "CC0-1.0"


@pytest.mark.parametrize("path", WHOLE, ids=lambda p: p.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    lines = validate(path)
    assert lines[0].startswith(f"{path}: a valid recipe")


def test_a_shipped_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = WHOLE[0].relative_to(find_shipped("recipes")).as_posix()
    assert load(f"recipes/{name}").recipe == load(name).recipe == load(WHOLE[0]).recipe


def test_a_recipe_that_is_nowhere_is_named_with_what_there_is() -> None:
    with pytest.raises(
        RecipeError,
        match=r"^recipes/phantmo.yaml: there is no such recipe, did you mean 'phantom.yaml'\? \(shipped: base/",
    ):
        load("recipes/phantmo.yaml")


def test_a_shipped_recipe_is_found_without_its_suffix() -> None:
    assert load("phantom").recipe == load("recipes/phantom").recipe == load("phantom.yaml").recipe


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("nothing-like-it", ()),
        ("phantom", ("data.phantom.card=nothing-like-it",)),
        ("phantom", ("stages.pair.kind=nothing-like-it",)),
        ("phantom", ("stages.pair.nothing-like-it=1",)),
        ("phantom", ("evaluate.protocols=[nothing-like-it]",)),
    ],
)
def test_a_list_in_a_message_is_short(name: str, overrides: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="nothing-like-it") as refused:
        load(name, overrides)
    assert len(str(refused.value)) < 400
    assert str(refused.value).count(",") < 15


def test_a_protocol_is_named_once() -> None:
    """Its records are one file, so the second settings would replace the first."""
    with pytest.raises(RecipeError, match="'answers' is named twice, and its records are one file"):
        load("phantom", ("evaluate.protocols=[answers, {kind: answers}]",))


def test_a_card_is_looked_up_beside_the_recipe_then_here_then_among_the_shipped(home: Path) -> None:
    beside = home / "recipes"
    shipped_card = find_shipped("data_cards") / "bccd.yaml"
    assert find_card("data_cards/bccd.yaml", beside) == find_card("bccd.yaml", beside) == shipped_card
    (home / "data_cards").mkdir()
    (home / "data_cards" / "bccd.yaml").write_text(CARD)
    assert find_card("data_cards/bccd.yaml", beside) == Path("data_cards/bccd.yaml")
    (beside / "data_cards").mkdir()
    (beside / "data_cards" / "bccd.yaml").write_text(CARD)
    assert find_card("data_cards/bccd.yaml", beside) == beside / "data_cards" / "bccd.yaml"
    assert find_card("none.yaml", beside) is None


# --- extends ---------------------------------------------------------------------------------------


def test_a_recipe_is_laid_over_its_bases_in_order(home: Path) -> None:
    recipes = home / "recipes"
    (recipes / "slow.yaml").write_text("engine: {workers: 0, precision: bf16-mixed}\n")
    (recipes / "mine.yaml").write_text(
        "extends: [tiny.yaml, slow.yaml]\nname: mine\nengine: {precision: 32-true}\nevaluate: {on: [films:val]}\n"
    )
    recipe = load("recipes/mine.yaml").recipe
    assert (recipe.name, recipe.engine.workers, recipe.engine.precision, recipe.evaluate.on) == (
        "mine",
        0,
        "32-true",
        ("films:val",),
    )
    assert len(recipe.stages) == 4


def test_a_mistake_in_a_base_is_placed_in_the_base(home: Path) -> None:
    (home / "recipes" / "tiny.yaml").write_text(RECIPE.replace("rank: 4", "rnak: 4"))
    (home / "recipes" / "mine.yaml").write_text("extends: [tiny.yaml]\nname: mine\nseed: 1.5\n")
    with pytest.raises(RecipeError) as refused:
        load("recipes/mine.yaml")
    first, second = str(refused.value).splitlines()
    assert first.startswith(
        "recipes/tiny.yaml:25:12 stages.instruct.lora.rnak: unknown key, did you mean 'rank'? (accepts rank, alpha,"
    )
    assert second == "recipes/mine.yaml:3:1 seed: expected a whole number, found 1.5"


def test_a_misspelt_extends_is_the_first_thing_said(home: Path) -> None:
    (home / "recipes" / "mine.yaml").write_text("extend: [tiny.yaml]\nname: mine\n")
    with pytest.raises(RecipeError) as refused:
        load("recipes/mine.yaml")
    assert str(refused.value).startswith(
        "recipes/mine.yaml:1:1 extend: unknown key, did you mean 'extends'? (accepts extends, name, seed, "
    )


def test_a_dual_encoder_takes_the_language_model_out_of_what_it_extends(home: Path) -> None:
    (home / "recipes" / "clip.yaml").write_text(
        "extends: [tiny.yaml]\nname: clip\nmodel: {language: null, encoders: {film: {connector: null}}}\n"
        "stages:\n  - {name: pair, kind: contrastive, mix: {films: 1}, trains: [encoders, text, heads], steps: 5,"
        " text: {kind: transformers, config: {model_type: bert}}, loss: {kind: clip}}\n"
    )
    recipe = load("recipes/clip.yaml").recipe
    assert recipe.model.language is None and recipe.export.target == "stock"


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("[none.yaml]", "recipes/mine.yaml:1:11 extends.0: there is no recipe 'none.yaml' (looked in recipes and "),
        (
            "tiny.yaml",
            "recipes/mine.yaml:1:1 extends: expected a list of recipes, found 'tiny.yaml'; write [tiny.yaml]",
        ),
        (
            "[tiny.yaml, mine.yaml]",
            (
                "recipes/mine.yaml:1:22 extends.1: the recipes extend each other in a circle: recipes/mine.yaml ->"
                " recipes/mine.yaml"
            ),
        ),
        (
            "[around.yaml]",
            (
                "recipes/around.yaml:1:11 extends.0: the recipes extend each other in a circle: recipes/mine.yaml ->"
                " recipes/around.yaml -> "
            ),
        ),
    ],
)
def test_a_base_that_cannot_be_is_refused(home: Path, extends: str, message: str) -> None:
    (home / "recipes" / "around.yaml").write_text("extends: [mine.yaml]\n")
    (home / "recipes" / "mine.yaml").write_text(f"extends: {extends}\nname: mine\n")
    with pytest.raises(RecipeError) as refused:
        load("recipes/mine.yaml")
    assert str(refused.value).startswith(message)


# --- overrides --------------------------------------------------------------------------------------


def test_overrides_go_through_the_same_checks(home: Path) -> None:
    loaded = load(
        "recipes/tiny.yaml",
        ["stages.instruct.steps=5", "stages.instruct.optim.lr=1e-4", "data.films.root=/x", "evaluate.on=[films:train]"],
    )
    assert (loaded.recipe.stages[2].steps, loaded.recipe.stages[2].optim.lr) == (5, 1e-4)
    assert loaded.list_places() == {"films": {"root": "/x"}}
    assert loaded.recipe.evaluate.pairs() == [("films", "train")]


NULLS = [
    ("track: {tensorboard: true}", "track", lambda recipe: recipe.track.tensorboard is False),
    ("evaluate: {on: [films:test], samples: 3}", "evaluate", lambda recipe: not recipe.evaluate.on),
    ("evaluate: {on: [films:test], samples: 3}", "evaluate.samples", lambda recipe: recipe.evaluate.samples == 0),
    (
        "evaluate: {on: [films:test], baselines: []}",
        "evaluate.baselines",
        lambda recipe: len(recipe.evaluate.all_baselines),
    ),
    ("engine: {kind: fsdp2}", "engine.kind", lambda recipe: recipe.engine.kind == "auto"),
    ("engine: {recompute: [language]}", "engine.recompute", lambda recipe: recipe.engine.recompute == ()),
    ("plugins: [mylab]", "plugins", lambda recipe: recipe.plugins == ()),
    ("seed: 4", "seed", lambda recipe: recipe.seed == 0),
    ("model: {boxes: {scale: 10}}", "model.boxes", lambda recipe: recipe.model.boxes.scale == 1000),
    ("data: {more: {card: cards/films.yaml}}", "data.more", lambda recipe: list(recipe.data) == ["films"]),
    (
        "model: {encoders: {volume: {kind: timm, model: vit_tiny_patch16_224}}}",
        "model.encoders.volume",
        lambda recipe: list(recipe.model.encoders) == ["film"],
    ),
]


@pytest.mark.parametrize(("base", "key", "is_gone"), NULLS, ids=[key for _, key, _ in NULLS])
@pytest.mark.parametrize("how", ["file", "command line"])
def test_null_removes_what_a_base_has(
    home: Path, base: str, key: str, is_gone: Callable[[Any], object], how: str
) -> None:
    (home / "recipes" / "base.yaml").write_text(f"extends: [tiny.yaml]\n{base}\n")
    nested = "null"
    for part in reversed(key.split(".")):
        nested = f"{{{part}: {nested}}}"
    (home / "recipes" / "mine.yaml").write_text(f"extends: [base.yaml]\n{nested[1:-1]}\n")
    loaded = load("recipes/mine.yaml") if how == "file" else load("recipes/base.yaml", [f"{key}=null"])
    assert is_gone(loaded.recipe)


@pytest.mark.parametrize(
    ("override", "is_gone"),
    [
        ("stages.instruct.optim=null", lambda stage: stage.optim == Optim()),
        ("stages.instruct.optim.lr_of=null", lambda stage: stage.optim.lr_of == {}),
        ("stages.instruct.optim.lr_of.lora=null", lambda stage: stage.optim.lr_of == {"connectors": 3}),
        ("stages.instruct.mix.more=null", lambda stage: stage.mix == {"films": 1}),
        ("stages.instruct.batch=null", lambda stage: stage.batch == 32),
    ],
)
def test_null_removes_keys_of_a_stage(home: Path, override: str, is_gone: Callable[[Any], bool]) -> None:
    stage = ["data.more.card=cards/films.yaml", "evaluate.on=[films, more]", "stages.instruct.mix.more=2"]
    stage += ["stages.instruct.optim={lr: 3, lr_of: {lora: 2, connectors: 3}}", "stages.instruct.batch=8"]
    assert is_gone(load("recipes/tiny.yaml", [*stage, override]).recipe.stages[2])


@pytest.mark.parametrize("stage", ["align", "1"])
def test_null_removes_a_stage_by_its_name_or_position(home: Path, stage: str) -> None:
    loaded = load("recipes/tiny.yaml", [f"stages.{stage}=null", "stages.instruct.steps=7"])
    assert [(s.name, s.steps) for s in loaded.recipe.stages] == [("pair", 10), ("instruct", 7), ("reason", 10)]


def test_null_stays_a_value_where_it_is_one(home: Path) -> None:
    loaded = load("recipes/tiny.yaml", ["stages.pair.width=null", "model.encoders.film.config.hidden_act=null"])
    assert loaded.recipe.stages[0].width is None, "no projection, which is not the default"
    assert loaded.recipe.model.encoders["film"].config["hidden_act"] is None, "what it means is up to the library"


@pytest.mark.parametrize(("key", "kind"), [("name", "text"), ("stages.pair.trains", "a list")])
def test_a_key_that_has_to_be_there_cannot_be_null(complaint: Callable[..., str], key: str, kind: str) -> None:
    assert complaint(overrides=(f"{key}=null",)) == f"command line {key}: expected {kind}, found nothing"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.instruct.stpes=5", "command line stages.instruct.stpes: unknown key, did you mean 'steps'?"),
        ("stages.instruct.optmi.lr=5", "command line stages.instruct.optmi: unknown key, did you mean 'optim'?"),
        ("modle.language=null", "command line modle: unknown key, did you mean 'model'?"),
        ("stages.instruct.steps=0", "command line stages.instruct.steps: expected more than 0, found 0"),
        ("seed.x=1", "command line seed: expected a whole number, found {'x': 1}"),
        ("data.flims.root=/x", "command line data.flims.card: is missing"),
        (
            "stages.instruct.from=reason",
            "command line stages.instruct.from: 'reason' is this stage itself or a later one",
        ),
        ("extends=[x.yaml]", "command line extends: set it in a file"),
    ],
)
def test_an_override_that_is_wrong_is_refused_like_a_line_of_the_file(
    complaint: Callable[..., str], override: str, message: str
) -> None:
    assert complaint(overrides=(override,)).startswith(message)


# --- rules across sections ---------------------------------------------------------------------------

MIX = "    trains: [connectors]\n"
SHARDED = ("name: tiny", "name: tiny\nengine: {kind: fsdp2}")
NO_LANGUAGE = ("  language: {kind: causal, config: {model_type: qwen2, hidden_size: 96}}\n", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # names
        ([("name: tiny", "name: my tiny")], "1:1 name: 'my tiny' cannot be a folder's name; expected letters"),
        ([("name: tiny", "name: ../tiny")], "1:1 name: '../tiny' cannot be"),
        ([("name: align", "name: a.b")], "16:5 stages.a.b.name: 'a.b' cannot be"),
        ([("name: align", "name: pair")], "16:5 stages.pair.name: two stages are called 'pair'"),
        ([("name: tiny", "name: shards")], "1:1 name: 'shards' is a folder that all runs share; choose another name"),
        ([("name: tiny", "name: Cache")], "1:1 name: 'Cache' is a folder that all runs share; choose another name"),
        ([("name: align", "name: ranks")], "16:5 stages.ranks.name: 'ranks' is a folder that every run has"),
        ([("name: tiny", f"name: tiny\nseed: 0x{'f' * 400}")], "2:1 seed: expected"),
        ([("name: tiny", f"name: tiny\nseed: {2**63}")], "2:1 seed: expected"),
        ([("name: align", "name: evaluate")], "16:5 stages.evaluate.name: 'evaluate' is a folder that every run has"),
        ([("    film: {", "    fi lm: {serves: [film], ")], "4:5 model.encoders.fi lm: 'fi lm' cannot be"),
        # sources
        (
            [("mix: {films: 1}\n    trains: [connectors]", "mix: {flims: 1}\n    trains: [connectors]")],
            "18:11 stages.align.mix.flims: there is no source 'flims', did you mean 'films'? (data has films)",
        ),
        (
            [("data:\n", "data:\n  more: {card: cards/films.yaml}\n")],
            "7:3 data.more: nothing uses this source; name it in a stage's `mix`",
        ),
        ([("yaml}", "yaml, root: /x, shards: /y}")], "7:45 data.films.shards: `root` is set too"),
        ([("yaml}", "yaml, fold: 0}")], "7:35 data.films.fold: its card has no folds"),
        ([("yaml}", "yaml, fold: -1}")], "7:35 data.films.fold: expected at least 0, found -1"),
        ([("cards/films", "cards/flims")], "7:11 data.films.card: there is no data card 'cards/flims.yaml'"),
        # evaluation
        ([("films:test", "flims:test")], "33:17 evaluate.on.0: there is no source 'flims', did you mean 'films'?"),
        ([("films:test", "films:tset")], "33:12 evaluate.on: 'films:tset' names no split: expected SOURCE:test"),
        (
            [("[films:test]", "[films:test], baselines: [blnd]")],
            (
                "33:42 evaluate.baselines.0: unknown baseline 'blnd', did you mean 'blind'?"
                " (accepts blind, shuffled, majority, chance, nearest, filled, misplaced)"
            ),
        ),
        # routes
        (
            [("    film: {", "    flim: {"), ("connectors.film", "connectors.flim")],
            "4:5 model.encoders.flim: no data set in use has media of kind flim, did you mean 'film'? (they have film)",
        ),
        (
            [
                ("    film: {", "    film: {serves: [film, ct], "),
                (
                    "  language",
                    "    ct: {kind: timm, net: x, preprocess: {size: [8, 8]}, connector: {kind: mlp}}\n  language",
                ),
            ],
            "5:5 model.encoders.ct: 'ct' is already served by 'film'",
        ),
        (
            [("    film: {", "    film: {serves: [volume], ")],
            "4:5 model.encoders.film: no data set in use has media of kind volume (they have film)",
        ),
        (
            [("    film: {", "    film: {preprocess: {size: [64, 64], channels: 1}, ")],
            "4:12 model.encoders.film.preprocess: preprocess.channels is 1 with 3 values of mean",
        ),
        # the language model
        (
            [(", connector: {kind: mlp}", "")],
            "4:5 model.encoders.film: has no connector; add one to the language model, e.g. connector: {kind: mlp}",
        ),
        ([NO_LANGUAGE], "4:123 model.encoders.film.connector: there is no language model to connect to"),
        (
            [NO_LANGUAGE, (", connector: {kind: mlp}", "")],
            "16:5 stages.align.kind: a supervised stage needs a model that can answer: no ready model is named in"
            " model.pretrained, and model.language is missing; add it, e.g. {kind: causal",
        ),
        # what is trained
        (
            [("trains: [connectors]", "trains: [conectors]")],
            (
                "19:14 stages.align.trains.0: 'conectors' is not a part of a supervised stage, did you mean"
                " 'connectors'? (accepts encoders, "
            ),
        ),
        (
            [("trains: [connectors]", "trains: [heads]")],
            (
                "19:14 stages.align.trains.0: 'heads' is not a part of a supervised stage (accepts encoders,"
                " connectors, language, lora, decoders)"
            ),
        ),
        (
            [("trains: [encoders,", "trains: [language,")],
            "12:14 stages.pair.trains.0: 'language' is not a part of a contrastive stage (accepts encoders, text,"
            " heads, terms)",
        ),
        (
            [("connectors.film", "connectors.flim")],
            (
                "24:14 stages.instruct.trains.0: there is no encoder 'flim', did you mean 'film'? (model.encoders has"
                " film)"
            ),
        ),
        (
            [("rank: 4}\n", "rank: 4}\n    optim: {lr_of: {encodres: 0.1}}\n")],
            (
                "26:21 stages.instruct.optim.lr_of.encodres: 'encodres' is not a part of a supervised stage, did you"
                " mean 'encoders'?"
            ),
        ),
        (
            [("    lora: {rank: 4}\n", "")],
            "24:5 stages.instruct.trains: has lora, but neither this stage nor an earlier one defines the adapters",
        ),
        (
            [("[connectors.film, lora]", "[connectors]")],
            "25:5 stages.instruct.lora: `trains` (connectors) does not have lora",
        ),
        # where a stage starts
        (
            [("steps: 10\n  - name: reason", "steps: 10\n    from: reason\n  - name: reason")],
            (
                "27:5 stages.instruct.from: 'reason' is this stage itself or a later one; expected an earlier stage"
                " (there is align, pair)"
            ),
        ),
        (
            [("steps: 10\n  - name: reason", "steps: 10\n    from: algin\n  - name: reason")],
            "27:5 stages.instruct.from: 'algin' is no stage, did you mean 'align'?",
        ),
        (
            [("steps: 10\n  - name: reason", "steps: 10\n    from: {encodres: pair}\n  - name: reason")],
            "27:12 stages.instruct.from.encodres: 'encodres' is not a part",
        ),
        (
            [("steps: 10\n  - name: align", "steps: 10\n    from: align\n  - name: align")],
            (
                "16:5 stages.pair.from: 'align' is this stage itself or a later one; expected an earlier stage (there"
                " is none)"
            ),
        ),
        # steps, batches, validation, rewards
        (
            [(MIX, f"{MIX}    batch: 9\n    accumulate: 2\n")],
            "21:5 stages.align.accumulate: batch 9 is not divisible by accumulate 2",
        ),
        (
            [(MIX, f"{MIX}    accumulate: auto\n"), SHARDED],
            "21:5 stages.align.accumulate: with fsdp2, ranks wait for each other within a pass",
        ),
        (
            [(MIX, f"{MIX}    accumulate: auto\n"), ("name: tiny", "name: tiny\nengine: {deal_media: true}")],
            "21:5 stages.align.accumulate: with engine.deal_media, ranks wait for each other within a pass",
        ),
        (
            [(MIX, f"{MIX}    optim: {{kind: adamw8bit}}\n"), SHARDED],
            "21:13 stages.align.optim.kind: adamw8bit cannot update parameters that fsdp2 shards",
        ),
        (
            [(MIX, f"{MIX}    optim: {{kind: muon}}\n"), ("name: tiny", "name: tiny\nengine: {kind: zero2}")],
            "21:13 stages.align.optim.kind: muon needs whole matrices, but zero2",
        ),
        (
            [("name: tiny", "name: tiny\nengine: {attention: varlen, precision: bf16-mixed}")],
            "2:10 engine.attention: varlen computes rows of plain documents, and in stage reason several answers",
        ),
        (
            [("name: tiny", "name: tiny\nengine: {attention: varlen}")],
            "2:1 engine: attention: the kernels of varlen compute in 16 bits; use precision: bf16-mixed",
        ),
        (
            [(MIX, f"{MIX}    sampling: {{epochs: {{flims: 2}}}}\n")],
            "20:25 stages.align.sampling.epochs.flims: there is no source 'flims', did you mean 'films'?",
        ),
        (
            [(MIX, f"{MIX}    overlong: reduce\n")],
            "20:5 stages.align.overlong: the encoders of this model take images of one size",
        ),
        (
            [
                (
                    "films: {card: cards/films.yaml}",
                    "films: {card: cards/films.yaml, shards: 'https://host/a.tar?X-Amz-Signature=abc'}",
                )
            ],
            "7:35 data.films.shards: contains a password or a signature",
        ),
        (
            [("evaluate: {on: [films:test]}", "evaluate: {on: [films:held_out]}")],
            "33:17 evaluate.on.0: this source holds nothing out",
        ),
        (
            [("name: tiny", "name: tiny\nengine: {recompute: [langauge]}")],
            "2:22 engine.recompute.0: 'langauge' is not a part of any stage, did you mean 'language'?",
        ),
        (
            [("name: tiny", "name: tiny\nengine: {kind: zero3, compile: [language]}")],
            "2:1 engine: compile: zero3 gathers weights by hooks",
        ),
        (
            [(MIX, f"{MIX}    keep: best\n")],
            "20:5 stages.align.keep: validation chooses the `best` checkpoint, and there is none",
        ),
        (
            [(MIX, f"{MIX}    validate: {{evry: 3}}\n")],
            "20:16 stages.align.validate.evry: unknown key, did you mean 'every'?",
        ),
        (
            [("{choice: 1}", "{choise: 1}")],
            "31:15 stages.reason.rewards.choise: unknown reward 'choise', did you mean 'choice'?",
        ),
        # export
        (
            [
                ("connector: {kind: mlp}", "connector: {kind: linear}"),
                ("evaluate", "export: {target: stock}\nevaluate"),
            ],
            "33:10 export.target: no stock class holds this model: encoders.film.connector is of kind linear",
        ),
        (
            [("connector: {kind: mlp}", "connector: {kind: linear}")],
            "1:1 export.target: no stock class holds this model",
        ),
        (
            [("evaluate", "export: {target: stok}\nevaluate")],
            "33:10 export.target: there is no export target 'stok', did you mean 'stock'?",
        ),
        (
            [("evaluate", "export: {serves: [gguf]}\nevaluate")],
            "33:19 export.serves.0: gguf cannot load llava; it converts the layout of Idefics3",
        ),
        # secrets
        (
            [("model_type: qwen2", "model_type: hf_abcdefghijklmnopqrstuvwxyz")],
            "5:37 model.language.config.model_type: looks like a password or an access token",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    complaint: Callable[..., str], changes: list[tuple[str, str]], message: str
) -> None:
    lines = complaint(*changes).splitlines()
    assert any(line.startswith(f"recipes/tiny.yaml:{message}") for line in lines), lines


def test_a_secret_is_not_repeated(complaint: Callable[..., str]) -> None:
    assert "abcdefghij" not in complaint(("model_type: qwen2", "model_type: hf_abcdefghijklmnopqrstuvwxyz"))


FOLDS = ("media: [film]", "media: [film]\nsplits: {folds: 3}")


@pytest.mark.parametrize(
    ("changes", "card", "message"),
    [
        (
            [],
            FOLDS,
            ("recipes/tiny.yaml:7:3 data.films: its card has 3 folds; choose the one to test on, e.g. fold: 0"),
        ),
        (
            [("yaml}", "yaml, fold: 3}")],
            FOLDS,
            "recipes/tiny.yaml:7:35 data.films.fold: expected 0 to 2, the folds of its card, found 3",
        ),
        (
            [],
            ("media: [film]", "media: [film, volume]"),
            (
                "recipes/tiny.yaml:11:11 stages.pair.mix.films: no encoder serves its media of kind 'volume' (the"
                " encoders serve film)"
            ),
        ),
        (
            [],
            ("media: [film]", "media: [film]\nsplits: {ratios: {train: 1.0}}"),
            "recipes/tiny.yaml:33:17 evaluate.on.0: its card has no samples in 'test' (it has train)",
        ),
        (
            [("yaml}", "yaml, fold: 0}"), ("films:test", "films:val")],
            FOLDS,
            "recipes/tiny.yaml:33:17 evaluate.on.0: its card has no samples in 'val' (it has test, train)",
        ),
        (
            [("yaml}", "yaml, fold: 0}"), (MIX, f"{MIX}    validate: {{every: 5}}\n")],
            FOLDS,
            "recipes/tiny.yaml:20:5 stages.align.validate: films has no samples to validate on",
        ),
        (
            [],
            ("media: [film]", "media: [film]\nsplits: {ratios: {test: 1.0}}"),
            "recipes/tiny.yaml:11:11 stages.pair.mix.films: its card has no samples in 'train'",
        ),
        (
            [],
            ("media: [film]", "media: [film]\nsplits: {ratios: {train: 0.5}}"),
            "cards/films.yaml:8:1 splits: ratios sum to 0.5, expected 1",
        ),
        (
            [],
            ("media: [film]", "media: [film]\nsplits: {ratios: {trian: 1.0}}"),
            (
                "cards/films.yaml:8:19 splits.ratios.trian: expected 'train', 'val' or 'test', found 'trian', did you"
                " mean 'train'?"
            ),
        ),
        (
            [],
            ("media: [film]", "media: [film]\nsplits: {ratios: {train: 1.5, val: -0.5}}"),
            "cards/films.yaml:8:31 splits.ratios.val: expected at least 0, found -0.5",
        ),
        ([], ("access: open", "acess: open"), "cards/films.yaml:5:1 acess: unknown key, did you mean 'access'?"),
        (
            [],
            ("access: open", "access: opne"),
            (
                "cards/films.yaml:5:1 access: expected 'open', 'registration', 'credentialed' or 'generated', found"
                " 'opne', did you mean 'open'?"
            ),
        ),
        ([], ("films: 4", "flims: 4"), "cards/films.yaml:8:25 reader.flims: unknown key, did you mean 'films'?"),
    ],
)
def test_what_does_not_fit_the_card_is_refused(
    complaint: Callable[..., str], changes: list[tuple[str, str]], card: tuple[str, str], message: str
) -> None:
    assert complaint(*changes, card=card).startswith(message)


def test_every_mistake_is_said_at_once(complaint: Callable[..., str]) -> None:
    found = complaint(
        ("name: align", "name: pair"), ("films:test", "flims:test"), ("connectors.film", "connectors.flim")
    )
    assert [line.split(" ")[1] for line in found.splitlines()] == [
        "stages.pair.name:",
        "evaluate.on.0:",
        "stages.instruct.trains.0:",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        [("trains: [lora]", "trains: [lora, language.*.norm, encoders.film.tower.layers.0, '*.bias']")],
        [
            (
                "steps: 10\n  - name: reason",
                "steps: 10\n    from: {encoders: pair, connectors.film: align}\n  - name: reason",
            )
        ],
        [("trains: [connectors]", "trains: [connectors]\n    shows: [report]")],
    ],
)
def test_what_fits_together_is_accepted(home: Path, changes: list[tuple[str, str]]) -> None:
    text = RECIPE
    for old, new in changes:
        text = text.replace(old, new, 1)
    (home / "recipes" / "tiny.yaml").write_text(text)
    assert load("recipes/tiny.yaml").recipe.name == "tiny"


def test_reading_reports_needs_no_encoder_for_their_media(home: Path) -> None:
    """A stage that shows reports alone may draw on a data set whose media nobody encodes."""
    (home / "recipes" / "cards" / "notes.yaml").write_text(
        CARD.replace("[film]", "[volume]").replace("name: films", "name: notes").replace("films: 4", "volumes: 4")
    )
    text = RECIPE.replace("data:\n", "data:\n  notes: {card: cards/notes.yaml}\n").replace(
        "mix: {films: 1}\n    trains: [connectors]", "mix: {notes: 1}\n    trains: [language]"
    )
    (home / "recipes" / "tiny.yaml").write_text(
        text.replace("trains: [language]", "trains: [language]\n    shows: [report]")
    )
    assert load("recipes/tiny.yaml").cards["notes"].media == ("volume",)
    (home / "recipes" / "tiny.yaml").write_text(text)
    with pytest.raises(RecipeError, match="no encoder serves its media of kind 'volume'"):
        load("recipes/tiny.yaml")


# --- validate ----------------------------------------------------------------------------------------


def test_validation_says_what_goes_where_and_what_it_could_not_see(home: Path) -> None:
    lines = validate("recipes/tiny.yaml")
    text = "\n".join(lines)
    assert lines[0].startswith("recipes/tiny.yaml: a valid recipe (tiny, ")
    # 64 px in patches of 8 are 8 x 8 tokens, and the mlp keeps each.
    assert (
        "encoder film: transformers, 8 x 8 tokens of width 64, serves film; through mlp 64 tokens of width 96" in text
    )
    assert (
        "stage instruct: supervised, 10 steps of 32 from films; trains connectors.film, lora; starts from align" in text
    )
    assert lines[-1] == "data.films: root is not set; give data.films.root=DIR, the folder of its files"
    assert validate("recipes/tiny.yaml", ["data.films.root=/x"])[-1] != lines[-1]


def test_a_resampler_says_its_tokens_and_a_built_network_is_not_checked(home: Path) -> None:
    (home / "recipes" / "tiny.yaml").write_text(
        RECIPE.replace("{kind: mlp}", "{kind: resampler, tokens: 5}") + "export: {target: custom}\n"
    )
    assert "through resampler 5 tokens of width 96" in "\n".join(validate("recipes/tiny.yaml"))
    timm = "film: {kind: timm, net: resnet18, preprocess: {size: [64, 64]}, connector: {kind: mlp}}"
    (home / "recipes" / "tiny.yaml").write_text(
        RECIPE.replace(RECIPE.splitlines()[3].strip(), timm) + "export: {target: custom}\n"
    )
    assert "encoder film: timm, tokens not checked" in "\n".join(validate("recipes/tiny.yaml"))


# --- what a run keeps ----------------------------------------------------------------------------------


def test_training_needs_to_know_where_the_data_is(home: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=r"^recipes/tiny.yaml:7:3 data.films: root is not set; give data.films.root=DIR, the folder of its files$",
    ):
        load("recipes/tiny.yaml").require_data()
    load("recipes/tiny.yaml", ["data.films.root=/x"]).require_data()
    load("recipes/tiny.yaml", ["data.films.shards=/x"]).require_data()
    (home / "recipes" / "cards" / "films.yaml").write_text(CARD.replace("access: open", "access: generated"))
    load("recipes/tiny.yaml").require_data()


def test_the_hash_is_of_what_the_run_is_not_of_where_it_lies(home: Path) -> None:
    here = load("recipes/tiny.yaml")
    there = load("recipes/tiny.yaml", ["data.films.root=/elsewhere"])
    assert here.recipe_hash == there.recipe_hash
    (home / "recipes" / "tiny.yaml").write_text("# a comment\n" + RECIPE.replace("steps: 10", "steps: 1e1"))
    assert load("recipes/tiny.yaml").recipe_hash == here.recipe_hash
    assert load("recipes/tiny.yaml", ["seed=1"]).recipe_hash != here.recipe_hash
    (home / "recipes" / "cards" / "films.yaml").write_text(CARD.replace("films: 4", "films: 5"))
    assert load("recipes/tiny.yaml").recipe_hash != here.recipe_hash


@pytest.fixture
def saved(home: Path) -> tuple[LoadedRecipe, Path]:
    loaded = load(
        "recipes/tiny.yaml", ["data.films.root=some/where", "data.films.salt_file=some/salt", "stages.pair.steps=3"]
    )
    loaded.save(home / "run")
    return loaded, home / "run"


def test_a_run_loads_again_as_the_same_recipe(
    saved: tuple[LoadedRecipe, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded, run = saved
    (tmp_path / "recipes" / "cards" / "films.yaml").unlink()
    monkeypatch.chdir("/")
    again = load_run(run)
    assert again.recipe_hash == loaded.recipe_hash
    assert again.recipe.stages == loaded.recipe.stages and again.cards == loaded.cards
    assert again.list_places() == {
        "films": {"root": str(tmp_path / "some" / "where"), "salt_file": str(tmp_path / "some" / "salt")}
    }


def test_the_resolved_recipe_is_explicit_and_private_about_places(saved: tuple[LoadedRecipe, Path]) -> None:
    loaded, run = saved
    text = (run / "recipe.resolved.yaml").read_text()
    assert text.startswith(f"# {loaded.recipe_hash}\n")
    assert "some/where" not in text and "salt_file" not in text and "root" not in text and "shards" not in text
    written = read_yaml(run / "recipe.resolved.yaml").data
    assert written["stages"][0]["steps"] == 3 and written["stages"][0]["optim"]["betas"] == [0.9, 0.98]
    assert written["engine"]["precision"] == "32-true"
    some = run.parent / "some"
    assert json.loads((run / "places.json").read_text()) == {
        "films": {"root": str(some / "where"), "salt_file": str(some / "salt")}
    }


def test_a_run_that_was_moved_without_its_places_still_loads(saved: tuple[LoadedRecipe, Path]) -> None:
    loaded, run = saved
    (run / "places.json").unlink()
    assert load_run(run).recipe_hash == loaded.recipe_hash
    assert load_run(run).list_places() == {"films": {}}


def test_a_folder_that_is_no_run_is_said_to_be_none(home: Path) -> None:
    with pytest.raises(RecipeError, match="recipes: is not a run folder"):
        load_run(Path("recipes"))
