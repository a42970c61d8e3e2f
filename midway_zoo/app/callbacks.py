"""Reactions to what a visitor does: changes to the page, sent one after the other as results come in.

This module does not use Gradio. A change is a dictionary from names of the page's parts to their new values.
"""

import html
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import ImageDraw
from torch import Tensor

from midway_zoo import style
from midway_zoo.app.models import Models
from midway_zoo.app.rooms import Rooms
from midway_zoo.app.settings import AppSettings
from midway_zoo.app.uploads import check_upload, read_uploads
from midway_zoo.app.views import VIEWS, Moment, above, ordered
from midway_zoo.demo import CAUTION, MODEL, sheet
from midway_zoo.demo.findings import notable_points
from midway_zoo.demo.footage import Footage, generated_clip, packaged_clip
from midway_zoo.errors import InputError, MidwayZooError
from midway_zoo.inference.image_files import image_size
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.version import __version__

_logger = logging.getLogger(__name__)

Changes: TypeAlias = dict[str, Any]
EXAMPLES: dict[str, tuple[str, str]] = {
    "real": ("Toy on a table", "a real clip by a hand-held camera, part of the package"),
    "scene": ("Generated scene", "rendered textured objects, whose true flow is known and shown beside the prediction"),
}
MOST_POINTS = 4
_SHOWN = 384  # approximate shorter side in pixels of the clickable frames


@dataclass(frozen=True)
class Choices:
    """Options of a list on the page, and the chosen one."""

    labels: Sequence[tuple[str, int]]
    value: int


@dataclass(frozen=True)
class Session:
    """State of one visitor."""

    moment: Moment | None = None
    against: str = ""
    """Name of a second model, or :data:`~midway_zoo.app.models.RANDOM`, whose views are shown below; "" for none."""
    waiting: Path | None = None
    """A single picture that was dropped; the next one will complete a pair."""
    pictures: dict[str, Path] = field(default_factory=dict)
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def factor_of(footage: Footage) -> int:
    """Factor by which clickable frames are enlarged."""
    return max(1, round(_SHOWN / min(footage.frames.shape[2:])))


