"""The page as a server of this machine."""

import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midway_zoo.app.page import build_app
from midway_zoo.app.settings import AppSettings
from midway_zoo.app.toolkit import gradio as gr
from midway_zoo.errors import InputError
from midway_zoo.figures.canvas import import_matplotlib
from midway_zoo.inference.video_file import import_av

_SESSIONS = 32
"""Visitors whose frames are kept in memory; who was away longest is forgotten first."""


@contextmanager
def serving(settings: AppSettings | None = None, *, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page while the block runs; temporary files and the server are gone after it.

    Args:
        settings: None for the defaults.
        host: the address to listen at. "0.0.0.0" lets every machine in that can reach this one.
        port: None for the first free one from 7860 on.

    Returns:
        A context manager that gives the page's address.

    Raises:
        InputError: if the address cannot be had.
        MissingExtraError: without Gradio, Matplotlib or PyAV.
    """
    import_matplotlib()
    import_av()
    _check_address(host, port)
    with tempfile.TemporaryDirectory(prefix="midway-zoo-app-", ignore_cleanup_errors=True) as folder:
        settings = settings or AppSettings()
        page = build_app(settings, Path(folder))
        try:
            yield _launch(page, settings, host, port)
        finally:
            page.close(verbose=False)


def _launch(page: Any, settings: AppSettings, host: str, port: int | None) -> str:
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        max_file_size=settings.max_bytes,
        state_session_capacity=_SESSIONS,
        theme=theme(),
        css=_CSS,
    )
    return str(address)


def _check_address(host: str, port: int | None) -> None:
    """Gradio says it late, and by the traceback of a thread."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
            tried.listen()
    except (OSError, OverflowError) as error:
        where = host if port is None else f"{host}:{port}"
        raise InputError(f"the page cannot listen at {where} ({error}): pass another address or port.") from error


def theme() -> Any:
    """Fonts of the visitor's own machine: none is fetched, from nowhere."""
    return gr.themes.Base(
        primary_hue="blue",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


_CSS = """
.said { padding: 0.6em 0.9em; border-left: 4px solid #656d76; overflow-wrap: anywhere; }
.said.busy { border-color: #005a9c; }
.said.wrong { border-color: #b2182b; color: #b2182b; font-weight: 600; }
.dark .said.wrong { color: #f4a582; }
.gradio-container { overflow: clip !important; }
#status { position: sticky; top: 0; z-index: 20; background: var(--body-background-fill); }
#source-frame img { cursor: crosshair; }
.view .image-container, .view .image-frame { padding-top: 1.2em; }
.view img { max-height: 76em; object-fit: contain; }
.small { font-size: 0.9em; opacity: 0.85; }
#model-said { font-size: 1em; padding: 0; }
"""
