"""The command that installs an extra is one that works for how the package itself was installed."""

import json

import pytest

from midway_zoo import extras


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, 'pip install "midway-zoo[video]"'),
        (
            {"url": "file:///home/me/my%20code", "dir_info": {"editable": True}},
            'pip install -e "/home/me/my code[video]" (the extra midway-zoo[video])',
        ),
        ({"url": "file:///src", "dir_info": {}}, 'pip install "/src[video]" (the extra midway-zoo[video])'),
        (
            {"url": "https://host/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            'pip install "midway-zoo[video] @ git+https://host/x.git@abc"',
        ),
        ({"url": "file:///w.whl", "archive_info": {}}, 'pip install "midway-zoo[video] @ file:///w.whl"'),
    ],
)
def test_command(origin, command, monkeypatch) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Installed())
    assert extras.install_command("video") == command
