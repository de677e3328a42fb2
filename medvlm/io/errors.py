"""Turns the exceptions that libraries raise on a bad file into DataErrors that quote nothing of the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medvlm.core.errors import DataError


@contextmanager
def convert_errors(damaged: str) -> Iterator[None]:
    """DataErrors pass through; every other exception becomes a DataError.

    Libraries raise a dozen types on damaged bytes, from struct.error to RecursionError, and their messages quote the
    bytes they could not read. damaged: the message, with `{}` for the type of the original exception."""
    try:
        yield
    except DataError:
        raise
    except OSError as reason:
        raise DataError(f"its file cannot be read ({type(reason).__name__})") from None
    except MemoryError:
        raise DataError("it needs more memory than is available") from None
    except Exception as reason:
        raise DataError(damaged.format(type(reason).__name__)) from None
