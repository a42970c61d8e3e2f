"""The kinds of training. Each task is a folder beside this file and a line in :data:`TASKS`.

The folder's ``__init__`` holds ``ENTRY``, a :class:`TaskEntry`, and imports nothing heavy: the command line reads it to
list the commands. Everything else (configuration, model, losses, data, validation, exports) is up to the task; see
:class:`midway_zoo.train.task.Task`.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midway_zoo.train.config import RunConfig
    from midway_zoo.train.task import Task

TASKS = {
    "pretrain": "midway_zoo.train.tasks.pretrain",
    "flow": "midway_zoo.train.tasks.flow",
    "segmentation": "midway_zoo.train.tasks.segmentation",
    "classification": "midway_zoo.train.tasks.classification",
}
"""Name of the command ``midway-zoo train NAME``, of the configuration's ``task`` and of runs -> package."""


@dataclass(frozen=True)
class TaskEntry:
    """Texts of a task for the command line, and where the rest is found."""

    summary: str
    """A short description, without a capital letter and full stop."""
    example: str
    """A complete command line."""
    config: str
    """``module.Class`` in the task's package: its configuration, a :class:`~midway_zoo.train.config.RunConfig`."""
    task: str
    """``module.Class`` in the task's package: a :class:`~midway_zoo.train.task.Task`."""
    layouts: tuple[str, ...] = ()
    """Layouts of ``midway-zoo train export`` in addition to the zoo's; see ``Task.export_as``."""


def entry_of(name: str) -> TaskEntry:
    """The entry of a task."""
    entry: TaskEntry = import_module(TASKS[name]).ENTRY
    return entry


def config_class(name: str) -> "type[RunConfig]":
    """The configuration of a task."""
    return _attribute(name, entry_of(name).config)


def task_class(name: str) -> "type[Task[Any]]":
    """The class of a task."""
    return _attribute(name, entry_of(name).task)


def _attribute(name: str, path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    return getattr(import_module(f"{TASKS[name]}.{module}"), attribute)
