"""Conversations about images in LLaVA's format: `id`, `image` (one or several), and turns `from` human and gpt.

Each human turn and the answer to it become a question of the sample. medvlm puts the images before the text, so
`<image>` is removed from it. If a sample has several images, one that is mentioned within a text becomes its number,
e.g. `(image 2)`. Where later turns bring more images, the turns before them are a sample of their own, which has the
images mentioned so far. A system turn stands above the questions after it; an answer with `loss: false` is not asked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medvlm.archive.tables.card_words import find_choice
from medvlm.archive.tables.columns import file_in
from medvlm.archive.tables.records import Format, cell_text, format_of, records, word_for
from medvlm.archive.tables.split_files import Files, by_split
from medvlm.core.cell_values import is_nothing, strip
from medvlm.core.config import Config as Base
from medvlm.core.content import Content, Offer, name_asked
from medvlm.core.contracts import BadSample, LeftOut, RawSample
from medvlm.core.errors import DataError
from medvlm.core.sample import Medium, Question, Sample, Truth, make_truth
from medvlm.core.tasks import CardTask, Choices, find_task, read_truth

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
    choices: Choices = ()
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
                yield from _samples(config, root, record, split, where)
            except DataError as reason:
                yield BadSample(where, str(reason), where)


def list_content(config: Config) -> Content:
    kind = config.task if isinstance(config.task, str) else config.task.kind
    is_of_text = find_task(kind).ANSWERED_BY == "text"
    return Content(
        tasks=frozenset({kind}) | name_asked(choice=config.choices),
        media=frozenset({config.medium}),
        has_reports=False,
        answered={} if is_of_text else {config.template: Offer(kind, tuple(config.task.classes))},
        splits=frozenset(split for split, _ in by_split(config.file) if split),
    )


@dataclass(frozen=True)
class _Pair:
    """A human turn and its answer. system: what stands above it. is_asked: whether the answer is trained."""

    text: str
    answer: str
    system: str
    is_asked: bool


def _samples(config: Config, root: Path, record: Any, split: str, where: str) -> Iterator[RawSample | LeftOut]:
    """One for each number of images that its turns have mentioned; usually one."""
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
    pairs = _turns(config, record)
    asked, left_out = _questions(config, pairs, len(names))
    yield from (LeftOut(why, n) for why, n in left_out.items())
    # Ids alone are not unique in every archive: several conversations about one figure may share it.
    key = " ".join([cell_text(record.get("id")) or "", *names, *(turn for p in pairs for turn in (p.text, p.answer))])
    media = tuple(Medium(config.medium, member, (), modality=config.modality) for member in files)
    for num_images, questions in asked.items():
        own = {member: files[member] for member in list(files)[:num_images]}
        name = key if num_images == len(names) else f"{key} {num_images} of {len(names)} images"
        sample = Sample(name, "", split, media[:num_images], questions=tuple(questions))
        yield RawSample(sample, own, where, identifiers=(cell_text(record.get("id")) or "",))


def _questions(config: Config, pairs: list[_Pair], num_images: int) -> tuple[dict[int, list[Question]], Counter[str]]:
    """Number of images that are there -> the questions about them; and what was left out. Raises DataError if the text
    has another number of images than the record."""
    if (spoken := sum(pair.text.count(IMAGE) for pair in pairs)) not in (0, num_images):
        raise DataError(f"its text has {spoken} places for images, and it has {num_images} of them")
    seen, before, system = 0, "", ""
    asked: dict[int, list[Question]] = {}
    left_out: Counter[str] = Counter()
    for pair in pairs:
        text, seen = _without_images(pair.text, seen, num_images)
        above = f"{pair.system}\n\n" if pair.system and (not config.history or pair.system != system) else ""
        truth = _read_answer(config, pair.answer)
        there = asked.setdefault(seen if spoken else num_images, [])
        if not pair.is_asked:
            left_out["answer that its record keeps out of the loss"] += 1
        elif truth is None:
            left_out[f"no answer that the task can read: {config.template}"] += 1
        else:
            there.append(Question(f"{before}{above}{text}", truth, config.template))
        before += f"{above}{text}\n{pair.answer}\n\n" if config.history else ""
        system = pair.system
    return asked, left_out


def _read_answer(config: Config, answer: str) -> Truth | None:
    if is_nothing(answer) and find_choice(answer, config.choices) is None:
        return None
    choice = find_choice(answer, config.choices)
    return make_truth("choice", choice, choices=config.choices) if choice else read_truth(config.task, answer)


def _turns(config: Config, record: dict[str, Any]) -> list[_Pair]:
    """Raises DataError for turns that do not alternate, are empty, or say what cannot be kept."""
    turns = next((record[name] for name in config.turns if name in record), None)
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise DataError(
            f"has no turns of `from` and `value` under {' or '.join(config.turns)} (reader.turns of the card names"
            " their key)"
        )
    if said := [name for name in ("tools", "weight", "loss") if record.get(name) not in (None, "", [], 1)]:
        raise DataError(f"has `{said[0]}`, which is not kept; leave the record out, or take it away")
    system = strip(record.get("system") or "") if isinstance(record.get("system"), str | None) else ""
    spoken: list[tuple[str, str, str, bool]] = []
    for turn in turns:
        if own := [name for name in ("image", "images", "tool_calls") if turn.get(name)]:
            raise DataError(f"a turn of it has its own {own[0]}, which is not kept; name images in the record")
        who, text = turn.get("from"), strip(turn["value"])
        if who == "system":
            system = text
            continue
        spoken.append((str(who), text, system, _is_trained(turn)))
    if not spoken or len(spoken) % 2 or [who for who, *_ in spoken] != ["human", "gpt"] * (len(spoken) // 2):
        raise DataError("its turns do not go from human to gpt and back, ending with gpt")
    if not all(strip(text.replace(IMAGE, "")) for _, text, *_ in spoken):
        raise DataError("a turn of it is empty")
    if any(IMAGE in text for who, text, *_ in spoken if who == "gpt") or IMAGE in system:
        raise DataError(f"an answer of it holds {IMAGE}, or a system turn: only questions have images")
    return [
        _Pair(asked, answer, above, is_trained)
        for (_, asked, above, _), (_, answer, _, is_trained) in zip(spoken[::2], spoken[1::2], strict=True)
    ]


def _is_trained(turn: dict[str, Any]) -> bool:
    """By its `loss` or `weight`. Raises DataError for a share, which is not kept."""
    for name in ("loss", "weight", "loss_weight"):
        value = turn.get(name)
        if value is not None and value not in (0, 1):
            raise DataError(f"a turn of it has a `{name}` other than 0 and 1 (true and false), which is not kept")
        if value is not None and not value:
            return False
    return True


def _without_images(text: str, seen: int, num_images: int) -> tuple[str, int]:
    """The text without `<image>`, and the number of images mentioned up to its end. seen: up to its beginning."""
    numbers = iter(range(seen + 1, num_images + 1))
    at_edges = re.fullmatch(r"((?:<image>\s*)*)(.*?)((?:\s*<image>)*)", text, re.DOTALL)
    assert at_edges is not None
    for _ in range(at_edges[1].count(IMAGE)):
        next(numbers)
    inner = re.sub(r"\s*<image>", lambda _: f" (image {next(numbers)})" if num_images > 1 else "", at_edges[2]).strip()
    return inner, seen + text.count(IMAGE)
