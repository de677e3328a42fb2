"""Asks every question twice: for the answer alone, and for a rationale too. Does it help to reason, and is it right?

Rows of the group `reasoning` (see _reasoning_rows.py). Baselines: the answers of the same model without a rationale
(`direct`), and what the rationale of another question says of the steps of this one (`other`).

Source: the four sides of M3CoTBench (Jiang et al., https://arxiv.org/abs/2601.08758; code at
juntaoJianggavin/M3CoTBench). There, GPT-4o finds the steps and judges answers; here, rules do, so the numbers of the
two cannot be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypedDict

from pydantic import Field, field_validator

from medvlm.core.ask import Ask, CutAnswer
from medvlm.core.content import Content
from medvlm.core.protocols import Answerer, ProtocolConfig, Record, Split
from medvlm.core.sample import Question
from medvlm.core.tasks import is_scored, is_scored_task
from medvlm.data.rationale import DIRECT, PROMPTS, Order, ask_for, give_rationale
from medvlm.evaluate.protocols import _models, _reasoning_rows
from medvlm.evaluate.protocols._questions import collect_records, describe, list_asks, name_cluster, plan_questions
from medvlm.evaluate.protocols._rows import AskedRecord

NEEDS = "answer"
BASELINES = (_reasoning_rows.DIRECT, _reasoning_rows.OTHER)
NOTHING = "no question that can be scored"
BY_NAME_ONLY = True
TOGETHER = 64
"""Maximum number of answers that are asked for together."""
rows_of, list_parts, merge = _reasoning_rows.rows_of, _reasoning_rows.list_parts, _models.merge


class Config(ProtocolConfig):
    kind: Literal["reasoning"] = "reasoning"
    rationale: Order = "before"
    """Where the rationale stands: before the answer (`before`), behind it (`after`), or asked for by itself
    and then given with the question (`apart`). A model that was trained with `rationale` needs the same."""
    direct: str = DIRECT
    """What is added to a question to get the answer alone."""
    prompt: str = ""
    """What is added to a question to get a rationale; by default what training adds."""
    draws: int = Field(0, ge=0, le=64)
    """Number of random answers with a rationale, whose agreement is measured; 0: none."""
    temperature: float = Field(1.0, gt=0)

    @field_validator("draws")
    @classmethod
    def _can_agree(cls, draws: int) -> int:
        if draws == 1:
            raise ValueError("a single answer has none to agree with; expected 0, or at least 2")
        return draws


class Text(TypedDict):
    """What a model said. final: its second answer, of `apart`. cut: it did not end."""

    text: str
    final: str | None
    cut: bool


class FORM(AskedRecord):
    steps: dict[str, str]
    rationale: Order
    said: Text
    direct: Text | None
    drawn: list[Text]


def can_ask(content: Content, model: Any) -> bool:
    return content.tasks is None or any(map(is_scored_task, content.tasks))


def ask(config: Config, model: Answerer, split: Split) -> Iterator[Record]:
    plan = plan_questions(split, _is_asked, max(1, TOGETHER // max(1, config.draws)))
    alone = [None] * len(plan.samples)
    can_draw = "draw" in model.can
    if config.draws and not can_draw:
        split.notes.append("reasoning: the model draws no random answers, so their agreement is not measured")

    def do(number: int) -> Record:
        left_out: Counter[str] = Counter()
        asks = [each for each, _ in list_asks(model, split, plan.pieces[number], alone, _is_asked, left_out)]
        said = _reason(config, model, asks)
        direct: Sequence[Text | None] = [None] * len(asks)
        if _reasoning_rows.DIRECT in split.baselines:
            direct = list(map(_keep, _answer(model, [_change(each, config.direct) for each in asks])))
        drawn = _draw(config, model, asks, split.seed) if can_draw else [[] for _ in asks]
        records = [
            {
                "key": each.sample.key,
                "cluster": plan.clusters[name_cluster(each.sample)],
                **describe(each, model),
                "steps": each.question.steps,
                "rationale": config.rationale,
                "said": said[n],
                "direct": direct[n],
                "drawn": drawn[n],
            }
            for n, each in enumerate(asks)
        ]
        return {"records": records, "left_out": left_out}

    cut = total = 0
    for record in collect_records(split, plan, do):
        cut, total = cut + record["said"]["cut"], total + 1
        yield record
    if cut:
        split.notes.append(
            f"reasoning: {cut} of {total} answers with a rationale did not end within evaluate.max_new_tokens; they"
            " count as no answer; raise it"
        )


def _reason(config: Config, model: Answerer, asks: Sequence[Ask]) -> list[Text]:
    """Greedy."""
    texts = _answer(model, [_change(each, _prompt(config)) for each in asks])
    return _finish(config, model, asks, texts)


def _draw(config: Config, model: Answerer, asks: Sequence[Ask], seed: int) -> list[list[Text]]:
    if not config.draws or not asks:
        return [[] for _ in asks]
    changed = [_change(each, _prompt(config)) for each in asks]
    drawn = model.draw(changed, config.draws, config.temperature, seed)
    return [_finish(config, model, [each] * len(texts), texts) for each, texts in zip(asks, drawn, strict=True)]


def _finish(config: Config, model: Answerer, asks: Sequence[Ask], texts: Sequence[str]) -> list[Text]:
    """Of `apart`, with the greedy answers to the questions with their rationales."""
    kept = list(map(_keep, texts))
    if config.rationale != "apart":
        return kept
    given = [
        replace(each, question=give_rationale(each.question, text, config.direct))
        for each, text in zip(asks, texts, strict=True)
    ]
    finals = map(_keep, _answer(model, given))
    return [
        {"text": own["text"], "final": final["text"], "cut": own["cut"] or final["cut"]}
        for own, final in zip(kept, finals, strict=True)
    ]


def _answer(model: Answerer, asks: Sequence[Ask]) -> Sequence[str]:
    return model.answer(asks) if asks else ()


def _keep(text: str) -> Text:
    return {"text": str(text), "final": None, "cut": isinstance(text, CutAnswer)}


def _prompt(config: Config) -> str:
    return config.prompt or PROMPTS[config.rationale]


def _change(each: Ask, prompt: str) -> Ask:
    return replace(each, question=ask_for(each.question, prompt))


def _is_asked(question: Question) -> bool:
    return is_scored(question.truth)
