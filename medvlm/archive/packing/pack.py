"""Packs an archive into shards: reads, checks, strips metadata, replaces names by hashes, assigns splits, writes.

Samples are decoded in separate processes and written in reading order. The same archive and card give the same bytes,
with any number of processes and any number of interruptions: packing resumes. The folder appears under its name once
it is complete. Names, patient ids, and metadata that devices and viewers wrote into image files are not stored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import yaml

import medvlm
from medvlm.archive.packing.deal import Dealt, require_secret
from medvlm.archive.packing.decoders import Decoders, Limits, num_decoders
from medvlm.archive.packing.notice import Notices
from medvlm.archive.packing.progress import PackProgress, Progress
from medvlm.archive.packing.state import Changed, PackState
from medvlm.archive.packing.target import PackTarget, target_of
from medvlm.core.card import Card
from medvlm.core.config import component
from medvlm.core.durable import write_durably
from medvlm.core.errors import DataError
from medvlm.core.live import keep
from medvlm.io.shard_index import INDEX, index_path, read_index
from medvlm.io.shards import RECEIPT

FORM = 1
"""Increased when the same archive and card give other shards than before."""
JOURNAL = 2
"""Increased when the journal's format changes; packing does not resume from an older journal."""
LIMITS = Limits()
COMMIT_SECONDS = 10.0
"""The most work that is lost when packing is killed. Each commit waits for the disk."""
SHARD_BYTES = 256 << 20
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class PackReceipt:
    """What packing produced: `packed.json`. Does not depend on time or place.

    card_hash: see card_hash(). samples, questions, patients: counts by split. bytes: of all tars. quarantined: samples
    that could not be used (`quarantine.jsonl`). left_out: what is left out or not taken as written, by reason. shards:
    tar -> its sha256. salt_id: identifies the secret salt that patients and keys were hashed with; "": the salt in the
    card. reasons: of the quarantined samples; empty in receipts of older versions."""

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
    reasons: dict[str, int] = field(default_factory=dict)


def pack(
    card: Card, root: Path | None, out: Path | str, *, progress: Progress | None = None, max_bad: float = 0.01,
    workers: int | None = None, limits: Limits = LIMITS,
) -> PackReceipt:  # fmt: skip
    """Packs into the folder `out`, or a URL that fsspec can open (`s3://bucket/name`). If that is done already, returns
    its receipt.

    root: the folder of the archive; None for generated data. progress: called with a line about once a second.
    max_bad: fraction of the samples that may be bad; above it nothing is published. workers: number of decoder
    processes; one per CPU by default. limits: of one decoder.
    Raises DataError for a wrong archive or card, if `out` holds something else, and if another process is packing
    there.
    """
    if workers is not None and workers < 1:
        raise DataError(f"workers is {workers}; expected at least 1 process that decodes")
    target = target_of(out)
    if target.receipt() is None:
        require_root(card, root)  # before anything is created beside `out`
    with _lock(target, wait=False):
        return _pack(card, root, target, progress, max_bad, workers, limits)


def pack_once(
    card: Card,
    root: Path | None,
    out: Path,
    *,
    progress: Progress | None = None,
    max_bad: float = 0.01,
    workers: int | None = None,
) -> PackReceipt:
    """Like pack(), for several processes that need the same shards: one packs, the others wait and get its receipt."""
    target = target_of(out)
    if (out / RECEIPT).is_file():  # no lock then: the folder may be read-only
        return _read_finished(card, target)
    with _lock(target, wait=True):
        return _pack(card, root, target, progress, max_bad, workers, LIMITS)


def require_root(card: Card, root: Path | None) -> None:
    """Raises DataError if an archive that is not generated has no folder."""
    if card.access == "generated":
        return
    if root is None:
        raise DataError(
            f"{card.name}: its card says that the data exist, so packing needs a root: the folder that holds them"
            f" ({card.homepage or card.title})"
        )
    if not root.is_dir():
        raise DataError(
            f"{root}: there is no such folder; the root of {card.name} is where its files are"
            f" ({card.homepage or card.title})"
        )


class _TooManyBad(DataError):
    pass


def card_hash(card: Card) -> str:
    """A hash of everything in the card that determines the shards: name, media, reader, splits, phi.checked and the id
    of the secret salt. Correcting a citation or licence does not require packing again.

    Settings at their default are not hashed, so that a later version with more settings still accepts the shards.
    """
    reader, splits = (
        part.model_dump(mode="json", by_alias=True, exclude_defaults=True) for part in (card.reader, card.splits)
    )
    decides = {
        "form": FORM,
        "name": card.name,
        "media": card.media,
        "kind": card.reader.kind,
        "reader": reader,
        "splits": splits,
    }
    decides |= {key: value for key, value in (("checked", sorted(card.phi.checked)), ("salt", card.salt_id)) if value}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def read_receipt(where: Path | str) -> PackReceipt:
    """The receipt of a folder or URL. Raises DataError if packing did not finish."""
    receipt = target_of(where).receipt()
    if receipt is None:
        raise DataError(f"{where}/{RECEIPT}: no receipt of packing; delete all that is there and pack again")
    return _parse(receipt, where)


def _parse(receipt: bytes, where: object) -> PackReceipt:
    try:
        return PackReceipt(**json.loads(receipt))
    except (ValueError, TypeError) as reason:
        raise DataError(
            f"{where}: its {RECEIPT} is no receipt of packing ({type(reason).__name__}); delete it all and pack again"
        ) from None


