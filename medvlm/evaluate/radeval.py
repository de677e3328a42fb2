"""Metrics of the package RadEval for reports of chest radiographs in English, in an environment of its own.

https://github.com/jbdel/RadEval (MIT), version 2.2: RadGraph-F1, CheXbert, GREEN, CRIMSON. Each report has a score,
which is kept like that of a judge (evaluate/judge/). A metric whose weights or libraries are missing has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from medvlm.core.protocols import Record, Split
from medvlm.core.radeval_config import KEYS, LOWEST, RadEvalConfig
from medvlm.core.sample import truth_from_json
from medvlm.core.tasks import list_rubrics
from medvlm.evaluate.kept import collect_kept, hash_texts, list_said
from medvlm.evaluate.pieces import hash_identity
from medvlm.rewards._radeval import RadEvalProcess

AT_ONCE = 64
WHERE = "evaluate.radeval"


class RadEval:
    """Scores reports whose card calls them chest radiographs in English."""

    def __init__(self, config: RadEvalConfig):
        """Raises RecipeError if there is no such interpreter, or no RadEval in its environment."""
        self.config, self.failed = config, dict[str, str]()
        self.child: RadEvalProcess | None = None
        self.version = self._start().version

    def describe(self) -> dict[str, Any]:
        own = {"radeval": {"version": self.version, "metrics": list(self.config.metrics)}}
        failed = {f"RadEval {metric}": why for metric, why in self.failed.items()}
        return {**own, **({"not_checked": failed} if failed else {})}

    def judge(self, records: Sequence[Record], split: Split) -> list[Record]:
        """The records, with `judged`: `radeval_KEY` -> the scores of the model's answer and of those of the baselines.
        An empty answer has the lowest score."""
        asked = [self._list_texts(record) for record in records]
        if not any(asked):
            return list(records)
        scores = [dict(record.get("judged", {})) for record in records]
        for metric in self.config.metrics:
            wanted = {
                self._hash(metric, *texts): {"metric": metric, "reference": texts[0], "answer": texts[1]}
                for of_record in asked
                for texts in of_record.values()
                if texts[1].strip()
            }
            name = f"radeval-{hash_identity({'version': self.version, 'metric': metric})}"
            found = collect_kept(name, wanted, partial(self._ask, metric, wanted), _is_reply, split, AT_ONCE)
            if error := next((entry["error"] for entry in found.values() if "error" in entry), ""):
                split.notes.append(f"RadEval {metric}: not checked ({error})")
                continue
            for of_record, own in zip(asked, scores, strict=True):
                for key in KEYS[metric] if of_record else ():
                    own[f"radeval_{key}"] = {
                        who: found[self._hash(metric, *texts)]["scores"][key]
                        if texts[1].strip()
                        else LOWEST.get(key, 0.0)
                        for who, texts in of_record.items()
                    }
        self._stop()
        return [{**record, "judged": own} if own else record for record, own in zip(records, scores, strict=True)]

    def _list_texts(self, record: Record) -> dict[str, tuple[str, str]]:
        """Who -> (reference, answer); {} for what is no such report."""
        truth = truth_from_json(record["truth"])
        if not {*list_rubrics(truth, record["template"])} & {
            f"radeval_{key}" for keys in KEYS.values() for key in keys
        }:
            return {}
        return {who: (truth.answer, text) for who, text in list_said(record)}

    def _hash(self, metric: str, reference: str, answer: str) -> str:
        return hash_texts({"version": self.version, "metric": metric, "reference": reference, "answer": answer})

    def _ask(self, metric: str, wanted: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[Record]:
        """The scores of each; or the same error for all, so that no other chunk is tried."""
        if metric not in self.failed:
            references, texts = ([wanted[key][name] for key in keys] for name in ("reference", "answer"))
            asked = {"metric": metric, "references": references, "texts": texts}
            reply = self._start().ask(asked, self.config.timeout_s)
            scores = reply.get("scores", {})
            if "error" in reply:
                self.failed[metric] = " ".join(str(reply["error"]).split())[:300]
            elif missing := [key for key in KEYS[metric] if len(scores.get(key, ())) != len(keys)]:
                self.failed[metric] = f"RadEval {self.version} gives no {missing[0]} for each report"
        if metric in self.failed:
            return [{"error": self.failed[metric]} for _ in keys]
        return [
            {"scores": {key: scores[key][n] if math.isfinite(scores[key][n]) else None for key in KEYS[metric]}}
            for n in range(len(keys))
        ]

    def _start(self) -> RadEvalProcess:
        self.child = self.child or RadEvalProcess(self.config.python, WHERE)
        return self.child

    def _stop(self) -> None:
        """Frees the memory of its models."""
        if self.child:
            self.child.stop()
            self.child = None


def _is_reply(entry: Record) -> bool:
    return isinstance(entry.get("scores"), dict)
