"""`medvlm predict`: the answers and scores of a model for data without truth, as a parquet file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medvlm.commands.files import list_media, read_files, read_media, require_parquet
from medvlm.commands.who import split_place
from medvlm.core.ask import Ask, CutAnswer, Files, make_own_question
from medvlm.core.durable import require_place
from medvlm.core.errors import DataError, RecipeError
from medvlm.core.protocols import Progress, ignore_progress
from medvlm.core.sample import Question, Sample
from medvlm.core.text import escape_lone_surrogates
from medvlm.core.turns import list_asked, show_until, tell
from medvlm.io.opening import open_shards
from medvlm.io.places import is_remote

TOGETHER = 16
"""Number of samples that are asked together."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """What is asked about. key, split: see `predict`. read: the sample and its files; raises DataError. stamp: what
    changes with its content. place: the same for an item that is named twice."""

    key: str
    split: str
    read: Callable[[], tuple[Sample, Files]]
    stamp: Any
    place: str


def predict(
    model: str,
    on: Sequence[str],
    to: Path,
    questions: Sequence[str] = (),
    stage: str = "",
    kind: str = "",
    max_new_tokens: int = 256,
    progress: Progress = ignore_progress,
    precision: str = "auto",
) -> list[Row]:
    """The rows that were written to `to`: one for each question about a sample, and one for each decoder.

    Columns: key (of a sample, or the name of a file), source, split, template, question, answer, is_cut (whether the
    answer was cut at max_new_tokens), scores (class and probability), problem (why there is no answer).

    model: a run, an exported folder, a model of transformers, or a recipe's model by folder or hub id. on: folders of
    files, files, or folders of shards, SHARDS[:SPLIT]. questions: asked about each sample; by default those that the
    shards hold. Truths are not used. precision: as evaluate.precision of a recipe. Under torchrun the ranks share the
    work. After a stop, the same command continues with what it has not asked yet. Raises RecipeError if there is
    nothing to ask, DataError if no file can be read."""
    from medvlm.compositions._open import open_model
    from medvlm.compositions._opened import find
    from medvlm.evaluate.pieces import hash_identity, open_pieces, remove_pieces
    from medvlm.evaluate.ranks import find_rank, join_ranks

    require_parquet(to)
    if "" in (*on, *questions):
        raise RecipeError("--on or --question is empty; a variable of the shell may not be set")
    require_place(to, b"PAR1")
    own = [make_own_question(text) for text in questions]
    with join_ranks("auto") as device:
        opened = open_model(model, stage, device=device, max_new_tokens=max_new_tokens, precision=precision)
        answerer: Any = find(opened, "answer")
        decoder: Any = find(opened, "decode")
        if answerer is None and (decoder is None or questions):
            raise RecipeError("this model does not answer questions; medvlm embed writes what it makes of images")
        kind_of = (answerer or decoder).kind_of
        items = list_items(on, lambda axes: kind_of(axes, kind))
        if answerer is not None and not questions and not any(item.split for item in items):
            raise RecipeError("files hold no questions: give one or more with --question")

        def do(number: int) -> list[Row]:
            some = items[number * TOGETHER : (number + 1) * TOGETHER]
            return _predict(some, answerer, decoder, own)

        named = [(item.key, item.split, item.stamp) for item in items]
        identity = {"models": [each.identity for each in opened], "items": named, "questions": list(questions)}
        pieces = open_pieces(to.parent, f"predict-{hash_identity({'to': to.name})}", identity)
        sizes = [min(TOGETHER, len(items) - at) for at in range(0, len(items), TOGETHER)]
        rows: list[Row] = [row for piece in pieces.collect("predict", sizes, do, progress) for row in piece]
        if find_rank()[0] == 0:
            if rows and all(row["problem"] for row in rows):
                remove_pieces([pieces])
                raise DataError(f"none of {len(items)} samples could be asked; the first: {rows[0]['problem']}")
            write_rows(rows, to)
            remove_pieces([pieces])
    return rows


def list_items(on: Sequence[str], kind_of: Callable[[int], str]) -> list[Item]:
    """What is in these places, each once, although it may be in several. Raises DataError for an empty place."""
    return list({item.place: item for where in on for item in _list_place(where, kind_of)}.values())


def _list_place(where: str, kind_of: Callable[[int], str]) -> list[Item]:
    """The media of a folder or file of the user, or the samples of shards."""
    path = Path(where)
    if path.is_file() and not where.endswith(".tar"):
        return [Item(where, "", partial(read_files, [path], kind_of), _stamp(path), str(path.resolve()))]
    if path.is_dir() and not list(path.glob("*.tar")):
        own = list_media(path)
        if not own:
            raise DataError(f"{where}: the folder has no files")
        files = ((each, path / each.name) for each in own)
        return [
            Item(each.name, "", partial(read_media, [each], kind_of), _stamp(file), str(file.resolve()))
            for each, file in files
        ]
    place, split = split_place(where, default="")
    if not is_remote(place) and "{" not in place and not Path(place).exists():
        raise DataError(f"{place}: there is no such file or folder")
    shards = open_shards(place)
    return [
        Item(
            shards.entry(each, i).key,
            each,
            partial(shards.read, each, i),
            shards.fingerprint,
            f"{shards.fingerprint} {each} {i}",
        )
        for each in ([split] if split else shards.splits)
        for i in range(shards.count(each))
    ]


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _predict(items: Sequence[Item], answerer: Any, decoder: Any, questions: Sequence[Question]) -> list[Row]:
    rows: list[Row] = []
    asks: list[Ask] = []
    asked: list[Row] = []
    for item in items:
        base = {"key": item.key, "source": "", "split": item.split, **EMPTY}
        try:
            sample, files = item.read()
            base["source"] = sample.source if item.split else ""
            if decoder is not None and sample.media:
                scores = decoder.score(sample, files)
                rows += [{**base, "template": name, "scores": found} for name, found in scores.items()]
        except DataError as reason:
            rows.append({**base, "problem": str(reason)})
            continue
        own = [*questions] or list_asked(sample)
        for question in own if answerer is not None else ():
            row = {**base, "template": question.template, "question": tell(question)}
            rows.append(row)
            asked.append(row)
            shown = show_until(sample, question)
            asks.append(Ask(shown, files, question, "media" if shown.media else "none"))
    for row, answer in zip(asked, answerer.answer(asks) if asks else (), strict=True):
        row |= {"answer": str(answer), "is_cut": isinstance(answer, CutAnswer)}
    return rows


EMPTY: Row = {"template": "", "question": "", "answer": None, "is_cut": False, "scores": None, "problem": ""}


def write_rows(rows: Sequence[Row], to: Path) -> None:
    """The file appears once it is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [(name, pa.string()) for name in ("key", "source", "split", "template", "question", "answer")]
    scores = pa.map_(pa.string(), pa.float32())
    schema = pa.schema([*texts, ("is_cut", pa.bool_()), ("scores", scores), ("problem", pa.string())])
    plain = [
        {name: escape_lone_surrogates(value) if isinstance(value, str) else value for name, value in row.items()}
        | {"scores": None if row["scores"] is None else list(row["scores"].items())}
        for row in rows
    ]
    to.parent.mkdir(parents=True, exist_ok=True)
    part = to.with_name(f"{to.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:  # a file, because pyarrow takes some paths for addresses
            pq.write_table(pa.Table.from_pylist(plain, schema), file)
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
