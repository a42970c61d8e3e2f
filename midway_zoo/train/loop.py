"""The training loop for any task; Accelerate handles devices, processes, precision and trackers."""

import copy
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import reduce
from torch import Tensor

from midway_zoo.errors import CheckpointError, ConfigError, MidwayZooError, OutputExistsError
from midway_zoo.train.attention import attention_of
from midway_zoo.train.background import BackgroundWriter, snapshot
from midway_zoo.train.checkpoints import (
    CONFIG,
    Checkpoint,
    best_checkpoint,
    check_same_run,
    find_checkpoints,
    latest_checkpoint,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
)
from midway_zoo.train.config import RunConfig, to_yaml, write_config
from midway_zoo.train.data.ahead import batches_on
from midway_zoo.train.distributed import (
    StopRequest,
    WholeCopy,
    check_agreement,
    check_launch,
    load_optimizer,
    local_shards,
    make_accelerator,
    named_optimizer_state,
    shard_model,
    unsynchronised,
    whole_model_state,
    whole_optimizer_state,
)
from midway_zoo.train.journal import Delayed, Progress, StepLog, flat, provenance, publish_pictures, tracker_arguments
from midway_zoo.train.optim import set_hyperparameters, total_norm
from midway_zoo.train.task import Task, split_batch, trainable

logger = logging.getLogger(__name__)
_WAITED = "waited/"  # followed by the rank: seconds that a process waited for a batch


class TrainingDivergedError(MidwayZooError, FloatingPointError):
    """The loss is not finite. Nothing was saved after it."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    step: int
    """Optimizer steps done in total, including those before it was resumed."""
    finished: bool
    """False if it was stopped by a signal or a time limit and can be resumed."""
    reason: str
    checkpoint: Path | None
    last: dict[str, float]
    """The values of the last step's line in log.jsonl."""
    best: Path | None = None
    """The checkpoint with the best validation, if the task defines that."""


@dataclass(frozen=True)
class Trial:
    """Estimates of a run from its first steps."""

    first_seconds: float
    """Seconds of the first step, including start-up after the set-up of the run."""
    seconds: float
    """Seconds of the second step."""
    last: dict[str, float]
    """The values of the second step."""


def fit(task: Task[Any], *, accelerator: Accelerator | None = None) -> RunResult:
    """Train until the schedule, ``max_steps``, ``max_seconds`` or a signal ends it.

    Args:
        task: the task; ``task.config`` sets duration, run folder and initial weights.
        accelerator: None to create it from the configuration.

    Raises:
        TrainingDivergedError: if a loss is not finite.
        OutputExistsError, CheckpointError, ConfigError: if ``out`` and ``resume`` contradict each other.
    """
    return Run(task, accelerator or make_accelerator(task.config)).fit()


def try_out(task: Task[Any], *, accelerator: Accelerator | None = None) -> Trial:
    """Time two steps of a new run, without reading or writing ``out`` and without trackers.

    Raises:
        ConfigError: if the schedule has only one step.
    """
    if task.total_steps < 2:
        raise ConfigError("the schedule has one step, and a dry run needs two; raise epochs or schedule_steps.")
    return Run(task, accelerator or make_accelerator(task.config), trial=True).try_out()


