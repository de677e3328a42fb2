"""Distributes a stage over processes: one process or DDP, through Lightning Fabric. engine_fsdp2 and engine_zero add
sharding.

Under torchrun, the engine uses the processes that torchrun started; otherwise there is one process.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from medvlm.core.engine_config import SHARDING, EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.train.blocks import Matches, compile_blocks, recompute
from medvlm.train.dealing import Agreement, Dealing
from medvlm.train.exchange import find_most, gather_rows, list_constant_buffers, rotate
from medvlm.train.frozen import hold_in_bfloat16
from medvlm.train.proof import holds_gradient
from medvlm.train.tensors import Read, load_tensors, tensors_of

Name = TypeVar("Name", str, tuple[str, str])

CPU_BUCKET_MB = 4
"""MiB of gradients that DDP sends at once on CPUs. With its 25, those of a small model leave when nothing is left to be
computed meanwhile."""


class Engine:
    """One process, or DDP: communication between ranks, and the models and optimizers of a stage.

    A stage calls `place`, `setup`, `load` if there is a checkpoint, then for each step `backward` within `defer_sync`,
    `clip`, and `step` or `drop`, and at the end `release`.
    """

    model: nn.Module
    """The model of the stage, as passed to `setup`."""
    extra_models: Mapping[str, nn.Module]
    """The extra models of the stage, as passed to `place`."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    unstored: Collection[str]
    """Tensors of the model that checkpoints leave out, because they are as published. Set after `setup`."""
    is_sharded = False
    """Whether ranks gather weights from each other in every pass. Then all ranks must run every module equally
    often."""

    def __init__(self, config: EngineConfig):
        from lightning.fabric import Fabric
        from lightning.fabric.strategies import DDPStrategy

        for name in ("lightning.fabric", "lightning.pytorch"):  # they set their own levels when they are imported
            logging.getLogger(name).setLevel(logging.ERROR)
        world = int(os.environ.get("WORLD_SIZE", 1))
        if config.kind == "single" and world > 1:
            raise RecipeError(f"engine.kind is single, but torchrun started {world} processes; use auto or ddp")
        local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        _require_gpus(config, local)
        # DDP must not wait for unused parameters, such as SigLIP's pooling head below a language model.
        # Norms of offloaded gradients are summed on the CPU, which NCCL cannot do, hence gloo for CPU tensors.
        has_gpu = torch.cuda.is_available() and config.device != "cpu"
        options: dict[str, Any] = {} if has_gpu else {"bucket_cap_mb": CPU_BUCKET_MB}
        if has_gpu and config.offload:
            options["process_group_backend"] = "cpu:gloo,cuda:nccl"
        spread = world > 1 or config.kind not in ("auto", "single")
        strategy: Any = (
            DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True, **options) if spread else "auto"
        )
        accelerator: Any = {"auto": "cuda" if torch.cuda.is_available() else "cpu"}.get(config.device, config.device)
        precision = "32-true" if config.kind in SHARDING else config.precision  # sharding engines set it themselves
        self.fabric = Fabric(
            accelerator=accelerator, devices=local, num_nodes=world // local, strategy=strategy, precision=precision
        )
        self.fabric.launch()
        self.config, self.extra_models, self.unstored = config, {}, frozenset[str]()
        self._common_names: list[Any] = []
        self.rank, self.world, self.device = self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        self._agreement = Agreement(self.device)
        if self.world != world:
            raise RecipeError(
                f"engine: torchrun started {world} processes, but {self.world} are connected; start all nodes"
                " with the same --nnodes and --nproc-per-node"
            )

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def deals(self) -> bool:
        """Whether the inputs of towers are dealt over the ranks."""
        return self.config.deal_media and self.world > 1

    @property
    def runs_all(self) -> bool:
        """Whether all ranks must run every tower in every pass, because they exchange something within it."""
        return self.is_sharded or self.deals

    @property
    def steps_on(self) -> torch.device:
        """The device of the optimizer states."""
        return torch.device("cpu") if self.config.offload else self.device

    def place(self, model: nn.Module, matches: Matches, extra_models: Mapping[str, nn.Module] | None = None) -> None:
        """Moves the model to this rank's device in its training precision, shards it if the engine does that, and
        applies `compile` and `recompute`. Called once it is known what is trained, and before anything reads the
        weights. Extra models get the same device and sharding; in mixed precision, their weights stay float32.

        Raises RecipeError for a module in `recompute` or `compile` that has no blocks.
        """
        if self.config.precision == "bf16-mixed":
            hold_in_bfloat16(model)
        compile_blocks(model, self.config.compile, matches)
        recompute(model, self.config.recompute, matches)
        self.extra_models = dict(extra_models or {})
        for each in (model, *self.extra_models.values()):
            self._place(each)
            for module in each.modules() if self.is_sharded and self.world > 1 else ():
                if hasattr(module, "find_most"):
                    module.find_most = self._agreement.find_most
        if self.deals:
            dealing = Dealing(self.is_sharded)
            for encoder in getattr(model, "encoders", {}).values():
                encoder.deal = dealing

    def _place(self, model: nn.Module) -> None:
        self.fabric.strategy.precision.convert_module(model).to(self.device)

    def setup(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """The wrapped model that the loop calls. The engine owns the optimizers from here on, but their learning rates
        may be set at any time."""
        self.model, self.optimizers = model, optimizers
        # DDP would send them before every forward pass.
        model._ddp_params_and_buffers_to_ignore = list_constant_buffers(model)  # type: ignore[assignment]
        self._wrapped, *_ = self.fabric.setup(model, *optimizers.values())
        return self._wrapped  # type: ignore[no-any-return]

    def release(self) -> None:
        """Frees the models and optimizers of the stage, whose memory the next stage needs."""
        for name in ("model", "optimizers", "_wrapped"):
            self.__dict__.pop(name, None)
        self.extra_models, self.unstored = {}, frozenset()
        gc.collect()  # modules and hooks form cycles, and Python does not collect them because a GPU is full
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def gather_weights(self, model: nn.Module) -> Iterator[None]:
        """Within this context each rank may call the unwrapped model any number of times, for example to generate
        answers, in the precision of training.

        All ranks enter and leave together. Changes to the weights must be undone before the end.
        """
        self._agreement.calls_apart = True
        try:
            with self._gather(model):
                yield
        finally:
            self._agreement.calls_apart = False

    def _gather(self, model: nn.Module) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.fabric.autocast()
        return context

    def autocast(self) -> AbstractContextManager[None]:
        """Within this context the unwrapped model and extra models compute in the precision of training. Every rank
        calls them equally often if ranks exchange something within them."""
        context: AbstractContextManager[None] = self.fabric.autocast()
        return context

    def unshard(self, tensor: torch.Tensor) -> torch.Tensor:
        """The full parameter or buffer, on every rank. Called on every rank."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    # --- a step ------------------------------------------------------------------------------------

    def defer_sync(self, enabled: bool) -> AbstractContextManager[None]:
        """Within this context gradients need not be exchanged: for all micro-batches of a step but the last."""
        return self.fabric.no_backward_sync(self._wrapped, enabled=enabled) if self.world > 1 else nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Engines average gradients over ranks, but losses here are shares of one sum. Hence the factor."""
        self.fabric.backward(loss * self.world)

    def reduce(self) -> None:
        """Averages the gradients over the ranks, after passes that were all within `defer_sync`."""
        if self.world == 1:
            return
        trained = [p for p in self.model.parameters() if p.requires_grad]
        for parameter, ranks in zip(
            trained, self.sum_over_ranks([float(p.grad is not None) for p in trained]), strict=True
        ):
            if ranks:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        """Whether this rank's part of a parameter has a gradient other than zero. Called on every rank, before a
        step."""
        return holds_gradient(parameter)

    def clip(self, max_norm: float, optimizer: str = "") -> float:
        """Clips the gradients of an optimizer to this norm, and returns their norm before."""
        own = {id(p) for group in self.optimizers[optimizer].param_groups for p in group["params"]}
        stepped = [p for p in self.model.parameters() if id(p) in own]
        return float(self.unshard(torch.nn.utils.clip_grad_norm_(stepped, max_norm)))

    def step(self, optimizer: str = "") -> None:
        """Makes a step of one optimizer, and drops the gradients of all."""
        self.optimizers[optimizer].step()
        self.drop()

    def drop(self) -> None:
        """Drops all gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    # --- checkpoints -------------------------------------------------------------------------------

    def collect_tensors(self) -> dict[str, Any]:
        """`model`, `models.NAME` and `optim` for torch.distributed.checkpoint, by parameter name: references to the
        live tensors, or copies on the CPU. Called on every rank."""
        return tensors_of(self.model, self.optimizers, self.extra_models, self.unstored)

    def load(self, read: Read, names: Collection[str]) -> None:
        """Loads a checkpoint, by one or several calls of `read`. names: the names of its tensors. Called on every
        rank."""
        load_tensors(self.model, self.optimizers, read, names, self.extra_models, self.unstored)

    # --- between ranks -----------------------------------------------------------------------------

    def sum_over_ranks(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.world == 1:
            return [float(v) for v in values]
        summed = torch.tensor(values, dtype=torch.float64)
        summed = summed.to(self.device) if "nccl" in str(dist.get_backend()) else summed
        dist.all_reduce(summed)
        return [float(v) for v in summed]

    def find_most(self, number: int) -> int:
        """The largest of these numbers over the ranks. Called on every rank."""
        return find_most(number, self.device) if self.world > 1 else number

    def merge_names(self, names: Iterable[Name]) -> list[Name]:
        """The names that any rank has, sorted, so that all ranks then sum the same terms in the same order."""
        if self.world == 1:
            return sorted(names)
        everywhere: list[Any] = [None] * self.world
        dist.all_gather_object(everywhere, list(names))
        return sorted({name for own in everywhere for name in own})

    def sum_by_name(
        self, plain: Sequence[float], named: Mapping[Any, tuple[float, float]]
    ) -> tuple[list[float], dict[Any, tuple[float, float]]]:
        """Numbers that every rank has, and pairs of numbers under names that a rank may lack, summed over the ranks, in
        float64. The names are sorted. Called on every rank.

        It takes one all-reduce if no rank has a name that it did not have in an earlier call; otherwise the ranks
        exchange their names first.
        """
        if self.world == 1:
            return [float(x) for x in plain], {name: named[name] for name in sorted(named)}
        summed = self.sum_over_ranks([*plain, *self._flatten(named)])
        if summed.pop():
            self._common_names = self.merge_names([*self._common_names, *named])
            summed = self.sum_over_ranks([*plain, *self._flatten(named)])[:-1]
        ranks, *pairs = (summed[len(plain) + i :: 3] for i in range(3))
        found = zip(self._common_names, ranks, *pairs, strict=True)
        return summed[: len(plain)], {name: (first, second) for name, has, first, second in found if has}

    def _flatten(self, named: Mapping[Any, tuple[float, float]]) -> list[float]:
        """For each common name 1 if this rank has it, and its two numbers; at last, 1 if this rank has other names."""
        flat = [x for name in self._common_names for x in ((1.0, *named[name]) if name in named else (0.0,) * 3)]
        return [*flat, float(not named.keys() <= set(self._common_names))]

    def gather(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Stacks [n, ...] of every rank to [world * n, ...], for all tensors at once. Gradients flow back to the rank
        of each row."""
        return gather_rows(tensors) if self.world > 1 else tensors

    def rotate(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sends tensors to the next rank, and returns those of the rank before, without gradients."""
        return rotate(tensors) if self.world > 1 else tensors

    def barrier(self) -> None:
        self.fabric.barrier()


def _require_gpus(config: EngineConfig, local: int) -> None:
    """Raises RecipeError if this machine has fewer GPUs than processes that need one."""
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cuda" and not present:
        raise RecipeError(
            "engine.device is cuda, but torch finds no GPU here; check nvidia-smi and that this is a CUDA build of"
            " torch, or set engine.device: auto or cpu"
        )
    if config.device != "cpu" and 0 < present < local:
        raise RecipeError(
            f"torchrun started {local} processes on this machine, but it has {present} GPUs; use --nproc-per-node"
            f" {present}, or engine.device: cpu"
        )
