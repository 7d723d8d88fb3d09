"""A mailbox between the bases of a simulation: storage in memory that may fail, and that an enemy may run.

Each base has its own way to it, open in windows as with a satellite. The faults of the scenario say what the
storage does wrong; without any it is honest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError, Pace
from mycomesh.simulations.world import SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.simulations.world import World

__all__ = ["WRONGS", "SharedMailbox", "SurveyedWay", "Way"]

WRONGS = ("loses", "truncates", "repeats", "reorders", "lies", "full")
PACE = Pace(spacing_ms=1_000, poll_ms=15_000)
LATE_US = 20 * SECOND  # of an envelope that the storage shows late
SHARE = 0.1  # of the verbs that go wrong


class SharedMailbox:
    """The storage of all bases. `wrongs` is what it does wrong at the moment."""

    def __init__(self, world: World) -> None:
        self.wrongs: tuple[str, ...] = ()
        self.bytes = 0  # appended
        self.read = 0  # bytes that gateways have fetched
        self.lists = 0  # how often a stream was listed, or all at once
        self.gets = 0  # how often an envelope was fetched
        self._world = world
        self._rng = world.stream("mailbox")
        self._kept: dict[tuple[bytes, int], bytes] = {}
        self._positions: dict[bytes, list[int]] = {}  # stream -> what it keeps, in the order in which it came
        self._last: dict[bytes, int] = {}  # stream -> the last position that it had
        self._removed: dict[tuple[bytes, int], None] = {}  # a liar keeps them
        self._shown_us: dict[tuple[bytes, int], int] = {}
        self._streams: list[bytes] | None = None  # None: to be found again

    def has(self, value: bytes) -> bool:
        """Return whether these bytes are anywhere in the storage, also in what was removed."""
        return any(value in data for data in self._kept.values())

    def room(self) -> int:
        """Return the bytes of what has not been removed."""
        return sum(len(data) for key, data in self._kept.items() if key not in self._removed)

    def calm(self) -> None:
        """Be honest from now on."""
        self.wrongs = ()

    def append(self, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope."""
        if "full" in self.wrongs:
            raise MailboxError("the simulated storage is full")
        key = stream, position
        if key in self._kept:
            return False
        if self._goes_wrong("truncates"):
            self._streams = None
            for old in sorted(self._kept, key=lambda each: each[1])[: len(self._kept) // 3]:
                self._removed[old] = None
        if self._goes_wrong("loses"):
            return True
        self.bytes += len(data)
        self._streams = None
        self._kept[key] = data
        self._positions.setdefault(stream, []).append(position)
        self._last[stream] = max(position, self._last.get(stream, 0))
        late = self._rng.randrange(LATE_US) if self._goes_wrong("reorders") else 0
        self._shown_us[key] = self._world.now_us + late
        return True

    def list_after(self, stream: bytes, position: int) -> list[Listed]:
        """List one stream."""
        self.lists += 1
        return self._list_after(stream, position)

    def list_all(self, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]]:
        """List many streams."""
        self.lists += 1
        last = self._last
        listings = {
            stream: self._list_after(stream, position)
            for stream, position in after.items()
            if last.get(stream, 0) > position
        }
        return {stream: listed for stream, listed in listings.items() if listed}

    def _list_after(self, stream: bytes, position: int) -> list[Listed]:
        now_us, repeats = self._world.now_us, self._goes_wrong("repeats")
        return sorted(
            Listed(stream, at, len(self._kept[stream, at]))
            for at in self._positions.get(stream, ())
            if at > position
            and ((stream, at) not in self._removed or repeats)
            and self._shown_us[stream, at] <= now_us
            and not self._goes_wrong("lies")
        )

    def streams(self) -> list[bytes]:
        """List the streams."""
        if self._streams is None:
            self._streams = sorted({stream for stream, at in self._kept if (stream, at) not in self._removed})
        return sorted([*self._streams, b"\xff" * 8]) if self._goes_wrong("lies") else list(self._streams)

    def get(self, listed: Listed) -> bytes | None:
        """Return one envelope, or what a liar shows in its place."""
        data = self._kept.get((listed.stream, listed.position))
        self.gets += 1
        self.read += 0 if data is None else len(data)
        if data is None or not self._goes_wrong("lies"):
            return data
        others = [self._kept[key] for key in sorted(self._kept)]
        at = self._rng.randrange(len(data))
        changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        return self._rng.choice((None, data[:at], changed, self._rng.choice(others)))

    def remove(self, listed: Listed) -> None:
        """Remove one envelope."""
        self._removed[listed.stream, listed.position] = None
        self._streams = None

    def _goes_wrong(self, how: str) -> bool:
        return how in self.wrongs and self._rng.random() < SHARE


class Way:
    """The way of one base to the shared mailbox: a `mesh.mailbox.mailbox.Mailbox`. It is closed outside windows."""

    pace = PACE

    def __init__(self, shared: SharedMailbox) -> None:
        self.is_open = True
        self._shared = shared

    def append(self, _mesh: bytes, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope."""
        return self._there().append(stream, position, data)

    def list_after(self, _mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        """List one stream."""
        return self._there().list_after(stream, position)

    def streams(self, _mesh: bytes) -> list[bytes]:
        """List the streams."""
        return self._there().streams()

    def get(self, _mesh: bytes, listed: Listed) -> bytes | None:
        """Return one envelope."""
        return self._there().get(listed)

    def remove(self, _mesh: bytes, listed: Listed) -> None:
        """Remove one envelope."""
        self._there().remove(listed)

    def server_ms(self) -> int:
        """Return the storage's time, which nothing in a simulation asks for."""
        raise MailboxError("the simulated storage has no clock")

    def close(self) -> None:
        """Keep nothing open."""

    def _there(self) -> SharedMailbox:
        if not self.is_open:
            raise MailboxError("the simulated way to the storage is closed")
        return self._shared


class SurveyedWay(Way):
    """A way to a storage that lists all streams at once: `mesh.mailbox.mailbox.Surveying`, as JetStream is."""

    def list_all(self, _mesh: bytes, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]]:
        """List many streams."""
        return self._there().list_all(after)
