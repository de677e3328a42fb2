"""Explains exceptions that a user can do something about, although they are raised by a library or a plug-in."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from medvlm.core.config import list_permitted

PLACES = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
          errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT}  # fmt: skip
"""What is wrong with a path or a disk, not with medvlm."""


def explain(raised: BaseException) -> str:
    """A message that says where and what to do; "" for what only a traceback explains."""
    if message := _explain_plugin(raised):
        return message
    if isinstance(raised, OSError) and raised.errno in PLACES and raised.filename is not None:
        return f"{raised.filename}: {raised.strerror}; check the path, its permissions and the space on its disk"
    if type(raised).__name__ == "OutOfMemoryError":  # of torch, which need not be imported
        return (
            f"the GPU is out of memory ({str(raised).splitlines()[0]}); raise `accumulate` of the stage, or see what"
            " fits with medvlm plan RECIPE --gpus NAME"
        )
    return ""


def _explain_plugin(raised: BaseException) -> str:
    """Names the plug-in in whose code an exception was raised, or that does not have what medvlm calls."""
    plugins = list_permitted()
    for frame, line in reversed(list(traceback.walk_tb(raised.__traceback__))):
        module = str(frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in plugins:
            where = f"{Path(frame.f_code.co_filename).name}, line {line}, in {frame.f_code.co_name}"
            return f"the plug-in {module} failed ({where}): {type(raised).__name__}: {raised}"
        if module.partition(".")[0] == "medvlm":
            return _explain_call(raised, plugins)
    return ""


def _explain_call(raised: BaseException, plugins: Sequence[str]) -> str:
    """For a function of a plug-in that does not take the arguments with which medvlm calls it."""
    called = re.match(r"([\w.]+)\(\) (takes|missing|got) ", str(raised))
    if not isinstance(raised, TypeError) or called is None:
        return ""
    first = called[1].partition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in plugins and getattr(getattr(module, first, None), "__module__", "") == name:
            return (
                f"the plug-in {name} does not fit: {raised}; see medvlm/core/contracts.py for what a component offers"
            )
    return ""
