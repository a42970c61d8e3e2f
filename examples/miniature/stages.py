"""What is done with one row and one seed: pretraining, and the evaluations that train something on top of it."""

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import footage
import probing
import rows
import torch
import tracking

from midway_zoo.errors import CheckpointError, MidwayZooError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.segmentation_metrics import SegmentationMetrics
from midway_zoo.train.alignment import initialise_dynamics
from midway_zoo.train.checkpoints import Checkpoint, find_checkpoints, latest_checkpoint
from midway_zoo.train.config import RunConfig, load_config
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.flow.config import FlowConfig
from midway_zoo.train.tasks.flow.task import FlowTask
from midway_zoo.train.tasks.flow.validation import SceneValidation
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.task import PretrainTask
from midway_zoo.train.tasks.segmentation.config import SegmentationConfig
from midway_zoo.train.tasks.segmentation.data import held_out_scenes
from midway_zoo.train.tasks.segmentation.task import SegmentationTask
from midway_zoo.train.weights import network_of_checkpoint

TASKS: dict[str, tuple[type[RunConfig], Callable[[Any], Any]]] = {
    "pretrain": (PretrainConfig, PretrainTask),
    "segmentation": (SegmentationConfig, SegmentationTask),
    "flow": (FlowConfig, FlowTask),
}
COURSE = (25, 50)
"""Percent of pretraining after which its weights are evaluated too."""

Result = dict[str, Any]
"""A stage: "figures", "settings" (what it was asked to do), and for trainings "command", "count" and "seconds"."""


class StoppedError(MidwayZooError, RuntimeError):
    """A training was asked to end before its last step; the same command goes on with it."""


@dataclass(frozen=True)
class Job:
    """One row and one seed."""

    row: rows.Row
    seed: int
    budget: rows.Budget
    out: Path
    extra: tuple[str, ...] = ()
    """The user's overrides of pretraining."""
    media: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.row.name}-{self.seed}"

    def run(self, stage: str) -> Path:
        """Run folder of a training."""
        return self.out / "runs" / self.name / stage

    def pretraining(self) -> list[str]:
        """Overrides of the recipe with which its weights are pretrained."""
        source = self.row if self.row.weights in ("own", None) else rows.ROWS[str(self.row.weights)]
        folder = self.out / "runs" / f"{source.name}-{self.seed}" / "pretrain"
        return rows.pretraining(source, self.budget, self.seed, folder, self.extra)

    def weights(self) -> Checkpoint | None:
        """The last checkpoint of the pretraining that this row evaluates; None if it starts from nothing.

        Raises:
            CheckpointError: if there is none, or its run is not at its end.
        """
        if self.row.weights is None:
            return None
        config = rows.pretrain_config(*self.pretraining())
        checkpoint = latest_checkpoint(Path(config.out))
        steps = min(config.schedule_steps or 0, config.max_steps or sys.maxsize)
        if checkpoint is None or checkpoint.step < steps:
            name = Path(config.out).parent.name
            raise CheckpointError(f"{name} is not pretrained yet; run its stage pretrain first.")
        return checkpoint

    def network(self) -> MidwayNetwork:
        """What is tracked with: the teacher and the dynamics of :meth:`weights`, or random ones of this seed."""
        found = self.weights()
        if found is not None:
            return network_of_checkpoint(found, paired=False)
        torch.manual_seed(self.seed)
        config = rows.pretrain_config(*self.pretraining())
        network = MidwayNetwork(rows.fresh_network(config)).eval()
        initialise_dynamics(network, config.network.dynamics_init)
        return network


