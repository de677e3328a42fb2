"""What libraries raise on a file, as one line that quotes nothing of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from medvlm.core.errors import DataError


@contextmanager
def convert_errors(damaged: str) -> Iterator[None]:
    """DataErrors pass; all else becomes one. Libraries raise a dozen types on damaged bytes, from struct.error to
    RecursionError, and quote what they could not read. damaged: what is said of the file then, with `{}` for the
    type."""
    try:
        yield
    except DataError:
        raise
    except OSError as reason:
        raise DataError(f"its file cannot be read ({type(reason).__name__})") from None
    except MemoryError:
        raise DataError("it needs more memory than there is") from None
    except Exception as reason:
        raise DataError(damaged.format(type(reason).__name__)) from None
