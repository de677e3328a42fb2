"""How a stage is spread over processes: one process, or DDP, through Lightning Fabric; engine_fsdp2 and engine_zero
shard.

Started by torchrun it takes the world that torchrun made; started plainly it is one process.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from medvlm.core.engine_config import SHARDING, EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.train.blocks import Matches, compile_blocks, recompute
from medvlm.train.proof import holds_gradient
from medvlm.train.tensors import Read, load_tensors, tensors_of

Name = TypeVar("Name", str, tuple[str, str])


class Engine:
    """rank, world, device; sums and gathers over ranks; the models and the optimizers of a stage, from backward pass to
    what is saved.

    One process, or DDP. Order of a stage's calls: `place`, `setup`, `load` where there is a checkpoint, and for each
    step `unsynchronised` with `backward`, `clip`, then `step` or `drop`; `release` at the end.
    """

    model: nn.Module
    """The stage's, as it was given to `setup`."""
    extra_models: Mapping[str, nn.Module]
    """Those that the stage keeps beside it, as they were given to `place`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    is_sharded = False
    """Whether the ranks gather weights from each other in every pass: then all of them run every module, equally
    often."""

    def __init__(self, config: EngineConfig):
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy

        world = int(os.environ.get("WORLD_SIZE", 1))
        if config.kind == "single" and world > 1:
            raise RecipeError(f"engine.kind is single, but torchrun started {world} processes; use auto or ddp")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        # A parameter may go unused (SigLIP's pooling head below a language model): DDP must not wait for it.
        # Norms of what is offloaded are summed on the CPU, which nccl cannot.
        backend: Any = (
            {"process_group_backend": "cpu:gloo,cuda:nccl"}
            if config.offload and torch.cuda.is_available() and config.device != "cpu"
            else {}
        )
        spread = world > 1 or config.kind not in ("auto", "single")
        strategy: Any = DDPStrategy(find_unused_parameters=True, **backend) if spread else "auto"
        accelerator: Any = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(config.device, config.device)
        precision = "32-true" if config.kind in SHARDING else config.precision  # theirs is their own
        self.fabric = Fabric(
            accelerator=accelerator, devices=local, num_nodes=world // local, strategy=strategy, precision=precision
        )
        self.fabric.launch()
        self.config, self.extra_models = config, {}
        self.rank, self.world, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        if self.world != world:
            raise RecipeError(
                f"engine: torchrun says that it started {world} processes, and {self.world} have met; start all nodes"
                " with the same --nnodes and --nproc-per-node"
            )

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def steps_on(self) -> torch.device:
        """Where the tensors of the optimizers are."""
        return torch.device("cpu") if self.config.offload else self.device

    def place(self, model: nn.Module, matches: Matches, extra_models: Mapping[str, nn.Module] | None = None) -> None:
        """On this rank's device (sharded where the engine does so), in the precision it is trained in, blocks as the
        recipe says: before anything looks at its weights. The extra models get the same device, precision and shards.

        Raises RecipeError for a module in `recompute` or `compile` that has no blocks.
        """
        compile_blocks(model, self.config.compile, matches)
        recompute(model, self.config.recompute, matches)
        self.extra_models = dict(extra_models or {})
        for each in (model, *self.extra_models.values()):
            self._place(each)

    def _place(self, model: nn.Module) -> None:
        self.fabric.strategy.precision.convert_module(model).to(self.device)

    def setup(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The model as the loop calls it. `optimizers` are the engine's from here on; their rates may be set at any
        time."""
        self.model, self.optimizers = model, optimizers
        self._wrapped, *_ = self.fabric.setup(model, *optimizers.values())
        return self._wrapped  # type: ignore[no-any-return]

    def release(self) -> None:
        """Lets go of the stage's models and optimizers: the next stage needs their memory."""
        for name in ("model", "optimizers", "_wrapped"):
            self.__dict__.pop(name, None)
        self.extra_models = {}
        gc.collect()  # modules and hooks refer to each other, and the collector does not know how much a GPU holds
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def unsharded(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, the model may be called past its wrapper (to draw answers), by each rank as often as it likes, in the
        precision of the training pass.

        All ranks go in and out together. What is written into weights inside must be put back before the end.
        """
        context: AbstractContextManager[None] = self.fabric.autocast()
        return context

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter or buffer in full, on every rank. Called on every rank."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    # --- a step ------------------------------------------------------------------------------------

    def unsynchronised(self, enabled: bool) -> AbstractContextManager[None]:
        """Gradients may stay local inside: all micro-batches of a step but the last."""
        return self.fabric.no_backward_sync(self._wrapped, enabled=enabled) if self.world > 1 else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Engines average gradients over ranks; losses here are shares of one sum, so they are scaled back."""
        self.fabric.backward(loss * self.world)

    def reduce(self) -> None:
        """After passes that were all unsynchronised: averages the gradients over the ranks."""
        if self.world == 1:
            return
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter, ranks in zip(trained, self.total([float(p.grad is not None) for p in trained]), strict=True):
            if ranks:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Whether this rank's part of a parameter has one, before a step. Called on every rank."""
        return holds_gradient(parameter)

    def clip(self, max_norm: float, optimizer: str = "") -> float:
        """Scales the gradients of what an optimizer steps down to this norm, and returns the norm they had."""
        own = {id(p) for group in self.optimizers[optimizer].param_groups for p in group["params"]}
        stepped = [p for p in self.model.parameters() if id(p) in own]
        return float(self.whole(torch.nn.utils.clip_grad_norm_(stepped, max_norm)))

    def step(self, optimizer: str = "") -> None:
        """Applies the gradients of what an optimizer steps, and forgets all gradients."""
        self.optimizers[optimizer].step()
        self.drop()

    def drop(self) -> None:
        """Forgets the gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    # --- what is saved -----------------------------------------------------------------------------

    def tensors(self) -> dict[str, Any]:
        """`model`, `models.NAME` and `optim` for torch.distributed.checkpoint, by parameter name: references to the
        tensors as they are, or copies on the CPU. Called on every rank."""
        return tensors_of(self.model, self.optimizers, self.extra_models)

    def load(self, read: Read, names: Collection[str]) -> None:
        """Puts a checkpoint back; it may call `read` as often as it likes. names: what the checkpoint holds. Called on
        every rank."""
        load_tensors(self.model, self.optimizers, read, names, self.extra_models)

    # --- between ranks -----------------------------------------------------------------------------

    def total(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.world == 1:
            return [float(v) for v in values]
        summed = torch.tensor(values, dtype=torch.float64)
        summed = summed.to(self.device) if "nccl" in str(dist.get_backend()) else summed
        dist.all_reduce(summed)
        return [float(v) for v in summed]

    def union(self, names: Iterable[Name]) -> list[Name]:
        """The names that any rank has, in order: what the ranks then sum must be alike on all of them."""
        if self.world == 1:
            return sorted(names)
        everywhere: list[Any] = [None] * self.world
        dist.all_gather_object(everywhere, list(names))
        return sorted({name for own in everywhere for name in own})

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """[n, ...] of every rank stacked to [world * n, ...], with gradients back to where each row came from."""
        gathered: torch.Tensor = _Gather.apply(x, self.rank, self.world) if self.world > 1 else x
        return gathered

    def barrier(self) -> None:
        self.fabric.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, rank: int, world: int) -> torch.Tensor:
        ctx.rank, ctx.rows = rank, len(x)
        rows = [torch.empty_like(x) for _ in range(world)]
        dist.all_gather(rows, x.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Every rank holds a share of the loss that may depend on every row: the shares' gradients add up.
        grad = grads[0].contiguous().clone()  # summed in place, and autograd may still need its own
        dist.all_reduce(grad)
        return grad[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows], None, None
