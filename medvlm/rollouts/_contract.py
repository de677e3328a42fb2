"""What an engine that draws answers is given and what it gives back.

A kind is a module of medvlm/rollouts with a `Config` (a RolloutsConfig) and build(config, parts) -> Rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.config import Config, component
from medvlm.core.sample import Batch, Sample, Truth
from medvlm.data.dialogue import TokenSequence

if TYPE_CHECKING:
    from torch import device, nn


DEFAULT = "local"


class RolloutsConfig(Config):
    kind: str


def make_default() -> RolloutsConfig:
    """Of the engine that needs nothing beside the model that is trained."""
    config: type[RolloutsConfig] = component("rollouts", DEFAULT).Config
    return config(kind=DEFAULT)


@dataclass(frozen=True)
class Prompt:
    """A question about a sample: as tokens and pixels for the model that is trained, and as text and media for an
    engine that prepares them itself.

    document: the tokens of the prompt, without an answer. text: the question without the chat template. sample, files:
    its media, augmented where the recipe says so. truth: what a right answer is, in the coordinates of answers.
    position: in the stream, from which random numbers follow.
    """

    key: str
    document: TokenSequence
    text: str
    sample: Sample
    files: Mapping[str, Any]
    truth: Truth
    position: int
    source: str = ""

    def with_answers(self, answers: Sequence[Sequence[int]]) -> TokenSequence:
        """The prompt with these answers behind it, each of them trained as a whole; without one it can be continued.

        All of the prompt is the prefix: its last token predicts the first one of every answer.
        """
        prompt = [*self.document.prefix, *(token for ids, _ in self.document.branches for token in ids)]
        return replace(self.document, prefix=prompt, branches=[(list(answer), 0) for answer in answers])


@dataclass(frozen=True)
class Sampling:
    """copies: answers to each prompt. temperature: 0 takes the likeliest token each time. max_new_tokens: of an answer,
    its end token included."""

    copies: int
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class Answer:
    """ids: tokens, the end token included where it was reached. log_probabilities: of each of them under the policy
    that drew it, where the engine knows them."""

    ids: list[int]
    log_probabilities: tuple[float, ...] | None = None


class Collates(Protocol):
    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True) -> Batch: ...


class Computes(Protocol):
    """What of an engine of training is asked: see train/engine.Engine."""

    @property
    def device(self) -> device: ...

    def unsharded(self, model: nn.Module) -> Any: ...


@dataclass(frozen=True)
class Parts:
    """Of the stage that asks: its model, data path, tokenizer and engine, the seed of the run, and its name."""

    model: Any
    prepare: Collates
    tokenizer: Any
    engine: Computes
    seed: int
    stage: str


class Rollouts(Protocol):
    def draw(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Answer]]:
        """Of each prompt, its answers under the policy as it is now. Called on every rank, with prompts of its own."""
