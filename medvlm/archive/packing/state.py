"""The state of packing: the shards being written and the journal of their contents, kept consistent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from medvlm.archive.packing.deal import Dealt, Share, hash_name
from medvlm.archive.packing.decoders import Item, Outcome
from medvlm.archive.packing.journal import Bad, Journal
from medvlm.archive.packing.stored import Stored
from medvlm.archive.packing.target import PackTarget
from medvlm.core.card import Card
from medvlm.core.contracts import RawSample
from medvlm.core.errors import DataError
from medvlm.io.shard_index import index_path, read_index
from medvlm.io.shards import ShardWriter


class Changed(Exception):
    """Raised when packing cannot resume from what an earlier process left."""


class PackState:
    """dealt: what was assigned to which split. bad: how many samples could not be used, by reason.

    begun: the conditions under which packing began (see Journal). Raises Changed if the shards are not those of the
    journal."""

    def __init__(self, card: Card, target: PackTarget, begun: dict[str, Any], shard_bytes: int) -> None:
        self.dealt, self.bad = Dealt(), Counter[str]()
        self._card, self._folder, self._may_be_away, self._shard_bytes = (
            card,
            target.work,
            target.takes_parts,
            shard_bytes,
        )
        self._journal = Journal(target.journal, {**begun, "shard_bytes": shard_bytes})
        try:
            self._writers = self._resume_writers()
        except (FileNotFoundError, DataError):
            self._journal.close()
            raise Changed("what was packed before is damaged") from None

    def __enter__(self) -> PackState:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.release()
        self._journal.close()

    def go_on(self, items: Iterator[Item]) -> tuple[int, int]:
        """Skips the items that were decided before. Returns how many, and how many of them are bad. Raises Changed if
        the archive yields other items."""
        past = self._journal.past()
        for decided in past:
            item = next(items, None)
            if item is None or self._key(item) != decided.key:
                raise Changed("the archive is not what it was when packing began")
            self._remember(decided)
        return self.dealt.samples.total() + self.bad.total(), self.bad.total()

    def take(self, item: Item, outcome: Outcome) -> tuple[int, int]:
        """Writes a sample, or records why it cannot be used. Returns the bytes written, and 1 for a bad sample."""
        decided = self._decide(item, outcome)
        if isinstance(decided, Share):
            assert isinstance(outcome, Stored)
            self._writer(decided.split).put(outcome.facts, outcome.members)
        self._journal.add(decided)
        self._remember(decided)
        return (decided.bytes, 0) if isinstance(decided, Share) else (0, 1)

    def commit(self) -> None:
        """Makes everything so far durable: another process can resume from here."""
        self._journal.commit({split: writer.sync() for split, writer in sorted(self._writers.items())})

    def full(self) -> list[Path]:
        """The parts that are complete."""
        return [part for writer in self._writers.values() for part in writer.list_full_parts()]

    def finish(self) -> None:
        """Closes the shards and gives them their final names."""
        for writer in self._writers.values():
            writer.close()

    def write_quarantine(self, path: Path) -> None:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for decided in self._journal.past():
                if isinstance(decided, Bad):
                    file.write(json.dumps(decided._asdict(), ensure_ascii=False) + "\n")

    def _decide(self, item: Item, outcome: Outcome) -> Share | Bad:
        try:
            if isinstance(outcome, DataError):
                raise outcome
            num_bytes, facts = sum(map(len, outcome.members.values())), outcome.facts
            share = Share(
                facts.key,
                facts.split,
                outcome.patient,
                outcome.images,
                sum(facts.tasks.values()),
                num_bytes,
                outcome.left_out,
            )
            self.dealt.check(share)
            return share
        except DataError as reason:
            return Bad(self._key(item), item.where, str(reason))

    def _remember(self, decided: Share | Bad) -> None:
        if isinstance(decided, Share):
            self.dealt.take(decided)
        else:
            self.bad[decided.reason] += 1

    def _key(self, item: Item) -> str:
        key = item.sample.key if isinstance(item, RawSample) else item.key
        return hash_name(f"{self._card.name}/{key}", self._card.naming_salt, "key")

    def _writer(self, split: str) -> ShardWriter:
        if split not in self._writers:
            self._writers[split] = ShardWriter(self._folder, split, self._shard_bytes)
        return self._writers[split]

    def _resume_writers(self) -> dict[str, ShardWriter]:
        """Writers positioned at the last commit; anything written after it is removed."""
        for tar in self._folder.glob("*.tar"):  # left when packing was killed just before publishing
            tar.rename(tar.with_name(f"{tar.name}.part"))
        places, kept = self._journal.places, set[Path]()
        for split, (number, *_) in places.items():
            tars = [self._folder / f"{split}-{i:06d}.tar" for i in range(number + 1)]
            kept |= {tar.with_name(f"{tar.name}.part") for tar in tars} | {index_path(tar) for tar in tars[:-1]}
            for tar in tars[:-1]:
                self._check_full(tar)
        for path in self._folder.iterdir():
            if path not in kept:
                path.unlink()
        return {split: ShardWriter(self._folder, split, self._shard_bytes, place) for split, place in places.items()}

    def _check_full(self, tar: Path) -> None:
        part, index = tar.with_name(f"{tar.name}.part"), read_index(index_path(tar))
        if not (self._may_be_away and not part.exists()) and part.stat().st_size != index.bytes:
            raise DataError(f"{part}: not {index.bytes} bytes")
