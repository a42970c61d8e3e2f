"""``midway-zoo benchmark import``: time to start, in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from midway_zoo.benchmarks.measuring import Comparison, Elapsed, How, Way, compare


def measure(how: How) -> Iterator[Comparison]:
    """Imports compared with timm's, and commands without computation compared with Python's own start."""
    how = How(rounds=how.rounds, warmup=how.warmup)
    statements = ("import timm", "import midway_zoo", "import timm, midway_zoo", "import torch")
    ways = [Way(statement, _python("-c", statement)) for statement in statements]
    ways.append(Way("import midway_zoo, after timm", _after_timm))
    yield compare("import", ways, how, unit="starts", peer="import timm", elsewhere=True)
    commands = {"--help": 0, "list": 0, "features --help": 0, "lst": 2}
    ways = [Way("python -c pass", _python("-c", "pass"))]
    ways += [Way(f"midway-zoo {words}", _command(words, code)) for words, code in commands.items()]
    yield compare("commands", ways, how, unit="starts", peer="python -c pass", elsewhere=True)


_AFTER = """
import json, time, timm
start = time.perf_counter(), time.process_time()
import midway_zoo
print(json.dumps([time.perf_counter() - start[0], time.process_time() - start[1]]))
"""


def _after_timm() -> Elapsed:
    """What this import adds after timm's, since differences between two imports of timm are mostly noise."""
    done = subprocess.run([sys.executable, "-c", _AFTER], capture_output=True, check=True, text=True)
    seconds, cpu_seconds = json.loads(done.stdout)
    return Elapsed(seconds, cpu_seconds)


def _python(*arguments: str, code: int = 0) -> Callable[[], object]:
    def run() -> Elapsed:
        start = time.perf_counter(), _of_children()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, text=True)
        if done.returncode != code:
            raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stderr[-500:]}")
        return Elapsed(time.perf_counter() - start[0], _of_children() - start[1])

    return run


def _of_children() -> float:
    """Processor seconds of the processes that ended; 0 if the system does not provide them."""
    times = os.times()
    return times.children_user + times.children_system


def _command(words: str, code: int) -> Callable[[], object]:
    return _python("-m", "midway_zoo", *words.split(), code=code)
