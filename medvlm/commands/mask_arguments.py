"""The arguments of `medvlm segment`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medvlm.commands.data_arguments import add_verb


def add_segment_verb(verbs: Any, add_model_options: Callable[[argparse.ArgumentParser], None]) -> None:
    segment = add_verb(verbs, "segment", "write the mask of an image or volume, on its own pixels")
    segment.add_argument("model", metavar="MODEL", help="a run or an exported folder with a decoder of masks")
    segment.add_argument("file", type=Path, metavar="FILE", help="an image, a volume, or the folder of a DICOM series")
    segment.add_argument(
        "--to", type=Path, required=True, metavar="FILE.nii.gz|FILE.dcm|FILE.png", help="file to write to"
    )
    segment.add_argument("--decoder", default="", metavar="NAME", help="which decoder, if there are several")
    segment.add_argument(
        "--only", action="append", default=[], metavar="CLASS", help="write only this class; may be repeated"
    )
    segment.add_argument("--page", type=Path, metavar="FILE.html", help="page with the mask over the image")
    segment.add_argument(
        "--overlap",
        type=read_overlap,
        default=0.5,
        metavar="SHARE",
        help="of neighbouring windows, for models with a spacing (default: 0.5)",
    )
    segment.add_argument(
        "--flip",
        action="append",
        default=[],
        choices=["depth", "height", "width"],
        help="average over mirror images along an axis too; may be repeated",
    )
    segment.add_argument(
        "--largest", action="append", default=[], metavar="CLASS", help="keep only its largest component"
    )
    segment.add_argument(
        "--least-ml",
        action="append",
        default=[],
        type=read_class_number,
        metavar="CLASS=ML",
        help="drop components of it that are smaller; may be repeated",
    )
    segment.add_argument(
        "--split",
        action="append",
        default=[],
        type=read_class_number,
        metavar="CLASS=PX",
        help="cut it where its objects touch, whose centres are at least so many pixels apart; may be repeated",
    )
    _add_prompts(segment)
    add_model_options(segment)


def _add_prompts(segment: argparse.ArgumentParser) -> None:
    segment.add_argument(
        "--box",
        action="append",
        default=[],
        type=read_box,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="around an object, in pixels of the file, for a decoder that takes prompts; may be repeated",
    )
    segment.add_argument(
        "--point",
        action="append",
        default=[],
        type=read_point,
        metavar="X,Y[,0]",
        help="on the object, or with ,0 beside it; may be repeated",
    )
    segment.add_argument(
        "--words", default="", metavar="TEXT", help="what to mark, in words, for a decoder that reads texts"
    )


def read_box(text: str) -> tuple[float, float, float, float]:
    """LEFT,TOP,RIGHT,BOTTOM, as `type` of an argument."""
    numbers = _read_numbers(text)
    if len(numbers) != 4 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise argparse.ArgumentTypeError(f"{text!r}: expected LEFT,TOP,RIGHT,BOTTOM, e.g. 40,60,120,150")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def read_point(text: str) -> tuple[float, float, bool]:
    """X,Y or X,Y,1 or X,Y,0, as `type` of an argument."""
    numbers = _read_numbers(text)
    if len(numbers) not in (2, 3) or numbers[2:] not in ([], [0.0], [1.0]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected X,Y of a point on the object, or X,Y,0 of one beside it")
    return numbers[0], numbers[1], numbers[2:] != [0.0]


def _read_numbers(text: str) -> list[float]:
    """[] for a text that is no list of finite numbers of at least 0."""
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        return []
    return numbers if all(0 <= each < float("inf") for each in numbers) else []


def read_overlap(text: str) -> float:
    """A share in [0, 1), as `type` of an argument."""
    try:
        share = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 0 and less than 1")
    return share


def read_class_number(text: str) -> tuple[str, float]:
    """CLASS=NUMBER, as `type` of an argument."""
    name, separator, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not name or not separator or not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected CLASS=NUMBER, e.g. liver=0.5")
    return name, value
