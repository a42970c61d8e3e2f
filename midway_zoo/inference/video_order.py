"""From packets to frames: in what order they are shown, when, and which of them damage has reached."""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

_MOST_WAITING = 16
"""Frames that a codec may decode before it shows them: H.264 and HEVC allow no more."""
_REMEMBERED = 256  # packets; a decoder holds far fewer back


@dataclass(frozen=True)
class DecodedFrame:
    """A frame as the decoder gave it."""

    picture: Any
    """PyAV's frame."""
    ticks: int
    """Presentation time in ticks of the file; ascending. Right where the file was read from its start."""
    packet: int
    """Time in ticks that its packet has in the file: of presentation, or of decoding in a container without those.
    It tells the frame wherever reading began."""
    concealed: bool
    """See :class:`VideoFrame`."""


@dataclass(frozen=True)
class Entry:
    """A key frame at which decoding begins. By default the file's first packet."""

    packets: int = 0
    """That stand before it in the file."""
    frames: int = 0
    """That are shown before it."""
    key: int | None = None
    """Its time in ticks. Frames that follow it in the file and are shown before it build on what was left out."""


@dataclass
class Damage:
    """What was wrong with what was read of a file."""

    concealed: int = 0
    """Frames that are damaged or build on damage."""
    lost: int = 0
    """Packets of which the decoder made nothing."""
    at: float | None = None
    """Seconds where the first damage lies."""
    broken_off: bool = False
    """The last packet that was read ends too early, or the file cannot be read on."""
    reached: float = 0.0
    """Seconds up to which the file was read."""

    def note(self, seconds: float) -> None:
        """Damage lies at a time."""
        self.at = seconds if self.at is None else min(self.at, seconds)

    def describe(self, missing: float) -> str:
        """What is wrong, with times and counts; empty if nothing is. ``missing``: seconds that the file lacks."""
        said = []
        if self.concealed or self.lost:
            at = self.reached if self.at is None else self.at
            frames = "1 frame is" if self.concealed == 1 else f"{self.concealed} frames are"
            said.append(f"is damaged at {at:.2f} s: {frames} concealed, {self.lost} lost")
        if missing or self.broken_off:
            early = f", {missing:.2f} s before its end" if missing else ""
            said.append(f"breaks off at {self.reached:.2f} s{early}")
        return " and ".join(said)


@dataclass(frozen=True)
class Packet:
    time: int
    key: bool
    restarts: bool
    """The file's clock begins anew, as where recordings were joined."""
    gop: int
    """Number of the key frame's packet that it follows."""
    before: int
    """The same of the packets before that key frame."""


