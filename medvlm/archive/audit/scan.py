"""One pass over shards: what an audit keeps of each sample, in columns, and what it counts."""

from __future__ import annotations

import hashlib
import json
import os
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medvlm.archive.audit.picture import WORDS, PictureHash, hash_picture
from medvlm.core.card import Card, load_card
from medvlm.core.config import is_available
from medvlm.core.errors import DataError
from medvlm.core.live import end
from medvlm.core.sample import Question, Sample
from medvlm.core.tasks import find_task
from medvlm.io.images import decode
from medvlm.io.opening import open_shards
from medvlm.io.shards import RECEIPT, ShardSet
from medvlm.tasks._words import words

Progress = Callable[[str], None]

SPECIFIC_WORDS = 8
"""Shorter questions occur in any data set (`Is there a pneumothorax?`), so sharing one proves nothing."""
_MOST_TEMPLATES, _MOST_ANSWERS = 1000, 1000
"""Counted per split; later ones are not counted, so that a million questions of a million kinds do not fill the
memory."""


@dataclass(frozen=True)
class AuditSet:
    """A data set to be audited, or a benchmark. salt: identifies the salt its patients were hashed with, without
    revealing it; "" if unknown. card: None if the shards have none."""

    name: str
    shards: ShardSet
    card: Card | None
    salt: str
    splits: tuple[str, ...]


@dataclass
class Counts:
    """Counts of one split. words: for `question`, `answer` and `report`, number of words -> number of texts. labels:
    template -> answer -> how often, for questions whose answer is a choice, a count or a number of boxes. Free text is
    not kept."""

    samples: int = 0
    without_patient: int = 0
    images: int = 0
    blank_images: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    words: dict[str, Counter[int]] = field(
        default_factory=lambda: {"question": Counter(), "answer": Counter(), "report": Counter()}
    )
    labels: dict[str, Counter[str]] = field(default_factory=dict)


class ScannedSplit:
    """What was read from one split: 46 bytes per image and 8 per sample with a patient. Blank images are counted, not
    kept.

    _row: the sample of the split that each image belongs to. texts: hash of a specific question -> how often it is
    asked, as far as scan() was asked to count them."""

    def __init__(self, source: AuditSet, split: str) -> None:
        self.source, self.split, self.counts = source, split, Counts()
        self._exact, self._near, self._row, self._patient = array("Q"), array("Q"), array("I"), array("Q")
        self.texts: Counter[int] = Counter()

    def __str__(self) -> str:
        return f"{self.source.name}:{self.split}"

    @property
    def exact_N(self) -> np.ndarray:
        return np.frombuffer(self._exact, np.uint64)

    @property
    def near_N4(self) -> np.ndarray:
        return np.frombuffer(self._near, np.uint64).reshape(-1, WORDS)

    @property
    def patients(self) -> np.ndarray:
        """Hashes of the distinct patients, sorted."""
        return np.unique(np.frombuffer(self._patient, np.uint64))

    def key(self, image: int) -> str:
        """Key of the sample that an image belongs to."""
        return self.source.shards.entry(self.split, self._row[image]).key

    def add(self, row: int, sample: Sample, looks: list[PictureHash]) -> None:
        counts = self.counts
        counts.samples += 1
        counts.images += len(looks)
        if sample.patient:
            self._patient.append(_hash64(sample.patient))
        counts.without_patient += not sample.patient
        for each in looks:
            if each.near is None:
                counts.blank_images += 1
                continue
            self._exact.append(each.exact)
            self._near.extend(each.near.tolist())
            self._row.append(row)
        for question in sample.questions:
            _count(question, counts)
        if sample.report:
            counts.words["report"][len(sample.report.split())] += 1


def open_set(where: Path | str, cards: dict[str, Card], splits: tuple[str, ...] = ()) -> AuditSet:
    """Shards with their card: the one in `cards` with their name, else the copy next to the shards. splits: () = all.

    Raises DataError for shards that cannot be read and for a split that does not exist.
    """
    shards = open_shards(where)
    folder = Path(where) if Path(where).is_dir() else Path(where).parent
    own = load_card(folder / "card.yaml", f"{folder.name}/card.yaml") if (folder / "card.yaml").is_file() else None
    name = own.name if own else shards.read(shards.splits[0], 0)[0].source
    card = cards.get(name, own)
    for split in splits:
        shards.count(split)
    return AuditSet(name, shards, card, _salt_of(folder, own), splits or shards.splits)


