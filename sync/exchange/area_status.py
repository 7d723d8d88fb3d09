"""The state of each area that this file knows: what it has of it, which peers have it equal, and how many members keep it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.units import NO_AREA

__all__ = ["WRITERS_MAX", "AreaStatus", "PeerDigests", "area_statuses"]

WRITERS_MAX = 8  # nodes of one area that are shown, those with the most changes

# A linked peer: its id, the digests that it sent last by unit, since when each unit is equal (milliseconds), and whether it has
# sent any.
PeerDigests = tuple[bytes, Mapping[str, tuple[bytes, bytes]], Mapping[str, int], bool]


@dataclass(frozen=True, slots=True)
class AreaStatus:
    """One area, for people; the table has its name in this file.

    kept: this node keeps it. If not, what the file has of it waits until enough others have it.
    entries: changes of it in this file.
    digest: of these, hexadecimal; two nodes have the same one exactly if they have the same.
    peers: linked peers that keep it and were compared: (node id, for how many milliseconds it has been equal, None if it is not).
    holders: members that keep it, this node included, linked or not. Those that have not said what they keep do not count.
    wanted: how many should.
    writers: the nodes that have written most of these changes, each by the first half of its id, and how many.
    withheld: some of these changes are this node's, which may not write the area: other nodes refuse them, so they stay here.
    """

    table: str
    area: str
    kept: bool
    entries: int
    digest: str
    peers: tuple[tuple[bytes, int | None], ...]
    holders: int
    wanted: int
    writers: tuple[tuple[str, int], ...] = ()
    withheld: bool = False


def area_statuses(
    replica: Replica, peers: Sequence[PeerDigests], members: Collection[bytes], copies: int
) -> tuple[AreaStatus, ...]:
    """Return the areas of which this file knows a site, by table and area.

    Args:
        replica: the file.
        peers: the linked peers.
        members: node ids of all other members.
        copies: how many members should keep each area.
    """
    if not any(table.areas is not None for table in replica.tables.values()):
        return ()
    holders = _Holders(replica, members)
    wanted = min(copies, len(members) + 1)
    units = (unit for unit in replica.registry.areas() if unit.area != NO_AREA)
    return tuple(_status(replica, unit, peers, holders.of(unit), wanted) for unit in units)


def _status(replica: Replica, unit: Unit, peers: Sequence[PeerDigests], holders: int, wanted: int) -> AreaStatus:
    mine = (unit.vector_digest, unit.digest)
    kept = replica.admits(unit.name)
    compared: list[tuple[bytes, int | None]] = []
    for peer, digests, equal_ms, has_sent in peers if kept else ():
        if has_sent and replica.wants(peer, unit.name):
            equal = digests.get(unit.name) == mine
            compared.append((peer, equal_ms.get(unit.name, 0) if equal else None))
    area, areas = unit.area or "", unit.table.areas
    entries = 0 if areas is None else areas.entries(area)
    writers = () if areas is None else tuple(areas.writers(area))
    own, rights = replica.store.signers.own.hex(), replica.rights
    withheld = not rights.may_write(rights.own, unit.name) and any(node == own for node, _ in writers)
    return AreaStatus(
        unit.table.spec.name,
        area,
        kept,
        entries,
        unit.digest.hex(),
        tuple(compared),
        holders,
        wanted,
        writers[:WRITERS_MAX],
        withheld,
    )


class _Holders:
    """How many members keep each area, counted once for all: a mesh has a thousand members and may have as many areas."""

    def __init__(self, replica: Replica, members: Iterable[bytes]) -> None:
        self._replica = replica
        self._named: Counter[tuple[str, str]] = Counter()  # members that name an area, by table and area
        self._whole: Counter[str] = Counter()  # members that keep a table whole
        self._asked: list[tuple[str, bytes]] = []  # those of them whose certificates name areas
        rights = replica.rights
        for node in (*members, rights.own or replica.store.signers.own):
            stated = replica.interests.of(node)
            for table in replica.registry.policies.areas if stated is not None else ():
                kept = None if stated is None else stated.areas.get(table)
                if kept is not None:
                    self._named.update((table, area) for area in kept if replica.is_holder(node, table, area))
                elif rights.names_areas(node):
                    self._asked.append((table, node))
                else:
                    self._whole[table] += rights.may_read(node, table) and rights.may_write(node, table)

    def of(self, unit: Unit) -> int:
        """Return how many members keep an area."""
        table, area = unit.table.spec.folded, unit.area or ""
        asked = sum(self._replica.is_holder(node, name, area) for name, node in self._asked if name == table)
        return self._named[table, area] + self._whole[table] + asked
