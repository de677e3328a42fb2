"""The order of samples, its delivery to ranks and threads, and what happens to damaged samples."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from medvlm.core.errors import DataError, RecipeError
from medvlm.core.sample import Medium, Question, Sample, make_truth
from medvlm.core.stage_config import Sampling
from medvlm.data.order import RANDOM, Order
from medvlm.data.parts import make_parts
from medvlm.data.source import HoldOut, SourceView, choose_splits, find_group, make_filter
from medvlm.data.stream import Item, Stream, make_loader
from medvlm.io.cache import Cache
from medvlm.io.opening import open_shards
from medvlm.io.shards import Entry, ShardSet, ShardWriter
from tests.io.served import http

SIZES = {"films": 23, "scans": 7}


def write(folder: Path, source: str, split: str, n: int, **fields: Any) -> None:
    with ShardWriter(folder, split, max_bytes=8192) as writer:
        for i in range(n):
            medium = Medium("film", "0.npy", (2, 2))
            writer.write(
                Sample(f"{source}-{split}-{i}", source, split, (medium,), **fields), {"0.npy": bytes([i]) * 100}
            )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ShardSet]:
    folders = {name: tmp_path_factory.mktemp(name) for name in SIZES}
    for name, folder in folders.items():
        write(folder, name, "train", SIZES[name])
    return {name: open_shards(folder) for name, folder in folders.items()}


@pytest.fixture
def stream(shards: dict[str, ShardSet]) -> Stream:
    return mixed({name: SourceView(s, ("train",)) for name, s in shards.items()}, {"films": 3, "scans": 1})


def mixed(
    views: Mapping[str, SourceView],
    mix: Mapping[str, float],
    seed: int = 7,
    stage: str = "align",
    order: Order = RANDOM,
    **sampling: Any,
) -> Stream:
    return Stream(make_parts(views, mix, Sampling(**sampling), dict.fromkeys(views, order), stage), seed, stage=stage)


def key(item: Item) -> str:
    return item.sample.key


def nobody(key: str, shard: str, reason: str) -> None:
    raise AssertionError(f"{key} was quarantined: {reason}")


def order(stream: Stream, steps: int, *, start: int = 0, batch: int = 8, world: int = 1, workers: int = 0) -> list[str]:
    """Keys of the first steps in global order, put together from those of all ranks."""
    ranks = [make_loader(stream, start, batch, rank, world, key, workers, quarantine=nobody) for rank in range(world)]
    keys = []
    for step in range(steps):
        parts = [next(rank) for rank in ranks]
        assert [first for first, _ in parts] == [start + step * batch] * world
        assert [len(items) for _, items in parts] == [batch // world] * world
        keys += [k for _, items in parts for k in items]
    for rank in ranks:
        rank.close()  # type: ignore[attr-defined]
    return keys


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 3])
def test_the_order_is_the_same_for_any_number_of_ranks_and_threads(stream: Stream, world: int, workers: int) -> None:
    assert order(stream, 12, world=world, workers=workers) == [stream.item(p).sample.key for p in range(96)]


@pytest.mark.parametrize("used", [8, 40, 51])
def test_going_on_after_any_number_of_samples_gives_the_tail_of_the_undisturbed_order(
    stream: Stream, used: int
) -> None:
    assert order(stream, 5, start=used, workers=2) == order(stream, 20)[used : used + 40]


def test_every_sample_comes_once_an_epoch_each_time_in_another_order(stream: Stream) -> None:
    by_epoch: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for position in range(4 * 23 * 7):
        place = stream.place(position)
        by_epoch.setdefault((place.source, place.epoch), []).append((place.split, place.index))
    for (source, _), places in by_epoch.items():
        assert sorted(places) == [("train", i) for i in range(SIZES[source])]
    assert len(by_epoch) == 3 * 7 + 23
    assert len({tuple(places) for places in by_epoch.values()}) == len(by_epoch)


def test_weights_are_kept_within_one_sample_at_any_length(stream: Stream) -> None:
    seen: Counter[str] = Counter()
    for position in range(400):
        seen[stream.place(position).source] += 1
        assert abs(seen["films"] - 0.75 * (position + 1)) <= 1


def test_seed_and_stage_change_the_order(shards: dict[str, ShardSet]) -> None:
    views = {"films": SourceView(shards["films"], ("train",))}
    streams = [
        mixed(views, {"films": 1}, seed, stage)
        for seed, stage in [(7, "align"), (8, "align"), (7, "instruct"), (7, "align")]
    ]
    orders = [tuple(s.place(p).index for p in range(23)) for s in streams]
    assert len(set(orders)) == 3 and orders[0] == orders[3]


class Billion(SourceView):
    """A source too large to write in a test."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return 10**9

    def locate(self, i: int) -> tuple[str, int]:
        return "train", i


