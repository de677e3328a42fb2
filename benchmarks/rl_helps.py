"""Measures whether reinforcement learning helps: the score of greedy answers after `reason`, compared with `instruct`
and with the same number of further supervised steps.

    python benchmarks/rl_helps.py runs/phantom --seeds 3

Takes a finished run whose last stage is `grpo`. From the stage before it, trains for each seed the `grpo` stage and a
supervised stage with the same number of steps, the settings of the last supervised stage and the learning rate of the
`grpo` stage. All answer the same held-out questions. The score is that of the answer (choice, count, overlap of boxes),
never of its format. Differences are paired by question; intervals resample patients. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import yaml

from medvlm.commands.evaluate import evaluate
from medvlm.commands.train import train
from medvlm.core.measure import mean
from medvlm.core.run import RunFolder
from medvlm.metrics.bootstrap import interval, resample
from medvlm.recipe.load import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of both arms (default: those of the run's grpo stage)"
    )
    args = parser.parse_args()
    resolved = yaml.safe_load(RunFolder(args.run).recipe.read_text())
    *before, reinforced = resolved["stages"]
    assert reinforced["kind"] == "grpo", f"the last stage of {args.run} is {reinforced['kind']}"
    steps = args.steps or reinforced["steps"]
    base = next(stage for stage in reversed(before) if stage["kind"] == "supervised")
    scores = {"instruct": [_score_arm(args.run, resolved, before, "base")] * args.seeds, "grpo": [], "supervised": []}
    for seed in range(args.seeds):
        # A stage's name is part of the key of its random numbers, so another name acts as another seed.
        # It uses the learning rate of the grpo stage: that of `base` has decayed, and restarting with its initial value
        # would set the model back.
        more = {
            **base,
            "name": f"more_{seed}",
            "steps": steps,
            "lora": None,
            "validate": None,
            "keep": "last",
            "optim": reinforced["optim"],
        }
        policy = {**reinforced, "name": f"reason_{seed}", "steps": steps}
        scores["grpo"].append(_score_arm(args.run, resolved, [*before, policy], f"grpo_{seed}"))
        scores["supervised"].append(_score_arm(args.run, resolved, [*before, more], f"more_{seed}"))
    clusters, tasks = ([line[key] for line in scores["instruct"][0]] for key in ("cluster", "task"))
    result = {"benchmark": "rl_helps", "steps": steps, "seeds": args.seeds}
    result |= {"questions": len(clusters), "patients": len(set(clusters))}
    for arm, runs in scores.items():
        result[arm] = [round(float(np.mean([line["score"] for line in run])), 4) for run in runs]
    for against in ("instruct", "supervised"):
        # Per question: the mean over seeds of the paired difference.
        gaps = np.mean(
            [
                [a["score"] - b["score"] for a, b in zip(x, y, strict=True)]
                for x, y in zip(scores["grpo"], scores[against], strict=True)
            ],
            axis=0,
        )
        for task in ("", *sorted(set(tasks))):
            chosen = [i for i, each in enumerate(tasks) if task in ("", each)]
            items = np.stack([gaps[chosen], np.ones(len(chosen))], axis=1)
            patients = [clusters[i] for i in chosen]
            drawn_R = resample(items, patients, mean, 2000)
            ci = interval(drawn_R, gaps[chosen].mean(), len(set(patients)), (-1.0, 1.0))
            result[f"grpo_minus_{against}{task and f':{task}'}"] = {
                "difference": round(float(gaps[chosen].mean()), 4),
                "ci": [round(x, 4) for x in ci],
                "n": len(chosen),
            }
    print(json.dumps(result))


def _score_arm(origin: Path, resolved: dict, stages: list[dict], arm: str) -> list[dict]:
    """Every held-out question with its patient (`cluster`), task and score, in the order of the shards."""
    runs = origin.parent
    name = f"{resolved['name']}-rl-{arm}"
    target = runs / name
    target.mkdir(exist_ok=True)
    for stage in resolved["stages"][:-1]:
        if not (target / stage["name"]).exists():
            shutil.copytree(origin / stage["name"], target / stage["name"])
    if not (target / "tokenizer").exists():
        shutil.copytree(origin / "tokenizer", target / "tokenizer")
    recipe = {**resolved, "name": name, "stages": stages}
    recipe["data"] = {
        source: {**entry, "card": str((origin / entry["card"]).resolve())} for source, entry in resolved["data"].items()
    }
    recipe["evaluate"] = {**resolved["evaluate"], "baselines": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        train(load(path), runs)
    evaluate(target)
    return [json.loads(line) for line in RunFolder(target).answers.read_text().splitlines()]


if __name__ == "__main__":
    main()