class Follower:
    """Follows frames through a decoder: which packet each comes from, when it is shown, whether damage reached it.

    Every packet gets a number as its time, which decoders hand on to its frame untouched; a file's own times may be
    missing or there twice.
    """

    def __init__(self, tick: Fraction, step: int, damage: Damage) -> None:
        self._tick, self._step, self._damage = tick, step, damage
        self._packets: dict[int, Packet] = {}
        self._number = self._gop = self._before = 0
        self._first: Packet | None = None  # key frame; what comes before builds on what was not read
        self._stored: int | None = None  # time of decoding of the latest packet
        self._inside: set[int] = set()  # packets whose frames have not come
        self._bad: set[int] = set()
        self._damaged = False  # since the last key frame that was shown
        self._waiting: deque[tuple[int, Any, int]] = deque()  # number, picture, first packet that it may build on
        self._clock = Clock(step)

    def enter(self, packet: Any, time: int | None, *, timeless: bool) -> int:
        """A packet before it is decoded, and its time in the file, ``timeless`` if of decoding: its number."""
        number = self._number
        if not packet.size:  # the last one, which makes the decoder give what it holds back
            return number
        self._number += 1
        # Times of decoding ascend within a recording, also where a time of presentation is wrong.
        restarts = packet.is_keyframe and (None in (packet.dts, self._stored) or packet.dts <= self._stored)
        self._stored = packet.dts
        self._clock.sorts |= timeless or time is None
        time = number * self._step if time is None else time
        if packet.is_keyframe:
            self._before, self._gop = self._gop, number
        entered = Packet(time, packet.is_keyframe, restarts, self._gop, self._before)
        if packet.is_keyframe and self._first is None:
            self._first = entered
        self._packets[number] = entered
        self._packets.pop(number - _REMEMBERED, None)
        self._inside.add(number)
        self._clock.expect(time)
        packet.pts = number
        return number

    def lose(self, number: int) -> None:
        """The decoder made nothing of a packet."""
        if number in self._packets:
            self._inside.discard(number)
            self._damage.lost += 1
            self.spoil(number)

    def spoil(self, number: int) -> None:
        """A packet is damaged."""
        if number in self._packets:
            self._bad.add(number)
            self._damage.note(float(self._packets[number].time * self._tick))

    def leave(self, picture: Any) -> Iterator[DecodedFrame]:
        """A frame has come; gives those that need not wait any longer."""
        number = picture.pts if picture.pts in self._packets else min(self._inside, default=max(self._packets))
        packet = self._packets[number]
        # Shown before the key frame that it follows in the file, it also builds on what came before that.
        leading = packet.gop != number and packet.gop in self._inside
        self._inside.discard(number)
        if self._first is None and picture.key_frame:  # which the container does not know
            self._first = replace(packet, gop=number)
        if self._unfounded(number, packet):
            return  # some decoders make a picture of it all the same
        if picture.is_corrupt:
            self.spoil(number)
        if packet.key:  # what was decoded earlier and has not come will not
            self._inside = {other for other in self._inside if other > number}
            self._bad = {other for other in self._bad if other >= packet.before}
        self._waiting.append((number, picture, packet.before if leading else packet.gop))
        while self._waiting and (len(self._waiting) > _MOST_WAITING or not self._must_wait(self._waiting[0][0])):
            yield self._release()

    def _unfounded(self, number: int, packet: Packet) -> bool:
        """Whether a frame builds on what lies before the packet where reading began, in the middle of a group."""
        first = self._first
        if first is None or number < first.gop:
            return True
        return 0 < first.gop == packet.gop and packet.time < first.time

    def rest(self) -> Iterator[DecodedFrame]:
        """What still waits at the end of the file."""
        while self._waiting:
            yield self._release()

    def _must_wait(self, number: int) -> bool:
        return any(other < number for other in self._inside)

    def _release(self) -> DecodedFrame:
        number, picture, first = self._waiting.popleft()
        packet = self._packets[number]
        itself = any(first <= other <= number for other in self._bad)
        # Frames that are shown after damage are not given as good either, even if they were decoded before it.
        self._damaged = itself or (self._damaged and not packet.key)
        concealed = self._damaged
        self._damage.concealed += concealed
        return DecodedFrame(picture, self._clock.shown(packet), packet.time, concealed)


class Clock:
    """When frames are shown, given in the order in which they are: times that ascend, whatever the file says."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.sorts = False
        """The file knows times of decoding only; taken in order, they are as far apart as the frames."""
        self._times: list[int] = []
        self._last: int | None = None
        self._offset = 0

    def expect(self, time: int) -> None:
        """A packet with this time goes into the decoder."""
        if self.sorts:
            heapq.heappush(self._times, time)

    def shown(self, packet: Packet) -> int:
        """Ticks of the next frame, which comes from a packet."""
        ticks = packet.time + self._offset
        if self.sorts:
            while packet.key and len(self._times) > 1 and self._times[0] < packet.time:
                heapq.heappop(self._times)  # of frames that never came
            ticks = heapq.heappop(self._times) if self._times else packet.time
        if self._last is not None and ticks <= self._last:
            # Recordings that were joined start again at a key frame; elsewhere one time is wrong, or given twice.
            behind = self._last + (self._step if packet.key or ticks < self._last else 1) - ticks
            self._offset += behind if packet.restarts else 0
            ticks += behind
        self._last = ticks
        return ticks