def test_a_billion_samples_need_no_list_of_them() -> None:
    stream = mixed({"all": Billion()}, {"all": 1})
    began = time.perf_counter()
    places = [stream.place(p) for p in (*range(1000), *range(5 * 10**9, 5 * 10**9 + 1000))]
    assert time.perf_counter() - began < 1
    assert [p.epoch for p in places] == [0] * 1000 + [5] * 1000
    assert len({p.index for p in places}) >= 1999 and max(p.index for p in places) > 9 * 10**8


def test_a_batch_that_the_ranks_cannot_share_is_refused_before_anything_is_read(stream: Stream) -> None:
    with pytest.raises(
        DataError,
        match=r"stages\.align\.batch is 10, which is not divisible by 4 ranks; use a multiple of 4, e\.g\. 8, 12",
    ):
        make_loader(stream, 0, 10, 0, 4, key, 0, quarantine=nobody)


# --- damaged samples --------------------------------------------------------------------------------


def damaged(folder: Path, *places: int) -> Path:
    """The shards of a source of 23 samples, in which a byte of each of these samples' images is another."""
    write(folder, "films", "train", 23)
    for tar in folder.glob("*.tar"):
        data = bytearray(tar.read_bytes())
        for i in places:
            at = data.find(bytes([i]) * 100)
            if at >= 0:
                data[at] ^= 0xFF
        tar.write_bytes(data)
    return folder


def damaged_stream(folder: Path, *places: int) -> Stream:
    return mixed({"films": SourceView(open_shards(damaged(folder, *places)), ("train",))}, {"films": 1})


@pytest.mark.parametrize("world, workers", [(1, 0), (2, 3)])
def test_a_damaged_sample_is_replaced_by_the_same_one_everywhere_and_named_once(
    tmp_path: Path, world: int, workers: int
) -> None:
    stream = damaged_stream(tmp_path, 5)
    told: list[tuple[str, str, str]] = []
    ranks = [
        make_loader(stream, 0, 4, r, world, key, workers, quarantine=lambda *line: told.append(line))
        for r in range(world)
    ]
    keys = [k for _ in range(24) for rank in ranks for k in next(rank)[1]]
    expected = []
    for position in range(96):
        place = stream.place(position)
        expected.append(f"films-train-{(stream.substitute(position, 1) if place.index == 5 else place).index}")
    assert keys == expected
    assert "films-train-5" not in keys
    assert len(set(told)) == 1 and len(told) <= world  # once a rank
    bad_key, shard, reason = told[0]
    assert bad_key == "films-train-5" and Path(shard).parent == tmp_path and shard in reason and "crc32" in reason


def test_what_preparing_finds_damaged_is_replaced_too(stream: Stream) -> None:
    told = []

    def prepare(item: Item) -> str:
        if item.sample.key == "scans-train-3":
            raise DataError("0.npy: a damaged .npy header")
        return item.sample.key

    keys = next(make_loader(stream, 0, 64, 0, 1, prepare, 2, quarantine=lambda *line: told.append(line)))[1]
    assert "scans-train-3" not in keys and len(keys) == 64
    assert [(k, r) for k, _, r in told] == [("scans-train-3", "0.npy: a damaged .npy header")]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_the_run(tmp_path: Path, workers: int) -> None:
    stream = damaged_stream(tmp_path, *range(8, 16))
    told: list[str] = []
    batches = make_loader(stream, 0, 4, 0, 1, key, workers, quarantine=lambda key, shard, reason: told.append(key))
    with pytest.raises(DataError, match=r"6 of \d+ samples are bad, the limit is 1%\. Last: .*medvlm data audit"):
        list(islice(batches, 50))
    assert 2 <= len(told) <= 6


