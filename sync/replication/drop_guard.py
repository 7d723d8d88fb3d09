"""Decides whose word is enough to drop rows that an audit reports as deleted elsewhere.

After a long absence a replica learns of deletes whose tombstones are gone: a peer reports which entries it still has, and the
others go (`exchange.tombstone_audit`). A peer can lie. A few rows go on the word of one member. More go only if a second
member reports the same, or if a person accepts it.

Invariant: on the word of one member alone, no more rows of a table go in one run than `rows_allowed`, and each is in
`mycomesh_conflicts`. ADR 35.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from mycomesh.sync.errors import PolicyError
from mycomesh.sync.merge import records
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.units import table_of

__all__ = ["ALONE_ROWS_MAX", "CLAIMED_STAMPS_MAX", "CLAIMS_MAX", "DropGuard", "Verdict", "rows_allowed"]

# Entries that may go on the word of one member: one in a hundred, and not more than a person would look through.
ALONE_ROWS_MAX = 1_000
ALONE_SHARE = 100
# Stamps of all claims that are kept for a second member to confirm, 16 bytes each. Of other claims only the number is kept.
CLAIMED_STAMPS_MAX = 131_072
# Claims that are kept; the oldest go first.
CLAIMS_MAX = 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """The entries that an audit may drop: stamps as (site number, hlc, ...) in one array, and how many entries stay in doubt."""

    stamps: array[int]
    doubted: int
    kept: array[int] = field(default_factory=lambda: array("q"))  # entries that a person has decided to write again


@dataclass(frozen=True, slots=True)
class _Claim:
    count: int
    stamps: array[int]


class DropGuard:
    """The claims of peers about one file's tables, by canonical name."""

    def __init__(self, registry: Registry, unseen_after: Callable[[Unit], tuple[int, int]]) -> None:
        """Take a function that returns (own site number, clock): entries of this site after that clock were never elsewhere."""
        self._registry = registry
        self._unseen_after = unseen_after
        self._claims: dict[tuple[str, bytes], _Claim] = {}  # (table, peer) -> its claim, oldest first
        self._alone: Counter[tuple[str, bytes]] = Counter()  # entries that went on the word of one member in this run
        self._accepted: dict[tuple[str, bytes], int] = {}  # the size of each claim that a person has accepted
        self._refused: dict[tuple[str, bytes], int] = {}  # and of each against which a person has decided

    def judge(self, name: str, peer: bytes, absent: array[int], size: int = 0) -> Verdict:
        """Return what may be dropped of the entries that a peer reports as deleted, and keep the rest as its claim.

        `size` is the number of bytes of their values, which the record of conflicts has to keep.
        """
        key, count = (name, peer), len(absent) // 2
        unit = self._registry.unit(name)
        if unit is None or (key in self._accepted and count <= self._accepted[key]):
            return Verdict(absent, 0)
        self._claims.pop(key, None)
        if count <= self._refused.pop(key, -1):
            self._note(name)
            return Verdict(array("q"), count, absent)
        # Only the writer of a signed row, and a person here, can end it. Nobody can have deleted a row that nobody has had: a
        # member that reports it was deceived about what it covers, and may be the second to report the same.
        table = unit.table
        if count and (table.seals is not None or self._has_unseen(unit, absent)):
            self._claims[key] = _Claim(count, array("q"))
            self._trim()
            self._note(name)
            return Verdict(array("q"), count)
        others = {
            stamp
            for (claimed, other), claim in self._claims.items()
            if claimed == name and other != peer
            for stamp in _pairs(claim.stamps)
        }
        agreed, alone = array("q"), 0
        for stamp in _pairs(absent):
            if stamp in others:
                agreed.extend(stamp)
            else:
                alone += 1
        if (
            self._alone[key] + alone <= rows_allowed(table)
            and records.VALUE_WEIGHT * size <= table.store.conflict_room.left[1]
        ):
            self._alone[key] += alone
            self._note(name)
            return Verdict(absent, 0)
        self._claims[key] = _Claim(count, absent if count <= CLAIMED_STAMPS_MAX else array("q"))
        self._trim()
        self._note(name)
        return Verdict(agreed, alone)

    def _has_unseen(self, unit: Unit, absent: array[int]) -> bool:
        own, after = self._unseen_after(unit)
        return any(number == own and hlc > after for number, hlc in _pairs(absent))

    def accept(self, shown: str) -> int:
        """Let audits drop what members claim at present about the table that this file calls `shown`.

        Return how many entries the largest claim has.

        Raises:
            PolicyError: no member claims anything about such a table.
        """
        counts = self._waiting_about(shown)
        self._refused = {key: size for key, size in self._refused.items() if key not in counts}
        self._accepted |= counts
        return max(counts.values())

    def refuse(self, shown: str) -> int:
        """Let the next audit write the rows again that members claim at present as deleted, so that they win everywhere.

        Return how many entries the largest claim has.

        Raises:
            PolicyError: no member claims anything about such a table, or its rows cannot be written again.
        """
        counts = self._waiting_about(shown)
        table = self._registry.table_of(next(iter(counts))[0])
        if table is not None and (table.spec.id_column or table.columns.counters):
            kind = "keeps both rows of an id" if table.spec.id_column else "has counters"
            raise PolicyError(f"{shown} {kind}, so its rows are not written again; update them by SQL, which does that")
        self._accepted = {key: size for key, size in self._accepted.items() if key not in counts}
        self._refused |= counts
        return max(counts.values())

    def _waiting_about(self, shown: str) -> dict[tuple[str, bytes], int]:
        counts = {
            (name, peer): claim.count
            for (name, peer), claim in self._claims.items()
            if fold(shown) in (fold(self._registry.local_name(name)), self._registry.local_name(table_of(name)))
        }
        if not counts:
            raise PolicyError(f"no member reports rows of {shown!r} as deleted that wait here; see 'mycomesh status'")
        return counts

    def is_decided(self, name: str, peer: bytes) -> bool:
        """Return True if a person has decided about a peer's claim about a table, and it was not carried out yet."""
        return (name, peer) in self._accepted or (name, peer) in self._refused

    def settle(self, name: str, peer: bytes) -> None:
        """Forget a peer's claim about a table, as it was carried out or the two are equal there."""
        self._accepted.pop((name, peer), None)
        self._refused.pop((name, peer), None)
        if self._claims.pop((name, peer), None) is not None:
            self._note(name)

    def waiting(self) -> list[str]:
        """Return the tables about which some claim waits, sorted."""
        return sorted({name for name, _ in self._claims})

    def claimed_by(self, peer: bytes) -> list[str]:
        """Return the tables about which a peer's claim waits."""
        return [name for name, other in self._claims if other == peer]

    def _trim(self) -> None:
        """Forget the oldest claims beyond `CLAIMS_MAX`, and the stamps of the oldest beyond `CLAIMED_STAMPS_MAX`."""
        while len(self._claims) > CLAIMS_MAX:
            name, peer = next(iter(self._claims))
            self.settle(name, peer)
        kept = 0
        for key, claim in reversed(self._claims.items()):
            kept += len(claim.stamps) // 2
            if kept > CLAIMED_STAMPS_MAX:
                self._claims[key] = _Claim(claim.count, array("q"))

    def _note(self, name: str) -> None:
        """Show the largest claim about a table, or about one of its areas, in the note of the table."""
        table = table_of(name)
        waiting = [(claim.count, peer, of) for (of, peer), claim in self._claims.items() if table_of(of) == table]
        line = ""
        if waiting:
            count, peer, claimed = max(waiting)
            shown = self._registry.local_name(claimed)
            line = (
                f"member {peer.hex()[:8]} reports {count} change(s) as deleted that this node has; the rows stay until"
                f" another member reports the same, or until 'mycomesh accept-drop {shown}'; 'mycomesh keep-rows {shown}'"
                " writes them again everywhere"
            )
        self._registry.notes.put(table, line, Source.DROPS)


def rows_allowed(table: Table) -> int:
    """Return how many entries of a table may go on the word of one member, all of which the conflict records have room for."""
    return min(ALONE_ROWS_MAX, table.log.count // ALONE_SHARE, table.store.conflict_room.left[0])


def _pairs(stamps: array[int]) -> zip[tuple[int, int]]:
    return zip(stamps[::2], stamps[1::2], strict=True)