class Run:
    """One process of a run."""

    def __init__(self, task: Task[Any], accelerator: Accelerator, *, trial: bool = False) -> None:
        check_launch()  # again: the accelerator may be the caller's
        self.task, self.accelerator = task, accelerator
        self.config: RunConfig = task.config
        self.out = Path(self.config.out)
        self.started = time.monotonic()
        self.last_step = min(task.total_steps, self.config.max_steps or task.total_steps)
        self.stop = StopRequest()
        self.writer = BackgroundWriter()
        self.pending: list[Delayed] = []
        self.last_values: dict[str, float] = {}
        checkpoint = None if trial else self._to_resume()
        self.first_step = checkpoint.step if checkpoint else 0
        self._prepare(checkpoint)

    def fit(self) -> RunResult:
        """See :func:`fit`."""
        if self.first_step >= self.last_step:
            return self._result(self.first_step, {}, f"all {self.last_step} steps were done before")
        with self.stop:
            return self._train()

    def try_out(self) -> Trial:
        """See :func:`try_out`."""
        times, batches = [time.perf_counter()], self._batches()
        for step in range(2):
            self._step(step, self._next(batches), 0.0)
            self.last_values = self.pending.pop().read()  # waits for the device
            self._check_finite(step, self.last_values)
            times.append(time.perf_counter())
        return Trial(times[1] - times[0], times[2] - times[1], self._told(self.last_values))

    def _to_resume(self) -> Checkpoint | None:
        checkpoint = latest_checkpoint(self.out)
        check_agreement(self.accelerator, checkpoint.step if checkpoint else None, self.out)
        if self.config.resume == "never" and (checkpoint or (self.out / "log.jsonl").exists()):
            raise OutputExistsError(f"out={self.out} holds a run; choose another folder, or resume=auto to continue.")
        if self.config.resume == "must" and checkpoint is None:
            raise CheckpointError(f"resume=must, but {self.out} holds no checkpoint; resume=auto starts a new run.")
        if checkpoint and checkpoint.step > self.task.total_steps:
            raise ConfigError(f"{checkpoint.path} is past the schedule's {self.task.total_steps} steps; raise epochs.")
        return checkpoint

    def _prepare(self, checkpoint: Checkpoint | None) -> None:
        task, accelerator = self.task, self.accelerator
        state = checkpoint.state() if checkpoint else {}
        if checkpoint:
            check_same_run(checkpoint, task.recorded_identity(state), self._identity())
            try:
                task.model.load_state_dict(checkpoint.model(task.renamed))
            except RuntimeError as error:
                raise ConfigError(
                    f"{checkpoint.path} does not fit the configured model ({' '.join(str(error).split())[:300]}). "
                    f"Resume with its own {CONFIG}."
                ) from error
            task.load_state_dict(state["task"])
        task.model.train()
        self.attention = attention_of(self.config, accelerator, task.model, state.get("attention", {}))
        if self.config.compile and not self.config.shard:
            task.model.compile()
        self.whole: WholeCopy | None = None
        if self.config.shard:
            self._shard()
        else:
            self.model, self.optimizer = accelerator.prepare(task.model, task.optimizer())
        if checkpoint:
            saved = checkpoint.optimizer()
            try:
                load_optimizer(self.optimizer, task.model, named_optimizer_state(saved["optimizer"], task.model))
            except ValueError as error:
                raise CheckpointError(
                    f"{checkpoint.path}: its optimizer does not fit ({error}). It is of another version of midway-zoo: "
                    f"resume with that, or begin a new run, with another out, from its weights (init_from)."
                ) from error
            if accelerator.scaler is not None and saved.get("scaler"):
                accelerator.scaler.load_state_dict(saved["scaler"])
            logger.info("resumed from %s", checkpoint.path)

    def _shard(self) -> None:
        task, accelerator = self.task, self.accelerator
        if accelerator.num_processes > 1 and accelerator.is_main_process:
            self.whole = WholeCopy(task.model)
        units = list(task.shards())
        for unit in units if self.config.compile else ():  # not the whole: gathering divides it into these anyway
            unit.compile()
        shard_model(task.model, units, accelerator)
        self.model = task.model
        # After the sharding, which replaces the parameters.
        self.optimizer = accelerator.prepare(task.optimizer())

    def _lend_whole(self, state: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Within the context the main process can run the task's model alone; ``state`` holds whole tensors."""
        return self.whole.stands_in(self.task, state, self.accelerator.device) if self.whole else nullcontext()

    def _without_sync(self) -> AbstractContextManager[None]:
        return unsynchronised(self.model) if self.config.shard else self.accelerator.no_sync(self.model)

    def _identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        return {
            "task": self.task.name,
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            **self.task.identity(),
        }

    def _train(self) -> RunResult:
        main = self.accelerator.is_main_process
        if main:
            write_config(self.config, self.out / CONFIG)
        if self.config.trackers:
            told = tracker_arguments(self.out, self.config.tracker_name) if main else {}
            self.accelerator.init_trackers(
                self.config.tracker_project, config=flat(asdict(self.config)), init_kwargs=told
            )
        self.log = StepLog(self.out / "log.jsonl", self.first_step) if main else None
        self.last_reported = time.perf_counter()
        self.saved_step = self.first_step if find_checkpoints(self.out) else None
        try:
            bar = Progress(self.first_step, self.last_step, shown=main, unit=self.task.unit, values=self.task.shown)
            with bar as self.progress:
                return self._steps()
        finally:
            self.writer.close()
            if self.log:
                self.log.close()
            if self.config.trackers:
                self.accelerator.end_training()

    def _steps(self) -> RunResult:
        batches = self._batches()
        for step in range(self.first_step, self.last_step):
            self.writer.check()
            waited = time.perf_counter()
            batch = self._next(batches)
            waited = time.perf_counter() - waited
            self._step(step, batch, waited)
            # On a GPU the values of a step are read while the next one runs; on a CPU they are available at once.
            self._report(keep=1 if self.accelerator.device.type == "cuda" else 0)
            reason = self._stop_reason()
            if (step + 1) % self.config.save_every == 0 or step + 1 == self.last_step or reason:
                with self.stop.saving():
                    self._save(step + 1)
            if self._due(self.config.picture_every, step):
                self._pictures(batch, step)
            if reason:
                return self._result(step + 1, self.last_values, reason, finished=step + 1 == self.last_step)
        return self._result(self.last_step, self.last_values, "all steps done")

    def _batches(self) -> Iterator[Any]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        batches = self.task.batches(self.first_step, self.last_step, rank=rank, world=world)
        return batches_on(self.accelerator.device, batches)

    def _next(self, batches: Iterator[Any]) -> Any:
        batch = next(batches)
        self.task.observe(batch)  # not earlier than its step, since its counts are saved in checkpoints
        return batch

    def _step(self, step: int, batch: Any, waited: float) -> None:
        accelerator, task = self.accelerator, self.task
        # Dropout and stochastic depth depend on the step and the process, so that a resumed run draws the same.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 4099 + accelerator.process_index)
        hyper = task.hyperparameters(step)
        set_hyperparameters(self.optimizer, hyper.lr, hyper.weight_decay)
        parts = split_batch(batch, self.config.accumulate)
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            inputs = task.to_inputs(part, step)
            waiting = self._without_sync() if index + 1 < len(parts) else nullcontext()
            with waiting:
                with accelerator.autocast(), self.attention:
                    losses = self.model(inputs)
                accelerator.backward(losses["loss"] / len(parts))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / len(parts)
        if accelerator.scaler is not None:
            accelerator.unscale_gradients(self.optimizer)
        sums["grad_norm"] = total_norm([p.grad for p in trainable(task.model) if p.grad is not None])
        task.before_update(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        task.after_update(step)
        sums["stop"] = self._filled(self._wants_to_stop())
        # Every process's wait has its own entry, so that one communication collects them all.
        rank, world = accelerator.process_index, accelerator.num_processes
        sums |= {f"{_WAITED}{other}": self._filled(waited * world * (other == rank)) for other in range(world)}
        values = reduce(torch.stack(list(sums.values())), "mean")
        extra = {"lr": hyper.lr, "weight_decay": hyper.weight_decay}
        extra |= {} if hyper.momentum is None else {"momentum": hyper.momentum}
        self.pending.append(Delayed(step, list(sums), values, extra))

    def _filled(self, value: float) -> Tensor:
        """A scalar filled on the device: a copy from the host would wait for the device."""
        return torch.full((), float(value), device=self.accelerator.device)

    def _wants_to_stop(self) -> bool:
        limit = self.config.max_seconds
        return self.stop.requested or (limit is not None and time.monotonic() - self.started >= limit)

    def _stop_reason(self) -> str:
        """The same in all processes, since the values it depends on were averaged over them."""
        if not self.last_values.get("stop"):
            return ""
        return self.stop.name or (f"max_seconds={self.config.max_seconds}" if self.config.max_seconds else "a signal")

    def _report(self, keep: int = 0) -> None:
        while len(self.pending) > keep:
            pending = self.pending.pop(0)
            values = pending.read()
            self._check_finite(pending.step, values)
            now = time.perf_counter()
            seconds, self.last_reported = max(now - self.last_reported, 1e-9), now
            self.last_values = values
            line: dict[str, Any] = {"step": pending.step, "epoch": round(pending.step / self.task.steps_per_epoch, 4)}
            line |= self._told(values) | pending.extra
            waits = [round(min(1.0, values[name] / seconds), 4) for name in values if name.startswith(_WAITED)]
            line |= {f"{self.task.unit}_per_s": round(self.config.batch_size / seconds, 3), "data_wait": max(waits)}
            if len(waits) > 1:
                line["data_waits"] = waits
            self._publish(pending.step, line)

    def _publish(self, step: int, line: dict[str, Any]) -> None:
        if self.log:
            self.log.write(line)
        self.progress.update(line)
        warning = self.task.health(line, step)
        if warning and self.accelerator.is_main_process:
            logger.warning("step %d: %s", step, warning)
        if self.config.trackers and self._due(self.config.log_every, step):
            numbers = {key: value for key, value in line.items() if key not in ("step", "data_waits")}
            numbers |= {f"data_wait/{rank}": wait for rank, wait in enumerate(line.get("data_waits", ()))}
            self.accelerator.log(numbers, step=step)

    def _check_finite(self, step: int, values: dict[str, float]) -> None:
        if values["loss"] == values["loss"] and abs(values["loss"]) != float("inf"):
            return
        self.writer.wait()
        parts = ", ".join(f"{name} {value:.4g}" for name, value in self._told(values).items())
        last = latest_checkpoint(self.out)
        good = f"the last good checkpoint is {last.path}" if last else "there is no checkpoint yet"
        raise TrainingDivergedError(
            f"the loss of step {step} is not finite ({parts}); {good}. Resume from it with a lower learning rate, "
            "or with precision=bf16 or no if it was fp16."
        )

    def _check_weights(self, step: int) -> None:
        """Check the weights too: gradients can be infinite while the loss is finite."""
        tensors = [*self.task.model.parameters(), *self.task.model.buffers()]
        tensors = [tensor for tensor in local_shards(tensors) if tensor.is_floating_point() and tensor.numel()]
        bad = torch.stack([~tensor.isfinite().all() for tensor in tensors]).any().float()
        if cast(Tensor, reduce(bad, "sum")).item():
            self.writer.wait()
            last = latest_checkpoint(self.out)
            raise TrainingDivergedError(
                f"the weights after step {step - 1} are not finite, though its loss was; the last good checkpoint is "
                f"{last.path if last else 'none'}. Resume from it with a lower learning rate."
            )

    def _save(self, step: int) -> None:
        self._report()  # raises if a value is not finite, so that only valid weights are saved
        if self.saved_step == step:
            return
        self._check_weights(step)
        figures: dict[str, float] = {}
        main = self.accelerator.is_main_process
        model = whole_model_state(self.task.model)
        optimizer = whole_optimizer_state(self.task.model, self.optimizer)
        if main:
            if not self.stop.requested:  # the sender of the signal may not wait for more than the checkpoint
                with self._lend_whole(model):
                    self.task.model.eval()
                    figures = self.task.validate(step, self.out)
                    self.task.model.train()
            scaler = self.accelerator.scaler
            content: dict[str, Any] = {
                "model": model,
                "optimizer": {"optimizer": optimizer, "scaler": scaler.state_dict() if scaler is not None else None},
            }
            state = self.task.describe() | {
                "task": copy.deepcopy(self.task.state_dict()),
                "identity": self._identity(),
                "validation": figures,
                "provenance": provenance(),
                "attention": dict(getattr(self.attention, "chosen", {})),
            }
            self.writer.wait()  # before the copy, so that memory never holds two of them
            self.writer.start(step, partial(self._write, step, snapshot(content), state))
            if figures:
                logger.info("step %d: %s", step, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
            if figures and self.config.trackers:
                self.accelerator.log({f"validation/{key}": value for key, value in figures.items()}, step=step)
        self.saved_step = step
        self.accelerator.wait_for_everyone()
        self.last_reported = time.perf_counter()

    def _write(self, step: int, content: dict[str, Any], state: dict[str, Any]) -> None:
        """Runs in the writer's thread and touches nothing that training changes."""
        config, task = self.config, self.task
        save_checkpoint(self.out, step, **content, state=state, config=to_yaml(config))
        best = mark_best(self.out, task.best_by) if task.best_by else None
        keep = frozenset({best.step} if best else ())
        prune_checkpoints(self.out, keep_last=config.keep_last, keep_every=config.keep_every, keep=keep)

    def _pictures(self, batch: Any, step: int) -> None:
        main = self.accelerator.is_main_process
        state = whole_model_state(self.task.model) if self.config.shard else {}
        if not main:
            return
        with self._lend_whole(state):
            self.task.model.eval()
            with torch.no_grad():
                pictures = self.task.pictures(batch)
            self.task.model.train()
        publish_pictures(pictures, step, self.out / "pictures", self.accelerator.trackers)
        self.last_reported = time.perf_counter()

    @staticmethod
    def _told(values: Mapping[str, float]) -> dict[str, float]:
        """The values of interest to a person."""
        return {name: value for name, value in values.items() if name != "stop" and not name.startswith(_WAITED)}

    @staticmethod
    def _due(every: int | None, step: int) -> bool:
        return every is not None and (step + 1) % every == 0

    def _result(self, step: int, last: dict[str, float], reason: str, *, finished: bool = True) -> RunResult:
        with self.stop.saving():
            self.writer.wait()
        self.accelerator.wait_for_everyone()  # the first process has written it, and all read the same one
        checkpoint = latest_checkpoint(self.out)
        best = best_checkpoint(self.out) if self.task.best_by else None
        paths = [found.path if found else None for found in (checkpoint, best)]
        return RunResult(step, finished, reason, paths[0], self._told(last), paths[1])
