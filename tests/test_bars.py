"""Progress bars: on terminals of any width, and nowhere else."""

import io
import os
import struct
import sys

import pytest

from midway_zoo.bars import bar, silence

fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")


@pytest.mark.parametrize("columns", [0, 60])
@pytest.mark.parametrize("quiet", [False, True])
def test_a_terminal_shows_them(monkeypatch: pytest.MonkeyPatch, columns: int, quiet: bool) -> None:
    """Some terminals, as of containers, say that they have no columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        silence(quiet)
        try:
            for _ in bar(range(3), unit=" frames"):
                pass
        finally:
            silence(False)
        terminal.write("end")
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert ("3 [" in shown and "frames" in shown) is not quiet
    assert (shown == "end") is quiet


def test_a_file_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    assert list(bar(range(3))) == [0, 1, 2]
    assert written.getvalue() == ""
