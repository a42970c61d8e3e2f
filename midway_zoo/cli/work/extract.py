"""``midway-zoo extract``."""

import argparse

from midway_zoo.cli.work.running import load
from midway_zoo.extract import Running, Settings, Summary, extract
from midway_zoo.extract.processes import launched

_SETTINGS = ("what", "stride", "fps", "size", "flow_size", "method", "blocks", "dtype", "images", "chunk", "format")
_RUNNING = ("engine", "workers", "ray_address", "batch_size", "readers", "shard_mb", "shard_items", "retry_failed")


def run_extract(options: argparse.Namespace) -> Summary:
    """Start or resume an extraction."""
    settings = Settings(**{name: getattr(options, name) for name in _SETTINGS})
    running = Running(**{name: getattr(options, name) for name in _RUNNING})
    options.device = options.device or str(launched(options.engine).device)
    return extract(load(options), options.input, options.out, settings, running, name=str(options.model))
