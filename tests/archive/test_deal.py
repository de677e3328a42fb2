import base64
import random
from collections import Counter
from pathlib import Path

import pytest

from medvlm.archive.packing.deal import MIN_BITS, estimate_bits, hash_name, read_salt, require_secret, split_of
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


RANDOM = "5f0c93ab71e8d264"


def write_salt(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_salt_is_what_its_file_holds_without_blanks(tmp_path):
    assert read_salt(write_salt(tmp_path / "salt", f"  {RANDOM}\n\n".encode())) == RANDOM
    for content, why in (
        (b"5f0c93ab71e8d26", "15 characters can be guessed"),
        (b"", "0 characters"),
        (b"\xff\xfe" * 20, "cannot be read"),
    ):
        with pytest.raises(DataError, match=why) as refused:
            read_salt(write_salt(tmp_path / "bad", content))
        assert "openssl rand -hex 32" in str(refused.value) and "5f0c" not in str(refused.value)


@pytest.mark.parametrize(
    "salt",
    [
        "aaaaaaaaaaaaaaaa",
        "abababababababab",
        "0123456789abcdef",
        "fedcba9876543210",
        "1234567890123456",
        "11223344556677889900",
        "passwordpassword",
        "password12345678",
        "qwertyuiopasdfgh",
        "deadbeefdeadbeef",
        "thisismyhospitalsalt",
        "kowalski-hospital-2024",
        "correct-horse-battery-staple",
        "MyHospitalSalt2024!",
        "0" * 31 + "1",
    ],
)
def test_a_salt_that_can_be_guessed_is_refused_and_not_shown(tmp_path, salt):
    with pytest.raises(DataError, match="can be guessed") as refused:
        read_salt(write_salt(tmp_path / "bad", salt.encode()))
    assert salt not in str(refused.value)


def test_random_salts_are_accepted():
    rng = random.Random(0)
    for made in (
        lambda: rng.randbytes(32).hex(),
        lambda: rng.randbytes(16).hex(),
        lambda: base64.b64encode(rng.randbytes(24)).decode(),
    ):
        assert all(estimate_bits(made()) >= MIN_BITS for _ in range(500))


@pytest.mark.parametrize(
    ("mode", "is_refused"), [(0o600, 0), (0o400, 0), (0o640, 0), (0o644, 1), (0o604, 1), (0o666, 1)]
)
def test_a_salt_file_that_everybody_may_read_is_refused(tmp_path, mode, is_refused):
    path = write_salt(tmp_path / "salt", RANDOM.encode(), mode)
    if not is_refused:
        assert read_salt(path) == RANDOM
        return
    with pytest.raises(DataError, match="everybody on this machine may read this salt file; run `chmod 600`") as said:
        read_salt(path)
    assert RANDOM not in str(said.value)


def test_a_salt_given_as_the_name_of_its_file_is_not_shown():
    for salt in (RANDOM * 2, "x7Qp/9vR2+kLmW4zTb8NcYdE1"):
        with pytest.raises(DataError, match="looks like the salt itself") as refused:
            read_salt(Path(salt))
        assert salt not in str(refused.value)
    with pytest.raises(DataError, match=r"folder/my_salt: this salt file cannot be read"):
        read_salt(Path("folder/my_salt"))


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
    require_secret(card.add_secret(RANDOM))
