"""The arguments of `medvlm init`. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medvlm.commands.data_arguments import add_verb

GOALS = ("answers", "captions", "labels", "masks")


def add_init(verbs: Any) -> None:
    init = add_verb(verbs, "init", "look at a folder or a table, and write a data card and a recipe for it")
    init.add_argument(
        "--data",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="folder to look at: tables, folders of classes, images with masks, COCO, conversations, parquet, DICOM,"
        " NIfTI, slides",
    )
    init.add_argument(
        "--csv",
        type=Path,
        default=None,
        metavar="FILE",
        help="the table (.csv, .tsv, .jsonl or .json); the first line of a CSV or TSV file names the columns (default:"
        " look for it in --data)",
    )
    init.add_argument(
        "--model",
        default="",
        metavar="PATH_OR_ID",
        help="folder or hub id of a pretrained vision-language model, CLIP or SigLIP model, or image encoder (default:"
        " small networks from random weights)",
    )
    init.add_argument(
        "--for", dest="goal", choices=GOALS, default="", help="what the model is to learn (default: what fits the data)"
    )
    init.add_argument(
        "--image",
        default="",
        metavar="COL",
        help="column with the path of the image, absolute or relative to the table's folder",
    )
    init.add_argument("--question", default="", metavar="COL", help="column with the question")
    init.add_argument("--answer", default="", metavar="COL", help="column with the answer")
    init.add_argument(
        "--captions",
        default="",
        metavar="COL",
        help="column with the report or caption of the image; replaces --question and --answer",
    )
    init.add_argument(
        "--patient",
        default="",
        metavar="COL",
        help="column that identifies the patient; no patient will be in more than one split",
    )
    init.add_argument(
        "--to", type=Path, default=Path(), metavar="DIR", help="folder to write to (default: the current folder)"
    )
    init.add_argument(
        "overrides",
        nargs="*",
        metavar="key.path=value",
        help="settings of the data card, e.g. phi.status=none licence.id=CC0-1.0 reader.nifti.orientation=LAS",
    )
