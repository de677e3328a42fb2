"""A stage on the meta device: its real class, with a model without weights and batches without pixels."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch

from medvlm.core.composition import composition_of_stage
from medvlm.core.config import component
from medvlm.core.contracts import Preprocess
from medvlm.core.errors import DataError, RecipeError, UserError
from medvlm.core.stage_config import Lora, StageConfig
from medvlm.data.dialogue import Dialogue, Turn
from medvlm.data.mixture import Mixture
from medvlm.data.prepare import Prepare
from medvlm.data.vocabulary import IMAGE, train_tokenizer
from medvlm.models.parts import matches, preprocess_of, set_trained, tokens_of
from medvlm.preflight import adapters
from medvlm.preflight.known import described
from medvlm.preflight.native import CHARS_PER_TOKEN, LOOKED_AT, Ready, pictured, ready
from medvlm.preflight.samples import Look
from medvlm.rules import starts_from
from medvlm.sections import Recipe
from medvlm.stages._base import Setup
from medvlm.tasks._writing import Writing
from medvlm.train.optim import make_optimizers

DRAWN = 32
"""Micro-batches that are drawn to find one as long as the longest of many steps."""


@dataclass(frozen=True)
class Texts:
    """How long texts are: by the tokenizer that is trained from the samples, or about, where the real one is not
    here."""

    tokenizer: Any
    is_exact: bool

    def __call__(self, text: str) -> Any:
        if self.is_exact:
            return self.tokenizer(text)
        return SimpleNamespace(input_ids=[4] * (2 + round(len(text) / CHARS_PER_TOKEN)))

    @property
    def pad_token_id(self) -> int:
        pad: int = self.tokenizer.pad_token_id
        return pad


@dataclass(frozen=True)
class About:
    """A dialogue of about the right length: five tokens of a template around each message."""

    image_id: int

    def turn(self, text: str, image_tokens: Sequence[int], answer: str | None) -> Turn:
        prompt = [3] * 5 + [self.image_id] * sum(image_tokens) + [4] * round(len(text) / CHARS_PER_TOKEN) + [3] * 5
        return Turn(prompt, [] if answer is None else [5] * (1 + round(len(answer) / CHARS_PER_TOKEN)))


def tokenizer_of(recipe: Recipe, looks: Mapping[str, Look]) -> Any:
    """A small one, trained from the samples that were looked at."""
    texts = [
        t
        for look in looks.values()
        for s in look.samples
        for t in (s.report, *(x for q in s.questions for x in (q.text, q.truth.answer)))
        if t
    ]
    sizes = [
        part.vocabulary
        for part in (recipe.model.language, *(text for s in recipe.stages for text in s.texts().values()))
        if part is not None
    ]
    tokenizer = train_tokenizer(texts or ["no text"], max(sizes, default=512), IMAGE)
    tokenizer.image_token = IMAGE
    return tokenizer


def with_vocabulary(part: Any) -> Any:
    """A config of a model that starts from scratch, with the vocabulary that its tokenizer will have."""
    if part is None or not part.config or "vocab_size" in part.config:
        return part
    return part.model_copy(update={"config": {**part.config, "vocab_size": part.vocabulary}})


def check_stages(given: Recipe, numbers: Sequence[int]) -> str:
    """Each of these stages against its model, before an earlier one has cost hours. Returns why that was not possible,
    "" where it was.

    Raises RecipeError for `trains`, `lr_of` and adapters that match nothing in the model.
    """
    with TemporaryDirectory() as folder:
        try:
            recipe, model = described(given), ready(given.model, Path(folder))
        except RecipeError as reason:  # it is fetched when it is built
            return str(reason)
        tokenizer = tokenizer_of(recipe, {})
        for number in numbers:
            config = recipe.stages[number]
            try:
                stage = stage_on_meta(recipe, number, tokenizer, False, 1, model)
            except UserError:
                raise
            except Exception as reason:  # a part of a plugin that cannot be built without data may be built with it
                return f"{config.name}: {type(reason).__name__}: {reason}"
            optimizers_of(stage, config)
    return ""


def optimizers_of(stage: Any, config: StageConfig) -> list[torch.optim.Optimizer]:
    """Of a stage on meta. One in 8 bits is made on a GPU alone; here AdamW stands for it. Raises RecipeError where
    `lr_of` names nothing."""
    settings = {
        name: optim.model_copy(update={"kind": "adamw"}) if optim.kind == "adamw8bit" else optim
        for name, optim in stage.optimizers().items()
    }
    return list(make_optimizers(stage.model, settings, matches, config.name).values())


def adapters_of(recipe: Recipe, number: int) -> Lora | None:
    """Those that the stage puts in, or finds in the weights it starts from; a dual encoder between hands them on."""
    own: Lora | None = recipe.stages[number].lora
    return own or next(
        (found for j in starts_from(recipe, number) if (found := adapters_of(recipe, j)) is not None), None
    )


def stage_on_meta(
    recipe: Recipe, number: int, tokenizer: Any, knows_words: bool, world: int, model: Ready | None = None
) -> Any:
    """recipe: described (see known.described). model: a ready one. Raises RecipeError for what its `trains` and
    adapters do not find in the model."""
    config = recipe.stages[number]
    composition = composition_of_stage(recipe.model, config)
    lora = adapters_of(recipe, number) if "lora" in composition.PARTS else None
    changed: dict[str, Any] = {"language": with_vocabulary(recipe.model.language)}
    config = config.model_copy(update={name: with_vocabulary(text) for name, text in config.texts().items()})
    if model:
        changed["pretrained"] = str(model.folder)
    setup = Setup(
        model=recipe.model.model_copy(update=changed),
        seed=recipe.seed,
        tokenizer=model.prepare.processor.tokenizer if model else tokenizer,
        prepare=model.prepare if model else _prepare(recipe, tokenizer, knows_words),
        composition=composition,
        open_source=lambda *_: None,  # type: ignore[arg-type]
        augments={},
        engine=_alone(world),
        workers=0,
        quarantine=lambda *_: None,
    )
    with torch.device("meta"):
        stage = component("stages", config.kind).build(config, setup)
    if hasattr(stage, "tokenizer"):
        stage.tokenizer = Texts(stage.tokenizer, knows_words)
    if lora:
        try:
            adapters.attach(stage.model, lora, recipe.seed)
        except RecipeError as reason:
            raise RecipeError(f"stages.{config.name}.{reason}") from None
    set_trained(stage.model, config.trains, config.name)
    stage.set_modes()
    return stage


def _prepare(recipe: Recipe, tokenizer: Any, knows_words: bool) -> Prepare:
    encoders = recipe.model.encoders
    dialogue: Any = None
    if recipe.model.language is not None:
        dialogue = Dialogue(tokenizer, IMAGE) if knows_words else About(tokenizer.convert_tokens_to_ids(IMAGE))
    routes = {kind: name for name, encoder in encoders.items() for kind in encoder.serves or (name,)}
    transforms: Any = {name: _Blank(p) for name, p in preprocess_of(encoders).items()}
    return Prepare(transforms, routes, dialogue, tokens_of(encoders), Writing(scale=recipe.model.boxes.scale))


def items_of(stage: Any, config: StageConfig, looks: Mapping[str, Look]) -> tuple[dict[str, list[Any]], list[str]]:
    """Source -> samples as the stage prepares them; and why it could not use some."""
    refused: dict[str, int] = {}
    made: dict[str, list[Any]] = {}
    for source in config.mix:
        samples = looks[source].samples
        for i, sample in enumerate(
            samples[:: max(1, len(samples) // LOOKED_AT)] if stage.setup.model.pretrained else samples
        ):
            try:
                shown, files = pictured(sample) if stage.setup.model.pretrained else (sample, _Nothing())
                item = stage.prepare_sample(shown, files, 0, i)
                made.setdefault(source, []).append(item)
            except (DataError, RecipeError) as reason:  # a run would leave such samples out, or stop
                why = str(reason).partition(": ")[2]
                refused[why] = refused.get(why, 0) + 1
    return made, [f"not used: {n} of the samples: {why}" for why, n in refused.items()]


def longest(stage: Any, config: StageConfig, items: Mapping[str, list[Any]], count: int, seed: int) -> list[Any]:
    """`count` prepared samples, as the mixture deals them: of many such draws the one with the most tokens."""
    mixture, rng = Mixture({s: w for s, w in config.mix.items() if s in items}, seed, config.name), random.Random(seed)
    draws = [[rng.choice(items[mixture.at(d * count + i)[0]]) for i in range(count)] for d in range(DRAWN)]
    return max(draws, key=lambda drawn: sum(map(length, drawn)))


def length(item: Any) -> int:
    """Tokens of a prepared sample."""
    document = getattr(item, "document", item)
    return len(document) if hasattr(document, "__len__") else len(getattr(document, "ids", ()))


def micro_of(stage: Any, config: StageConfig, items: list[Any]) -> Callable[[], Any]:
    """Makes the micro-batch; in grpo as if every answer were as long as it may be."""
    if config.kind == "grpo":
        return lambda: _rollout(stage, config, items)
    return lambda: stage.micros(items, 1)[0]


def _rollout(stage: Any, config: Any, prompts: list[Any]) -> Any:
    from medvlm.stages.grpo import Rollout, _whole

    answer = [len(stage.setup.tokenizer) - 1] * config.max_new_tokens  # a word: special tokens come first
    documents = [replace(p.document, prefix=_whole(p.document), branches=[(answer, 0)] * config.group) for p in prompts]
    batch = stage.setup.prepare.collate(documents, stage.setup.tokenizer.pad_token_id)
    drawn = torch.zeros(len(batch.targets_L))
    return Rollout(batch, torch.zeros(len(batch.targets_L)), drawn if config.kl else None, {}, drawn)


class _Nothing(dict[str, bytes]):
    """Files of a sample whose pixels nobody looks at."""

    def __missing__(self, key: str) -> bytes:
        return b""


@dataclass(frozen=True)
class _Blank:
    """A preprocessing that gives pixels without values, whatever is stored."""

    preprocess: Preprocess

    def __call__(self, stored: Any, member: str, medium: Any) -> tuple[torch.Tensor, None]:
        shape = self.preprocess.shape if self.preprocess.tiles else (self.preprocess.channels, *self.preprocess.size)
        return torch.empty(shape, device="meta"), None


def _alone(world: int) -> Any:
    """What a loss asks of an engine, with the features of all ranks where it gathers them."""
    return SimpleNamespace(
        rank=0,
        world=world,
        device=torch.device("cpu"),
        is_first=True,
        is_sharded=False,
        gather=lambda x: x if world == 1 else torch.cat([x, *[x.detach()] * (world - 1)]),
        total=lambda values: [float(v) for v in values],
    )
