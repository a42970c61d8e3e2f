"""The page as Gradio serves it, without a browser. Needs the extra test-app."""

import importlib.util
import json
import os
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[test-app]'")

import gradio
import yaml

from midway_zoo.app.page import build_app
from midway_zoo.app.server import serving
from midway_zoo.app.settings import AppSettings
from midway_zoo.cli import main
from midway_zoo.errors import InputError

SPACE = Path(__file__).parents[2] / "examples" / "space"


@pytest.fixture(autouse=True)
def _environment(monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))


def post(address: str, name: str, content: bytes) -> tuple[int, str]:
    """Upload as a browser does."""
    boundary = "midway"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        head.encode() + content + f"\r\n--{boundary}--\r\n".encode(),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_server_and_what_it_leaves() -> None:
    settings = AppSettings(max_upload_mb=0.5)
    with serving(settings) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.name.startswith("midway-zoo-app-")
        with urllib.request.urlopen(address, timeout=20) as answer:
            page = answer.read().decode()
        assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*\.(?:js|css|woff2?)""", page)
        assert "fonts.googleapis" not in page
        status, answer = post(address, "small.png", b"x" * 1000)
        assert status == 200
        kept = Path(json.loads(answer)[0])
        assert kept.is_relative_to(folder)
        status, answer = post(address, "large.png", b"x" * 600_000)
        assert status == 413
        port = int(address.rstrip("/").rpartition(":")[2])
        with pytest.raises(InputError, match="cannot listen on 127"), serving(settings, port=port):
            pass
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


def test_one_queue_with_a_limit_and_no_telemetry(tmp_path) -> None:
    page = build_app(AppSettings(queue=3), tmp_path)
    config = page.get_config_file()
    assert not page.analytics_enabled
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert page.delete_cache is not None
    work = [fn for fn in page.fns.values() if fn.queue and fn.concurrency_id == "network"]
    assert len(work) >= 9
    assert {fn.concurrency_limit for fn in work} == {1}
    assert page._queue.max_size == 3
    assert not page.api_open
    assert "googleapis" not in json.dumps(config, default=str)


def test_visitors_of_a_server_type_no_names_unless_they_may(tmp_path) -> None:
    for allowed in (True, False):
        page = build_app(AppSettings(any_model=allowed), tmp_path)
        (model,) = (block for block in page.blocks.values() if block.elem_id == "model")
        assert model.allow_custom_value is allowed
        assert model.value == "midway_nano.scenes"
        assert ("midway_vits.bdd100k", "midway_vits.bdd100k") in model.choices


def test_the_command_refuses_what_makes_no_sense(capsys) -> None:
    assert main(["app", "--frames", "1"]) == 1
    assert "frames=1" in capsys.readouterr().err
    assert main(["app", "--host", "192.0.2.1", "--port", "7860"]) == 1
    assert "cannot listen on 192.0.2.1:7860" in capsys.readouterr().err


def space() -> ModuleType:
    spec = importlib.util.spec_from_file_location("space_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_space_starts(tmp_path, monkeypatch) -> None:
    header = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio"
    assert header["app_file"] == "app.py"
    assert len(header["short_description"]) <= 60  # the Hub refuses longer ones
    pyproject = (SPACE.parents[1] / "pyproject.toml").read_text()
    least = re.search(r'"gradio>=([\d.]+)"', pyproject)[1]
    assert [int(part) for part in header["sdk_version"].split(".")][:2] >= [int(part) for part in least.split(".")][:2]
    assert (SPACE / "requirements.txt").read_text().split() == ["midway-zoo[app]"]
    module = space()
    assert not module.SETTINGS.any_model
    assert isinstance(build_app(module.SETTINGS, tmp_path), gradio.Blocks)
    seen = []

    class Stopped:
        def wait(self) -> None:
            with urllib.request.urlopen("http://127.0.0.1:7860", timeout=20) as answer:
                seen.append(answer.status)

    monkeypatch.setattr(module, "threading", SimpleNamespace(Event=Stopped))
    with socket.socket() as free:
        if free.connect_ex(("127.0.0.1", 7860)) == 0:
            pytest.skip("port 7860, where Spaces listen, is taken on this machine")
    module.main()
    assert seen == [200]
