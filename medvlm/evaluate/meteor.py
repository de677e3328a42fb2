"""METEOR 1.5 (Denkowski and Lavie, WMT 2014) of reports in English, by the Java program in pycocoevalcap.

Its scores are kept like those of a judge (evaluate/judge/). Without Java or the package, there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from shutil import which
from typing import Any

from medvlm.core.measure import OfJudge
from medvlm.core.protocols import Record, Split
from medvlm.core.sample import truth_from_json
from medvlm.core.tasks import find_task
from medvlm.evaluate.kept import collect_kept, hash_texts, list_said

NAME, VERSION = "meteor", "1.5"
AT_ONCE = 2048
"""Texts that are scored before their scores are kept. Java takes seconds to start for them."""


class Meteor:
    """The mean over reports of their scores. The score that METEOR itself gives for a whole set differs a little: it
    adds up the statistics of all texts first."""

    def __init__(self) -> None:
        missing = {"java": not which("java"), "the package pycocoevalcap": find_spec("pycocoevalcap") is None}
        self.why = "; ".join(f"{what} is not installed" for what, is_missing in missing.items() if is_missing)

    def describe(self) -> dict[str, Any]:
        failed = {"not_checked": {"METEOR": self.why}} if self.why else {}
        return {NAME: {"version": VERSION, "language": "en"}, **failed}

    def judge(self, records: Sequence[Record], split: Split) -> list[Record]:
        """The records, with `judged`: `meteor` -> the scores of the model's answer and of those of the baselines. An
        empty answer has 0."""
        asked = [_list_texts(record) for record in records]
        if not any(asked):
            return list(records)
        if self.why:
            split.notes.append(f"METEOR: not checked ({self.why})")
            return list(records)
        wanted = {
            _hash(*texts): {"reference": texts[0], "answer": texts[1]}
            for of_record in asked
            for texts in of_record.values()
            if texts[1].strip()
        }
        found = collect_kept(f"{NAME}-{VERSION}", wanted, partial(_compute, wanted), _is_score, split, AT_ONCE)
        scored = []
        for record, of_record in zip(records, asked, strict=True):
            own = {who: found[_hash(*texts)]["score"] if texts[1].strip() else 0.0 for who, texts in of_record.items()}
            scored.append({**record, "judged": {**record.get("judged", {}), NAME: own}} if own else record)
        return scored


def _list_texts(record: Record) -> dict[str, tuple[str, str]]:
    """Who -> (reference, answer); {} for a question whose task has no such measure."""
    truth = truth_from_json(record["truth"])
    measures = find_task(truth.task).MEASURES
    if not any(isinstance(each.columns, OfJudge) and each.columns.rubric == NAME for each in measures):
        return {}
    return {who: (truth.answer, text) for who, text in list_said(record)}


def _compute(wanted: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[Record]:
    from pycocoevalcap.meteor.meteor import Meteor as Program

    program = Program()
    try:
        # It reads a text a line, and ||| between texts.
        lines = [{name: _join(wanted[key][name]) for name in ("reference", "answer")} for key in keys]
        references, answers = ({n: [line[name]] for n, line in enumerate(lines)} for name in ("reference", "answer"))
        _, scores = program.compute_score(references, answers)
    finally:
        program.meteor_p.kill()
        program.meteor_p.wait()
    return [{"score": float(score)} for score in scores]


def _join(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())


def _hash(reference: str, answer: str) -> str:
    return hash_texts({"meteor": VERSION, "reference": reference, "answer": answer})


def _is_score(entry: Record) -> bool:
    return isinstance(entry["score"], float)