def test_a_few_bad_samples_among_many_are_trained_around(stream: Stream) -> None:
    """One bad film in 23 is 3 % of the items; with a ceiling of 5 % the run goes on."""

    def prepare(item: Item) -> str:
        if item.sample.key == "films-train-0":
            raise DataError("bad")
        return item.sample.key

    batches = make_loader(stream, 0, 100, 0, 1, prepare, 0, quarantine=lambda *line: None, max_bad=0.05)
    assert sum(len(items) for _, items in islice(batches, 20)) == 2000
    with pytest.raises(DataError, match="the limit is 1%"):
        list(islice(make_loader(stream, 0, 100, 0, 1, prepare, 0, quarantine=lambda *line: None), 20))


def test_a_place_without_any_usable_substitute_stops_the_run(stream: Stream) -> None:
    def prepare(item: Item) -> str:
        raise DataError("nothing works")

    with pytest.raises(DataError, match="position 0: 4 samples in a row cannot be used; the last: nothing works"):
        next(make_loader(stream, 0, 4, 0, 1, prepare, 0, quarantine=lambda *line: None))


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("our fault"), RecipeError("data.films.augment.crop: cannot be")],
    ids=lambda e: type(e).__name__,
)
def test_any_other_error_arrives_with_shard_and_key(stream: Stream, workers: int, error: Exception) -> None:
    target = stream.item(9)

    def prepare(item: Item) -> str:
        if item.place.position == 9:
            raise error
        return item.sample.key

    batches = make_loader(stream, 0, 4, 0, 1, prepare, workers, quarantine=nobody)
    assert [first for first, _ in (next(batches), next(batches))] == [0, 4]
    with pytest.raises(type(error)) as caught:
        next(batches)
    note = caught.value.__notes__[-1]
    assert (
        f"position 9 of stage align: sample {target.sample.key} of source {target.place.source}" in note
        and ".tar" in note
    )


# --- threads ----------------------------------------------------------------------------------------


def data_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("data-align")]


def test_no_more_than_the_agreed_steps_are_prepared_ahead(stream: Stream) -> None:
    prepared: list[int] = []

    def prepare(item: Item) -> int:
        prepared.append(item.place.position)
        return item.place.position

    batches = make_loader(stream, 0, 4, 0, 1, prepare, 3, ahead=2, quarantine=nobody)
    for step in range(3):
        next(batches)
        settled(prepared, (step + 3) * 4)
        assert sorted(prepared) == list(range((step + 3) * 4))
    batches.close()  # type: ignore[attr-defined]


def settled(prepared: list[int], expected: int) -> None:
    """Gives threads up to 5 s to do what they may, and 50 ms to do what they may not."""
    until = time.monotonic() + 5
    while len(prepared) < expected and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(0.05)


def test_closing_ends_the_threads_without_the_work_that_waits(stream: Stream) -> None:
    started: list[int] = []

    def slow(item: Item) -> int:
        started.append(item.place.position)
        time.sleep(0.05)
        return 0

    batches: Any = make_loader(stream, 0, 32, 0, 1, slow, 2, quarantine=nobody)
    next(batches)
    assert len(data_threads()) == 2
    began = time.monotonic()
    batches.close()
    assert time.monotonic() - began < 0.3  # a run of 8 items takes 0.4 s, all the items that were waiting 3 s
    assert not data_threads() and len(started) < 80


def test_an_error_ends_the_threads(stream: Stream) -> None:
    def prepare(item: Item) -> Iterator[None]:
        raise KeyError("broken")

    with pytest.raises(KeyError):
        next(make_loader(stream, 0, 8, 0, 1, prepare, 2, quarantine=nobody))
    assert not data_threads()


