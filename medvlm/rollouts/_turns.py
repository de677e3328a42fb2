"""Several turns with any engine: replies that call a tool are followed by what it shows, and drawn on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from medvlm.core.sample import make_truth
from medvlm.core.tool_config import Environment
from medvlm.core.turns import tell
from medvlm.data.prepare import Seen
from medvlm.models.generate import find_end_ids, is_cut
from medvlm.rollouts._contract import Answer, Observed, Parts, Prompt, Rollouts, SamplingParams
from medvlm.tools._contract import Shown
from medvlm.tools._episode import Episode, Step, add_turn

ANY = "."
"""Stands for replies where only the words between them are looked for: the policy's own tokens are kept as drawn."""


class Turns:
    """engine: draws single replies. Every rank calls it equally often, see Rollouts."""

    def __init__(self, engine: Rollouts, environment: Environment, parts: Parts):
        self.engine, self.environment, self.parts = engine, environment, parts

    def draw(self, prompts: Sequence[Prompt], sampling: SamplingParams) -> list[list[Answer]]:
        opened = [_Opened(prompt, self.parts) for prompt in prompts]
        trails = [[Trail(self._begin(each), each, copy) for copy in range(sampling.copies)] for each in opened]
        running = [trail for group in trails for trail in group]
        drawn = [answer for group in self.engine.draw(prompts, sampling) for answer in group]
        once = replace(sampling, copies=1)
        for _ in range(self.environment.turns - 1):
            running = [
                trail for trail, answer in zip(running, drawn, strict=True) if self._hear(trail, answer, sampling)
            ]
            drawn = [answer for (answer,) in self.engine.draw([trail.prompt for trail in running], once)]
        for trail, answer in zip(running, drawn, strict=True):
            trail.replies.append(answer)
        return [[trail.join() for trail in group] for group in trails]

    def make_longest(self, prompt: Prompt, ids: list[int]) -> Answer:
        """An answer in which every reply has these tokens, and every tool shows the first medium again."""
        opened = _Opened(prompt, self.parts)
        trail = Trail(self._begin(opened), opened, 0)
        shown = Shown(media=prompt.sample.media[:1], files=prompt.files)
        for _ in range(self.environment.turns - 1):
            episode = trail.episode
            episode.question = add_turn(episode.question, make_truth("open", ANY), shown, prompt.truth)
            episode.sample = replace(episode.sample, media=(*episode.sample.media, *shown.media))
            self._go_on(trail, Answer(ids), Step(ANY, shown))
        trail.replies.append(Answer(ids))
        return trail.join()

    def _begin(self, opened: _Opened) -> Episode:
        prompt = opened.prompt
        assert prompt.question is not None
        parts = self.parts
        return Episode(
            self.environment,
            prompt.sample,
            prompt.files,
            prompt.question,
            lambda: opened.seen.canvas,
            parts.prepare.boxes,
            parts.open_expert,
        )

    def _hear(self, trail: Trail, answer: Answer, sampling: SamplingParams) -> bool:
        """Whether the reply calls a tool, so that another one follows."""
        said = str(self.parts.tokenizer.decode(answer.ids, skip_special_tokens=True)).strip()
        has_ended = not is_cut(answer.ids, sampling.max_new_tokens, self._ends)
        step = trail.episode.hear(said) if has_ended else None
        if step is None:
            trail.replies.append(answer)
            return False
        self._go_on(trail, answer, step)
        return True

    def _go_on(self, trail: Trail, answer: Answer, step: Step) -> None:
        """Continues the prompt with the tokens as they were drawn, and what the tool showed."""
        observed = self._observe(trail, step)
        trail.replies.append(answer)
        trail.observed.append(observed)
        episode, before = trail.episode, trail.prompt.add_answers([])
        trail.prompt = replace(
            trail.prompt,
            document=replace(
                before, prefix=[*before.prefix, *answer.ids, *observed.ids], media=[*before.media, *observed.media]
            ),
            text=tell(episode.question),
            sample=episode.sample,
            files=episode.files,
            question=episode.question,
            reply=trail.prompt.reply + 1,
            copy=trail.copy,
        )

    def _observe(self, trail: Trail, step: Step) -> Observed:
        prepare, episode = self.parts.prepare, trail.episode
        new = prepare.see(replace(episode.sample, media=step.shown.media), episode.files)
        trail.seen = replace(
            trail.seen, media=[*trail.seen.media, *new.media], groups=[*trail.seen.groups, *new.groups]
        )
        # The template may leave out parts of earlier replies, such as thoughts; what stands after them is the same.
        question = episode.question
        said = len(trail.observed) + 1
        before = [
            replace(turn, truth=make_truth("open", ANY)) if number >= len(question.before) - said else turn
            for number, turn in enumerate(question.before)
        ]
        turn = prepare.turn(
            episode.sample, replace(question, before=tuple(before)), trail.seen, ["media"], answered=False
        )
        start, end = turn.earlier[-1]
        closing = [place + 1 for place in range(start, end) if turn.prompt[place] in self._ends]
        return Observed(turn.prompt[max(closing, default=end) :], new.media, step.tell(), step.is_refused)

    @cached_property
    def _ends(self) -> list[int]:
        return find_end_ids(self.parts.model, self.parts.tokenizer)


class _Opened:
    """A prompt, whose media are perceived at most once."""

    def __init__(self, prompt: Prompt, parts: Parts):
        self.prompt, self.parts = prompt, parts

    @cached_property
    def seen(self) -> Seen:
        return self.parts.prepare.see(self.prompt.sample, self.prompt.files)


class Trail:
    """One answer on its way. prompt: what is answered next. seen: the media so far."""

    def __init__(self, episode: Episode, opened: _Opened, copy: int):
        self.episode, self.opened, self.copy, self.prompt = episode, opened, copy, opened.prompt
        self.replies: list[Answer] = []
        self.observed: list[Observed] = []

    @cached_property
    def seen(self) -> Seen:
        return self.opened.seen

    def join(self) -> Answer:
        *earlier, last = self.replies
        given = [reply.log_probabilities for reply in self.replies]
        whole = None if None in given else tuple(x for own in given if own is not None for x in own)
        before = tuple((reply.ids, seen) for reply, seen in zip(earlier, self.observed, strict=True))
        return Answer(last.ids, whole, before, last.checked)
