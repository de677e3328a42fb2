"""Counts the floating-point operations that training steps really take: generating answers, frozen parts, reference
models and recomputation included. The time of a step would depend on the machine and on what else runs there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medvlm.core.errors import DataError
from medvlm.core.stored import explain_misfit, require_type

KEY = "flops"
"""In the metrics of a step that was counted."""
COUNTED = 25
"""Number of steps of a stage that are counted, at equal distances. A counted step takes longer."""


@dataclass
class Count:
    """flops: of this process; None if the step was not counted."""

    flops: int | None = None


def is_counted(step: int, steps: int) -> bool:
    return step % max(1, steps // COUNTED) == 0


@contextmanager
def count_flops(active: bool) -> Iterator[Count]:
    """Counts matrix products, convolutions and attention (two operations a multiplication with its addition), as
    torch.utils.flop_counter does, which lacks attention on a CPU and products that are added in place."""
    found = Count()
    if not active:
        yield found
        return
    from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad, query, key, value))

    def product(out: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
        return int(2 * left[0] * left[1] * right[1])

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {on_cpu: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    mapping |= {torch.ops.aten.addmm_: product}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        yield found
    found.flops = counter.get_total_flops()


def list_flops(metrics: Path, stage: str) -> list[int]:
    """Of each counted step of a stage. Raises DataError if there is none, or if the file is damaged."""
    counts = []
    for number, line in enumerate(metrics.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            require_type(record, dict[str, Any])
            if record.get("stage") == stage and KEY in record:
                counts.append(int(record[KEY]))
        except (ValueError, TypeError, OverflowError, RecursionError) as reason:
            raise DataError(
                f"{metrics}:{number}: is damaged ({explain_misfit(reason)}); remove {metrics.parent}, and run the same"
                " command again to train it again"
            ) from None
    if not counts:
        raise DataError(f"{metrics}: no step of {stage} was counted; it was trained by another command, so remove it")
    return counts
