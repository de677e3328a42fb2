"""The interface of rollout engines, which generate answers.

A kind is a module of medvlm/rollouts with a `Config` (a RolloutsConfig) and build(config, parts) -> Rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from medvlm.core.config import Config, component
from medvlm.core.experts import OpenExpert
from medvlm.core.sample import Batch, Question, Sample, Truth
from medvlm.data.dialogue import Span, TokenSequence, Turn
from medvlm.data.prepare import Seen
from medvlm.tasks._writing import Writing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device, nn


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
    position. steps: what leads to the answer, name of a step -> its text. question: what is
    asked, with the turns before it. reply: 0, or how many replies have called a tool before, of which answer (`copy`).
    right: tokens of the right answer, for stages that learn from it.
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
    question: Question | None = None
    reply: int = 0
    copy: int = 0
    right: tuple[int, ...] = ()

    def add_answers(self, answers: Sequence[Answer]) -> TokenSequence:
        """The prompt followed by these answers, of which all tokens are trained that the policy wrote. Without answers,
        the prompt can be continued.

        The whole prompt is the shared prefix: its last token predicts the first token of every answer.
        """
        prompt = [*self.document.prefix, *(token for ids, _ in self.document.branches for token in ids)]
        branches = [(answer.list_tokens(), 0) for answer in answers]
        media = [*self.document.media, *(medium for answer in answers for medium in answer.media)]
        spans = [answer.find_spans() for answer in answers] if any(answer.earlier for answer in answers) else []
        return replace(self.document, prefix=prompt, branches=branches, media=media, answers=spans)


@dataclass(frozen=True)
class SamplingParams:
    """copies: answers per prompt. temperature: 0 is greedy. max_new_tokens: per answer, including the end token.
    for_check: whether the engine is to return what the answers are worth to it, to be compared (Answer.checked)."""

    copies: int
    temperature: float
    max_new_tokens: int
    for_check: bool = False


@dataclass(frozen=True)
class Observed:
    """What a tool showed: as tokens, from the end of the reply that called it to the opening of the next one, and the
    media in them; and as text. is_refused: whether it could not follow the call."""

    ids: list[int]
    media: list[tuple[str, Any]]
    text: str = ""
    is_refused: bool = False


@dataclass(frozen=True)
class Answer:
    """ids: tokens, including the end token if it was reached. log_probabilities: of each token under the policy that
    generated it; None if the engine does not return them. earlier: the replies before it, each with what the tool that
    it called showed. log_probabilities are those of their tokens too, in order. checked: the log-probabilities of `ids`
    of an engine that is the model in training. They are compared with what that finds when it learns from the answer,
    and not used otherwise."""

    ids: list[int]
    log_probabilities: tuple[float, ...] | None = None
    earlier: tuple[tuple[list[int], Observed], ...] = ()
    checked: tuple[float, ...] | None = None

    @property
    def written(self) -> list[int]:
        """The tokens that the policy wrote, in all replies."""
        return [*chain.from_iterable(ids for ids, _ in self.earlier), *self.ids]

    @property
    def media(self) -> list[tuple[str, Any]]:
        return [medium for _, observed in self.earlier for medium in observed.media]

    def list_tokens(self) -> list[int]:
        """Everything that follows the prompt."""
        return [*chain.from_iterable([*ids, *observed.ids] for ids, observed in self.earlier), *self.ids]

    def find_spans(self) -> list[Span]:
        """Where the policy wrote, with the weight 1."""
        spans, at = list[Span](), 0
        for ids, observed in self.earlier:
            spans.append((at, at + len(ids), 1.0))
            at += len(ids) + len(observed.ids)
        return [*spans, (at, at + len(self.ids), 1.0)]


class Prepares(Protocol):
    """The part of data.prepare.Prepare that rollouts use."""

    @property
    def boxes(self) -> Writing: ...

    def see(self, sample: Sample, files: Mapping[str, Any]) -> Seen: ...

    def turn(self, sample: Sample, question: Question, seen: Seen, shows: Sequence[str], answered: bool) -> Turn: ...

    def show(self, sample: Sample, files: Mapping[str, Any]) -> list[list[np.ndarray]]: ...

    def collate(self, documents: Sequence[TokenSequence], pad_id: int, pack: bool = True) -> Batch: ...


class Computes(Protocol):
    """The part of train.engine.Engine that rollouts use."""

    @property
    def device(self) -> device: ...

    @property
    def is_first(self) -> bool: ...

    def gather_weights(self, model: nn.Module) -> Any: ...

    def unshard(self, tensor: Tensor) -> Tensor: ...

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]: ...

    def barrier(self) -> None: ...


@dataclass(frozen=True)
class Parts:
    """Model, data path, tokenizer, engine and name of the stage that asks, the seed of the run, and what opens another
    model for a tool."""

    model: Any
    prepare: Prepares
    tokenizer: Any
    engine: Computes
    seed: int
    stage: str
    open_expert: OpenExpert


class Rollouts(Protocol):
    """Optional: take_counts() -> dict[str, float], what happened since it was last called, for the log of a step."""

    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        """The answers to each prompt under the current policy. Called on every rank, with the prompts of that rank, of
        which there may be none."""
