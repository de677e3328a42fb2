"""The CRC-32 of zlib, PNG and the indexes of shards."""

try:  # the same number in a fifth of the time; part of medvlm[nifti]
    from isal.isal_zlib import crc32
except ModuleNotFoundError:
    from zlib import crc32

__all__ = ["crc32"]
