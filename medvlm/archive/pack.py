"""From an archive to shards, once: read, check, strip, name by hash, deal into splits, write.

The folder appears under its name when it is whole; before, it is `.NAME.packing` beside it. Same archive, same card,
same bytes. Names, patient ids and whatever cameras and viewers wrote into image files stay behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import yaml

import medvlm
from medvlm.archive.deal import keyed, require_secret, split_of
from medvlm.archive.stored import prepared
from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.contracts import BadSample, LeftOut
from medvlm.core.errors import DataError
from medvlm.core.run import write_json
from medvlm.core.sample import Sample
from medvlm.io.shard_index import load_index
from medvlm.io.shards import RECEIPT, ShardWriter

Progress = Callable[[str], None]

FORM = 1
"""Counts up when the same archive and card give other shards than before."""


@dataclass(frozen=True)
class PackReceipt:
    """What packing made: `packed.json`. Nothing in it depends on when and where.

    card_hash: of what decides the shards (see card_hash()). samples, questions, patients: by split. bytes: of all
    tars. quarantined: samples that could not be used (`quarantine.jsonl`). left_out: by reason, as the card asks.
    shards: tar -> its sha256. salt_id: tells with which secret salt patients and keys were hashed; "": with that of the card.
    """

    card: str
    card_hash: str
    medvlm: str
    samples: dict[str, int]
    questions: dict[str, int]
    patients: dict[str, int]
    bytes: int
    quarantined: int
    left_out: dict[str, int]
    shards: dict[str, str]
    salt_id: str = ""
    done: bool = True


def pack(card: Card, root: Path | None, out: Path, *, progress: Progress | None = None, max_bad: float = 0.01) -> PackReceipt:
    """Packs into the folder `out`; where that is done already, its receipt.

    root: the folder of the archive; None for generated data. progress: gets a line about once a second.
    max_bad: share of the samples that may be bad; above it nothing is published.
    Raises DataError for an archive or a card that is wrong, for `out` that holds something else, and when another
    process is packing there.
    """
    with _lock(out, wait=False):
        return _pack(card, root, out, progress, max_bad)


def pack_once(card: Card, root: Path | None, out: Path, *, progress: Progress | None = None, max_bad: float = 0.01) -> PackReceipt:
    """As pack(), for several processes that need the same shards: one packs, the others wait for it and get the same receipt."""
    if (out / RECEIPT).is_file():  # no lock then: the folder may be read-only
        return _finished(card, out)
    with _lock(out, wait=True):
        return _pack(card, root, out, progress, max_bad)


def card_hash(card: Card) -> str:
    """Over what decides the shards: name, media, reader, splits, what people checked, the secret of its names by its id. A
    corrected citation or licence does not pack anew.

    Settings at their default are left out, so that a later version with more settings finds its shards again.
    """
    reader, splits = (part.model_dump(mode="json", by_alias=True, exclude_defaults=True) for part in (card.reader, card.splits))
    decides = {"form": FORM, "name": card.name, "media": card.media, "kind": card.reader.kind, "reader": reader, "splits": splits}
    decides |= {key: value for key, value in (("checked", sorted(card.phi.checked)), ("salt", card.salt_id)) if value}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def read_receipt(folder: Path) -> PackReceipt:
    """Raises DataError for a folder that packing did not finish."""
    try:
        return PackReceipt(**json.loads((folder / RECEIPT).read_text()))
    except (OSError, ValueError, TypeError) as reason:
        raise DataError(f"{folder / RECEIPT}: no receipt of packing ({type(reason).__name__}); delete the folder and pack again") from None


def _finished(card: Card, out: Path) -> PackReceipt:
    receipt = read_receipt(out)
    if receipt.card_hash != card_hash(card):
        raise DataError(
            f"{out}: was packed with another card or salt ({receipt.card}, {receipt.card_hash[:12]}; this one is {card.name}, {card_hash(card)[:12]}); "
            "pack into another folder, or delete this one"
        )
    return receipt


@contextmanager
def _lock(out: Path, wait: bool) -> Iterator[None]:
    """The lock file stays: taking it away would let two processes hold two files of the same name."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = (out.parent / f".{out.name}.lock").open("w")
    except OSError as reason:
        raise DataError(f"{out}: cannot write beside it ({reason.strerror}); choose another folder") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise DataError(f"{out}: another process is packing into it; wait for it to finish") from None
        yield


