"""The arguments of the commands that prove something to others. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvlm.commands.data_arguments import add_verb


def add_proof_verbs(verbs: Any) -> None:
    rl_helps = add_verb(
        verbs,
        "rl-helps",
        "train a stage with rewards and a supervised control of equal compute with several seeds, and say whether"
        " reinforcement helped; says what it costs, and does it with --yes; run the same command again to resume",
    )
    rl_helps.add_argument("run_folder", type=Path, metavar="RUN", help="a run whose recipe has a stage with rewards")
    rl_helps.add_argument(
        "overrides", nargs="*", metavar="key.path=value", help="of evaluate, engine, stages.reinforced, stages.control"
    )
    rl_helps.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="SOURCE[:SPLIT]",
        help="data to evaluate on; may be repeated (default: evaluate.on of the recipe)",
    )
    rl_helps.add_argument("--stage", default="", help="the stage with rewards (default: the last one)")
    rl_helps.add_argument("--seeds", type=int, default=3, help="number of runs of each arm (default: 3)")
    rl_helps.add_argument("--to", type=Path, metavar="DIR", help="folder of these runs (default: RUN/rl-helps)")
    rl_helps.add_argument("--yes", action="store_true", help="train and evaluate")

    evidence = add_verb(
        verbs,
        "evidence",
        "write a folder from which others can check the results of a run: hashes, environment, lineage, answers, scores"
        " and page, without images and without keys of samples",
    )
    evidence.add_argument("run_folder", type=Path, metavar="RUN", help="an evaluated run, e.g. runs/NAME")
    evidence.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write")
    evidence.add_argument("--model", type=Path, metavar="DIR", help="the exported model of this run, to hash its files")

    verify = add_verb(
        verbs, "verify", "check a folder of evidence: hashes, the saved answers scored again; says what is not checked"
    )
    verify.add_argument("folder", type=Path, metavar="DIR", help="what medvlm evidence wrote")
    verify.add_argument("--model", type=Path, metavar="DIR", help="the exported model that the evidence is about")
