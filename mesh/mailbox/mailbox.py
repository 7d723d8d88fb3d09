"""The mailbox protocol: what storage must offer to carry sealed batches between bases.

A mailbox holds streams of envelopes. A gateway appends to one stream, its own, and reads all others of its mesh. Storage that
can append, list and get is enough; it knows no keys and no tables.

Nothing here trusts the storage. It may lose, repeat, reorder, hold back and invent envelopes: `mesh.mailbox.envelope` refuses
what no member sealed, and `mesh.mailbox.streams` finds what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mycomesh.mesh.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LISTED_MAX", "STREAMS_MAX", "Listed", "Mailbox", "MailboxError", "Pace", "Resting", "Surveying", "Watching"]

STREAMS_MAX = 2_048  # of one mesh: two for each of 1,024 members
LISTED_MAX = 65_536  # envelopes of one stream; FAT32 takes some 20,000 such names in a directory


class MailboxError(MeshError):
    """A mailbox cannot be used at the moment.

    Fault: the storage, its permissions, or the way to it. State: unchanged; what was not appended waits. To do: repair the
    storage. The gateway keeps trying.
    """

    code = "mailbox.unusable"


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """One envelope in a mailbox: its stream, its position in the stream, and its size in bytes."""

    stream: bytes
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class Pace:
    """How a gateway uses a mailbox, in milliseconds.

    spacing_ms: the least time between two envelopes of live changes; the first after a pause leaves at once. A small value costs
        one envelope a commit, a large one latency.
    poll_ms: how often to list what others have appended, where nothing tells. A mailbox that is `Watching` polls as a safety net.
    """

    spacing_ms: int
    poll_ms: int

    def __post_init__(self) -> None:
        assert self.spacing_ms > 0, "a gateway would append without a pause"
        assert self.poll_ms > 0, "a gateway would poll without a pause"


class Mailbox(Protocol):
    """The verbs of a mailbox. `mesh` is the blinded mesh id of 16 bytes: several meshes may share one mailbox.

    Raises:
        MailboxError: every verb, if the storage cannot be used at the moment.
    """

    @property
    def pace(self) -> Pace:
        """How often to append and to look."""
        ...

    def append(self, mesh: bytes, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope whole or not at all. Return False, and change nothing, if that position is taken."""
        ...

    def list_after(self, mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        """Return the envelopes of a stream beyond a position, in the order of their positions."""
        ...

    def streams(self, mesh: bytes) -> list[bytes]:
        """Return the streams of a mesh, in byte order."""
        ...

    def get(self, mesh: bytes, listed: Listed) -> bytes | None:
        """Return one envelope, None if it has been removed."""
        ...

    def remove(self, mesh: bytes, listed: Listed) -> None:
        """Remove one envelope. Only the gateway that appended it calls this."""
        ...

    def server_ms(self) -> int:
        """Return the storage's wall time in Unix milliseconds, for a person who looks for a wrong clock."""
        ...

    def close(self) -> None:
        """Close connections, without raising; the next use opens them again."""
        ...


@runtime_checkable
class Watching(Protocol):
    """The optional verb of a mailbox that learns at once when others append."""

    def watch(self, mesh: bytes, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change` on any thread after each change in the streams of a mesh; return a function that ends this.

        A call may be missing or needless: the gateway polls too.
        """
        ...


@runtime_checkable
class Surveying(Protocol):
    """The optional verb of a mailbox that lists many streams in fewer requests than one each."""

    def list_all(self, mesh: bytes, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]]:
        """Return what `list_after` would of each of these streams beyond its position; a stream without news may be absent."""
        ...


@runtime_checkable
class Resting(Protocol):
    """The optional verb of a mailbox whose client library is large."""

    def rest(self) -> None:
        """Give back memory that the next use can get again: nothing has used the mailbox for a while."""
        ...
