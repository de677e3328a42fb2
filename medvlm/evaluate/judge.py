"""A judge: a model that scores the answers of another one, by the rubric of each kind of question.

    evaluate/judge/IDENTITY.jsonl: a line {key, rubric, question, reference, answer, reply, cut} for each reply

The key is a hash of the judge, its prompt and the texts, so nothing is asked twice, whoever gave the answer and however
often it is evaluated. The scores themselves are stored with the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medvlm.core.ask import Ask, CutAnswer, make_own_question
from medvlm.core.judge_config import Rubric
from medvlm.core.protocols import Record, Split
from medvlm.core.sample import Sample, truth_from_json
from medvlm.core.tasks import find_task, list_rubrics
from medvlm.evaluate.kept import FOLDER, collect_kept, hash_texts, list_said
from medvlm.evaluate.pieces import hash_identity
from medvlm.evaluate.protocols._rows import is_lost

AT_ONCE = 32
"""Number of texts that the judge is asked about before its replies are kept."""


@dataclass(frozen=True)
class Verdict:
    """An answer for the judge."""

    rubric: str
    question: str
    reference: str
    answer: str


Replies = Mapping[str, Mapping[str, Any]]
"""Key of a verdict -> {reply, cut}."""


@dataclass(frozen=True)
class Judge:
    """open: returns the model, an Answerer; called if there is something to ask. identity: what decides its replies,
    without the rubrics. rubrics: by name."""

    open: Callable[[], Any]
    identity: Mapping[str, Any]
    rubrics: Mapping[str, Rubric]

    def describe(self) -> dict[str, Any]:
        rubrics = {name: rubric.model_dump(mode="json") for name, rubric in self.rubrics.items()}
        return {"judge": {**self.identity, "rubrics": rubrics}}

    def judge(self, records: Sequence[Record], split: Split) -> list[Record]:
        """The records, with `judged`: rubric -> the score in [0, 1] of the model's answer (`answer`) and of those of
        the baselines, None for a reply without a readable score.

        An empty answer, and a short one that was cut, earns 0 and is not shown to the judge."""
        asked = [dict(self._list_verdicts(record)) for record in records]
        wanted = {self._hash(verdict): verdict for of_record in asked for verdict in of_record.values() if verdict}
        replies = self._ask(wanted, split)
        judged = []
        for record, of_record in zip(records, asked, strict=True):
            scores: dict[str, dict[str, float | None]] = {}
            for (rubric, who), verdict in of_record.items():
                scores.setdefault(rubric, {})[who] = self._score(verdict, replies) if verdict else 0.0
            judged.append({**record, "judged": {**record.get("judged", {}), **scores}} if scores else record)
        self._note_unread(wanted, replies, split)
        return judged

    def _list_verdicts(self, record: Record) -> Iterator[tuple[tuple[str, str], Verdict | None]]:
        """(rubric, who) -> what the judge is asked, None for what is no answer."""
        truth = truth_from_json(record["truth"])
        task = find_task(truth.task)
        rubrics = [name for name in list_rubrics(truth, record["template"]) if name in self.rubrics]
        reference = task.write(truth) if rubrics else ""
        for rubric in rubrics:
            for who, said in list_said(record):
                is_none = is_lost(who, record) or not said.strip()
                yield (rubric, who), None if is_none else Verdict(rubric, record["question"], reference, said)

    def _hash(self, verdict: Verdict) -> str:
        texts = {**asdict(verdict), "prompt": self.rubrics[verdict.rubric].prompt, "judge": self.identity}
        return hash_texts(texts)

    def _score(self, verdict: Verdict, replies: Replies) -> float | None:
        """None for a reply that was cut, too: its last line may lack a digit."""
        reply = replies[self._hash(verdict)]
        return None if reply["cut"] else self.rubrics[verdict.rubric].read(reply["reply"])

    def _ask(self, wanted: Mapping[str, Verdict], split: Split) -> Replies:
        def ask(keys: Sequence[str]) -> list[Record]:
            replies = self.open().answer([self._make_ask(wanted[key]) for key in keys])
            return [{"reply": str(reply), "cut": isinstance(reply, CutAnswer)} for reply in replies]

        texts = {key: asdict(verdict) for key, verdict in wanted.items()}
        return collect_kept(hash_identity(self.identity), texts, ask, _is_reply, split, AT_ONCE)

    def _make_ask(self, verdict: Verdict) -> Ask:
        prompt = self.rubrics[verdict.rubric].write(verdict.question, verdict.reference, verdict.answer)
        return Ask(Sample("judge", "judge", ""), {}, make_own_question(prompt), "none")

    def _note_unread(self, wanted: Mapping[str, Verdict], replies: Replies, split: Split) -> None:
        unread = [key for key, verdict in wanted.items() if self._score(verdict, replies) is None]
        if unread:
            first = " ".join(str(replies[unread[0]]["reply"]).split())[-80:]
            split.notes.append(
                f"the judge gave no readable score to {len(unread)} of {len(wanted)} texts, which have none in the"
                f" results; see evaluate/{FOLDER}. One ends with {first!r}; its form is"
                f" {self.rubrics[wanted[unread[0]].rubric].reply!r}"
            )


def _is_reply(entry: Record) -> bool:
    return isinstance(entry["reply"], str) and isinstance(entry["cut"], bool)
