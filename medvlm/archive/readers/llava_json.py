"""Conversations about images in LLaVA's format: `id`, `image` (one or several), and turns `from` human and gpt.

Each human turn and the answer to it become a question of the sample. medvlm puts the images before the text, so
`<image>` is removed from it. If a sample has several images, one that is mentioned within a text becomes its number,
e.g. `(image 2)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from medvlm.archive.tables.columns import file_in
from medvlm.archive.tables.records import Format, cell_text, format_of, records, word_for
from medvlm.archive.tables.split_files import Files, by_split
from medvlm.core.config import Config as Base
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.tasks import CardTask, read_truth

IMAGE = "<image>"


class Config(Base):
    kind: Literal["llava_json"]
    file: Files
    """JSON list or JSON lines, under the root; or, where each split has one, split -> file."""
    format: Format | None = None
    """By the file's suffix when absent."""
    images: str = "."
    """Folder that the records' `image` is relative to, under the root."""
    medium: str
    """What the card's `media` calls the images."""
    modality: str = ""
    turns: tuple[str, ...] = ("conversations", "conversatons")
    """Possible keys of the turns; a record has one of them. The second is LLaVA-Med's spelling."""
    task: CardTask = "open"
    """`report` for long answers, such as captions; another task by its name or with its settings. A question is left
    out if the task cannot read its answer."""
    choices: tuple[str, ...] = ()
    """An answer that is one of these (case is ignored) makes the question a choice between them."""
    history: bool = False
    """Writes the earlier turns above each question. Without it, questions that refer to an earlier answer lose their
    context."""
    template: str = "turn"
    """Groups the questions for the majority baseline."""


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample per record, in file order. Raises DataError for a file that is not of the format."""
    assert root is not None, "conversations have a root"
    for split, name in by_split(config.file):
        for number, record in records(root / name, config.format or format_of(name)):
            where = f"{word_for(name, config.format)} {number} of {name}"
            try:
                yield _sample(config, root, record, split, where)
            except DataError as reason:
                yield BadSample(where, str(reason), where)


def _sample(config: Config, root: Path, record: Any, split: str, where: str) -> RawSample:
    if not isinstance(record, dict):
        raise DataError("is not a record with id, image and turns")
    names = record.get("image", record.get("images")) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("its image is neither a path nor a list of paths")
    files = {
        str(i): file_in(root, f"{config.images}/{name}" if config.images != "." else name)
        for i, name in enumerate(names)
    }
    media = tuple(Medium(config.medium, member, (), modality=config.modality) for member in files)
    # Ids alone are not unique in every archive: several conversations about one figure may share it.
    key = " ".join(
        [cell_text(record.get("id")) or "", *names, *(turn for pair in _turns(config, record) for turn in pair)]
    )
    return RawSample(
        Sample(key, "", split, media, questions=tuple(_questions(config, record, len(names)))), files, where
    )


def _questions(config: Config, record: dict[str, Any], num_images: int) -> Iterator[Question]:
    """Raises DataError if the text has another number of images than the record."""
    pairs = _turns(config, record)
    if (spoken := sum(asked.count(IMAGE) for asked, _ in pairs)) not in (0, num_images):
        raise DataError(f"its text has {spoken} places for images, and it has {num_images} of them")
    seen, before = 0, ""
    for asked, answer in pairs:
        text, seen = _without_images(asked, seen, num_images)
        lowered = {choice.lower(): choice for choice in config.choices}
        choice = lowered.get(answer.lower())
        truth = make_truth("choice", choice, choices=config.choices) if choice else read_truth(config.task, answer)
        if truth is not None:
            yield Question(before + text, truth, config.template)
        before += f"{text}\n{answer}\n\n" if config.history else ""


def _turns(config: Config, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of question and answer. Raises DataError for turns that do not alternate or are empty."""
    turns = next((record[name] for name in config.turns if name in record), None)
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise DataError(
            f"has no turns of `from` and `value` under {' or '.join(config.turns)} (reader.turns of the card names"
            " their key)"
        )
    spoken = [(turn.get("from"), turn["value"].strip()) for turn in turns if turn.get("from") != "system"]
    if not spoken or len(spoken) % 2 or [who for who, _ in spoken] != ["human", "gpt"] * (len(spoken) // 2):
        raise DataError("its turns do not go from human to gpt and back, ending with gpt")
    if not all(text.replace(IMAGE, "").strip() for _, text in spoken):
        raise DataError("a turn of it is empty")
    if any(IMAGE in text for who, text in spoken if who == "gpt"):
        raise DataError(f"an answer of it holds {IMAGE}: nothing here makes images")
    return [(asked, answer) for (_, asked), (_, answer) in zip(spoken[::2], spoken[1::2], strict=True)]


def _without_images(text: str, seen: int, num_images: int) -> tuple[str, int]:
    """The text without `<image>`, and the number of images mentioned up to its end. seen: up to its beginning."""
    numbers = iter(range(seen + 1, num_images + 1))
    at_edges = re.fullmatch(r"((?:<image>\s*)*)(.*?)((?:\s*<image>)*)", text, re.DOTALL)
    assert at_edges is not None
    for _ in range(at_edges[1].count(IMAGE)):
        next(numbers)
    inner = re.sub(r"\s*<image>", lambda _: f" (image {next(numbers)})" if num_images > 1 else "", at_edges[2]).strip()
    return inner, seen + text.count(IMAGE)
