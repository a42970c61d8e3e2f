"""Motion as frames arrive, one at a time, such as from a camera or a robot."""

from typing import Any

import torch

from midway_zoo.errors import InputTypeError
from midway_zoo.inference.batches import inference, network_size, normaliser
from midway_zoo.inference.encoded import EncodedFrames
from midway_zoo.inference.flow import at_size, method_of
from midway_zoo.inference.flow_options import FlowOptions
from midway_zoo.inference.frames import Frame, as_frame, check_same_size, pair_times
from midway_zoo.inference.images import ImageLike, Size, resize
from midway_zoo.inference.motion import motion_latent
from midway_zoo.results import FlowPrediction, MotionLatent
from midway_zoo.weights.registry import Model, resolve_network


class MotionStream:
    """Motion latents, and optionally flow, from each frame to the next as they are pushed.

    Every frame is encoded once on the network's device (in paired mode once by each encoder; and again, in tiles or at
    its own size, if the flow needs another input than the latent). Only one frame is kept, so memory does not grow.

    Args:
        model: a network or a pretrained name.
        size: of the frames for the latent, as in :func:`~midway_zoo.extract_features`.
        flow: also predict the flow.
        bidirectional: also predict the backward flow, and where both agree.
        **options: of the flow; see :class:`~midway_zoo.inference.flow_options.FlowOptions`. ``flow_size`` is its
            ``size``.

    Raises:
        InputError: for invalid options, or ones that the method does not use.
        InputTypeError: for anything but a network, or an unknown option.
        ConfigError: if the network is an encoder alone.
    """

    def __init__(
        self,
        model: Model,
        *,
        size: Size = None,
        flow: bool = False,
        bidirectional: bool = False,
        flow_size: Size = None,
        **options: Any,
    ) -> None:
        self.network = resolve_network(model)
        self.network.require_dynamics()
        if (options or bidirectional or flow_size is not None) and not flow:
            raise InputTypeError("bidirectional, flow_size and the flow's options need flow=True.")
        self._method = method_of(self.network, FlowOptions.of(size=flow_size, **options)) if flow else None
        self._size, self._both = size, bidirectional
        self._normalise = normaliser(self.network)
        self._last: tuple[Frame, EncodedFrames, EncodedFrames | None] | None = None

    def push(self, frame: ImageLike) -> MotionLatent | tuple[MotionLatent, FlowPrediction] | None:
        """Take the next frame.

        Args:
            frame: a single image of the same size as before, or a frame of ``read_video``, with its time.

        Returns:
            None for the first frame. Then the :class:`MotionLatent` from the previous frame to this one, with
            B = 1; with ``flow=True`` a tuple of that and the :class:`FlowPrediction`.

        Raises:
            InputError: for an image that cannot be used or of another size; the stream is unchanged.
            InputTypeError: for anything but an image.
        """
        taken = as_frame(frame)
        given = (taken.image.shape[1], taken.image.shape[2])
        if self._last is not None:
            check_same_size(taken.image, (self._last[0].image.shape[1], self._last[0].image.shape[2]))
        with inference(self.network):
            whole = EncodedFrames(self.network, self._input(taken, network_size(self.network, taken.image, self._size)))
            whole.encoded()
            seen = None
            if self._method is not None:
                side = self._method.fit(*given)
                # One encoding serves both if the flow needs the whole frame at the same size.
                seen = (
                    whole
                    if side == whole.size == self._method.side(side)
                    else self._method.encode(self._input(taken, side))
                )
            before, self._last = self._last, (taken, whole, seen)
            return None if before is None else self._between(before, (taken, whole, seen))

    def reset(self) -> None:
        """Forget the last frame: the next one starts a new clip, and may have another size."""
        self._last = None

    def _input(self, frame: Frame, size: tuple[int, int]) -> Any:
        return self._normalise(resize(frame.image, size)[None])

    def _between(self, before: Any, after: Any) -> MotionLatent | tuple[MotionLatent, FlowPrediction]:
        (first, source, source_tiles), (last, target, target_tiles) = before, after
        times = pair_times([first.pts_seconds, last.pts_seconds])
        concealed = None if times is None else torch.tensor([[first.concealed, last.concealed]])
        out = self.network.require_dynamics().motion_latents(source.tokens(), target.tokens(target=True), source.grid)
        latent = motion_latent(out.motion_latents, source.grid, times, concealed)
        if self._method is None:
            return latent
        found = self._method(source_tiles, target_tiles, both=self._both)
        fields: dict[str, Any] = dict(at_size(found, source_tiles.size, (last.image.shape[1], last.image.shape[2])))
        fields |= {"pts_seconds": times, "concealed": concealed}
        name = self._method.options.method
        return latent, FlowPrediction(method=name, grid=source_tiles.grid, **fields)
