"""Writes questions of shards as a task folder of lmms-eval, and scores its answers as medvlm does.

    TO/TASK.yaml  TO/TASK/questions.jsonl  TO/TASK/images/KEY.0.png  TO/utils.py

`lmms-eval --include_path TO --tasks TASK`. The format is that of lmms-eval 0.7.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm.core.card import load_card
from medvlm.core.document import to_yaml
from medvlm.core.errors import DataError
from medvlm.core.measure import ByTemplate, Measure, OfJudge, fit_columns, mean
from medvlm.core.sample import Sample, truth_from_json
from medvlm.core.scoring import dump_rule, list_rule_measures
from medvlm.core.tasks import find_task, is_scored
from medvlm.evaluate.measures import join_measures
from medvlm.io.images import suffix_of
from medvlm.io.opening import open_shards

PICTURES = ("png", "jpg")
UTILS = '''"""Written by medvlm. lmms-eval calls these functions with a question."""

from medvlm.evaluate.lmms_eval.tasks import list_pictures as doc_to_visual
from medvlm.evaluate.lmms_eval.tasks import score_answer as process_results


def doc_to_text(doc, kwargs=None):
    return doc["question"]
'''


def write_tasks(shards: str, split: str, to: Path, max_new_tokens: int = 64) -> tuple[str, int, Counter[str]]:
    """The name of the task, the number of its questions, and why others are left out: reason -> count.

    shards: a folder that medvlm packed. to: other tasks in it stay. Raises DataError if nothing can be asked."""
    opened, card = open_shards(shards), load_card(Path(shards) / "card.yaml")
    name = re.sub(r"[^a-z0-9]+", "_", f"medvlm_{card.name}_{split}".lower())
    rules = [dump_rule(rule) for rule in card.scoring]
    folder, left_out = to / name, Counter[str]()
    records: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(opened.count(split)):
        sample, files = opened.read(split, i)
        if why := _explain_media(sample, files):
            left_out[why] += len(sample.questions)
            continue
        alone = [q for q in sample.questions if not (q.turn or q.system)]
        left_out["a turn of a dialogue, or with a system prompt of its own"] += len(sample.questions) - len(alone)
        asked = [q for q in alone if is_scored(q.truth) and not find_task(q.truth.task).NEEDS_CANVAS]
        left_out["no short answer in words"] += len(alone) - len(asked)
        paths = [folder / "images" / f"{sample.key}.{medium.member}" for medium in sample.media]
        for path, medium in zip(paths, sample.media, strict=True) if asked else ():
            path.write_bytes(files[medium.member])
        for question in asked:
            records.append({
                "id": f"{sample.key}-{len(records)}", "question": question.text, "template": question.template,
                "reference": find_task(question.truth.task).write(question.truth),
                "truth": json.dumps(question.truth.to_json()), "scoring": json.dumps(rules),
                "images": [str(path.resolve()) for path in paths],
            })  # fmt: skip
    if not records:
        raise DataError(
            f"{shards}:{split}: no question that lmms-eval can ask ({dict(+left_out)}); choose another split"
        )
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    (to / "utils.py").write_text(UTILS, encoding="utf-8")
    described = _describe_task(name, folder, records, rules, max_new_tokens)
    (to / f"{name}.yaml").write_text(described, encoding="utf-8")
    return name, len(records), +left_out


def _explain_media(sample: Sample, files: Mapping[str, bytes]) -> str:
    """Why the media of a sample cannot be shown; "" if they can."""
    if not all(suffix_of(files[medium.member]) in PICTURES for medium in sample.media):
        return "a medium that is no picture, such as a volume"
    return ""


def _describe_task(
    name: str, folder: Path, records: Sequence[Mapping[str, Any]], rules: Any, max_new_tokens: int
) -> str:
    truths = [(record["template"], truth_from_json(json.loads(record["truth"]))) for record in records]
    measures = [
        measure
        for measure in _list_measures({truth.task for _, truth in truths}, rules)
        if any(measure.is_about(template, truth) for template, truth in truths)
    ]
    functions = "".join(
        f"{key}: !function utils.{function}\n"
        for key, function in (
            ("doc_to_visual", "doc_to_visual"),
            ("doc_to_text", "doc_to_text"),
            ("process_results", "process_results"),
        )
    )
    return functions + to_yaml(
        {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str((folder / "questions.jsonl").resolve())}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_target": "reference",
            "generation_kwargs": {"max_new_tokens": max_new_tokens, "temperature": 0, "do_sample": False},
            "metric_list": [
                {"metric": _name(measure), "aggregation": "mean", "higher_is_better": measure.better == "higher"}
                for measure in measures
            ],
        }
    )


def _list_measures(tasks: set[str], rules: Any) -> list[Measure]:
    """Those that are a mean over the questions, which lmms-eval averages, and that need no judge model."""
    every = [*join_measures(tasks), *list_rule_measures(rules)]
    return [m for m in every if m.statistic is mean and not m.by_class and not isinstance(m.columns, OfJudge)]


def _name(measure: Measure) -> str:
    """Of the strict score as in medvlm, of a rule with its name: medevalkit_accuracy."""
    return f"{measure.group}_{measure.metric}"


# --- what lmms-eval calls ---------------------------------------------------------------------------


def list_pictures(doc: Mapping[str, Any]) -> list[Any]:
    """PIL images, RGB."""
    from PIL import Image

    return [Image.open(path).convert("RGB") for path in doc["images"]]


def score_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Metric -> score of the answer, for the metrics that are about the question."""
    truth = truth_from_json(json.loads(doc["truth"]))
    scores = {}
    for measure in _list_measures({truth.task}, json.loads(doc["scoring"])):
        if measure.is_about(doc["template"], truth):
            columns = fit_columns(measure, [truth])
            columns = columns.of(doc["template"]) if isinstance(columns, ByTemplate) else columns
            scores[_name(measure)] = float(columns(results[0], truth)[0])
    return scores
