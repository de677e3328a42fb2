"""Stores drawn answers with their questions, images and rewards, for people: in the report and as files.

STAGE/rollouts/step-N.jsonl has a line for each answer, in the form of the answers of an evaluation, and the images of
the step beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from medvlm.core.tasks import find_task
from medvlm.io.images import encode_png
from medvlm.rollouts._contract import Answer, Prompt
from medvlm.stages._drawn import Drawn, Score
from medvlm.stages._policy import Policy

FOLDER = "rollouts"


def write_rollouts(
    stage: Path, step: int, drawn: Sequence[Drawn], questions: int, policy: Policy, is_cut: Callable[[Answer], bool]
) -> None:
    """stage: the folder of the stage. step: counted from 1. questions: how many are stored."""
    folder, lines = stage / FOLDER, list[str]()
    folder.mkdir(parents=True, exist_ok=True)
    for number, (prompt, answers) in enumerate(islice(_list_groups(drawn), questions)):
        image = ""
        if prompt.sample.media:
            image = f"step-{step}.{number}.png"
            _write(folder / image, encode_png(policy.setup.prepare.picture(prompt.sample, prompt.files)))
        asked = _describe(prompt, policy) | {"step": step, "thumb": f"{FOLDER}/{image}" if image else None}
        for answer, (total, parts), advantage in answers:
            own = {
                "answer": policy.read(answer.ids),
                **(
                    {"before": [[policy.read(ids), seen.text] for ids, seen in answer.earlier]}
                    if answer.earlier
                    else {}
                ),
                "score": total,
                "rewards": parts,
                "advantage": advantage,
                "tokens": len(answer.written),
                **({"cut": ["answer"]} if is_cut(answer) else {}),
            }
            lines.append(json.dumps({**asked, **own}, ensure_ascii=False))
    _write(folder / f"step-{step}.jsonl", "".join(f"{line}\n" for line in lines).encode())


def _list_groups(drawn: Sequence[Drawn]) -> Iterator[tuple[Prompt, list[tuple[Answer, Score, float]]]]:
    """Each question with its answers, what they earned, and their advantages."""
    for each in drawn:
        assert each.advantage_PG is not None
        for prompt, answers, scored, advantages in zip(
            each.prompts, each.groups, each.scored, each.advantage_PG.tolist(), strict=True
        ):
            yield prompt, list(zip(answers, scored, advantages, strict=True))


def _describe(prompt: Prompt, policy: Policy) -> dict[str, Any]:
    truth, scale = prompt.truth, None
    if find_task(truth.task).has_coordinates(truth):
        prepare = policy.setup.prepare
        canvas = prepare.see(prompt.sample, prompt.files).canvas
        scale = list(prepare.boxes.extent(canvas)) if canvas else None
    return {
        "dataset": prompt.source,
        "key": prompt.key,
        "task": truth.task,
        "question": prompt.text,
        "truth": truth.to_json(),
        "scale": scale,
    }


def _write(path: Path, data: bytes) -> None:
    """Atomically, so that a reader never sees half of a file."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
