"""``midway-zoo benchmark hub``: parts of a released file over a slow line, against ``hf_hub_download`` of the whole
file.

The file is generated and the line is a local server; every download is a process with an empty cache of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from midway_zoo.benchmarks.line import FILE, REPO, Line
from midway_zoo.benchmarks.measuring import Comparison, Elapsed, How, Way, compare
from midway_zoo.benchmarks.released_file import write_like_released
from midway_zoo.config import ARCHITECTURES
from midway_zoo.errors import ConfigError, nearest

WANTED = {"hf_hub_download, whole file": "file", "encoder": "teacher", "encoder and dynamics": "teacher+dynamics"}
_FETCH = """
import json, sys, time
from pathlib import Path
import midway_zoo as mz
from huggingface_hub import hf_hub_download
from midway_zoo import manifest
from midway_zoo.weights import hub
architecture, wanted, repo, file = sys.argv[1:]
name = f"{architecture}.benchmark"
mz.register_weights(name, repo_id=repo, file=file)
start = time.perf_counter()
if wanted == "file":
    paths = [hf_hub_download(repo, file)]
else:
    paths = hub.fetch(name, manifest.find(name), wanted.split("+")).values()
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "bytes": sum(Path(path).stat().st_size for path in paths)}))
"""


def measure(
    how: How,
    *,
    model: str = "midway_vits",
    mbits: float = 100.0,
    latency: float = 0.1,
    prototypes: int = 65536,
) -> Iterator[Comparison]:
    """Seconds and bytes sent per download; a line of 0 Mbit/s has no limit."""
    if model not in ARCHITECTURES:
        raise ConfigError(f"hub measures an architecture, not {model!r}.{nearest(model, ARCHITECTURES)}")
    once = How(rounds=how.rounds, warmup=0)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / FILE
        write_like_released(source, ARCHITECTURES[model], prototypes)
        with Line(source, mbits * 1e6 or None, latency) as line:
            notes: dict[str, str] = {}
            homes = (Path(name) / f"home{number}" for number in count())
            ways = [Way(label, _download(line, model, label, wanted, homes, notes)) for label, wanted in WANTED.items()]
            speed = f"{mbits:g} Mbit/s" if mbits else "an unshaped line"
            title = f"download out of {model}, {line.size / 1e6:.0f} MB, {speed}, {latency * 1e3:g} ms"
            found = compare(title, ways, once, unit="downloads", peer=next(iter(WANTED)), elsewhere=True)
            yield found.noting(*notes.values())


def _download(
    line: Line, model: str, label: str, wanted: str, homes: Iterator[Path], notes: dict[str, str]
) -> Callable[[], Elapsed]:
    def run() -> Elapsed:
        requests, sent = line.requests, line.sent
        command = [sys.executable, "-c", _FETCH, model, wanted, REPO, FILE]
        done = subprocess.run(command, env=_environment(line, next(homes)), capture_output=True, check=False, text=True)
        if done.returncode:
            raise RuntimeError(f"the download of {label} failed: {done.stderr[-2000:]}")
        found = json.loads(done.stdout)
        requests, sent = line.requests - requests, line.sent - sent
        notes[label] = (
            f"{label}: {found['bytes'] / 1e6:.1f} MB, sent {sent / 1e6:.1f} MB ({sent / found['bytes']:.3f} x) in "
            f"{requests} requests"
        )
        return Elapsed(found["seconds"])

    return run


def _environment(line: Line, home: Path) -> dict[str, str]:
    """Environment of a process that uses only this server, with all caches in ``home``."""
    kept = {key: value for key, value in os.environ.items() if not re.match(r"HF_|HUGGING|TRANSFORMERS_OFFLINE", key)}
    flags = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
    kept |= {"HF_ENDPOINT": line.endpoint, "HF_HOME": str(home), **dict.fromkeys(flags, "1")}
    return kept | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
