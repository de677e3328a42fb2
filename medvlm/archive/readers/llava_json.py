"""Conversations about images: LLaVA's JSON, ShareGPT's, and lists of chat messages.

A record has `id`, `image` or `images` (one or several), and turns: `from` human and gpt with a `value`, or `role` user
and assistant with a `content`, which is a text or a list of parts of type text and image.

With `dialogue`, a record is a dialogue: its turns follow each other, images stand where `<image>` stands (before the
first question if it stands nowhere), and its system turn stands above them.

Without it, each human turn and the answer to it become a question of the sample. The images stand before the text then,
so `<image>` is removed from it. If a sample has several images, one that is mentioned within a text becomes its number,
e.g. `(image 2)`. Where later turns bring more images, the turns before them are a sample of their own, which has the
images mentioned so far. A system turn stands above the questions after it; an answer with `loss: false` is not asked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from medvlm.archive.scripts import find_script
from medvlm.archive.tables.card_words import find_choice
from medvlm.archive.tables.columns import file_in
from medvlm.archive.tables.records import Format, cell_text, format_of, records, word_for
from medvlm.archive.tables.split_files import Files, by_split
from medvlm.archive.text_boxes import TextBoxes, read_text_boxes
from medvlm.core.cell_values import is_nothing, strip
from medvlm.core.config import Config as Base
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, Truth, make_truth
from medvlm.core.tasks import CardTask, Choices, find_task, read_truth
from medvlm.core.text import MEDIUM
from medvlm.io.images import peek_size

IMAGE = "<image>"
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
FindSize = Callable[[int], tuple[int, int]]
"""The number of an image, from 0 -> its (height, width)."""
KEPT_OUT = "answer that its record keeps out of the loss"


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
    """Possible keys of the turns, such as messages; a record has one of them. The second is LLaVA-Med's spelling."""
    dialogue: bool = Field(False, exclude_if=lambda dialogue: not dialogue)
    """Keeps the turns of a record as one dialogue. A `weight` of a turn is that of its answer in the loss."""
    task: CardTask = "open"
    """`report` for long answers, such as captions; another task by its name or with its settings. A question is left
    out if the task cannot read its answer."""
    choices: Choices = ()
    """An answer that is one of these (case is ignored) makes the question a choice between them."""
    boxes: TextBoxes | None = Field(None, exclude_if=lambda boxes: boxes is None)
    """Makes answers that are nothing but boxes questions for boxes, of one image or of several; a model writes them as
    it was taught. Boxes within other text stay as they are."""
    by_script: bool = Field(False, exclude_if=lambda by_script: not by_script)
    """Gives samples the group `script`, that of most letters of their turns: arabic, han, latin ... So languages can be
    balanced in training and told apart in results."""
    history: bool = False
    """Writes the earlier turns above each question. Without it, questions that refer to an earlier answer lose their
    context."""
    template: str = "turn"
    """Groups the questions for the majority baseline; {task} in it is what the record says under this key."""

    @model_validator(mode="after")
    def _keeps_turns_once(self) -> Config:
        if self.dialogue and self.history:
            raise ValueError(
                "`dialogue` keeps the earlier turns; remove `history`, which writes them into each question"
            )
        return self


def read(config: Config, root: Path | None) -> Iterator[RawSample | BadSample | LeftOut]:
    """One sample per record, in file order. Raises DataError for a file that is not of the format."""
    assert root is not None, "conversations have a root"
    for split, name in by_split(config.file):
        for number, record in records(root / name, config.format or format_of(name)):
            where = f"{word_for(name, config.format)} {number} of {name}"
            try:
                yield from _samples(config, root, record, split, where)
            except DataError as reason:
                yield BadSample(where, str(reason), where)


def list_content(config: Config) -> Content:
    kind = config.task if isinstance(config.task, str) else config.task.kind
    is_of_text = find_task(kind).ANSWERED_BY == "text"
    return Content(
        tasks=frozenset({kind}) | name_asked(choice=config.choices, boxes=config.boxes, indexed_boxes=config.boxes),
        media=frozenset({config.medium}),
        has_reports=False,
        answered={} if is_of_text else {config.template: Offer(kind, tuple(config.task.classes))},
        splits=frozenset(split for split, _ in by_split(config.file) if split),
    )


@dataclass(frozen=True)
class _Pair:
    """A human turn and its answer. system: what stands above it. weight: of the answer in the loss."""

    text: str
    answer: str
    system: str
    weight: float