class Callbacks:
    """Shared by all visitors; the state of each is in their :class:`Session`."""

    def __init__(self, settings: AppSettings, models: Models, rooms: Rooms) -> None:
        self.settings, self.models, self.rooms = settings, models, rooms

    def drop(self, session: Session, visitor: str, model: str, paths: Sequence[str]) -> Iterator[Changes]:
        """Files were dropped."""
        return self._told(self._drop(session, visitor, model, [Path(path) for path in paths or ()]), files=None)

    def example(self, session: Session, visitor: str, model: str, name: str) -> Iterator[Changes]:
        """An example was clicked."""
        footage = packaged_clip() if name == "real" else generated_clip(self.settings.frames)
        return self._told(self._open(session, visitor, model, footage, f"{EXAMPLES[name][0]}: {EXAMPLES[name][1]}."))

    def click(
        self, session: Session, visitor: str, model: str, pixel: Sequence[float], *, more: bool = False
    ) -> Iterator[Changes]:
        """A pixel (x, y) of the enlarged source was clicked."""
        factor = 1 if session.moment is None else factor_of(session.moment.footage)
        xy = [(value + 0.5) / factor - 0.5 for value in pixel]
        return self.point(session, visitor, model, xy[0], xy[1], more=more)

    def point(
        self, session: Session, visitor: str, model: str, x: float | None, y: float | None, *, more: bool = False
    ) -> Iterator[Changes]:
        """A point (x, y) in pixels of the source was asked for."""
        return self._told(self._point(session, visitor, model, x, y, more))

    def pair(self, session: Session, visitor: str, model: str, source: int, target: int) -> Iterator[Changes]:
        """Other frames were chosen as source and target."""
        return self._told(self._pair(session, visitor, model, source, target))

    def again(self, session: Session, visitor: str, model: str) -> Iterator[Changes]:
        """Another model was chosen."""
        return self._told(self._again(session, visitor, model))

    def compare(self, session: Session, visitor: str, model: str, against: str) -> Iterator[Changes]:
        """Another model to compare with was chosen, or none."""
        return self._told(self._compare(session, visitor, model, against))

    def _told(self, steps: Iterator[Changes], **always: Any) -> Iterator[Changes]:
        """The steps; errors in them become a sentence on the page, never a traceback."""
        try:
            yield from steps
        except (MidwayZooError, OSError) as error:
            # The server's paths mean nothing to visitors.
            said = str(error).replace(f"{self.rooms.folder}/", "").replace(str(Path.home()), "~")
            yield {"status": problem(said), **always}
        except Exception as error:
            _logger.exception("the page failed")
            kind = type(error).__name__
            said = f"Something went wrong ({kind}). Try other frames or another model; the server's log has details."
            yield {"status": problem(said), **always}

    def _drop(self, session: Session, visitor: str, model: str, paths: list[Path]) -> Iterator[Changes]:
        self.rooms.note_uploads(visitor, paths)
        first = session.waiting
        pair = [] if first is None or first in paths else [first]
        try:
            if len(paths) == 1 and not check_upload(paths[0], self.settings) and not pair:
                image_size(paths[0])  # read completely, so that damaged files are refused now
                first = paths[0]
                said = f"{first.name} was received. Drop one more frame of the same scene, or a clip."
                yield {"session": replace(session, waiting=first), "files": None, "status": note(said)}
                return
            pair = pair if len(paths) == 1 else []
            footage, said = read_uploads([*pair, *paths], self.settings, by_name=not pair)
            first = None
        finally:
            self.rooms.forget_uploads(visitor, but=first)
        yield {"session": replace(session, waiting=None), "files": None}
        yield from self._open(session, visitor, model, footage, said)

    def _open(self, session: Session, visitor: str, model: str, footage: Footage, said: str) -> Iterator[Changes]:
        height, width = footage.frames.shape[2:]
        points = (
            footage.points
            if footage.points is not None
            else notable_points(footage.frames[0], torch.ones(2, height, width))
        )
        first = points[:1] if len(points) else torch.tensor([[(width - 1) / 2, (height - 1) / 2]])
        moment = Moment(footage, 0, 1, tuple((float(x), float(y)) for x, y in first.tolist()))
        session = Session(moment, session.against)
        labels = [(label, index) for index, label in enumerate(footage.labels)]
        yield {
            "session": session,
            "source": Choices(labels, 0),
            "target": Choices(labels, 1),
            **dict.fromkeys(VIEWS),
            **{f"{name}-said": "" for name in VIEWS},
            "results": True,
            "download": None,
            **self._frames(visitor, moment),
            "status": note(said),
        }
        yield from self._show(session, visitor, model, ("points", "pair", "clip"), said)

    def _point(
        self, session: Session, visitor: str, model: str, x: float | None, y: float | None, more: bool
    ) -> Iterator[Changes]:
        moment = _opened(session)
        height, width = moment.footage.frames.shape[2:]
        if x is None or y is None or not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            raise InputError(f"The point ({x}, {y}) is outside the frame: x goes to {width - 1}, y to {height - 1}.")
        points = (*(moment.points[-MOST_POINTS + 1 :] if more else ()), (float(x), float(y)))
        moment = replace(moment, points=points)
        session = replace(session, moment=moment)
        yield {"session": session, **self._frames(visitor, moment)}
        yield from self._show(session, visitor, model, ("points",))

    def _pair(self, session: Session, visitor: str, model: str, source: int, target: int) -> Iterator[Changes]:
        moment = _opened(session)
        if (source, target) == (moment.source, moment.target):  # lists report also when nothing has changed
            yield {"session": session}
            return
        frames = range(len(moment.footage))
        if source not in frames or target not in frames:
            raise InputError(f"There are frames 0 to {frames[-1]}.")
        if source == target:
            raise InputError("Source and target are the same frame: choose two.")
        session = replace(session, moment=replace(moment, source=source, target=target))
        yield {"session": session, **self._frames(visitor, _opened(session))}
        yield from self._show(session, visitor, model, ("points", "pair"))

    def _again(self, session: Session, visitor: str, model: str) -> Iterator[Changes]:
        if session.moment is None:
            yield {"status": note(f"Loading {model} ...", busy=True)}
            network = self.models.get(model)
            ready = note(f"{model} is loaded. Drop two frames or a clip, or click an example.")
            yield {"model-said": said_of(model, network), "status": ready}
            return
        yield from self._show(session, visitor, model, ("points", "pair", "clip"))

    def _compare(self, session: Session, visitor: str, model: str, against: str) -> Iterator[Changes]:
        session = replace(session, against=(against or "").strip())
        yield {"session": session}
        if session.moment is not None:
            yield from self._show(session, visitor, model, ("points", "pair", "clip"))

    def _frames(self, visitor: str, moment: Moment) -> Changes:
        """The source with its points, and the target, enlarged."""
        factor, about = factor_of(moment.footage), {"midway_zoo": __version__}
        source, target = (sheet.to_picture(frame, factor, smooth=True) for frame in moment.pair)

        def paint(draw: ImageDraw.ImageDraw, scale: int) -> None:
            for number, (x, y) in enumerate(moment.points):
                at = ((x + 0.5) * factor * scale, (y + 0.5) * factor * scale)
                sheet.ring(draw, at, 9 * scale, 3 * scale, style.point_colour(number))

        drawn = {"source-frame": sheet.draw_over(source, paint), "target-frame": target}
        x, y = moment.points[-1]
        return {
            **{
                name: self.rooms.picture(visitor, name, sheet.from_picture(picture), about)
                for name, picture in drawn.items()
            },
            "x": round(x, 1),
            "y": round(y, 1),
        }

    def _show(
        self, session: Session, visitor: str, model: str, kinds: Sequence[str], said: str = ""
    ) -> Iterator[Changes]:
        """Show views of these kinds, one after the other; a view that fails shows the reason in its own place."""
        moment = _opened(session)
        yield {"status": note(f"{said} Loading {model} ...", busy=True)}
        network = self.models.get(model)
        rival = self.models.rival(session.against, network) if session.against else None
        yield {"model-said": said_of(model, network)}
        views = ordered(network, kinds)
        about = {
            "midway_zoo": __version__,
            "model": model,
            "against": session.against,
            "footage": moment.footage.name,
            "points": moment.points,
        }
        about |= {"source": moment.footage.labels[moment.source], "target": moment.footage.labels[moment.target]}
        for number, view in enumerate(views, 1):
            yield {"status": note(f"{said} {view.title} ({number} of {len(views)}) ...", busy=True)}
            pictures, tensors = dict(session.pictures), dict(session.tensors)
            try:
                found = view.draw(network, moment)
                if rival is not None:
                    found = above(found, view.draw(rival, moment), model, session.against)
            except MidwayZooError as error:
                pictures.pop(view.name, None)
                tensors.pop(view.name, None)
                changes: Changes = {view.name: None, f"{view.name}-said": problem(str(error))}
            else:
                pictures[view.name] = self.rooms.picture(visitor, view.name, found.image, about)
                tensors[view.name] = found.tensors
                changes = {view.name: pictures[view.name], f"{view.name}-said": html.escape(found.said)}
            session = replace(session, pictures=pictures, tensors=tensors)
            yield {"session": session, **changes}
        numbers = {name: values for found in session.tensors.values() for name, values in found.items()}
        bundle = self.rooms.bundle(visitor, list(session.pictures.values()), numbers, about)
        yield {"download": bundle, "status": note(f"{said} Ready. Click a point of the source frame to follow it.")}


def _opened(session: Session) -> Moment:
    if session.moment is None:
        raise InputError("There are no frames (they are forgotten after an hour): drop two, or click an example.")
    return session.moment


def said_of(model: str, network: MidwayNetwork) -> str:
    """A sentence about a network, as HTML."""
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    height, width = network.config.img_size
    head = "has a flow head" if network.flow_head is not None else "has no flow head: flow by perturbation, slowly"
    text = f"{millions:.1f} million parameters, made for {width} x {height} pixels, {head}."
    return html.escape(f"{text} Mind the {CAUTION}." if model == MODEL else text)


def note(text: str, *, busy: bool = False) -> str:
    """A sentence as HTML."""
    kind = "busy" if busy else "ready"
    return f'<div class="said {kind}" role="status">{html.escape(text.strip())}</div>'


def problem(text: str) -> str:
    """An error message as HTML."""
    return f'<div class="said wrong" role="alert">{html.escape(" ".join(text.split()))}</div>'