def _pack(card: Card, root: Path | None, out: Path, progress: Progress | None, max_bad: float) -> PackReceipt:
    """Under the lock."""
    if (out / RECEIPT).is_file():
        return _finished(card, out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: holds something that is not a finished pack; choose another folder or delete it")
    _check_root(card, root)
    require_secret(card)
    part = out.parent / f".{out.name}.packing"
    if part.exists():  # of a process that was killed: nobody else holds the lock
        shutil.rmtree(part)
    part.mkdir()
    try:
        receipt = _fill(card, root, part, progress, max_bad)
        part.replace(out)
    except OSError as reason:  # a full disk, an archive that is no longer mounted
        raise DataError(f"{out}: packing stopped ({reason.strerror}); nothing was kept, pack again") from None
    except _TooManyBad as reason:
        kept = out.parent / f"{out.name}.quarantine.jsonl"
        (part / "quarantine.jsonl").replace(kept)
        raise DataError(f"{reason}; all of them are listed in {kept}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return receipt


def _check_root(card: Card, root: Path | None) -> None:
    if card.access == "generated":
        return
    if root is None:
        raise DataError(f"{card.name}: its card says that the data exist, so packing needs a root: the folder that holds them ({card.homepage or card.title})")
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; the root of {card.name} is where its files are ({card.homepage or card.title})")


class _TooManyBad(DataError):
    pass


def _fill(card: Card, root: Path | None, folder: Path, progress: Progress | None, max_bad: float) -> PackReceipt:
    reader = component("archive.readers", card.reader.kind)
    watch = _Watch(card.name, reader.count(card.reader, root) if hasattr(reader, "count") else 0, progress)
    dealt, left_out, bad, writers = _Dealt(), Counter[str](), Counter[str](), dict[str, ShardWriter]()
    with ExitStack() as stack, (folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
        for item in reader.read(card.reader, root):
            if isinstance(item, LeftOut):
                left_out[item.reason] += item.count
                continue
            try:
                if isinstance(item, BadSample):
                    raise DataError(item.reason)
                sample, files = prepared(item, card)
                sample = dealt.into_split(sample, files, card)
                if sample.split not in writers:
                    writers[sample.split] = stack.enter_context(ShardWriter(folder, sample.split))
                writers[sample.split].write(sample, files)
            except DataError as reason:
                key = item.key if isinstance(item, BadSample) else item.sample.key
                line = {"key": keyed(f"{card.name}/{key}", card.naming_salt, "key"), "where": item.where, "reason": str(reason)}
                quarantine.write(json.dumps(line, ensure_ascii=False) + "\n")
                bad[str(reason)] += 1
                watch.show(0, bad=1)
            else:
                dealt.count(sample)
                watch.show(sum(map(len, files.values())))
        good = dealt.samples.total()
        if bad.total() > max_bad * (good + bad.total()):
            reasons = "; ".join(f"{n} x {reason}" for reason, n in bad.most_common(3))
            raise _TooManyBad(f"{card.name}: {bad.total()} of {good + bad.total()} samples are bad, at most {max_bad:.2%} are accepted: {reasons}")
    if not good:
        raise DataError(f"{card.name}: the archive holds no samples (left out: {dict(left_out) or 'nothing'})")
    receipt = _receipt(card, folder, dealt, left_out, bad.total())
    (folder / "card.yaml").write_text(yaml.safe_dump(card.model_dump(mode="json", by_alias=True), sort_keys=False))
    write_json(folder / RECEIPT, asdict(receipt))
    return receipt


def _receipt(card: Card, folder: Path, dealt: _Dealt, left_out: Counter[str], num_bad: int) -> PackReceipt:
    tars = sorted(folder.glob("*.tar"))
    indexes = [load_index(tar) for tar in tars]
    return PackReceipt(
        card=card.name, card_hash=card_hash(card), medvlm=medvlm.__version__,
        samples=dict(sorted(dealt.samples.items())), questions=dict(sorted(dealt.questions.items())),
        patients=dict(sorted(Counter(dealt.patients.values()).items())),
        bytes=sum(index.bytes for index in indexes), quarantined=num_bad, left_out=dict(sorted(left_out.items())),
        shards={tar.name: index.sha256 for tar, index in zip(tars, indexes, strict=True)}, salt_id=card.salt_id,
    )  # fmt: skip


@dataclass
class _Dealt:
    """What went where so far. images, patients: hash -> split."""

    samples: Counter[str] = field(default_factory=Counter)
    questions: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    images: dict[bytes, str] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)

    def into_split(self, sample: Sample, files: dict[str, bytes], card: Card) -> Sample:
        """The sample with its split. Raises DataError for one whose key, patient or image is already elsewhere."""
        if sample.key in self.keys:
            raise DataError("there is a sample of the same key already")
        images = [hashlib.blake2b(files[m.member], digest_size=8).digest() for m in sample.media]
        by = card.splits.by
        if by == "patient" and not sample.patient:
            raise DataError("has no patient, but the card splits by patient (splits.by, reader.patient)")
        if by == "column" and not (sample.split.isascii() and sample.split.isalnum()):
            raise DataError("has no split of letters and digits, but the card splits by a column (splits.by, reader.split)")
        # By content, so that one image under two names stays on one side.
        image = images[0].hex() if images else sample.key
        split = split_of(image, card.splits) if by == "image" else sample.split
        if self.patients.get(sample.patient, split) != split:
            raise DataError("its patient is in another split already; split by patient")
        if any(self.images.get(each, split) != split for each in images):
            raise DataError("its image is in another split already")
        self.keys.add(sample.key)
        self.images |= dict.fromkeys(images, split)
        if sample.patient:
            self.patients[sample.patient] = split
        return replace(sample, split=split)

    def count(self, sample: Sample) -> None:
        self.samples[sample.split] += 1
        self.questions[sample.split] += len(sample.questions)


class _Watch:
    """One line a second: how far, how fast, how long."""

    def __init__(self, name: str, expected: int, progress: Progress | None) -> None:
        self._name, self._expected, self._progress = name, expected, progress
        self._start = self._shown = 0.0
        self._done = self._bad = self._bytes = 0

    def show(self, num_bytes: int, bad: int = 0) -> None:
        """After each sample."""
        now = time.monotonic()
        if not self._done:  # the first sample also pays for the imports
            self._start = self._shown = now
        self._done, self._bad, self._bytes = self._done + 1, self._bad + bad, self._bytes + num_bytes
        if self._progress is None or (now - self._shown < 1 and self._done != self._expected):
            return
        self._shown, seconds = now, max(now - self._start, 1e-6)
        rate = self._done / seconds
        of = f" of {self._expected}, {max(self._expected - self._done, 0) / rate:.0f} s left" if self._expected else ""
        self._progress(f"packing {self._name}: {self._done}{of}, {rate:.0f} samples/s, {self._bytes / seconds / 1e6:.1f} MB/s, {self._bad} bad")
