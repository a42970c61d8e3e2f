"""The units on Ray Data: actors that hold the network, on this machine or on a cluster."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from midway_zoo.errors import DiskFullError, InputError, MissingExtraError
from midway_zoo.extract.compute import Extractor
from midway_zoo.extract.places import ABOUT, Results
from midway_zoo.extract.plan import Unit
from midway_zoo.extract.work import Job, Note, Tally, run_unit
from midway_zoo.extras import install_command

_SECONDS = 20.0
"""Time within which a cluster has to answer."""


def import_ray() -> Any:
    """Ray with its Data library, or :class:`MissingExtraError`. Its usage reports are off unless asked for."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # otherwise it shows warnings about Ray's own code
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError(f'engine="ray" needs Ray: {install_command("scale")} ({error}).') from error
    return ray


class Worker:
    """Runs one unit after another; created once in every actor."""

    def __init__(self, extractor: Any, out: str, job: Job) -> None:
        ray = import_ray()
        made: Extractor = ray.get(extractor)
        if torch.cuda.is_available() and ray.get_gpu_ids():
            made = Extractor(made.network.to("cuda"), made.settings)
        self._extractor, self._results, self._job = made, Results(out), job
        if not self._results.exists(ABOUT):
            raise InputError(f"{out} is not reached from {os.uname().nodename}: every node needs it under that name.")

    def __call__(self, batch: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        for line, known in zip(batch["unit"], batch["known"], strict=True):
            tally, stopped = Tally(), ""

            def note(more: Tally, tally: Tally = tally) -> None:
                tally += more

            try:
                names = str(known).split()
                run_unit(Unit.from_json(str(line)), self._extractor, self._results, self._job, note, names)
            except DiskFullError as error:
                stopped = str(error)
            found = {name: [getattr(tally, name)] for name in ("items", "failed", "frames", "bytes")}
            yield {**found, "stopped": [stopped]}


def run(
    pending: Sequence[Unit],
    extractor: Extractor,
    results: Results,
    job: Job,
    note: Note,
    files: Mapping[int, Sequence[str]],
    workers: int | None,
    address: str | None,
) -> None:
    """Run units on Ray's actors.

    Args:
        pending: units that are not complete.
        extractor: network and settings; sent to every actor once.
        results: a folder or URL that every node reaches under the same name.
        job: base, facts and sizes.
        note: called after every unit.
        files: names of existing shards, by unit number.
        workers: largest number of actors; None for one per GPU or, without GPUs, as many as there are CPUs for all
            of their threads.
        address: address of a cluster; None starts one on this machine.

    Raises:
        DiskFullError: if a worker ran out of disk space.
    """
    if not pending:
        return
    with _connected(address) as ray:
        options = _resources(ray, workers, len(pending), job.readers)
        rows = [{"unit": unit.to_json(), "known": " ".join(files.get(unit.number, ()))} for unit in pending]
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        device = extractor.network.device
        extractor.network.cpu()  # so that nodes without a GPU can read it
        arguments = {"extractor": ray.put(extractor), "out": str(results), "job": job}
        extractor.network.to(device)
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4096)).map_batches(
            Worker, batch_size=1, fn_constructor_kwargs=arguments, **options
        )
        for row in dataset.iter_rows():
            if row["stopped"]:
                raise DiskFullError(row["stopped"])
            note(Tally(row["items"], row["failed"], row["frames"], row["bytes"]))


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected; a cluster that was started or joined here is disconnected at the end."""
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    chosen = address or os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False} if chosen == "local" else {}
    try:
        _check_answers(chosen)
        ray.init(address=chosen, logging_level=logging.ERROR, configure_logging=True, **local)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray cluster answers at {chosen} ({error}); see `ray status`.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise :class:`OSError` if nothing listens at HOST:PORT, since Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()


def _resources(ray: Any, workers: int | None, units: int, readers: int) -> dict[str, Any]:
    """How many actors, and the resources of each: a CPU for the network and one for every decoding thread."""
    most = 1 + readers
    there = ray.cluster_resources()
    gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
    wanted = workers or gpus or max(1, cpus // most)
    count = max(1, min(wanted, units))
    each: dict[str, Any] = {"num_gpus": 1} if gpus else {}
    # Not a fixed size: such a pool waits forever for an actor whose node is gone.
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=count, initial_size=count, max_tasks_in_flight_per_actor=2)
    return {"num_cpus": max(1, min(most, cpus // count)), "compute": pool, **each}
