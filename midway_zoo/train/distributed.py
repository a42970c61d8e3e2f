"""The processes of a run: starting them with Accelerate, sharding a model over them (FSDP2), and orderly stops.

Checkpoints do not depend on the number of processes: they hold whole tensors, and a run may be resumed with or without
sharding.
"""

import copy
import logging
import os
import platform
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    LoggerType,
    gather_object,
    parse_flag_from_env,
    reduce,
)
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import get_backend_config
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from midway_zoo.errors import CheckpointError, ConfigError
from midway_zoo.train.config import RunConfig
from midway_zoo.train.task import Task

logger = logging.getLogger(__name__)
_SWITCHES = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def check_launch() -> None:
    """Raise :class:`ConfigError` if Accelerate was told, by its launcher or a plugin, to shard the model by itself.

    Clipping per tensor, averages of weights and checkpoints must know how a model is sharded.
    """
    for switch in _SWITCHES:  # launcher and plugins both set them
        if parse_flag_from_env(switch):
            raise ConfigError(
                f"Accelerate was told to shard by itself ({switch} is set), which this training cannot use. Launch "
                "plainly (`accelerate launch --multi_gpu` or torchrun; see `accelerate env`) and pass shard=true."
            )


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for this process, as launched by ``accelerate launch``, torchrun, SLURM or by itself.

    Raises:
        ConfigError: if the processes do not see each other, the batch does not divide among them, the device does not
            support the precision, or Accelerate was told to shard the model by itself.
    """
    check_launch()
    if config.precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError("precision=fp16 needs a GPU, and none is available; use precision=bf16 or precision=no.")
    unknown = [name for name in config.trackers if name not in LoggerType.list()]
    if unknown or "all" in config.trackers:
        raise ConfigError(f"trackers={config.trackers}: known are {', '.join(sorted(LoggerType.list()))}, except all.")
    absent = [name for name in config.trackers if name not in map(str, get_available_trackers())]
    if absent:
        raise ConfigError(f"trackers={config.trackers}: {absent[0]} is not installed; pip install {absent[0]}.")
    accelerator = Accelerator(
        # Without this, Accelerate treats processes that torchrun starts on CPUs as separate runs.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.precision,
        log_with=list(config.trackers) or None,
        project_dir=config.out,
        # The center is averaged explicitly once per step; no other buffer differs between processes.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            # The first process validates and saves while the others wait.
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),
        ],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ConfigError(
            f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}: they would "
            "overwrite each other's run. Launch with `accelerate launch` or torchrun, and check `accelerate env`."
        )
    if config.batch_size % (accelerator.num_processes * config.accumulate):
        raise ConfigError(
            f"batch_size={config.batch_size} does not divide into {accelerator.num_processes} process(es) with "
            f"accumulate={config.accumulate} micro-batches each; choose a multiple of "
            f"{accelerator.num_processes * config.accumulate}."
        )
    return accelerator


def check_agreement(accelerator: Accelerator, step: int | None, out: Path) -> None:
    """Check that all processes see the same checkpoints, since otherwise they would train different models.

    Args:
        accelerator: the accelerator of this process; every process has to call this.
        step: step of the newest checkpoint that this process sees; None if there is none.
        out: the run folder.

    Raises:
        CheckpointError: if they differ, naming the machines and what each sees.
    """
    seen = gather_object([(platform.node(), accelerator.process_index, step)])
    if len({step for _, _, step in seen}) > 1:
        told = (f"process {rank} on {host} {'none' if at is None else f'step {at}'}" for host, rank, at in seen)
        raise CheckpointError(
            f"the processes see different newest checkpoints in out={out}: {', '.join(told)}. It must be a folder "
            "shared by all machines."
        )


def shard_model(model: nn.Module, units: Iterable[nn.Module], accelerator: Accelerator) -> None:
    """Divide a model over the processes, in place, and move it to their devices.

    Args:
        model: the same weights in every process.
        units: submodules whose weights are gathered while they run and released afterwards; other weights are
            gathered while ``model`` runs. Only their ``forward`` may read their weights.
        accelerator: provides processes and devices. With one process there is nothing to divide.

    Raises:
        ConfigError: for processes that communicate through Gloo (those on CPUs) with torch before 2.8.
    """
    if accelerator.num_processes == 1:
        logger.info("shard=true: there is one process, which keeps everything")
        model.to(accelerator.device)
        return
    device = accelerator.device.type
    gloo = f"{device}:gloo" in str(get_backend_config())
    if gloo:
        _check_gloo_is_supported()
    mesh = init_device_mesh(device, (accelerator.num_processes,))
    for unit in units:
        fully_shard(unit, mesh=mesh)
    # FSDP keeps what the root gathers until a backward pass; a forward pass without one would see old weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules() if gloo else ():
        if isinstance(module, FSDPModule):
            # Asked for a mean, Gloo returned the sum (torch 2.7 and 2.8 at least): gradients as many times too large
            # as there are processes, without an error.
            module.set_force_sum_reduction_for_comms(True)


def _check_gloo_is_supported() -> None:
    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise ConfigError(
            f"shard=true on CPUs (processes that talk through Gloo) needs torch 2.8 or newer, and this is torch "
            f"{torch.__version__}, which fails or sums gradients where it should average them. Upgrade torch, train on "
            "GPUs with NCCL, or leave shard=false."
        )


@contextmanager
def unsynchronised(model: nn.Module) -> Iterator[None]:
    """Within the context, backward passes add to this process's gradients only; the next one outside synchronises
    them."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


