"""`medvlm data turns`: shards of dialogues in which an expert calls the tools of a recipe."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvlm.compositions._expert import open_expert
from medvlm.core.durable import sync_folder
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Sample
from medvlm.core.tool_config import Environment
from medvlm.io.images import encode_npy, encode_png, fits_png
from medvlm.io.opening import open_shards
from medvlm.io.shards import ShardWriter
from medvlm.recipe.load import load
from medvlm.tools._teach import teach

CARD = "card.yaml"


@dataclass(frozen=True)
class Taught:
    """folder: of the new shards. samples: split -> number of dialogues. without: samples for which no tool is
    called."""

    folder: Path
    samples: Mapping[str, int]
    without: int

    def __str__(self) -> str:
        each = ", ".join(f"{split} {number}" for split, number in self.samples.items())
        left = f"; {self.without} samples without a call are left out" if self.without else ""
        return f"{self.folder}: {sum(self.samples.values())} dialogues ({each}){left}"


def write_turns(shards: str, recipe: str, to: Path, say: Callable[[str], None] = lambda line: None) -> Taught:
    """shards: a folder. recipe: its `environment` has the tools, each with `taught_by`. Each question becomes a sample
    of its own, since it has media of its own. Samples stay in their splits; what they show is not copied from
    elsewhere, so their card holds for the new shards too.

    Raises RecipeError for a recipe without such tools, DataError if `to` exists or a tool cannot follow the expert."""
    environment = load(recipe).recipe.environment
    if environment is None or not any(tool.taught_by for tool in environment.tools):
        raise RecipeError(
            f"{recipe}: environment: no tool says what an expert calls it for; give it `taught_by`, the template of a"
            " question"
        )
    if to.exists():
        raise DataError(f"{to}: exists already; choose another folder, or delete it")
    work = to.with_name(f".{to.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        made = _write(shards, environment, work, say)
        if (card := Path(shards) / CARD).is_file():
            shutil.copyfile(card, work / CARD)
        sync_folder(work)
        work.rename(to)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return replace(made, folder=to)


def _write(where: str, environment: Environment, work: Path, say: Callable[[str], None]) -> Taught:
    shards = open_shards(where)
    counts, without = Counter[str](), 0
    for split in shards.splits:
        with ShardWriter(work, split) as writer:
            for number in range(shards.count(split)):
                sample, files = shards.read(split, number)
                dialogues = [_store(*each) for each in teach(sample, files, environment, open_expert)]
                without += not dialogues
                for sample, files in dialogues:
                    writer.write(sample, files)
                counts[split] += len(dialogues)
                if number % 100 == 0:
                    say(f"{split}: {number}/{shards.count(split)}")
    if not counts.total():
        raise DataError(f"{where}: no sample has a question that `taught_by` of a tool names")
    return Taught(work, dict(counts), without)


def _store(sample: Sample, files: Mapping[str, Any]) -> tuple[Sample, dict[str, bytes]]:
    """The sample with the media that tools made as files."""
    stored: dict[str, bytes] = {name: data for name, data in files.items() if isinstance(data, bytes)}
    media: list[Medium] = []
    for medium in sample.media:
        array = files[medium.member]
        if not isinstance(array, bytes):
            is_picture = fits_png(array)
            member = f"{medium.member.partition('.')[0]}.{'png' if is_picture else 'npy'}"
            stored[member] = encode_png(array) if is_picture else encode_npy(array)
            medium = replace(medium, member=member)
        media.append(medium)
    return replace(sample, media=tuple(media)), stored