def _read_finished(card: Card, target: PackTarget) -> PackReceipt:
    receipt = _parse(target.receipt() or b"", target)
    if receipt.card_hash != card_hash(card):
        raise DataError(
            f"{target}: was packed with another card or salt ({receipt.card}, {receipt.card_hash[:12]}; this one is"
            f" {card.name}, {card_hash(card)[:12]}); pack to another place, or delete this one"
        )
    return receipt


@contextmanager
def _lock(target: PackTarget, wait: bool) -> Iterator[None]:
    """Never removes the lock file: otherwise two processes could hold locks on two files of the same name."""
    try:
        target.beside.mkdir(parents=True, exist_ok=True)
        lock = (target.beside / f".{target.name}.lock").open("w")
    except OSError as reason:
        raise DataError(f"{target}: cannot write beside it ({reason.strerror}); choose another folder") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise DataError(f"{target}: another process is packing into it; wait for it to finish") from None
        yield


def _pack(
    card: Card,
    root: Path | None,
    target: PackTarget,
    progress: Progress | None,
    max_bad: float,
    workers: int | None,
    limits: Limits,
) -> PackReceipt:
    """Packs; the caller holds the lock."""
    if target.receipt() is not None:
        receipt = _read_finished(card, target)
        target.forget()
        return receipt
    require_root(card, root)
    require_secret(card)
    fill = partial(_fill, card, root, target, progress, max_bad, workers or num_decoders(), limits)
    try:
        target.begin()
        try:
            receipt = fill()
        except Changed as reason:
            if progress:
                keep(progress, f"packing {card.name}: {reason}; starting again")
            target.forget()
            target.begin()
            receipt = fill()
        target.publish()
    except OSError as reason:  # a full disk, an archive that is no longer mounted
        raise DataError(
            f"{target}: packing stopped ({reason.strerror or type(reason).__name__}); pack again, and it goes on from"
            " there"
        ) from None
    except _TooManyBad as reason:
        kept = target.beside / f"{target.name}.quarantine.jsonl"
        (target.work / QUARANTINE).replace(kept)
        target.forget()
        raise DataError(f"{reason}; all of them are listed in {kept}") from None
    except DataError:
        target.forget()
        raise
    return receipt


def _fill(
    card: Card,
    root: Path | None,
    target: PackTarget,
    progress: Progress | None,
    max_bad: float,
    workers: int,
    limits: Limits,
) -> PackReceipt:
    """Fills the work folder of the target, resuming where possible. Raises Changed if it cannot resume."""
    reader = component("archive.readers", card.reader.kind)
    watch = PackProgress(card.name, reader.count(card.reader, root) if hasattr(reader, "count") else 0, progress)
    begun = {
        "card": card_hash(card),
        "root": hashlib.sha256(str(root and root.resolve()).encode()).hexdigest(),
        "medvlm": medvlm.__version__,
        "journal": JOURNAL,
    }
    notices = Notices()
    items = notices.watch(reader.read(card.reader, root))
    with PackState(card, target, begun, SHARD_BYTES) as state, Decoders(card, workers, limits) as decoders:
        watch.resume(*state.go_on(items))
        saved = time.monotonic()
        for item, outcome in decoders.outcomes(items):
            watch.show(*state.take(item, outcome))
            if time.monotonic() - saved > COMMIT_SECONDS:
                state.commit()
                target.keep(state.full())
                saved = time.monotonic()
        watch.end()
        state.commit()
        state.write_quarantine(target.work / QUARANTINE)
        good, bad = state.dealt.samples.total(), state.bad
        if bad.total() > max_bad * (good + bad.total()):
            reasons = "; ".join(f"{n} x {reason}" for reason, n in bad.most_common(3))
            raise _TooManyBad(
                f"{card.name}: {bad.total()} of {good + bad.total()} samples are bad, at most {max_bad:.2%} are"
                f" accepted: {reasons}"
            )
        if not good:
            raise DataError(
                f"{card.name}: the archive holds no samples (left out: {dict(notices.count()) or 'nothing'})"
            )
        state.finish()
    receipt = _receipt(card, target.work, state.dealt, notices.count() + state.dealt.left_out, bad)
    write_durably(
        target.work / "card.yaml", yaml.safe_dump(card.model_dump(mode="json", by_alias=True), sort_keys=False)
    )
    write_durably(target.work / RECEIPT, json.dumps(asdict(receipt), indent=1, ensure_ascii=False) + "\n")
    return receipt


def _receipt(card: Card, work: Path, dealt: Dealt, left_out: Counter[str], bad: Counter[str]) -> PackReceipt:
    tars = sorted(path.with_name(path.name.removesuffix(INDEX)) for path in work.glob(f"*{INDEX}"))
    indexes = [read_index(index_path(tar)) for tar in tars]
    return PackReceipt(
        card=card.name, card_hash=card_hash(card), medvlm=medvlm.__version__,
        samples=dict(sorted(dealt.samples.items())), questions=dict(sorted(dealt.questions.items())),
        patients=dict(sorted(Counter(dealt.patients.values()).items())),
        bytes=sum(index.bytes for index in indexes), quarantined=bad.total(), left_out=dict(sorted(left_out.items())),
        shards={tar.name: index.sha256 for tar, index in zip(tars, indexes, strict=True)}, salt_id=card.salt_id,
        reasons=dict(sorted(bad.items())),
    )  # fmt: skip
