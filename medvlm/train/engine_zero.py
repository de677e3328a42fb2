"""ZeRO-1, -2 and -3: DeepSpeed around the same model and the same torch optimizer."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from medvlm.core.deferred import list_deferred
from medvlm.core.engine_config import EngineConfig
from medvlm.core.errors import RecipeError
from medvlm.train.engine import Engine
from medvlm.train.reading import read_partitions
from medvlm.train.tensors import Read, shape_of

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000
"""Elements that are sent at once. DeepSpeed's default takes 2 GB for this."""
PERSISTENT = 100_000
"""Parameters of ZeRO-3 with fewer elements stay whole on every rank (DeepSpeed's default)."""
CHUNK = 1 << 28
"""Elements of a checkpoint in CPU memory at once while it is loaded."""


class Zero(Engine):
    """Differs from the other engines in one point: the optimizer sees flattened groups of parameters, so a parameter
    without a gradient gets weight decay too."""

    def __init__(self, config: EngineConfig):
        if find_spec("deepspeed") is None:
            raise RecipeError(f"engine.kind {config.kind} needs DeepSpeed: pip install medvlm[deepspeed], or use fsdp2")
        super().__init__(config)
        self.stage = int(config.kind[-1])
        self.is_sharded = self.stage == 3

    def _place(self, model: nn.Module) -> None:
        if self.stage < 3:  # ZeRO-3 moves the weights itself, part by part
            model.to(self.device)
        elif list_deferred(model):
            deepspeed = _import_deepspeed(self.device)
            read_partitions(model, deepspeed, self._make_settings(), self.device, self.rank, self.world)

    def setup(self, model: nn.Module, optimizers: Mapping[str, torch.optim.Optimizer]) -> nn.Module:
        """Raises RecipeError for several optimizers, and for extra models beside a model that is divided."""
        beside = [name for name in (*optimizers, *(self.extra_models if self.is_sharded else ())) if name]
        if beside:
            raise RecipeError(
                f"engine.kind {self.config.kind} trains one model with one optimizer, and this stage has"
                f" {', '.join(beside)} too; use ddp or fsdp2"
            )
        deepspeed = _import_deepspeed(self.device)
        self.model, self.optimizers, optimizer = model, optimizers, optimizers[""]
        names = {id(p): n for n, p in self._list_trained().items()}
        self._grouped = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
        self._wrapped, self._zero, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=self._make_settings(), dist_init_required=False
        )
        self._start_states()
        self._check_sharded(model)
        return self._wrapped  # type: ignore[no-any-return]

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers[""]

    def release(self) -> None:
        if "_wrapped" in self.__dict__:
            self._wrapped.destroy()
            if self.stage == 3:  # DeepSpeed's caches keep references forever, so the tensors are emptied
                for parameter in self.model.parameters():
                    for held in (parameter, parameter.ds_tensor):  # type: ignore[attr-defined]
                        held.data = held.data.new_empty(0)
                self._optimizer.state.clear()
                self._zero.__dict__.clear()
            del self._zero, self._grouped
        super().release()

    def _gather(self, model: nn.Module) -> AbstractContextManager[None]:
        return self._gather_all(model) if self.stage == 3 else self.autocast()

    def unshard(self, tensor: torch.Tensor) -> torch.Tensor:
        if not hasattr(tensor, "ds_id"):
            return tensor
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    # --- a step ------------------------------------------------------------------------------------

    @contextmanager
    def _set_boundary(self, enabled: bool) -> Iterator[None]:
        self._wrapped.set_gradient_accumulation_boundary(not enabled)
        yield

    def defer_sync(self, enabled: bool) -> AbstractContextManager[None]:
        return self._set_boundary(enabled)

    def backward(self, loss: torch.Tensor) -> None:
        self._wrapped.backward(loss * self.world)

    def has_gradient(self, parameter: nn.Parameter) -> bool:
        from deepspeed.utils import safe_get_full_grad

        grad = safe_get_full_grad(parameter) if parameter.requires_grad else None
        return grad is not None and bool(grad.any())

    def clip(self, max_norm: float, optimizer: str = "") -> float:
        grads = self._list_gradients()
        norm = math.sqrt(self.sum_over_ranks([sum(float(g.float().square().sum()) for g in grads)])[0])
        if (scale := max_norm / (norm + 1e-6)) < 1:  # torch.nn.utils.clip_grad_norm_
            for grad in grads:
                grad.mul_(scale)
        return norm

    def step(self, optimizer: str = "") -> None:
        self._wrapped.step()

    def drop(self) -> None:
        self._zero.zero_grad()
        self._zero.averaged_gradients = {} if self.stage == 3 else dict.fromkeys(self._zero.averaged_gradients)
        self._zero.micro_step_id = 0 if self.stage == 3 else -1
        if self.config.offload:
            self._zero.reset_cpu_buffers()

    def _list_gradients(self) -> list[torch.Tensor]:
        """This rank's share of the gradients, after the last micro-batch."""
        if self.config.offload:
            if self.device.type == "cuda":
                torch.cuda.synchronize()  # they are copied to the CPU asynchronously
            return [flat.grad for flat in self._list_flats() if flat.grad is not None]
        return [grad for group in self._zero.averaged_gradients.values() for grad in group or ()]

    def _list_flats(self) -> list[torch.Tensor]:
        """The flat float32 tensors of this rank that the optimizer updates."""
        flats: list[torch.Tensor] = (
            self._zero.fp32_partitioned_groups_flat if self.stage == 3 else self._zero.single_partition_of_fp32_groups
        )
        return flats

    # --- checkpoints -------------------------------------------------------------------------------

    def collect_tensors(self) -> dict[str, Any]:
        """The same tensors as those of other engines. ZeRO splits a flat tensor, not each parameter, so every parameter
        is gathered, and one rank keeps it for the checkpoint."""
        from deepspeed.utils import safe_get_full_optimizer_state

        stored = self._list_stored()
        owner = {name: i % self.world for i, name in enumerate(stored)}
        model, states = {}, {}
        for name, tensor in stored.items():
            whole = self.unshard(tensor)
            if owner[name] == self.rank:
                model[name] = whole.detach().cpu().clone()
        step = next(iter(self._optimizer.state.values()))["step"].cpu()  # all are stepped together
        for name, parameter in self._list_trained().items():
            moments = {moment: safe_get_full_optimizer_state(parameter, moment) for moment in MOMENTS}
            if owner[name] == self.rank:
                states[name] = {moment: value.cpu() for moment, value in moments.items()} | {"step": step.clone()}
        settings = [
            {**{k: v for k, v in g.items() if k != "params"}, "params": names}
            for g, names in zip(self._optimizer.param_groups, self._grouped, strict=True)
        ]
        tensors = {"model": model, "optim": {"state": states, "param_groups": settings}}
        if self.extra_models:
            tensors["models"] = {name: extra.state_dict() for name, extra in self.extra_models.items()}
        return tensors

    def load(self, read: Read, names: Collection[str]) -> None:
        chunk: dict[str, torch.Tensor] = {}
        for name, tensor in self._list_stored().items():
            chunk[name] = torch.empty(shape_of(tensor), dtype=tensor.dtype)
            if sum(t.numel() for t in chunk.values()) > CHUNK:
                self._load(chunk, read, names)
                chunk = {}
        self._load(chunk, read, names)
        if self.extra_models:  # whole on every rank, and filled in place
            read({"models": {name: extra.state_dict() for name, extra in self.extra_models.items()}})

    def _load(self, weights: dict[str, torch.Tensor], read: Read, names: Collection[str]) -> None:
        trained, own = self._list_trained(), self._list_weights()
        states = {
            name: {moment: torch.empty(weights[name].shape) for moment in MOMENTS} | {"step": torch.zeros(())}
            for name in weights if name in trained and f"optim.state.{name}.step" in names
        }  # fmt: skip
        read({"model": weights, **({"optim": {"state": states}} if states else {})})
        for name, value in weights.items():
            self._put(own[name], value)
        for name, state in states.items():
            for moment in MOMENTS:
                self._put_float32(trained[name], state[moment], moment)
        for flat in self._list_flats() if states else ():
            self._optimizer.state[flat]["step"].copy_(max(state["step"] for state in states.values()))

    @torch.no_grad()
    def _put(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        import deepspeed

        if not hasattr(tensor, "ds_id"):
            tensor.copy_(value)
        else:
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0):
                if self.rank == 0:
                    tensor.copy_(value)
        if tensor.requires_grad:
            self._put_float32(tensor, value, "")

    def _put_float32(self, parameter: torch.Tensor, value: torch.Tensor, moment: str) -> None:
        """Writes into the part that this rank updates: the weight, or one of its moments."""
        from deepspeed import utils

        where = "local" if self.stage == 3 else "full"
        if self.stage == 3:
            size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
            value = pad(value.flatten(), (0, self.world * size - value.numel())).narrow(0, self.rank * size, size)
        if moment:
            getattr(utils, f"safe_set_{where}_optimizer_state")(parameter, value, moment)
        else:
            getattr(utils, f"safe_set_{where}_fp32_param")(parameter, value)

    def _start_states(self) -> None:
        """Creates the optimizer states, as the first step would. DeepSpeed needs the moments of all groups once the
        first group has stepped, and a checkpoint can only be loaded into existing tensors."""
        for flat in self._list_flats():
            state = self._optimizer.state[flat]
            state["step"] = torch.zeros((), device=flat.device if self._optimizer.defaults.get("fused") else "cpu")
            state.update({moment: torch.zeros_like(flat) for moment in MOMENTS})
        if self.stage < 3:
            self._zero._lazy_init_hp_params_optimizer_state()

    def _list_weights(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict(keep_vars=True)

    def _list_stored(self) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self._list_weights().items() if name not in self.unstored}

    def _list_trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    # --- DeepSpeed ---------------------------------------------------------------------------------

    def _make_settings(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
        if self.stage == 3:
            zero |= {"stage3_param_persistence_threshold": PERSISTENT, "stage3_prefetch_bucket_size": BUCKET}
            # By default it keeps up to a billion gathered numbers for the backward pass.
            zero |= {"stage3_max_live_parameters": 2 * BUCKET, "stage3_max_reuse_distance": BUCKET}
        if self.config.offload:
            zero |= {
                "offload_optimizer": {"device": "cpu"},
                **({"offload_param": {"device": "cpu"}} if self.stage == 3 else {}),
            }
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the loop counts them
            "gradient_clipping": 0.0,  # by default it would clip at 1, whatever the recipe says
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": zero,
            "torch_autocast": {"enabled": self.config.precision == "bf16-mixed", "dtype": "bfloat16"},
            "steps_per_print": None,
        }

    def autocast(self) -> AbstractContextManager[None]:
        return (
            torch.autocast(self.device.type, torch.bfloat16) if self.config.precision == "bf16-mixed" else nullcontext()
        )  # type: ignore[return-value]

    @contextmanager
    def _gather_all(self, model: nn.Module) -> Iterator[None]:
        """Gathers all weights, without DeepSpeed's hooks, which free weights and compare the calls of ranks."""
        import deepspeed

        offload = self._zero.parameter_offload
        begin = offload.module._forward_pre_hooks[offload.fwd_pre_hook.id]
        with deepspeed.zero.GatheredParameters(list(model.parameters())):
            for hook in (*offload.forward_hooks, *offload.backward_hooks, offload.fwd_pre_hook):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            for parameter in model.parameters():
                parameter.ds_active_sub_modules.clear()  # type: ignore[attr-defined]
            try:
                with self.autocast():
                    yield
            finally:
                offload.fwd_pre_hook = offload.module.register_forward_pre_hook(begin)
                offload._register_deepspeed_module(offload.module)

    def _check_sharded(self, model: nn.Module) -> None:
        trained = sum(shape_of(p).numel() for p in self._list_trained().values())
        own = sum(flat.numel() for flat in self._list_flats())
        (together,) = self.sum_over_ranks([own])
        assert own <= trained / self.world + len(self._list_trained()) * self.world * 128, (
            f"rank {self.rank} steps {own} of {trained} trained numbers"
        )
        assert together >= trained, f"the ranks step {together} numbers of {trained}"
        if self.stage == 3:
            assert all(hasattr(p, "ds_id") for p in model.parameters()), "ZeRO-3 has left parameters whole"


def _import_deepspeed(device: torch.device) -> Any:
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.WARNING)
    if device.type == "cpu":
        from deepspeed.accelerator import set_accelerator
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

        set_accelerator(CPU_Accelerator())  # otherwise it would use a GPU if there is one
        # A faster all-reduce between processes that needs a C++ compiler; gloo is good enough.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
