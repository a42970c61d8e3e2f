"""``midway-zoo app``: an interactive page. What it needs is imported when it runs."""

import argparse
import signal
import sys
import threading
from typing import Any

from midway_zoo.cli.inference import device
from midway_zoo.demo import MODEL

_LOCAL = ("127.0.0.1", "localhost", "::1")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register this module's command."""
    command = commands.add_parser(
        "app",
        help="an interactive page in the browser",
        description="Serve a page on this machine: drop in two frames or a clip, click a point, and see heat map, "
        "tracks, flow, features, gates and similarity of motions of any model. Nothing is loaded from or sent to other "
        "machines. Needs the extra `app`.",
    )
    command.add_argument(
        "--model",
        action="append",
        metavar="CKPT_OR_NAME",
        help=f"model to list first; may be repeated, the first one is preselected. Default: {MODEL}",
    )
    command.add_argument(
        "--any-model",
        action="store_true",
        help="let visitors enter any hf-hub:ORG/REPO or path; always so at 127.0.0.1, which only this machine reaches",
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 admits other machines, default: %(default)s"
    )
    command.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    command.add_argument(
        "--max-upload-mb", type=float, default=25.0, metavar="MB", help="largest size of a file, default: %(default)g"
    )
    command.add_argument(
        "--max-megapixels",
        type=float,
        default=25.0,
        metavar="MP",
        help="largest size of a picture, default: %(default)g",
    )
    command.add_argument(
        "--frames", type=int, default=8, metavar="N", help="largest number of frames of a clip, default: %(default)s"
    )
    command.add_argument(
        "--fps", type=float, default=5.0, help="frames per second taken from the start of a clip, default: %(default)g"
    )
    command.add_argument(
        "--queue", type=int, default=16, metavar="N", help="requests that may wait, default: %(default)s"
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: cuda if available, else cpu")
    command.set_defaults(run=_app)


def _app(options: argparse.Namespace) -> None:
    from midway_zoo.app.server import serving
    from midway_zoo.app.settings import AppSettings

    settings = AppSettings(
        models=tuple(options.model or (MODEL,)),
        any_model=options.any_model or options.host in _LOCAL,
        device=str(device(options.device)),
        max_upload_mb=options.max_upload_mb,
        max_megapixels=options.max_megapixels,
        frames=options.frames,
        fps=options.fps,
        queue=options.queue,
    )
    stopped = threading.Event()

    def stop(*_: Any) -> None:
        stopped.set()

    # Both end the server in the usual way: temporary files are removed, and it is not a failure.
    before = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(settings, host=options.host, port=options.port) as address:
            sys.stdout.write(f"{address} (Ctrl-C ends it)\n")
            sys.stdout.flush()
            while not stopped.wait(1.0):
                pass
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