def _samples(config: Config, root: Path, record: Any, split: str, where: str) -> Iterator[RawSample | LeftOut]:
    """One for each number of images that its turns have mentioned; usually one."""
    if not isinstance(record, dict):
        raise DataError("is not a record with id, image and turns")
    names = record.get("image", record.get("images")) or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError("its image is neither a path nor a list of paths")
    pairs, of_turns = _turns(config, record)
    if of_turns and names:
        raise DataError("names images both in the record and in its turns; name each once")
    names = names or of_turns
    template = re.sub(r"\{(\w+)\}", lambda key: cell_text(record.get(key[1])) or "", config.template)
    config = config.model_copy(update={"template": template or "turn"})
    files = {
        str(i): file_in(root, f"{config.images}/{name}" if config.images != "." else name)
        for i, name in enumerate(names)
    }

    def find_size(number: int) -> tuple[int, int]:
        return peek_size(files[str(number)])

    ask = _continue_dialogue if config.dialogue else _questions
    asked, left_out = ask(config, pairs, len(names), find_size)
    yield from (LeftOut(why, n) for why, n in left_out.items())
    # Ids alone are not unique in every archive: several conversations about one figure may share it.
    key = " ".join([cell_text(record.get("id")) or "", *names, *(turn for p in pairs for turn in (p.text, p.answer))])
    media = tuple(Medium(config.medium, member, (), modality=config.modality) for member in files)
    spoken = "".join(turn for pair in pairs for turn in (pair.text.replace(IMAGE, ""), pair.answer))
    groups = {"script": found} if config.by_script and (found := find_script(spoken)) else {}
    for num_images, questions in asked.items():
        own = {member: files[member] for member in list(files)[:num_images]}
        name = key if num_images == len(names) else f"{key} {num_images} of {len(names)} images"
        sample = Sample(name, "", split, media[:num_images], questions=tuple(questions), groups=groups)
        yield RawSample(sample, own, where, identifiers=(cell_text(record.get("id")) or "",))


def _questions(
    config: Config, pairs: list[_Pair], num_images: int, find_size: FindSize
) -> tuple[dict[int, list[Question]], Counter[str]]:
    """Number of images that are there -> the questions about them; and what was left out. Raises DataError if the text
    has another number of images than the record."""
    spoken = _count_places(pairs, num_images)
    seen, before, system = 0, "", ""
    asked: dict[int, list[Question]] = {}
    left_out: Counter[str] = Counter()
    for pair in pairs:
        text, seen = _without_images(pair.text, seen, num_images)
        above = f"{pair.system}\n\n" if pair.system and (not config.history or pair.system != system) else ""
        truth = _read_answer(config, pair.answer, seen if spoken else num_images, find_size)
        there = asked.setdefault(seen if spoken else num_images, [])
        if not pair.weight:
            left_out[KEPT_OUT] += 1
        elif truth is None:
            left_out[f"no answer that the task can read: {config.template}"] += 1
        else:
            there.append(Question(f"{before}{above}{text}", truth, config.template))
        before += f"{above}{text}\n{pair.answer}\n\n" if config.history else ""
        system = pair.system
    return asked, left_out


def _continue_dialogue(
    config: Config, pairs: list[_Pair], num_images: int, find_size: FindSize
) -> tuple[dict[int, list[Question]], Counter[str]]:
    """The same with all turns as one dialogue. An answer that is not asked stays in it, without weight."""
    spoken, left_out = _count_places(pairs, num_images), Counter[str]()
    if len({pair.system for pair in pairs}) > 1:
        raise DataError("has a system turn between its turns; a dialogue has one, before the first question")
    asked = []
    for number, pair in enumerate(pairs):
        text = re.sub(r"^(?:\s*<image>)+\s*|(?:\s*<image>)+\s*$", lambda edge: re.sub(r"\s", "", edge[0]), pair.text)
        if not spoken and not number:
            text = IMAGE * num_images + text
        truth, weight = _read_answer(config, pair.answer, num_images, find_size), pair.weight
        if truth is None or not weight:
            left_out[f"no answer that the task can read: {config.template}" if weight else KEPT_OUT] += 1
            truth, weight = make_truth("open", pair.answer), 0.0
        asked.append(
            Question(
                text.replace(MEDIUM, "").replace(IMAGE, MEDIUM),
                truth,
                config.template,
                turn=number + 1,
                system="" if number else pair.system,
                weight=weight,
            )
        )
    return {num_images: asked}, left_out


def _count_places(pairs: list[_Pair], num_images: int) -> int:
    if (spoken := sum(pair.text.count(IMAGE) for pair in pairs)) not in (0, num_images):
        raise DataError(f"its text has {spoken} places for images, and it has {num_images} of them")
    return spoken


