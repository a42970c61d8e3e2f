"""The page: its parts, their layout, and the callback of each."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from midway_zoo.app.callbacks import EXAMPLES, MOST_POINTS, Callbacks, Changes, Choices, Session, note
from midway_zoo.app.models import RANDOM, Models
from midway_zoo.app.rooms import Rooms
from midway_zoo.app.settings import AppSettings
from midway_zoo.app.toolkit import gradio as gr
from midway_zoo.app.views import VIEWS, View

TITLE = "midway-zoo"
_INTRO = f"""# {TITLE}
See what a Midway network finds in two frames or a short clip. Start with an example or drop frames of your own, then
click a point of the source frame."""
_FORGOTTEN = 3600
"""Seconds after which a visitor's state and files are removed if the page is left open."""
_QUEUE = "network"
_ROWS = (("heat-map", "flow"), ("tracks",), ("pca",), ("gates", "latents"))


def build_app(settings: AppSettings, folder: Path) -> Any:
    """The page as ``gradio.Blocks``; :func:`serving` serves it.

    Args:
        settings: options of the page.
        folder: folder for temporary files, to be removed by the caller. Gradio reads it from the environment
            (``GRADIO_TEMP_DIR``), so a process can serve only one page.

    Raises:
        MissingExtraError: without Gradio or Matplotlib.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    models, rooms = Models(settings), Rooms(folder)
    callbacks = Callbacks(settings, models, rooms)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, _FORGOTTEN)) as page:
        parts = _parts(settings, models)
        _Wiring(parts, callbacks).connect()
        page.unload(_leaving(rooms))
    page.queue(max_size=settings.queue, default_concurrency_limit=1, api_open=False)
    return page


def _leaving(rooms: Rooms) -> Callable[..., None]:
    def leave(request: gr.Request) -> None:
        rooms.leave(str(request.session_hash))

    return leave


def _parts(settings: AppSettings, models: Models) -> dict[str, Any]:
    """Everything on the page by name, in the order of display."""
    parts: dict[str, Any] = {"session": gr.State(Session(), time_to_live=_FORGOTTEN)}
    gr.Markdown(_INTRO)
    parts["status"] = gr.HTML(note("Click an example, or drop two frames or a clip."), elem_id="status")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            _inputs(parts, settings, models)
        with gr.Column(scale=2, min_width=300):
            _frames(parts)
    with gr.Column(visible=False) as parts["results"]:
        for row in _ROWS:
            with gr.Row():
                for name in row:
                    _view(parts, VIEWS[name])
    parts["download"] = gr.DownloadButton(
        "Download all pictures and numbers (ZIP)", interactive=False, elem_id="download"
    )
    return parts


def _inputs(parts: dict[str, Any], settings: AppSettings, models: Models) -> None:
    names = models.names()
    told = "Or type hf-hub:ORG/REPO, or the path of a checkpoint on this machine." if settings.any_model else None
    parts["model"] = gr.Dropdown(
        names, value=names[0], label="Model", info=told, allow_custom_value=settings.any_model, elem_id="model"
    )
    parts["against"] = gr.Dropdown(
        [("nothing", ""), (RANDOM, RANDOM), *((name, name) for name in names)],
        value="",
        label="Compare with",
        info="its views are shown below those of the model",
        allow_custom_value=settings.any_model,
        elem_id="against",
    )
    parts["model-said"] = gr.HTML("", elem_id="model-said", elem_classes="small")
    gr.Markdown("**Examples**")
    with gr.Row():
        for name, (title, _) in EXAMPLES.items():
            parts[f"example-{name}"] = gr.Button(title, size="md", min_width=120, elem_id=f"example-{name}")
    parts["files"] = gr.File(
        label="Two frames of a scene, or a clip",
        file_count="multiple",
        type="filepath",
        height=150,
        elem_id="files",
    )
    gr.Markdown(
        f"Pictures must have the same size and are ordered by name; of a clip, the first {settings.frames} frames at "
        f"{settings.fps:g} per second are taken. Limits: {settings.max_upload_mb:g} MB per file, "
        f"{settings.max_megapixels:g} million pixels per frame. Files are removed as soon as they are read, results "
        "when you leave.",
        elem_classes="small",
    )


def _frames(parts: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=240):
            parts["source-frame"] = _image("Source: click a point", "source-frame")
            parts["source"] = gr.Dropdown([], label="Source frame", elem_id="source", filterable=False)
        with gr.Column(min_width=240):
            parts["target-frame"] = _image("Target", "target-frame")
            parts["target"] = gr.Dropdown([], label="Target frame", elem_id="target", filterable=False)
    with gr.Row(elem_id="point"):
        parts["x"] = gr.Number(label="Point: x", info="pixels from the left", minimum=0, min_width=90, elem_id="x")
        parts["y"] = gr.Number(label="y", info="pixels from the top", minimum=0, min_width=90, elem_id="y")
        parts["follow"] = gr.Button("Follow this point", size="md", min_width=150, elem_id="follow")
        parts["stop"] = gr.Button("Stop", size="md", min_width=80, elem_id="stop")
        parts["more"] = gr.Checkbox(
            label="Keep earlier points", info=f"up to {MOST_POINTS}", min_width=150, elem_id="more"
        )


def _view(parts: dict[str, Any], view: View) -> None:
    with gr.Column(min_width=300, elem_classes="view"):
        gr.Markdown(f"### {view.title}\n{view.what}")
        parts[view.name] = _image(view.title, f"{view.name}-picture", show_label=False)
        parts[f"{view.name}-said"] = gr.HTML("", elem_id=f"{view.name}-said")


def _image(label: str, name: str, *, show_label: bool = True) -> Any:
    return gr.Image(
        label=label,
        show_label=show_label,
        type="filepath",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        alt_text=label,
        elem_id=name,
    )


class _Wiring:
    """Connects events to callbacks, and the changes they return to the page."""

    def __init__(self, parts: dict[str, Any], callbacks: Callbacks) -> None:
        self.parts, self.callbacks = parts, callbacks
        inputs = ("model", "against", "files", "x", "y", "follow", "more", "stop")
        self.outputs = [part for name, part in parts.items() if name not in inputs and not name.startswith("example-")]
        self.outputs += [parts[name] for name in ("files", "x", "y")]
        self.started: list[Any] = []

    def connect(self) -> None:
        """Connect every event of the page."""
        parts, calls = self.parts, self.callbacks
        common = [parts["session"], parts["model"]]

        def dropped(session: Session, model: str, files: list[str], request: gr.Request) -> Iterator[Changes]:
            yield from self._changes(calls.drop(session, _visitor(request), model, files))

        def clicked(
            session: Session, model: str, more: bool, event: gr.SelectData, request: gr.Request
        ) -> Iterator[Changes]:
            yield from self._changes(calls.click(session, _visitor(request), model, event.index, more=more))

        def asked(
            session: Session, model: str, x: float | None, y: float | None, more: bool, request: gr.Request
        ) -> Iterator[Changes]:
            yield from self._changes(calls.point(session, _visitor(request), model, x, y, more=more))

        def paired(session: Session, model: str, source: int, target: int, request: gr.Request) -> Iterator[Changes]:
            yield from self._changes(calls.pair(session, _visitor(request), model, source, target))

        def again(session: Session, model: str, request: gr.Request) -> Iterator[Changes]:
            yield from self._changes(calls.again(session, _visitor(request), model))

        def compared(session: Session, model: str, against: str, request: gr.Request) -> Iterator[Changes]:
            yield from self._changes(calls.compare(session, _visitor(request), model, against))

        self._on(parts["against"].change, compared, [*common, parts["against"]], last=True)
        self._on(parts["files"].upload, dropped, [*common, parts["files"]])
        self._on(parts["source-frame"].select, clicked, [*common, parts["more"]], last=True)
        point = [*common, parts["x"], parts["y"], parts["more"]]
        self._on(parts["follow"].click, asked, point)
        for name in ("x", "y"):
            self._on(parts[name].submit, asked, point)
        for name in ("source", "target"):
            self._on(parts[name].input, paired, [*common, parts["source"], parts["target"]], last=True)
        self._on(parts["model"].change, again, common, last=True)
        for name in EXAMPLES:
            self._on(parts[f"example-{name}"].click, self._example(name), common)
        self._stop()

    def _stop(self) -> None:
        self.parts["stop"].click(
            lambda: note("Stopped."),
            outputs=self.parts["status"],
            cancels=self.started,
            queue=False,
            api_visibility="private",
        )

    def _example(self, name: str) -> Callable[..., Iterator[Changes]]:
        def example(session: Session, model: str, request: gr.Request) -> Iterator[Changes]:
            yield from self._changes(self.callbacks.example(session, _visitor(request), model, name))

        return example

    def _on(self, event: Callable[..., Any], handler: Any, inputs: Sequence[Any], *, last: bool = False) -> None:
        started = event(
            handler,
            inputs,
            self.outputs,
            api_visibility="private",
            show_progress="minimal",
            show_progress_on=[self.parts["status"]],
            trigger_mode="always_last" if last else "once",
            concurrency_limit=1,
            concurrency_id=_QUEUE,
        )
        self.started.append(started)

    def _changes(self, steps: Iterator[Changes]) -> Iterator[Changes]:
        """Translate names to parts of the page, and values to those of Gradio."""
        for step in steps:
            yield {self.parts[name]: _update(name, value) for name, value in step.items()}


def _update(name: str, value: Any) -> Any:
    if isinstance(value, Choices):
        return gr.update(choices=list(value.labels), value=value.value)
    if name == "results":
        return gr.update(visible=value)
    if name == "download":
        return gr.update(value=None if value is None else str(value), interactive=value is not None)
    return str(value) if isinstance(value, Path) else value


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)
