"""Settings of a supervised stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from medvlm.core.errors import did_you_mean, list_some
from medvlm.core.needs import Needs, Toy
from medvlm.core.problems import Problem
from medvlm.core.stage_config import StageConfig
from medvlm.core.tasks import SpokenTask, TextTask, find_task, list_drawn_tasks, list_text_tasks
from medvlm.data.budget import Overlong
from medvlm.data.lessons import LossWeights
from medvlm.data.rationale import Order
from medvlm.data.row_plan import Rows
from medvlm.stages._drawing_config import Draws, check_draws


class Config(StageConfig):
    kind: Literal["supervised"]
    shows: tuple[Literal["media", "report"], ...] = ("media",)
    """What the model gets in addition to the question. With [report] alone it learns to read: no image is decoded and
    no encoder runs."""
    without_media: bool = Field(False, exclude_if=lambda without: not without)
    """Also uses samples without media, which are trained as texts beside those with images. Their questions may be of
    all `tasks` except those with answers in coordinates."""
    tasks: tuple[SpokenTask, ...] = ()
    """Tasks whose questions are asked. By default all tasks with text answers, and masks with `draws`; without images,
    all of these except tasks with answers in coordinates, such as `boxes`. [report] is captioning."""
    draws: dict[str, Draws] = Field({}, exclude_if=lambda draws: not draws)
    """Decoder -> how it is trained with answers that draw, e.g. {structures: {losses: [dice, binary_cross_entropy]}}.
    The questions for masks that it answers become questions for structures by name."""
    questions: int = Field(1, gt=0)
    """Questions per sample and step. They share the images of the sample, which are read once."""
    rationale: Order | Literal[""] = ""
    """Trains on the `steps` of the questions too: before the answer (`before`), behind it (`after`), or as a
    question of its own, and then given with the question (`apart`). Questions without steps cannot be used. The
    protocol `before` asks with the same setting."""
    weigh: Literal["tokens", "answers"] = "tokens"
    """What has equal weight in the loss: every trained token, or every answer, whatever its length."""
    loss: Literal["answers", "last", "all"] = Field("answers", exclude_if=lambda loss: loss == "answers")
    """What is trained of a dialogue: every answer, only the last one, or everything but media (`all`): its questions
    and system prompt too."""
    loss_weights: LossWeights = Field(LossWeights(), exclude_if=lambda weights: weights == LossWeights())
    """Factors on the loss by source, task and turn."""
    prompts: dict[TextTask, tuple[str, ...]] = Field({}, exclude_if=lambda prompts: not prompts)
    """Task -> wordings, one of which is drawn each time a question of the task is used: {report: [Write the report.,
    Describe the findings.]}. {question} in a wording is the question's own text, which is needed where it has options.
    Evaluation asks in the words of the data."""
    max_tokens: int = Field(2048, gt=0)
    """Maximum number of tokens of a sample, including its images."""
    overlong: Overlong = "error"
    """What to do with a longer sample, which is never cut. `error` stops. `drop` replaces it by another sample and
    counts it. `reduce` shrinks all its images by the same factor until it fits, for ready models that take images of
    any size."""
    micro_tokens: int = Field(0, ge=0)
    """Maximum number of tokens of a micro-batch, including padding. A step gets as many micro-batches as needed, the
    same number on every rank. 0: no maximum."""
    rows: Rows | None = Field(None, exclude_if=lambda rows: rows is None)
    """Makes every micro-batch one row, filled with samples up to a budget. The samples of a step are spread over the
    ranks so that each has about as many tokens and pixels as the others."""

    @model_validator(mode="after")
    def _draws_what_it_asks(self) -> Config:
        if self.draws and "media" not in self.shows:
            raise ValueError("draws: `shows` has no media, so there is nothing to draw on; add it, or remove `draws`")
        if self.draws and self.rationale:
            raise ValueError("draws: answers that draw have no `steps`; remove it, or `rationale`")
        drawn = [task for task in self.tasks if task in list_drawn_tasks()]
        if drawn and not self.draws:
            raise ValueError(f"tasks: {drawn[0]} is drawn by a decoder; add `draws`, or leave {drawn[0]} out")
        if self.draws and self.tasks and not drawn:
            raise ValueError(f"draws: `tasks` has none that is drawn; add {' or '.join(list_drawn_tasks())} to them")
        return self

    @model_validator(mode="after")
    def _require_media_for_coordinates(self) -> Config:
        for task in self.tasks if "media" not in self.shows else ():
            if find_task(task).NEEDS_CANVAS:
                raise ValueError(
                    f"tasks: {task} are written in coordinates of an image, and `shows` has no media; add it, or leave"
                    f" {task} out"
                )
        return self

    @model_validator(mode="after")
    def _can_ask_without_media(self) -> Config:
        if self.without_media and "media" not in self.shows:
            raise ValueError("without_media: `shows` has no media, so no sample needs any; remove it")
        if self.without_media and not self.text_tasks:
            raise ValueError(
                f"without_media: {', '.join(self.tasks)} are written in coordinates of an image; add a task that can be"
                " asked without one, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _check_sample_fits(self) -> Config:
        if self.micro_tokens and self.micro_tokens < self.max_tokens:
            raise ValueError(
                f"micro_tokens: {self.micro_tokens} is less than max_tokens, {self.max_tokens}, the limit of one"
                " sample; raise micro_tokens or lower max_tokens"
            )
        return self

    @model_validator(mode="after")
    def _check_rows(self) -> Config:
        if not self.rows:
            return self
        if self.rows.tokens < self.max_tokens:
            raise ValueError(
                f"rows.tokens: {self.rows.tokens} is less than max_tokens, {self.max_tokens}, the limit of one sample;"
                " raise rows.tokens or lower max_tokens"
            )
        if self.micro_tokens or self.accumulate != 1:
            which = "micro_tokens" if self.micro_tokens else "accumulate"
            raise ValueError(f"{which}: with `rows`, every row is a micro-batch; remove it, or `rows`")
        return self

    @model_validator(mode="after")
    def _check_loss(self) -> Config:
        if self.loss == "all" and (self.questions > 1 or self.rationale == "apart"):
            raise ValueError("loss: all trains one question or dialogue per sample and step; set questions: 1")
        if self.loss == "all" and self.weigh == "answers":
            raise ValueError("loss: all trains more than answers; set weigh: tokens")
        for name, given, known in (
            ("loss_weights.sources", self.loss_weights.sources, self.mix),
            ("loss_weights.tasks", self.loss_weights.tasks, self.asked_tasks),
            ("prompts", self.prompts, self.asked_tasks),
        ):
            for key in given:
                if key not in known:
                    raise ValueError(
                        f"{name}: {key!r} is not used by this stage{did_you_mean(key, known)} (it uses"
                        f" {list_some(sorted(known))})"
                    )
        if empty := [
            task for task, wordings in self.prompts.items() if not all(map(str.strip, wordings)) or not wordings
        ]:
            raise ValueError(f"prompts: {empty[0]} has no wording, or an empty one")
        if self.loss_weights.turns and not any(self.loss_weights.turns):
            raise ValueError("loss_weights.turns: all are 0, so nothing is trained")
        return self

    def find_needs(self, model: Any) -> Needs:
        has_media, has_report = "media" in self.shows, "report" in self.shows
        texts = self.text_tasks if self.without_media else ()
        return Needs(self.asked_tasks, report=has_report, media=has_media, steps=bool(self.rationale), texts=texts)

    def check(self, model: Any, cards: Mapping[str, Any]) -> Iterator[Problem]:
        yield from check_draws(self.draws, model, cards)

    def shows_media(self) -> bool:
        return "media" in self.shows

    def shares_prompts(self) -> bool:
        return self.questions > 1 or self.rationale == "apart"

    def reduces_images(self) -> bool:
        return self.overlong == "reduce"

    def find_token_limit(self) -> int:
        return self.max_tokens

    def list_smaller(self, micro: int) -> dict[int, str]:
        if not self.rows:
            return super().list_smaller(micro)
        return self.rows.list_smaller(f"stages.{self.name}", self.max_tokens)

    def scale_down(self, toy: Toy) -> Config:
        """Token limits get the toy's value, because a small tokenizer makes more tokens of a text than the real one."""
        bounds: dict[str, Any] = {
            "max_tokens": toy.sample_tokens,
            "micro_tokens": self.micro_tokens and toy.sample_tokens,
        }
        if self.rows:
            bounds["rows"] = self.rows.model_copy(update={"tokens": toy.sample_tokens})
        return super().scale_down(toy).model_copy(update=bounds)

    @property
    def asked_tasks(self) -> tuple[str, ...]:
        if self.tasks or "media" not in self.shows:
            return self.tasks or self.text_tasks
        return (*list_text_tasks(), *(list_drawn_tasks() if self.draws else ()))

    @property
    def text_tasks(self) -> tuple[str, ...]:
        """Those of the tasks that can be asked without media."""
        return tuple(kind for kind in self.tasks or list_text_tasks() if not find_task(kind).NEEDS_CANVAS)
