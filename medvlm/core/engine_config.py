"""What a recipe says of its engine, apart from the engines: checking it needs none of their libraries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medvlm.core.config import Config

SHARDING = ("fsdp2", "zero1", "zero2", "zero3")


class EngineConfig(Config):
    kind: Literal["auto", "single", "ddp", "fsdp2", "zero1", "zero2", "zero3"] = "auto"
    """`auto`: DDP when torchrun started several processes, else one process. `fsdp2` and `zero3` shard weights,
    gradients and optimiser over the ranks, `zero2` gradients and optimiser, `zero1` the optimiser; zero is
    DeepSpeed's."""
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    """`bf16-mixed` computes in bfloat16 and keeps float32 weights for the optimiser."""
    offload: bool = False
    """What is sharded waits in the CPU's memory and the optimiser works there: slower, for models that do not fit
    otherwise."""
    recompute: tuple[str, ...] = ()
    """Modules whose blocks are computed again in the backward pass, which saves their activations: [language,
    encoders.film]."""
    compile: tuple[str, ...] = ()
    """Modules whose blocks go through torch.compile: the first steps take minutes, the later ones less."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 2
    """Threads per rank that read and decode ahead; 0 decodes between the steps."""
    stall_s: float = Field(540, ge=0)
    """When no rank has moved for so long, the run ends and names those that the rest waits for; 0: never. Below the ten
    minutes after which NCCL gives up without a name. Give more where a validation or a step takes longer."""

    @model_validator(mode="after")
    def _fits(self) -> EngineConfig:
        if self.offload and self.kind not in SHARDING:
            raise ValueError(
                f"offload: {self.kind} shards nothing that could wait in the CPU's memory; use fsdp2 or zero3"
            )
        if self.kind.startswith("zero") and self.precision == "bf16-true":
            raise ValueError(f"precision: {self.kind} keeps float32 weights; use bf16-mixed, or fsdp2")
        if self.kind == "zero3" and self.compile:
            raise ValueError(
                "compile: zero3 gathers weights by hooks within the blocks, which torch.compile cannot pass; use fsdp2,"
                " or zero2"
            )
        return self
