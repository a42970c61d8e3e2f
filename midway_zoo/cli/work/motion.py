"""``midway-zoo motion``."""

import argparse

from midway_zoo.cli.work.outputs import Progress, check_suffix, description, kept_on_interrupt
from midway_zoo.cli.work.running import TABLES, load, report
from midway_zoo.inference.clips import motion_of_clip
from midway_zoo.inference.spool import TensorSpool


def run_motion(options: argparse.Namespace) -> None:
    """Write the motion latents of a clip while they are computed."""
    check_suffix(options.output, TABLES, "motion latents")
    network = load(options)
    chosen = {name: getattr(options, name) for name in ("stride", "fps", "gap", "size", "batch_size")}
    latents = motion_of_clip(network, options.video, **chosen)
    progress, grid = Progress(), None
    with TensorSpool(options.output) as spool:
        with kept_on_interrupt(progress):
            for some in latents:
                spool.add("tokens", some.tokens)
                spool.add("pooled", some.pooled)
                for level, tokens in some.levels.items():
                    if tokens is not some.tokens:
                        spool.add(f"level{level}", tokens)
                if some.pts_seconds is not None and some.concealed is not None:
                    spool.add("pts_seconds", some.pts_seconds)
                    spool.add("concealed", some.concealed)
                grid = some.grid
                progress.step(len(some.tokens), None if some.pts_seconds is None else float(some.pts_seconds[-1, 1]))
        facts = description(options, network, video=str(options.video), grid=grid)
        spool.write(facts, rows=progress.done, overwrite=options.force)
    progress.end(options.output, "pairs")
    report(options, f"MotionLatent({spool.describe(progress.done)}, grid={grid})")
