"""Links of the exchange without a connection: the other side is this process, which replays or records a conversation.

The exchange sees a link like any other, with the same limits, rights and fairness. Its messages on such a link go into a
queue instead of to the mesh.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

from mycomesh.mesh.node.surroundings import Signal
from mycomesh.sync.events import Action, DropLink, Event, LinkClosed, LinkOpened, MessageReceived, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mycomesh.mesh.node.surroundings import Surroundings

__all__ = ["NUMBERS_FROM", "VirtualLink", "VirtualLinks"]

NUMBERS_FROM = 1 << 48  # above those of connections and of circuits


class VirtualLink:
    """One virtual link; `receive` returns what the exchange sends on it."""

    def __init__(self, number: int, submit: Callable[[Event], None]) -> None:
        self._number = number
        self._submit = submit
        self._queue: deque[bytes | str] = deque()
        self._arrived = Signal()

    def send(self, payload: bytes) -> None:
        """Let the exchange handle a message of a peer."""
        self._submit(MessageReceived(self._number, payload))

    def put(self, answer: bytes | str) -> None:
        """Take a message of the exchange, or, as text, why it dropped the link."""
        self._queue.append(answer)
        self._arrived.set()

    async def receive(self, surroundings: Surroundings, ms_max: int) -> bytes | str | None:
        """Return the next message of the exchange; text if it dropped the link, and why; None if nothing came in time."""
        end_ms = surroundings.clock()[0] + ms_max
        while not self._queue:
            left_ms = end_ms - surroundings.clock()[0]
            if left_ms <= 0:
                return None
            await surroundings.wait(self._arrived, left_ms)
        return self._queue.popleft()


class VirtualLinks:
    """The virtual links of one exchange. All methods run on the event loop's thread."""

    def __init__(self, submit: Callable[[Event], None]) -> None:
        self._submit = submit
        self._links: dict[int, VirtualLink] = {}
        self._opened = 0

    @contextlib.contextmanager
    def open(self, peer: bytes) -> Iterator[VirtualLink]:
        """Open a link on which the exchange talks with `peer`, and close it at the end."""
        number = NUMBERS_FROM + self._opened
        self._opened += 1
        link = self._links[number] = VirtualLink(number, self._submit)
        self._submit(LinkOpened(number, peer))
        try:
            yield link
        finally:
            del self._links[number]
            self._submit(LinkClosed(number))

    def take(self, actions: Sequence[Action]) -> list[Action]:
        """Deliver what the exchange does on virtual links; return all other actions, in their order."""
        others: list[Action] = []
        for action in actions:
            if not isinstance(action, Send | DropLink) or action.link < NUMBERS_FROM:
                others.append(action)
            elif action.link in self._links:
                self._links[action.link].put(action.payload if isinstance(action, Send) else action.reason)
        return others
