from collections import Counter

from medvlm.archive.deal import keyed, split_of
from medvlm.core.card import Splits

NAMES = [f"patient {i}" for i in range(20_000)]


def test_a_hash_depends_on_text_salt_and_use():
    assert len(keyed("a", "s", "key")) == 16
    assert keyed("a", "s", "key") == keyed("a", "s", "key")
    assert len({keyed("a", "s", "key"), keyed("b", "s", "key"), keyed("a", "t", "key"), keyed("a", "s", "patient"), keyed("a", "s", "deal")}) == 5
    assert len({keyed(name, "x" * 1000, "key") for name in NAMES}) == len(NAMES), "a salt of any length"


def test_splits_get_their_shares():
    dealt = Counter(split_of(name, Splits(ratios={"train": 0.7, "val": 0.1, "test": 0.2})) for name in NAMES)
    # Four standard deviations of a binomial draw of 20000.
    assert abs(dealt["train"] - 14_000) < 260 and abs(dealt["val"] - 2_000) < 170 and abs(dealt["test"] - 4_000) < 227


def test_folds_are_of_equal_size():
    dealt = Counter(split_of(name, Splits(folds=5)) for name in NAMES)
    assert set(dealt) == {f"fold{k}" for k in range(5)}
    assert all(abs(n - 4_000) < 227 for n in dealt.values())


def test_a_split_of_ratio_0_gets_nothing():
    assert {split_of(name, Splits(ratios={"val": 0.0, "train": 1.0, "test": 0.0})) for name in NAMES} == {"train"}
