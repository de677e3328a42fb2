"""The processes of an evaluation that torchrun started: each has the whole model and answers some of the questions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from medvlm.train.stopping import end_with_torchrun

T = TypeVar("T")
LONGEST = timedelta(days=7)
"""How long ranks wait for one that is still answering. If a process dies, torchrun ends the others."""


@contextmanager
def join_ranks(device: str) -> Iterator[str]:
    """Joins the processes that torchrun started, if it did. Yields the device of this process: one GPU each, unless
    `device` is cpu or there is none."""
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield "cuda" if on_gpu else "cpu"
        return
    end_with_torchrun()
    dist.init_process_group("gloo", timeout=LONGEST)
    try:
        yield f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    finally:
        dist.destroy_process_group()


def find_rank() -> tuple[int, int]:
    """(rank, number of ranks) of this process."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def compute_once(make: Callable[[], T]) -> T:
    """The result of the first rank, which alone computes it and sends it to the others."""
    if not dist.is_initialized():
        return make()
    sent = [make() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(sent)
    return sent[0]  # type: ignore[return-value]


def wait_for_ranks() -> None:
    if dist.is_initialized():
        dist.barrier()