def _read_answer(config: Config, answer: str, images: int, find_size: FindSize) -> Truth | None:
    """images: how many the question is about."""
    if config.boxes and (boxes := read_text_boxes(config.boxes, answer, images, find_size)):
        return boxes
    if is_nothing(answer) and find_choice(answer, config.choices) is None:
        return None
    choice = find_choice(answer, config.choices)
    return make_truth("choice", choice, choices=config.choices) if choice else read_truth(config.task, answer)


def _turns(config: Config, record: dict[str, Any]) -> tuple[list[_Pair], list[str]]:
    """The turns in pairs, and the images that they name themselves. Raises DataError for turns that do not alternate,
    are empty, or say what cannot be kept."""
    turns = next((record[name] for name in config.turns if name in record), None)
    if not isinstance(turns, list) or not all(isinstance(t, dict) and ("value" in t or "content" in t) for t in turns):
        raise DataError(
            f"has no turns of `from` and `value`, or of `role` and `content`, under {' or '.join(config.turns)}"
            " (reader.turns of the card names their key)"
        )
    if said := [name for name in ("tools", "weight", "loss") if record.get(name) not in (None, "", [], 1)]:
        raise DataError(f"has `{said[0]}`, which is not kept; leave the record out, or take it away")
    system = strip(record.get("system") or "") if isinstance(record.get("system"), str | None) else ""
    spoken: list[tuple[str, str, str, float]] = []
    images: list[str] = []
    for turn in turns:
        if own := [name for name in ("image", "images", "tool_calls") if turn.get(name)]:
            raise DataError(f"a turn of it has its own {own[0]}, which is not kept; name images in the record")
        who, text = ROLES.get(str(turn.get("from", turn.get("role")))), _read_text(turn, images)
        if who == "system":
            system = text
            continue
        spoken.append((str(who), text, system, _read_weight(config, turn)))
    if not spoken or len(spoken) % 2 or [who for who, *_ in spoken] != ["human", "gpt"] * (len(spoken) // 2):
        raise DataError("its turns do not go from human to gpt and back, ending with gpt")
    if not all(strip(text.replace(IMAGE, "")) for _, text, *_ in spoken):
        raise DataError("a turn of it is empty")
    if any(IMAGE in text for who, text, *_ in spoken if who == "gpt") or IMAGE in system:
        raise DataError(f"an answer of it holds {IMAGE}, or a system turn: only questions have images")
    pairs = [
        _Pair(asked, answer, above, weight)
        for (_, asked, above, _), (_, answer, _, weight) in zip(spoken[::2], spoken[1::2], strict=True)
    ]
    return pairs, images


def _read_text(turn: dict[str, Any], images: list[str]) -> str:
    """The text of a turn, with `<image>` for each part that is an image. Adds the files that such parts name."""
    told = turn.get("value", turn.get("content"))
    if isinstance(told, str):
        return strip(told)
    texts = []
    for part in told if isinstance(told, list) else [None]:
        match part:
            case {"type": "text", "text": str(text)}:
                texts.append(text)
            case {"type": "image" | "image_url" as kind, **others}:
                texts.append(IMAGE)
                named = others.get(kind)
                named = named.get("url") if isinstance(named, dict) else named
                images += [named] if isinstance(named, str) else []
            case _:
                raise DataError("the content of a turn is neither a text nor parts of type text and image")
    return strip("".join(texts))


def _read_weight(config: Config, turn: dict[str, Any]) -> float:
    """By its `loss` or `weight`. Raises DataError for what is none, and for a share where there is no dialogue."""
    for name in ("loss", "weight", "loss_weight"):
        value = turn.get(name)
        if value is None:
            continue
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DataError(f"a turn of it has a `{name}` that is no number from 0 on")
        if value not in (0, 1) and not config.dialogue:
            raise DataError(
                f"a turn of it has a `{name}` other than 0 and 1 (true and false), which only a `dialogue` keeps"
            )
        return float(value)
    return 1.0


def _without_images(text: str, seen: int, num_images: int) -> tuple[str, int]:
    """The text without `<image>`, and the number of images mentioned up to its end. seen: up to its beginning."""
    numbers = iter(range(seen + 1, num_images + 1))
    at_edges = re.fullmatch(r"((?:<image>\s*)*)(.*?)((?:\s*<image>)*)", text, re.DOTALL)
    assert at_edges is not None
    for _ in range(at_edges[1].count(IMAGE)):
        next(numbers)
    inner = re.sub(r"\s*<image>", lambda _: f" (image {next(numbers)})" if num_images > 1 else "", at_edges[2]).strip()
    return inner, seen + text.count(IMAGE)
