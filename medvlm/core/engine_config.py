"""The section `engine` of a recipe, separate from the engines so that checking it needs none of their libraries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medvlm.core.config import Config

SHARDING = ("fsdp2", "zero1", "zero2", "zero3")


class EngineConfig(Config):
    kind: Literal["auto", "single", "ddp", "fsdp2", "zero1", "zero2", "zero3"] = "auto"
    """`auto`: DDP if torchrun started several processes, else one process. `fsdp2` and `zero3` shard weights, gradients
    and optimizer state over the ranks, `zero2` gradients and optimizer state, `zero1` optimizer state. The zero kinds
    use DeepSpeed."""
    precision: Literal["32-true", "bf16-mixed", "bf16-true"] = "32-true"
    """`bf16-mixed` computes in bfloat16 and keeps float32 weights for the optimizer."""
    offload: bool = False
    """Keeps sharded tensors in CPU memory and runs the optimizer there. Slower; for models that do not fit
    otherwise."""
    attention: Literal["auto", "dense", "flex", "varlen"] = "auto"
    """How a language model attends within rows of several texts. `dense`: by a mask of all pairs of tokens. `flex`:
    FlexAttention, which skips what the mask hides. `varlen`: FlashAttention over documents of various lengths, for rows
    without shared prompts. `auto`: `varlen` where it fits, and else `flex` on a GPU, `dense` on a CPU."""
    recompute: tuple[str, ...] = ()
    """Modules whose blocks are recomputed in the backward pass instead of keeping their activations: [language,
    encoders.film]."""
    compile: tuple[str, ...] = ()
    """Modules whose blocks are compiled by torch.compile. The first steps take minutes, later ones are faster."""
    deal_media: bool = False
    """Deals the slices, tiles and images of all samples of a step over the towers of the ranks, so that a rank with a
    large volume does not keep the others waiting. Losses stay the same."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = 2
    """Threads per rank that read and decode samples ahead; 0 decodes between the steps."""
    stall_s: float = Field(540, ge=0)
    """Seconds without progress on any rank after which the run ends and names the ranks that the others wait for; 0:
    never. The default is less than the ten minutes after which NCCL gives up without naming a rank. Use more if a
    validation or a step takes longer."""

    @model_validator(mode="after")
    def _check_fits(self) -> EngineConfig:
        if self.attention == "varlen" and self.precision == "32-true" and self.device != "cpu":
            raise ValueError(
                "attention: the kernels of varlen compute in 16 bits; use precision: bf16-mixed, or attention: flex"
            )
        if self.offload and self.kind not in SHARDING:
            raise ValueError(f"offload: {self.kind} shards nothing to keep in CPU memory; use fsdp2 or zero3")
        if self.kind.startswith("zero") and self.precision == "bf16-true":
            raise ValueError(f"precision: {self.kind} keeps float32 weights; use bf16-mixed, or fsdp2")
        if self.kind == "zero3" and self.compile:
            raise ValueError(
                "compile: zero3 gathers weights by hooks within the blocks, which torch.compile cannot trace; use"
                " fsdp2 or zero2"
            )
        return self