@torch.no_grad()
def local_shards(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's part of each tensor, sharing its memory; undivided tensors stay as they are."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


@torch.no_grad()
def whole_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Norm of each tensor, over all its shards; one communication for all, none if they are undivided."""
    norms = torch._foreach_norm(local_shards(tensors))
    divided = [isinstance(tensor, DTensor) for tensor in tensors]
    if not any(divided):
        return list(norms)
    assert all(divided), "whole and divided tensors in one list"
    squares = cast(Tensor, reduce(torch.stack(norms).square(), "sum"))
    return list(squares.sqrt().unbind())


_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_model_state(model: nn.Module) -> dict[str, Tensor]:
    """Whole tensors on the CPU, in the main process; an empty dict in the others. Every process has to call it."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))


def whole_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As :func:`whole_model_state`, for the optimizer's state by names of the model's parameters."""
    plain: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)  # wrapped by Accelerate's optimizer
    return dict(get_optimizer_state_dict(model, plain, options=_WHOLE))


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load the result of :func:`whole_optimizer_state` into an optimizer whose parameters may be divided.

    ``set_optimizer_state_dict`` does not work here: it expects a state for every parameter, but parameters without a
    gradient so far (at first the projection head's last layer) have none. Learning rates and other options of the
    optimizer stay as they are.

    Raises:
        ValueError: if the state belongs to other parameters.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved = {name for group in state["param_groups"] for name in group["params"]}
    wanted = {names[parameter] for parameter in parameters}
    if saved != wanted:
        raise ValueError(f"it has {len(saved)} parameters, {len(saved & wanted)} of them among these {len(wanted)}")
    own = optimizer.state_dict()
    entries = {
        index: _divided_like(parameter, state["state"][names[parameter]])
        for index, parameter in enumerate(parameters)
        if names[parameter] in state["state"]
    }
    optimizer.load_state_dict({**own, "state": entries})


def named_optimizer_state(state: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """An optimizer state by names of parameters, also from one that an earlier version wrote by positions.

    Those had two groups over the whole model, the parameters with weight decay before those without.

    Raises:
        ValueError: if the positions are not those of this model.
    """
    positions = [position for group in state["param_groups"] for position in group["params"]]
    if not all(isinstance(position, int) for position in positions):
        return state
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    plain = [name for name, parameter in trained if parameter.ndim <= 1 or name.endswith(".bias")]
    names = [name for name, _ in trained if name not in set(plain)] + plain
    if len(names) != len(positions):
        raise ValueError(f"it has {len(positions)} parameters, not {len(names)}")
    return {
        "state": {names[position]: entry for position, entry in state["state"].items()},
        "param_groups": [{**group, "params": [names[i] for i in group["params"]]} for group in state["param_groups"]],
    }


def _divided_like(parameter: Tensor, entry: Mapping[str, Any]) -> dict[str, Any]:
    def divide(value: Any) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    return {key: divide(value) for key, value in entry.items()}


class WholeCopy:
    """A copy of a model that has no memory of its own until weights are lent to it: a single process cannot run a
    divided model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = copy.deepcopy(model)
        _forget(self.model)

    @contextmanager
    def stands_in(self, task: Task[Any], state: Mapping[str, Tensor], device: torch.device) -> Iterator[None]:
        """Within the context, ``task.model`` is the copy with the weights of ``state`` (see
        :func:`whole_model_state`)."""
        divided = task.model
        self.model.load_state_dict(state, assign=True)
        task.model = self.model.to(device)
        try:
            yield
        finally:
            task.model = divided
            _forget(self.model)


def _forget(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            empty = torch.empty_like(parameter, device="meta")
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))


class StopRequest:
    """Within it, the first SIGTERM, SIGINT or SIGUSR1 is noted; a second SIGINT interrupts as usual, unless a
    checkpoint is being saved.

    Schedulers send SIGTERM (or, with ``sbatch --signal=USR1@120``, SIGUSR1) before they kill.
    """

    SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._before: dict[int, Any] = {}
        self._saving = False

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within the context no SIGINT interrupts, so that a checkpoint is completed."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; elsewhere the run simply cannot be stopped by a signal.
        if threading.current_thread() is threading.main_thread():
            for name in self.SIGNALS:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            if self._saving:
                logger.warning("a checkpoint is being saved; the run ends as soon as it is complete")
                return
            raise KeyboardInterrupt
        self.requested, self.name = True, signal.Signals(number).name
        logger.warning("%s: stopping after this step, saving a checkpoint", self.name)
