"""A model that may call tools before it answers, for evaluation and chat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from medvlm.compositions._around import Around
from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.experts import OpenExpert
from medvlm.core.tool_config import Environment
from medvlm.tasks._writing import Writing
from medvlm.tools._episode import Episode, Step, describe_files


class FinalAnswer(str):
    """An answer after other replies. steps: those replies, and what the tools that they called showed."""

    steps: tuple[Step, ...] = ()


class WithTools(Around):
    """`weigh` computes the probabilities of answers without tools."""

    def __init__(self, model: Any, environment: Environment, open_expert: OpenExpert):
        super().__init__(model)
        self._environment, self._open_expert = environment, open_expert

    @property
    def identity(self) -> Mapping[str, Any]:
        environment = self._environment.model_dump(mode="json")
        return {**self._model.identity, "environment": environment, "files": describe_files(self._environment)}

    def answer(self, asks: Sequence[Ask]) -> list[str]:
        """As Opened.answer. Answers after other replies are FinalAnswers, unless they were cut."""
        return self._finish(asks, self._model.answer(asks), self._model.answer)

    def draw(self, asks: Sequence[Ask], copies: int, temperature: float, seed: int) -> list[list[str]]:
        first = self._model.draw(asks, copies, temperature, seed)
        finished = []
        for copy in range(copies):

            def say(going: Sequence[Ask], own: int = seed + copy + 1) -> list[str]:
                return [text for (text,) in self._model.draw(going, 1, temperature, own)]

            finished.append(self._finish(asks, [texts[copy] for texts in first], say))
        return [list(texts) for texts in zip(*finished, strict=True)]

    def tell(self, ask: Ask, hear: Callable[[str], None], temperature: float = 0.0, seed: int = 0) -> str:
        """As Opened.tell. A reply may call a tool, so `hear` gets no text of it."""
        numbers = count(seed)

        def say(asks: Sequence[Ask]) -> list[str]:
            return [self._model.tell(each, lambda _: hear(""), temperature, next(numbers)) for each in asks]

        return self._finish([ask], say([ask]), say)[0]

    def _finish(
        self, asks: Sequence[Ask], said: Sequence[str], say: Callable[[Sequence[Ask]], Sequence[str]]
    ) -> list[str]:
        """said: the first replies. say: draws the next ones."""
        episodes, found, running = [self._begin(ask) for ask in asks], list(said), list(range(len(asks)))
        while running:
            running = [n for n in running if not isinstance(found[n], CutAnswer) and episodes[n].hear(found[n])]
            replies = say([_ask_on(asks[n], episodes[n]) for n in running]) if running else []
            for n, text in zip(running, replies, strict=True):
                found[n] = text
        return [_finish(text, episode) for text, episode in zip(found, episodes, strict=True)]

    def _begin(self, ask: Ask) -> Episode:
        sample, files = ask.media_of or (ask.sample, ask.files)
        shown = Ask(sample, files, ask.question)
        boxes = self._model.find_writing()
        return Episode(
            self._environment,
            sample,
            files,
            ask.question,
            lambda: self._model.find_canvas(shown),
            boxes or Writing(),
            self._open_expert,
        )


def _ask_on(ask: Ask, episode: Episode) -> Ask:
    shown = episode.sample, episode.files
    if ask.media_of:
        return replace(ask, question=episode.question, media_of=shown)
    return Ask(*shown, episode.question, ask.shows)


def _finish(text: str, episode: Episode) -> str:
    if isinstance(text, CutAnswer) or not episode.steps:
        return text
    made = FinalAnswer(text)
    made.steps = episode.steps
    return made


def give_tools(models: Sequence[Any], environment: Environment | None, open_expert: OpenExpert) -> list[Any]:
    """The models, of which those that answer may call the tools."""
    if environment is None:
        return [*models]
    return [WithTools(model, environment, open_expert) if "answer" in model.can else model for model in models]
