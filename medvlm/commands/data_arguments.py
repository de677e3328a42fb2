"""The arguments of `medvlm data ...`. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from medvlm.commands.number_arguments import read_count


def add_data_verbs(verbs: Any) -> None:
    data = add_verb(verbs, "data", "pack, audit and inspect data sets").add_subparsers(required=True, metavar="COMMAND")
    pack = add_verb(data, "pack", "convert a data set to shards")
    pack.add_argument("card", help="its data card: a YAML file, or the name of a shipped card")
    pack.add_argument(
        "--root",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the original files; omit it for generated data",
    )
    pack.add_argument(
        "--out", required=True, metavar="DIR", help="where to write the shards: a folder, s3://... or gs://..."
    )
    pack.add_argument(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="number of processes that decode (default: one per CPU core)",
    )
    pack.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="file with the secret with which patients and keys are hashed; the shards do not contain it",
    )
    pack.add_argument(
        "--max-bad", type=float, default=0.01, help="largest share of unreadable samples allowed (default: 0.01)"
    )
    audit = add_verb(
        data,
        "audit",
        "check that no patient and no image is in two splits or in a benchmark, and what the licences allow together",
    )
    audit.add_argument(
        "sets", nargs="+", metavar="CARD_OR_SHARDS", help="shards, a card, or CARD=ROOT to read original files"
    )
    audit.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SHARDS[:SPLIT]",
        help="a benchmark that must not be trained on; may be repeated (default: its test split)",
    )
    audit.add_argument(
        "--salt-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="file with the secret for the data sets given as CARD=ROOT, as in pack",
    )
    audit.add_argument(
        "--to",
        type=Path,
        default=None,
        metavar="FILE",
        help="where to write the receipt (default: audit.json in each folder of shards)",
    )
    audit.add_argument(
        "--strict",
        action="store_true",
        help="treat warnings (near duplicates, shared questions, doubtful terms) as errors",
    )
    stats = add_verb(data, "stats", "write a page with counts, sizes, intensities, answers and text lengths")
    stats.add_argument("shards", help="a folder of shards")
    stats.add_argument(
        "--to", type=Path, default=Path("stats.html"), metavar="FILE", help="file to write to (default: stats.html)"
    )
    stats.add_argument(
        "--recipe", default="", help="a recipe whose model would be shown the images: adds their pixels and millimetres"
    )
    show = add_verb(data, "show", "write a page with samples, their boxes and questions")
    show.add_argument("shards", help="a folder of shards")
    show.add_argument(
        "--to", type=Path, default=Path("gallery.html"), metavar="FILE", help="file to write to (default: gallery.html)"
    )
    show.add_argument("--split", default=None, help="show only this split (default: all)")
    show.add_argument("--count", type=read_count, default=48, help="number of samples (default: 48)")

    turns = add_verb(data, "turns", "write shards of dialogues in which an expert calls the tools of a recipe")
    turns.add_argument("shards", help="a folder of shards")
    turns.add_argument("--recipe", required=True, metavar="FILE", help="a recipe whose `environment` has the tools")
    turns.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write the new shards to")

    tasks = add_verb(data, "tasks", "write a task folder for the package lmms-eval")
    tasks.add_argument("shards", metavar="SHARDS[:SPLIT]", help="a folder of shards (default split: test)")
    tasks.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to; other tasks stay")
    tasks.add_argument(
        "--max-new-tokens", type=read_count, default=64, metavar="N", help="maximum length of an answer (default: 64)"
    )


def add_verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    made.set_defaults(verb=name.replace("-", "_"))
    return made
