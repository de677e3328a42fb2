"""Keyed permutations and keyed random numbers.

Nothing here has state. The order of samples and their augmentation depend only on (seed, position), not on the number
of ranks and workers, nor on restarts.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from math import isqrt
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from medvlm.core.config import Config

if TYPE_CHECKING:
    import numpy as np

Key = int | str
_WORD = 0xFFFFFFFF
_ROUNDS = 6
# 4 rounds already look random; 6 also make small sets (n < 50) uniform by a chi-square test.


class Permutation:
    """A shuffled range(n) that is computed, not stored: `Permutation(n, seed, "cxr", epoch)[i]` in about 2 us.

    A Feistel network on pairs (i // b, i % b) with a * b >= n, additions modulo a and b in place of xor, and
    cycle walking for the few pairs beyond n (Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    It mixes well; it is not a cipher. n is at most 2**62.
    """

    def __init__(self, n: int, *key: Key):
        assert 0 < n <= 1 << 62, n
        self.n = n
        self._a = isqrt(n - 1) + 1
        self._b = -(-n // self._a)
        words = _digest(key, 8 * _ROUNDS)
        self._keys = [(_word(words, 8 * r), _word(words, 8 * r + 4)) for r in range(_ROUNDS)]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        if not 0 <= i < self.n:
            raise IndexError(f"place {i} of a permutation of {self.n}")
        while True:
            left, right = divmod(i, self._b)
            for key_left, key_right in self._keys:
                left = (left + _scramble(right + key_left)) % self._a
                right = (right + _scramble(left + key_right)) % self._b
            i = left * self._b + right
            if i < self.n:
                return i


class Blocks:
    """Like a Permutation, but neighbours stay close: range(n) is cut into blocks of `block`, the blocks are shuffled,
    and samples are shuffled within `window` consecutive blocks. At any time, reads touch only `window` regions of the
    storage.

    The offset of the blocks is random too, so a sample has different neighbours in each order. Takes no memory, for any
    n."""

    def __init__(self, n: int, block: int, window: int, *key: Key):
        assert min(n, block, window) > 0, (n, block, window)
        self.n, self._block, self._span, self._window = n, block, block * window, window
        self._key, self._whole = key, n // block
        self._first = draw_below(n, *key, "first")
        self._blocks = Permutation(self._whole, *key, "blocks") if self._whole else None
        # One permutation per window. Threads that run ahead may already be in the next window.
        self._within = lru_cache(maxsize=4)(self._permutation)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> int:
        if not 0 <= i < self.n:
            raise IndexError(f"place {i} of an order of {self.n}")
        window, at = divmod(i, self._span)
        nth, inside = divmod(self._within(window)[at], self._block)
        nth += window * self._window
        # The remainder after the last whole block comes last, as a shorter block.
        block = self._blocks[nth] if self._blocks and nth < self._whole else self._whole
        return (self._first + block * self._block + inside) % self.n

    def _permutation(self, window: int) -> Permutation:
        return Permutation(min(self._span, self.n - window * self._span), *self._key, "window", window)


class Order(Config):
    """`data.SOURCE.order`: the order of a source's samples in an epoch. It differs between epochs, and is the same for
    any number of ranks and threads."""

    kind: Literal["random", "blocks"] = "random"
    """`random`: a full shuffle. `blocks`: for remote shards or spinning disks; neighbours in the shards stay close."""
    block: int = Field(256, gt=0)
    """Consecutive samples in a block."""
    window: int = Field(16, gt=0)
    """Number of blocks whose samples are shuffled together. `cache.gib` must have room for at least that many blocks,
    or they are downloaded more than once."""

    def of(self, n: int, *key: Key) -> Permutation | Blocks:
        return Permutation(n, *key) if self.kind == "random" else Blocks(n, self.block, self.window, *key)


RANDOM = Order()


def draw(*key: Key) -> np.random.Generator:
    """A random generator for a key, e.g. draw(seed, stage, position). Takes about 10 us."""
    import numpy as np

    return np.random.default_rng(int.from_bytes(_digest(key, 16), "little"))


def draw_below(n: int, *key: Key) -> int:
    """A number in range(n), determined by a key."""
    return int.from_bytes(_digest(key, 16), "little") % n


def _digest(key: tuple[Key, ...], size: int) -> bytes:
    # JSON tells 1 from "1" and ("ab", "c") from ("a", "bc"), and refuses numpy's integers, whose repr varies.
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=size).digest()


def _word(words: bytes, at: int) -> int:
    return int.from_bytes(words[at : at + 4], "little")


def _scramble(x: int) -> int:
    """32 bits to 32 bits, each output bit depending on every input bit (lowbias32 of C. Wellons, hash-prospector)."""
    x &= _WORD
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _WORD
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _WORD
    return x ^ (x >> 16)
