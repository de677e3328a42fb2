from collections import Counter

import pytest

from medvlm.archive.packing.deal import hash_name, read_salt, require_secret, split_of
from medvlm.core.card import Card, Splits
from medvlm.core.errors import DataError

NAMES = [f"patient {i}" for i in range(20_000)]


def test_a_hash_depends_on_text_salt_and_use():
    assert len(hash_name("a", "s", "key")) == 16
    assert hash_name("a", "s", "key") == hash_name("a", "s", "key")
    assert (
        len(
            {
                hash_name("a", "s", "key"),
                hash_name("b", "s", "key"),
                hash_name("a", "t", "key"),
                hash_name("a", "s", "patient"),
                hash_name("a", "s", "deal"),
            }
        )
        == 5
    )
    assert len({hash_name(name, "x" * 1000, "key") for name in NAMES}) == len(NAMES), "a salt of any length"


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


def test_a_salt_is_what_its_file_holds_without_blanks(tmp_path):
    (tmp_path / "salt").write_text("  0123456789abcdef\n\n")
    assert read_salt(tmp_path / "salt") == "0123456789abcdef"
    for content, why in (
        (b"0123456789abcde", "15 characters can be guessed"),
        (b"", "0 characters"),
        (b"\xff\xfe" * 20, "cannot be read"),
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match=why) as refused:
            read_salt(tmp_path / "bad")
        assert "openssl rand -hex 32" in str(refused.value) and "0123" not in str(refused.value)


@pytest.mark.parametrize(
    ("access", "needs"), [("open", False), ("generated", False), ("registration", True), ("credentialed", True)]
)
def test_data_that_not_everybody_may_have_need_a_secret(access, needs):
    card = Card.model_validate(
        {
            "name": "made",
            "title": "",
            "summary": "",
            "access": access,
            "media": ["film"],
            "licence": {"id": "MIT", "commercial": True},
            "phi": {"status": "deidentified"},
            "reader": {"kind": "table", "file": "table.csv", "key": "{id}"},
        }
    )
    if needs:
        with pytest.raises(DataError, match="give --salt-file FILE"):
            require_secret(card)
    else:
        require_secret(card)
    require_secret(card.add_secret("0123456789abcdef"))
