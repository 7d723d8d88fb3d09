"""Surroundings of the work on a mailbox: time, waiting, the storage and the file. A daemon and a simulation provide it.

The code that uses it is made of coroutines. They await nothing but these methods, so that a simulation runs them in virtual time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.sync.replica import Replica

__all__ = ["Signal", "Surroundings"]

T = TypeVar("T")


class Signal:
    """A flag for which one coroutine can wait. `set` wakes it, or lets its next wait return at once."""

    __slots__ = ("is_set", "wake")

    def __init__(self) -> None:
        self.is_set = False
        self.wake: Callable[[], None] | None = None  # of the coroutine that waits

    def set(self) -> None:
        """Set the flag, and wake the coroutine that waits."""
        self.is_set = True
        if self.wake is not None:
            self.wake()


class Surroundings(Protocol):
    """Time, waiting, the storage and the file."""

    def clock(self) -> tuple[int, int]:
        """Return the monotonic and the wall time in milliseconds."""
        ...

    async def wait(self, signal: Signal, ms_max: int) -> None:
        """Return once the signal is set, at the latest after `ms_max`; clear it."""
        ...

    async def storage(self, call: Callable[..., T], *args: object) -> T:
        """Run a verb of the mailbox, which may block, and return its result or raise its error."""
        ...

    def storage_ms(self) -> int:
        """Return how many milliseconds of CPU the verbs of the mailbox have taken so far."""
        ...

    async def query(self, request: Callable[[Replica], T]) -> T:
        """Run a short request on the replica, and return its result."""
        ...

    def learn(self, certificate: bytes) -> None:
        """Record a member's certificate that the mesh may not have met, with its rights, before anything else of that member."""
        ...
