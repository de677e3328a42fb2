"""The interface of rollout engines, which generate answers.

A kind is a module of medvlm/rollouts with a `Config` (a RolloutsConfig) and build(config, parts) -> Rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """Settings of `local`, the engine that needs nothing but the model in training."""
    config: type[RolloutsConfig] = component("rollouts", DEFAULT).Config
    return config(kind=DEFAULT)


@dataclass(frozen=True)
class Prompt:
    """A question about a sample: as tokens and pixels for the model in training, and as text and media for an engine
    that prepares them itself.

    document: the tokens of the prompt, without an answer. text: the question without the chat template. sample, files:
    the media, augmented if the recipe says so. truth: the right answer, in answer coordinates. position: in the stream;
    seeds the random numbers. attempt: 0, or its number among the questions that are tried in place of the one at this
    position. steps: what leads to the answer, name of a step -> its text.
    """

    key: str
    document: TokenSequence
    text: str
    sample: Sample
    files: Mapping[str, Any]
    truth: Truth
    position: int
    source: str = ""
    attempt: int = 0
    steps: Mapping[str, str] = field(default_factory=dict)

    def add_answers(self, answers: Sequence[Sequence[int]]) -> TokenSequence:
        """The prompt followed by these answers, each trained in full. Without answers, the prompt can be continued.

        The whole prompt is the shared prefix: its last token predicts the first token of every answer.
        """
        prompt = [*self.document.prefix, *(token for ids, _ in self.document.branches for token in ids)]
        return replace(self.document, prefix=prompt, branches=[(list(answer), 0) for answer in answers])


@dataclass(frozen=True)
class SamplingParams:
    """copies: answers per prompt. temperature: 0 is greedy. max_new_tokens: per answer, including the end token."""

    copies: int
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True)
class Answer:
    """ids: tokens, including the end token if it was reached. log_probabilities: of each token under the policy that
    generated it; None if the engine does not return them."""

    ids: list[int]
    log_probabilities: tuple[float, ...] | None = None


class Collates(Protocol):
    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True) -> Batch: ...


class Computes(Protocol):
    """The part of train.engine.Engine that rollouts use."""

    @property
    def device(self) -> device: ...

    def gather_weights(self, model: nn.Module) -> Any: ...


@dataclass(frozen=True)
class Parts:
    """Model, data path, tokenizer, engine and name of the stage that asks, and the seed of the run."""

    model: Any
    prepare: Collates
    tokenizer: Any
    engine: Computes
    seed: int
    stage: str


class Rollouts(Protocol):
    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        """The answers to each prompt under the current policy. Called on every rank, with the prompts of that rank, of
        which there may be none."""