# --- views ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Five folds of five samples: with a count, with a choice, with a report, with another kind of medium, with both
    kinds."""
    folder = tmp_path_factory.mktemp("varied")
    for fold in range(5):
        with ShardWriter(folder, f"fold{fold}") as writer:
            records: list[dict[str, Any]] = [
                {"questions": (Question("How many?", make_truth("count", "1", count=1), "count"),)},
                {"questions": (Question("Which?", make_truth("choice", "a", choices=("a", "b")), "which"),)},
                {"report": "Clear."},
                {},
                {},
            ]
            for i, fields in enumerate(records):
                media = tuple(
                    Medium(kind, "0.npy", (2, 2))
                    for kind in (("film",), ("film",), ("film",), ("volume",), ("film", "volume"))[i]
                )
                writer.write(Sample(f"s{fold}-{i}", "varied", f"fold{fold}", media, **fields), {"0.npy": b"x"})
    return open_shards(folder)


def test_a_fold_is_tested_on_and_the_others_are_trained_on(varied: ShardSet) -> None:
    assert choose_splits(varied, "test", fold=1) == ("fold1",)
    assert choose_splits(varied, "train", fold=1) == ("fold0", "fold2", "fold3", "fold4")
    train = SourceView(varied, choose_splits(varied, "train", fold=1))
    assert [train.entry(i).key for i in range(len(train))] == [
        f"s{fold}-{i}" for fold in (0, 2, 3, 4) for i in range(5)
    ]
    assert [train.read(i)[0].key for i in (0, 5, 19)] == ["s0-0", "s2-0", "s4-4"]


def test_splits_that_are_not_there_are_refused_with_the_remedy(varied: ShardSet, shards: dict[str, ShardSet]) -> None:
    with pytest.raises(DataError, match=r"no split 'train' .*set data\.SOURCE\.fold"):
        choose_splits(varied, "train")
    with pytest.raises(DataError, match=r"fold 5 has no split 'test' here \(folds: fold0, fold1"):
        choose_splits(varied, "test", fold=5)
    with pytest.raises(DataError, match="fold 0 has no split 'val'"):
        choose_splits(varied, "val", fold=0)
    with pytest.raises(DataError, match=r"folds: none"):
        choose_splits(shards["films"], "train", fold=0)
    with pytest.raises(DataError, match=r"no split 'test' \(found train\)"):
        choose_splits(shards["films"], "test")


@pytest.mark.parametrize(
    "wanted, places",
    [
        (make_filter(), [0, 1, 2, 3, 4]),
        (make_filter(tasks=()), [0, 1]),
        (make_filter(tasks=("count", "boxes")), [0]),
        (make_filter(report=True), [2]),
        (make_filter(media={"film"}.__contains__), [0, 1, 2]),
        (make_filter(media={"film", "volume"}.__contains__), [0, 1, 2, 3, 4]),
        (make_filter(tasks=("choice",), media={"volume"}.__contains__), []),
    ],
)
def test_a_stage_sees_the_samples_that_have_what_it_needs(varied: ShardSet, wanted: Any, places: list[int]) -> None:
    view = SourceView(varied, ("fold3",), wanted)
    assert [view.entry(i).key for i in range(len(view))] == [f"s3-{i}" for i in places]


def test_a_source_without_a_usable_sample_is_refused(varied: ShardSet) -> None:
    view = SourceView(varied, ("fold0",), make_filter(tasks=("boxes",)))
    with pytest.raises(
        DataError, match=r"stages\.align\.mix\.varied: no sample of this source has what the stage needs"
    ):
        mixed({"varied": view}, {"varied": 1})


# --- mixing --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> SourceView:
    """30 samples: 24 of site a, 5 of b, 1 that does not say."""
    folder = tmp_path_factory.mktemp("hospitals")
    with ShardWriter(folder, "train", max_bytes=8192) as writer:
        for i in range(30):
            groups = {"site": "a" if i < 24 else "b"} if i < 29 else {}
            writer.write(
                Sample(f"h{i}", "hospitals", "train", (Medium("film", "0.npy", (2, 2)),), groups=groups),
                {"0.npy": bytes([i]) * 100},
            )
    return SourceView(open_shards(folder), ("train",))


@pytest.mark.parametrize("order_", [RANDOM, Order(kind="blocks", block=4, window=2)], ids=["random", "blocks"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_shards_of_uneven_sizes_give_every_rank_as_many_steps_and_every_sample_once(
    shards: dict[str, ShardSet], order_: Order, world: int
) -> None:
    """23 samples, which no number of ranks here divides; over 8 epochs the ranks together see each of them 8 times."""
    stream = mixed({"films": SourceView(shards["films"], ("train",))}, {"films": 1}, order=order_)
    keys = order(stream, 23, batch=8, world=world, workers=2)
    assert Counter(keys) == dict.fromkeys((f"films-train-{i}" for i in range(23)), 8)
    assert keys == order(stream, 23, batch=8)


def test_a_source_that_is_used_up_leaves_its_share_to_the_others(shards: dict[str, ShardSet]) -> None:
    views = {name: SourceView(s, ("train",)) for name, s in shards.items()}
    stream = mixed(views, {"films": 1, "scans": 1}, epochs={"scans": 2})
    places = [stream.place(p) for p in range(200)]
    scans = [p for p in places if p.source == "scans"]
    assert Counter(p.index for p in scans) == dict.fromkeys(range(7), 2) and len(scans) == 14
    assert max(p.position for p in scans) <= 28  # by turns until then
    films = [p for p in places if p.source == "films"]
    assert [p.epoch for p in films] == [n // 23 for n in range(len(films))]
    assert stream.length is None and stream.used(200) == {"films": (186, 186 / 23), "scans": (14, 2.0)}


def test_every_source_can_be_gone_through_exactly_so_often(shards: dict[str, ShardSet]) -> None:
    views = {name: SourceView(s, ("train",)) for name, s in shards.items()}
    stream = mixed(views, {"films": 2, "scans": 3}, temperature=1, epochs={"films": 2, "scans": 3})
    assert stream.length == 2 * 23 + 3 * 7
    seen = Counter((p.source, p.index) for p in map(stream.place, range(stream.length)))
    assert seen == {**{("films", i): 2 for i in range(23)}, **{("scans", i): 3 for i in range(7)}}
    with pytest.raises(IndexError):
        stream.place(stream.length)


@pytest.mark.parametrize("position", [0, 1, 13, 27, 28, 29, 100])
def test_what_was_used_is_what_lies_before(shards: dict[str, ShardSet], position: int) -> None:
    stream = mixed(
        {name: SourceView(s, ("train",)) for name, s in shards.items()}, {"films": 2, "scans": 1}, epochs={"scans": 1.5}
    )
    counted = Counter(stream.place(p).source for p in range(position))
    assert {source: n for source, (n, _) in stream.used(position).items()} == {
        "films": counted["films"],
        "scans": counted["scans"],
    }


@pytest.mark.parametrize("temperature, share", [(1.0, 23 / 30), (2.0, 23**0.5 / (23**0.5 + 7**0.5)), (1e9, 0.5)])
def test_temperature_mixes_between_sizes_and_weights(
    shards: dict[str, ShardSet], temperature: float, share: float
) -> None:
    stream = mixed(
        {name: SourceView(s, ("train",)) for name, s in shards.items()},
        {"films": 1, "scans": 1},
        temperature=temperature,
    )
    assert sum(stream.place(p).source == "films" for p in range(3000)) / 3000 == pytest.approx(share, abs=0.002)


def test_groups_of_a_source_come_equally_often(hospitals: SourceView) -> None:
    stream = mixed({"hospitals": hospitals}, {"hospitals": 1}, balance={"hospitals": "site"})
    sites = Counter(find_group(hospitals.entry(stream.place(p).index), "site") for p in range(300))
    assert sites == {"a": 100, "b": 100, "": 100}
    assert {stream.place(p).source for p in range(30)} == {"hospitals"} and stream.used(300)["hospitals"] == (300, 10.0)
    bad = stream.place(0)
    instead = {find_group(hospitals.entry(stream.substitute(0, attempt).index), "site") for attempt in range(1, 9)}
    assert instead == {find_group(hospitals.entry(bad.index), "site")}  # what takes its place is of its group
    with pytest.raises(
        DataError,
        match=(
            r"stages\.align\.sampling\.balance\.hospitals: no sample has a 'scanner' \(they have site; all have"
            r" task and media\)"
        ),
    ):
        mixed({"hospitals": hospitals}, {"hospitals": 1}, balance={"hospitals": "scanner"})


def test_what_is_held_out_depends_on_its_name_alone(hospitals: SourceView) -> None:
    names = [f"site-{i}" for i in range(2000)]
    rule = HoldOut(by="site", share=0.1)
    held = {name for name in names if rule.holds(Entry("x", {}, False, (), {"site": name}))}
    assert 0.07 * 2000 < len(held) < 0.13 * 2000
    assert held & set(names[:50]) == {
        name for name in names[:50] if rule.holds(Entry("y", {"count": 1}, True, ("film",), {"site": name}))
    }
    assert held != {
        name
        for name in names
        if HoldOut(by="site", share=0.1, salt="other").holds(Entry("x", {}, False, (), {"site": name}))
    }
    named = HoldOut(by="site", values=("b",))
    assert [i for i in range(30) if named.holds(hospitals.entry(i))] == list(range(24, 29))


def test_a_combination_is_held_out_and_its_parts_stay_unless_they_are_left_out_too() -> None:
    whole = {"modality": "CT", "area": "lung", "purpose": "covid"}
    entries = {
        name: Entry(name, {}, False, (), {**whole, **other})
        for name, other in {
            "same": {},
            "one shared": {"modality": "MR", "area": "brain"},
            "two shared": {"area": "brain"},
            "none": {"modality": "MR", "area": "brain", "purpose": "tumour"},
        }.items()
    } | {"no groups": Entry("x", {}, False, (), {})}
    rule, control = HoldOut(combination=whole), HoldOut(combination=whole, related=False)
    assert [name for name, entry in entries.items() if rule.holds(entry)] == ["same"]
    assert [name for name, entry in entries.items() if control.holds(entry)] == ["same"]
    trained = [name for name, entry in entries.items() if rule.trains(entry)]
    assert trained == ["one shared", "two shared", "none", "no groups"]
    assert [name for name, entry in entries.items() if control.trains(entry)] == ["none", "no groups"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"combination": {"modality": "CT"}}, "has several values"),
        ({"combination": {"modality": "CT", "area": "lung"}, "by": "site"}, "either `combination` or `by`"),
        ({"by": "site", "values": ("a",), "related": False}, "there is none"),
        ({"values": ("a",)}, "expected `by`"),
    ],
)
def test_a_rule_that_says_two_things_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        HoldOut(**settings)


def test_blocks_fetch_what_lies_far_away_about_once_with_a_cache_of_a_fifth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In random order nearly every sample is a fetch of its whole block."""
    monkeypatch.setattr("medvlm.io.places.BLOCK", 16_384)
    with ShardWriter(tmp_path / "shards", "train", max_bytes=120_000) as writer:
        for i in range(240):
            writer.write(Sample(f"s{i}", "far", "train"), {"0.bin": bytes([i % 251]) * 1000})
    whole, times = sum(tar.stat().st_size for tar in (tmp_path / "shards").glob("*.tar")), {}
    with http(tmp_path / "shards") as server:
        for kind in ("random", "blocks"):
            shards = open_shards(
                f"{server.url}/train-{{000000..{len(list((tmp_path / 'shards').glob('*.tar'))) - 1:06d}}}.tar",
                Cache(tmp_path / kind, whole // 5),
            )
            stream = mixed(
                {"far": SourceView(shards, ("train",))}, {"far": 1}, order=Order(kind=kind, block=8, window=4)
            )
            server.asked.clear()
            assert sorted(stream.item(p).sample.key for p in range(240)) == sorted(f"s{i}" for i in range(240))
            times[kind] = (
                sum(
                    int(part.rpartition("-")[2]) - int(part[6:].partition("-")[0]) + 1
                    for path, part in server.asked
                    if part and path.endswith(".tar")
                )
                / whole
            )
    assert times["blocks"] < 2.5 and times["random"] > 2.5 * times["blocks"], times