def pretrain(job: Job) -> Result:
    """Train the row's network; figures are means over the last tenth of the steps."""
    _, result = _train("pretrain", job.pretraining())
    lines = read_log(job.run("pretrain") / "log.jsonl")
    tail = lines[-max(1, len(lines) // 10) :]
    kept = ("loss", "dino", "teacher_entropy", "cls_std", "token_std", "dynamics", "gate_")
    keys = [key for key in tail[-1] if key.startswith(kept)]
    figures = {key: sum(line[key] for line in tail) / len(tail) for key in keys}
    return {**result, "figures": figures}


def segmentation(job: Job) -> Result:
    """mIoU, mAcc and aAcc in percent of a linear layer on each kind of features that the network has, and
    "background_mIoU" of saying that everything is background."""
    found = job.weights()
    return _segment(job, found, job.run("segmentation"))


def _segment(job: Job, weights: Checkpoint | None, folder: Path) -> Result:
    config = rows.pretrain_config(*job.pretraining())
    network = config.midway_config()
    sources = ["encoder"] + ["backward"] * (network.dynamics and network.backward)
    start = weights.path if weights else folder / "initial"
    if weights is None:
        job.network().save_pretrained(start)  # the same that the probe and tracking see
    results, figures = [], {}
    for source in sources:
        asked = [f"features.source={source}", f"seed={job.seed}", f"out={folder / source}"]
        config, result = _train("segmentation", [*job.budget.segmentation, f"init_from={start}", *asked])
        results.append(result)
        figures |= {f"{name}_{source}": 100 * value for name, value in _validation(folder / source).items()}
    nothing = SegmentationMetrics(config.data.scenes.num_classes + 1)
    for _, labels in held_out_scenes(config.data, torch.device("cpu"), batch_size=config.batch_size):
        nothing.update(torch.zeros_like(labels), labels)
    figures["background_mIoU"] = 100 * nothing.compute()["mIoU"]
    return {
        "figures": figures,
        "settings": results[0]["settings"],
        "command": "; ".join(result["command"] for result in results),
        "count": results[0]["count"],
        "seconds": round(sum(result["seconds"] for result in results), 1),
    }


def flow(job: Job, *, frozen: bool = False) -> Result:
    """End-point error in pixels of the last weights on held-out scenes, beside that of no motion ("zero_epe") and of
    each pair's best single vector ("translation_epe")."""
    folder = job.run("frozen" if frozen else "flow")
    found = job.weights()
    settings = [*job.budget.flow, *rows.network_settings(rows.pretrain_config(*job.pretraining()))]
    settings += [f"initial={job.row.initial}", f"frozen={str(frozen).lower()}", f"seed={job.seed}", f"out={folder}"]
    settings += [f"init_from={found.path}"] if found else []
    config, result = _train("flow", settings)
    floors = footage.Floors()
    for _, _, true in SceneValidation(config.data, config.validation).batches():
        floors.update(true)
    return {**result, "figures": _validation(folder) | floors.compute()}


def probe(job: Job) -> Result:
    """See :func:`probing.measure`."""
    settings = [f"probed={job.budget.probed}"]
    return {"figures": probing.measure(job.network().to(_device()), job.budget), "settings": settings}


def track(job: Job) -> Result:
    """See :func:`tracking.measure`."""
    settings = [f"{key}={getattr(job.budget, key)}" for key in ("pairs", "clips", "draws", "frames", "points")]
    return {"figures": tracking.measure(job.network().to(_device()), job.budget), "settings": settings}


def course(job: Job) -> Result:
    """Segmentation, probe and tracking with the weights of earlier steps of pretraining: "25_mIoU_encoder", ..."""
    last = job.weights()
    assert last is not None
    saved = find_checkpoints(job.run("pretrain"))
    figures: dict[str, float] = {}
    settings: list[str] = []
    for percent in COURSE:
        checkpoint = min(saved, key=lambda one, at=last.step * percent / 100: abs(one.step - at))
        result = _segment(job, checkpoint, job.run("course") / str(percent))
        settings = result["settings"]
        network = network_of_checkpoint(checkpoint, paired=False).to(_device())
        found = {"step": checkpoint.step} | result["figures"] | tracking.measure(network, job.budget)
        found |= {f"probe_{key}": value for key, value in probing.measure(network, job.budget).items()}
        figures |= {f"{percent}_{key}": value for key, value in found.items()}
    return {"figures": figures, "settings": settings}


def media(job: Job) -> Result:
    """See :func:`footage.measure`, with the fine-tuned network."""
    checkpoint = latest_checkpoint(job.run("flow"))
    if checkpoint is None:
        raise CheckpointError(f"{job.name} has no flow yet; run its stage flow first.")
    network = network_of_checkpoint(checkpoint, paired=False).to(_device())
    figures: dict[str, float] = {}
    for path in job.media:
        found = footage.measure(network, path, job.budget)
        figures |= {f"{name}_{path.name}": value for name, value in found.items()}
    return {"figures": figures, "settings": [f"media={path.name}" for path in job.media]}


STAGES: dict[str, Callable[[Job], Result]] = {
    "pretrain": pretrain,
    "probe": probe,
    "segmentation": segmentation,
    "flow": flow,
    "frozen": lambda job: flow(job, frozen=True),
    "tracking": track,
    "course": course,
    "media": media,
}


def _train(name: str, settings: list[str]) -> tuple[Any, Result]:
    """Train to the end, going on from a checkpoint if there is one: the configuration, and all but the figures.

    Seconds are those of all sessions.
    """
    schema, build = TASKS[name]
    recipe = rows.RECIPES / f"{name}.yaml"
    config = load_config(schema, recipe, settings)
    begun = latest_checkpoint(Path(config.out))
    before = [line for line in read_log(Path(config.out) / "log.jsonl") if begun and line["step"] < begun.step]
    task = build(config)
    seconds = sum(config.batch_size / line[f"{task.unit}_per_s"] for line in before)
    start = time.perf_counter()
    ended = fit(task)
    if not ended.finished:
        raise StoppedError(f"{config.out} was stopped by {ended.reason} at step {ended.step}")
    return config, {
        "settings": portable(settings),
        "command": shlex.join(["midway-zoo", "train", name, "--recipe", str(recipe), *settings]),
        "count": ended.step * config.batch_size,
        "seconds": round(seconds + time.perf_counter() - start, 1),
    }


def portable(settings: list[str]) -> list[str]:
    """Settings without the places of files."""
    return [setting for setting in settings if not setting.startswith(("out=", "init_from="))]


def _validation(folder: Path) -> dict[str, float]:
    checkpoint = latest_checkpoint(folder)
    assert checkpoint is not None
    figures: dict[str, float] = checkpoint.state()["validation"]
    if not figures:
        raise CheckpointError(f"{checkpoint.path} was not validated (a signal came); remove it and run again.")
    return figures


def _device() -> torch.device:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")  # type: ignore[return-value]
