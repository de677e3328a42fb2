"""The bits of an image, and the search among them."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from medvlm.archive.audit.near import DISTANCE, find_near, find_turned
from medvlm.archive.audit.picture import PictureHash, hash_picture, turn_hashes
from medvlm.io.images import decode
from tests.archive.audited import HEIGHT, WIDTH, jpeg, picture, resized

NUM_PICTURES = 40
COPIES = {
    "half the size": lambda x: resized(x, HEIGHT // 2, WIDTH // 2),
    "another shape": lambda x: resized(x, 96, 96),
    "small": lambda x: resized(x, 40, 40),
    "larger": lambda x: resized(x, HEIGHT * 2, WIDTH * 2),
    "re-compressed": lambda x: decode(jpeg(x, 30), "x"),
    "small and re-compressed": lambda x: decode(jpeg(resized(x, 80, 80), 50), "x"),
    "brighter": lambda x: (x.astype(int) + 30).clip(0, 255).astype(np.uint8),
    "of less contrast": lambda x: (128 + (x - 128.0) * 0.6).astype(np.uint8),
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "in three equal colours": lambda x: np.stack([x] * 3, -1),
    "in Hounsfield units": lambda x: x.astype(np.float32) * 10 - 1000,
}


def differ(a: PictureHash, b: PictureHash) -> int:
    assert a.near is not None and b.near is not None
    return int(np.bitwise_count(a.near ^ b.near).sum())


@pytest.mark.parametrize("change", sorted(COPIES))
def test_a_copy_is_near_and_another_picture_is_not(change):
    pictures = [picture(i) for i in range(NUM_PICTURES)]
    looks, copies = [hash_picture(p, 2) for p in pictures], [hash_picture(COPIES[change](p), 2) for p in pictures]
    assert max(differ(a, b) for a, b in zip(looks, copies, strict=True)) <= DISTANCE
    assert all(a.exact != b.exact for a, b in zip(looks, copies, strict=True))
    assert min(differ(a, copies[j]) for i, a in enumerate(looks) for j in range(NUM_PICTURES) if i != j) > 2 * DISTANCE


def test_the_bits_are_those_of_the_256_lowest_waves_against_their_median():
    """scipy's DCT, of the same 64 x 64 means; which bit stands where is ours."""
    for i in range(10):
        means = np.asarray(Image.fromarray(picture(i).astype(np.float32)).resize((64, 64), Image.Resampling.BOX))
        waves = dctn(means.astype(float), type=2)[:16, :16]
        near = hash_picture(picture(i), 2).near
        assert near is not None
        bits = np.unpackbits(near.view(np.uint8)).reshape(16, 16)
        rows = np.arange(16)
        expected = waves > np.median(waves)
        assert all((bits[band] == expected[rows, (band - rows) % 16]).all() for band in range(16))


TURNS = [
    lambda x: x[:, ::-1],
    lambda x: x[::-1],
    lambda x: x[::-1, ::-1],
    lambda x: x.T,
    lambda x: x.T[:, ::-1],
    lambda x: x.T[::-1],
    lambda x: x.T[::-1, ::-1],
]


def test_how_a_turned_picture_looks_is_known_without_it():
    pictures = [picture(i) for i in range(NUM_PICTURES)]
    near_N4 = np.array([hash_picture(p, 2).near for p in pictures])
    for turn, derived_N4 in zip(TURNS, turn_hashes(near_N4), strict=True):
        real_N4 = np.array([hash_picture(np.ascontiguousarray(turn(p)), 2).near for p in pictures])
        differ_NN = np.bitwise_count(derived_N4[:, None] ^ real_N4[None]).sum(2)
        assert (
            np.diag(differ_NN).max() <= DISTANCE
            and (differ_NN + 256 * np.eye(NUM_PICTURES, dtype=int)).min() > 2 * DISTANCE
        )


def test_exact_is_of_pixels_not_of_files():
    pixels = picture(3)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", compress_level=0)
    assert hash_picture(decode(packed.getvalue(), "x"), 2).exact == hash_picture(pixels, 2).exact
    changed = pixels.copy()
    changed[5, 5] ^= 1
    assert hash_picture(changed, 2).exact != hash_picture(pixels, 2).exact
    assert hash_picture(pixels.reshape(WIDTH, HEIGHT), 2).exact != hash_picture(pixels, 2).exact
    assert hash_picture(pixels.view(np.int8), 2).exact != hash_picture(pixels, 2).exact


@pytest.mark.parametrize("value", [0, 255])
def test_an_image_of_one_value_has_no_bits(value):
    assert hash_picture(np.full((50, 60), value, np.uint8), 2).near is None


def test_volumes_are_seen_from_the_side():
    """Two volumes with the same mean slice that differ along the axis of slices."""
    slices = np.stack([picture(i, 32, 32) for i in range(12)]).astype(np.int16)
    other = slices[[6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]]
    finer = np.repeat(slices, 2, axis=0)
    assert (slices.mean(0) == other.mean(0)).all()
    assert differ(hash_picture(slices, 3), hash_picture(other, 3)) > 2 * DISTANCE
    assert differ(hash_picture(slices, 3), hash_picture(finer, 3)) <= DISTANCE


# --- the search -----------------------------------------------------------------------------------


def planted(bits: int, draw: np.random.Generator, near: np.ndarray) -> np.ndarray:
    flat = np.unpackbits(near.view(np.uint8))
    flat[draw.choice(256, bits, replace=False)] ^= 1
    return np.packbits(flat).view(np.uint64)


def test_the_search_finds_what_comparing_all_pairs_finds():
    draw = np.random.default_rng(0)
    stored = draw.integers(0, 2**64, (2000, 4), dtype=np.uint64)
    query = np.stack([planted(i % 48, draw, stored[i * 3]) for i in range(384)])
    found, bits = find_near(query, stored)
    all_bits = np.bitwise_count(query[:, None] ^ stored[None]).sum(2)
    assert ((found >= 0) == (all_bits.min(1) <= DISTANCE)).all() and (found >= 0).sum() == 384 * 32 // 48
    assert all(bits[i] == all_bits[i, found[i]] for i in np.flatnonzero(found >= 0)) and (bits[found < 0] == 256).all()


def test_bits_that_spread_worst_over_the_bands_are_found():
    """31 differences: two in 15 bands, one in the last, whichever that is; 32 may hide."""
    bands = np.full((16, 16), 0b11, np.uint16)
    bands[np.arange(16), np.arange(16)] = 0b1
    found, bits = find_near(bands.view(np.uint64), np.zeros((1, 4), np.uint64))
    assert (found == 0).all() and (bits == 31).all()


def test_many_copies_are_no_trouble_and_the_first_is_named():
    """All pairs of them would be 300 million."""
    found, bits = find_near(np.zeros((10_000, 4), np.uint64), np.zeros((30_000, 4), np.uint64))
    assert (found == 0).all() and (bits == 0).all()


def test_nothing_is_found_in_nothing():
    none, some = np.zeros((0, 4), np.uint64), np.zeros((2, 4), np.uint64)
    assert find_near(some, none)[0].tolist() == [-1, -1]
    assert find_near(none, some)[0].tolist() == [] == find_turned(none, some)[0].tolist()
    assert find_turned(some, none)[0].tolist() == [-1, -1]
