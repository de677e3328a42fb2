"""`medvlm segment` and `medvlm plan --fingerprint` in Python and on the command line. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medvlm.commands.data_verbs import Where
from medvlm.core.errors import RecipeError


def segment(
    model: Where,
    file: Where,
    to: Where,
    *,
    decoder: str = "",
    only: Sequence[str] = (),
    stage: str = "",
    kind: str = "",
    overlap: float = 0.5,
    flip: Sequence[str] = (),
    largest: Sequence[str] = (),
    least_ml: Mapping[str, float] | None = None,
    page: Where | None = None,
    box: Sequence[tuple[float, float, float, float]] = (),
    point: Sequence[tuple[float, float, bool]] = (),
    words: str = "",
    split: Mapping[str, float] | None = None,
) -> list[Any]:
    """Write the mask of an image or volume (.png, .nii, .nii.gz, .dcm); returns name, pixels, ml and components of each
    class. box, point, words: what shows objects to a decoder that takes prompts."""
    from medvlm.commands.segment import segment as run

    return [
        *run(
            str(model),
            Path(file),
            Path(to),
            decoder=decoder,
            only=only,
            stage=stage,
            kind=kind,
            overlap=overlap,
            flip=flip,
            largest=largest,
            least_ml=least_ml,
            page=None if page is None else Path(page),
            box=box,
            point=point,
            words=words,
            split=split,
        )
    ]


def print_segmented(args: argparse.Namespace) -> None:
    found = segment(
        args.model,
        args.file,
        args.to,
        decoder=args.decoder,
        only=args.only,
        stage=args.stage,
        kind=args.kind,
        overlap=args.overlap,
        flip=args.flip,
        largest=args.largest,
        least_ml=dict(args.least_ml),
        page=args.page,
        box=args.box,
        point=args.point,
        words=args.words,
        split=dict(args.split),
    )
    for each in found:
        volume = "" if each.ml is None else f", {each.ml:.2f} ml"
        parts = "1 component" if each.parts == 1 else f"{each.parts} components"
        print(f"{each.name}: {each.pixels:,} pixels{volume}, {parts}")
    print(f"{args.to}" + (f", {args.page}" if args.page else ""))


def print_proposal(args: argparse.Namespace) -> None:
    """Of `medvlm plan --fingerprint`. Raises RecipeError unless there is either a recipe or data to propose one for."""
    from medvlm.commands.fingerprint import propose_recipe

    if args.fingerprint is None or args.recipe:
        raise RecipeError("plan needs a RECIPE, or --fingerprint SHARDS to propose one")
    print(propose_recipe(args.fingerprint, args.gpu_gib, partial(print, file=sys.stderr)))
