"""Serving the page."""

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
"""Number of visitors whose frames are kept in memory; the longest inactive is forgotten first."""


@contextmanager
def serving(settings: AppSettings | None = None, *, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page within the context; afterwards the server is stopped and temporary files are removed.

    Args:
        settings: None for the defaults.
        host: address to listen on; "0.0.0.0" admits every machine that can reach this one.
        port: port to listen on; None for the first free one from 7860 on.

    Returns:
        A context manager that yields the page's address.

    Raises:
        InputError: if the address is not available.
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
    """Check early, since Gradio reports it late and with the traceback of a thread."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
            tried.listen()
    except (OSError, OverflowError) as error:
        where = host if port is None else f"{host}:{port}"
        raise InputError(f"the page cannot listen on {where} ({error}): pass another address or port.") from error


def theme() -> Any:
    """A theme with fonts of the visitor's own machine, so that none is downloaded."""
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