def scan(source: AuditSet, progress: Progress | None, texts: Container[int] | None = None) -> list[ScannedSplit]:
    """Reads every sample of the source's splits once. texts: which specific questions are counted; None: all of them.

    Raises DataError for a damaged sample: an audit that leaves samples out proves nothing.
    """
    total, done, start = sum(map(source.shards.count, source.splits)), 0, time.monotonic()
    shown, seen = start, []
    for split in source.splits:
        found = ScannedSplit(source, split)
        for row, (sample, looks) in enumerate(_hash_samples(source.shards, split)):
            found.add(row, sample, looks)
            found.texts.update(text for text in _specific(sample) if texts is None or text in texts)
            done, now = done + 1, time.monotonic()
            if progress is not None and (now - shown >= 1 or done == total):
                shown, rate = now, done / max(now - start, 1e-6)
                progress(
                    f"auditing {source.name}: {done} of {total}, {rate:.0f} samples/s, {(total - done) / rate:.0f} s"
                    " left"
                )
        seen.append(found)
    end(progress)
    return seen


def _hash_samples(shards: ShardSet, split: str) -> Iterator[tuple[Sample, list[PictureHash]]]:
    """In order. Uses one thread per core: decoding and hashing release the GIL."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        waiting: deque[Future[tuple[Sample, list[PictureHash]]]] = deque()
        for row in range(shards.count(split)):
            waiting.append(pool.submit(_hash_sample, shards, split, row))
            if len(waiting) >= 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _hash_sample(shards: ShardSet, split: str, row: int) -> tuple[Sample, list[PictureHash]]:
    sample, files = shards.read(split, row)
    looks = []
    for medium in sample.media:
        try:
            pixels = decode(files[medium.member], medium.member)
            if not 2 <= pixels.ndim <= 4:
                raise DataError(f"{medium.member}: {pixels.ndim} axes; expected an image, a volume or frames")
            looks.append(hash_picture(pixels, 3 if pixels.ndim == 4 else min(len(medium.size), pixels.ndim)))
        except DataError as reason:
            raise DataError(
                f"{shards.tar(split, row)}: sample {sample.key}: {reason}; pack the archive again"
            ) from None
    return sample, looks


def _count(question: Question, counts: Counts) -> None:
    truth = question.truth
    counts.tasks[truth.task] += 1
    counts.words["question"][len(question.text.split())] += 1
    if not is_available("tasks", truth.task):
        return
    task = find_task(truth.task)
    if not task.NEEDS_CANVAS:  # else the answer is written when the image is seen
        counts.words["answer"][len(truth.answer.split())] += 1
    if task.FREE_TEXT:
        return
    if question.template in counts.labels or len(counts.labels) < _MOST_TEMPLATES:
        label = task.summarise(truth)
        answers = counts.labels.setdefault(question.template, Counter())
        if label in answers or len(answers) < _MOST_ANSWERS:
            answers[label] += 1


def _specific(sample: Sample) -> set[int]:
    """Hashes of the sample's questions that are long enough to be specific."""
    found = (words(question.text) for question in sample.questions if question.text.count(" ") >= SPECIFIC_WORDS - 1)
    return {_hash64(" ".join(each)) for each in found if len(each) >= SPECIFIC_WORDS}


def _salt_of(folder: Path, card: Card | None) -> str:
    """The salt_id of the receipt if the salt came from a file; else a hash of the salt in the card."""
    receipt = json.loads((folder / RECEIPT).read_text()) if (folder / RECEIPT).is_file() else {}
    if receipt.get("salt_id"):
        return str(receipt["salt_id"])
    return hashlib.sha256(b"salt of a card " + card.splits.salt.encode()).hexdigest()[:16] if card else ""


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
