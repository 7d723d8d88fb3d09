"""A second gateway of a base leaves to the first what both have got, and appends what the first does not.

All gateways of a base get its changes over the LAN at about the same time. Without a rule each would append them within the pause
between two envelopes. So the one with the lowest node id appends as usual. Another notes what it has got and the mailbox lacks,
and gives the first the time to append that and itself the time to see it. It looks once more, and appends what is still missing:
the first has ended, or has not got it.

Invariant: a change waits here a bounded time, and no longer once it has been noted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.recording import readable
from mycomesh.sync.crdt.version_vector import Vector

if TYPE_CHECKING:
    from mycomesh.mesh.node.courier import Courier
    from mycomesh.mesh.node.gateway.ledger import Ledger
    from mycomesh.sync.replica import Replica

__all__ = ["BEFORE_MAX", "GRACE_MS", "LOOK_MS", "Deputy"]

GRACE_MS = 1_000  # for a change to reach the first gateway, and for its envelope to reach this one
LOOK_MS = 1_000  # for the last look
BEFORE_MAX = 3  # gateways that one waits for: a statement of this node may cover for no longer what the mailbox lacks


class Deputy:
    """The changes that a gateway leaves to another one, and since when."""

    def __init__(self, courier: Courier, ledger: Ledger) -> None:
        self._courier = courier
        self._ledger = ledger
        self._noted: dict[str, Vector] = {}  # by table, what the mailbox lacked
        self._due_ms: int | None = None  # when to look, or to append it
        self._looked = False
        self.look_wanted = False

    def next_deadline(self) -> int | None:
        """Return when to call `leaves` again, None for no need."""
        return self._due_ms

    async def leaves(self, before: int) -> bool:
        """Return whether to append nothing now, since `before` other gateways of this base append the same before this one."""
        now_ms = self._courier.surroundings.clock()[0]
        if not before:
            self._noted, self._due_ms = {}, None
            return False
        self._noted = {
            table: vector for table, vector in self._noted.items() if vector.missing_from(self._ledger.held(table))
        }
        if not self._noted:
            self._noted = await self._lacking()
            spacing_ms = self._courier.mailbox.pace.spacing_ms
            self._due_ms = now_ms + min(before, BEFORE_MAX) * (2 * spacing_ms + GRACE_MS) if self._noted else None
            self._looked = False
            return True
        assert self._due_ms is not None, "what was noted has a deadline"
        if now_ms < self._due_ms:
            return True
        if not self._looked:
            self._looked = self.look_wanted = True
            self._due_ms = now_ms + LOOK_MS
            return True
        self._noted, self._due_ms = {}, None
        return False

    async def _lacking(self) -> dict[str, Vector]:
        """Return by table what this node has and the mailbox lacks."""
        ledger, roster = self._ledger, self._courier.roster

        def found(replica: Replica) -> dict[str, Vector]:
            digests = replica.digest_pairs(remember=False)
            names, _ = readable(roster, sorted(digests))
            changed = [name for name in names if not ledger.holds(name, digests[name][0])]
            return {name: replica.vector(name) for name in changed}

        vectors = await self._courier.surroundings.query(found)
        return {name: vector for name, vector in vectors.items() if vector.missing_from(ledger.held(name))}
