"""The horizon of one table's coverage: rows older than it are gone, and are not taken in again (ADR 55, 80).

A horizon only moves forward, in steps that are the same on every node. It is part of the digest of the vector, so that two
nodes compare entries only at one horizon; `alike` recognises the same vector under another one. A pin is a second horizon, of
this file alone: it removes more, and limits what the file vouches for in rounds. When it ends, repairs bring the rows again.

Only a horizon that a wrong clock has moved beyond what any rule says goes back (`turn_back`). Repairs join, so they bring what it
has removed from nodes that still have it.

Invariant: what this file does not vouch for in a round, it may have removed by its pin; all else that it covers it holds, up to
the horizon.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.storage.store import Store

__all__ = ["AGE_MS_MAX", "AGE_MS_MIN", "ASTRAY_MS", "Horizon", "Likeness", "RetainRule", "step_of"]

AGE_MS_MIN = 1_000
AGE_MS_MAX = 100 * 366 * 86_400_000
# A horizon moves this often within an age, at least each second and at most once a day.
STEPS = 64
STEP_MS_MIN = 1_000
STEP_MS_MAX = 86_400_000
# A horizon is astray if it is this far beyond its rule. Clocks that are believed differ by some seconds.
ASTRAY_MS = 600_000
# Rows whose time has to be looked at because of a write; beyond these the whole table is.
SUSPECTS_MAX = 65_536
_PLAIN, _CUTTING, _PINNED = b"", b"c", b"p"


class Likeness(Enum):
    """Whether a peer covers the same as this file, whatever its horizon.

    HOLDS: it does, and holds every row younger than the mesh's horizon.
    COVERS: it does, but its pin may have removed rows.
    """

    NONE = 0
    COVERS = 1
    HOLDS = 2


def step_of(age_ms: int) -> int:
    """Return by how much the horizon of an age moves at a time, in milliseconds: whole seconds."""
    return min(max(age_ms // STEPS // 1_000 * 1_000, STEP_MS_MIN), STEP_MS_MAX)


@dataclass(frozen=True, slots=True)
class RetainRule:
    """How long the mesh keeps the rows of a table.

    age_ms: from `AGE_MS_MIN` to `AGE_MS_MAX`.
    by: the column that has the time of a row, by canonical name, folded; "" for the stamp of its insert.
    floor_ms: a horizon that some node had reached when the rule was made. It counts from then on.
    era: how often rules of this table have ended before. A horizon of another era counts for nothing.
    """

    age_ms: int
    by: str = ""
    floor_ms: int = 0
    era: int = 0

    def due(self, wall_ms: int) -> int:
        """Return the horizon at a time: a Unix time in milliseconds."""
        step_ms = step_of(self.age_ms)
        floor_ms = self.floor_ms if self.floor_ms <= wall_ms else 0
        return max((wall_ms - self.age_ms) // step_ms * step_ms, floor_ms, 0)


@dataclass(slots=True)
class Pin:
    """The horizon of this file alone.

    dropped: by site, the greatest clock of what the pin has removed or refused.
    reach_ms: the pin when it last did that; the mesh has cut all of it once its horizon is there.
    elsewhere: by site, the greatest clock that a peer was found to have in this run. The pin removes nothing later.
    witness: by site, the node id of that peer.
    waiting: rows stayed because no peer was known to have them.
    """

    age_ms: int = 0  # 0: none
    ms: int = 0
    cut_ms: int = 0
    dropped: dict[bytes, int] = field(default_factory=dict)
    reach_ms: int = 0
    elsewhere: dict[bytes, int] = field(default_factory=dict)
    witness: dict[bytes, bytes] = field(default_factory=dict)
    waiting: bool = False


@dataclass(slots=True)
class _Figures:
    """Counts of one table, for people.

    cut: rows that went since the rule is known here.
    refused: inserts of other nodes that were older than the horizon when they came.
    untimed: rows without a time, at the last look at the whole table.
    """

    cut: int = 0
    refused: int = 0
    untimed: int = 0


@dataclass(slots=True)
class _Looked:
    """The rows that were or have to be looked at: `oldest_ms` is the least time in the table, None if that is not known."""

    oldest_ms: int | None = None
    suspects: dict[Any, None] = field(default_factory=dict)  # keys of rows that a write may have put below the horizon


class Horizon:
    """The horizon of one table, and the pin of this file."""

    def __init__(self, store: Store, table_id: int, rule: RetainRule, node: bytes) -> None:
        """Take the first bytes of the sites of this node."""
        self._store = store
        self._name = f"retain/{table_id}"
        self._node = node
        self.rule = rule
        self.adopted: Mapping[bytes, int] = {}  # early site -> since when its rows count, in Unix milliseconds
        self.origin: Callable[[bytes], bytes] | None = (
            None  # of a table that was cut with its rows: the site before the cut
        )
        self.ms = 0  # older rows are refused
        self.cut_ms = 0  # older rows are gone
        self.age_ms = rule.age_ms  # of the rule that has moved it last
        self.pin = Pin()
        self.figures = _Figures()
        self.looked = _Looked()
        self.changed = False  # not in the file yet

    def load(self) -> None:
        """Read what `save` wrote; figures that were edited by hand count from zero again."""
        found = self._store.meta(self._name)
        try:
            value = json.loads(found) if isinstance(found, str) else {}
            self.ms, self.cut_ms = int(value["ms"]), int(value["cut_ms"])
            self.age_ms = int(value.get("age_ms", self.rule.age_ms))
            self.figures = _Figures(int(value["cut"]), int(value["refused"]), int(value["untimed"]))
            dropped = {bytes.fromhex(site): int(hlc) for site, hlc in value["dropped"].items()}
            self.pin = Pin(int(value["pin_age_ms"]), int(value["pin_ms"]), int(value["pin_cut_ms"]), dropped)
            self.pin.reach_ms = int(value["pin_reach_ms"])
            era = int(value.get("era", 0))
        except (ValueError, TypeError, KeyError, AttributeError):
            self.changed = True
            return
        if era != self.rule.era:
            self.restart()

    def save(self) -> None:
        """Write the state; inside a transaction."""
        value = {
            "ms": self.ms,
            "cut_ms": self.cut_ms,
            "age_ms": self.age_ms,
            "era": self.rule.era,
            "pin_age_ms": self.pin.age_ms,
            "pin_ms": self.pin.ms,
            "pin_cut_ms": self.pin.cut_ms,
            "pin_reach_ms": self.pin.reach_ms,
            "cut": self.figures.cut,
            "refused": self.figures.refused,
            "untimed": self.figures.untimed,
            "dropped": {site.hex(): hlc for site, hlc in sorted(self.pin.dropped.items())},
        }
        self._store.meta_set(self._name, json.dumps(value))
        self.changed = False

    # ---- where it is

    @property
    def bound_ms(self) -> int:
        """The horizon that holds in this file: the mesh's, or the pin if that is later."""
        return max(self.ms, self.pin.ms if self.pin.age_ms else 0)

    @property
    def is_pinned(self) -> bool:
        """True if this file keeps less than the mesh."""
        return self.pin.age_ms > 0

    @property
    def is_restoring(self) -> bool:
        """True while rows that a pin had removed may still be missing."""
        return not self.is_pinned and bool(self.pin.dropped)

    @property
    def is_cutting(self) -> bool:
        """True while rows older than the mesh's horizon may be left."""
        return self.cut_ms < self.ms

    @property
    def is_behind(self) -> bool:
        """True while rows older than the horizon of this file may be left."""
        return self.is_cutting or (self.pin.age_ms > 0 and self.pin.cut_ms < self.pin.ms)

    def move(self, wall_ms: int) -> bool:
        """Move to the horizons that are due at a time; return whether one has moved. Neither moves back."""
        before = self.ms, self.pin.ms
        self.ms = max(self.ms, self.rule.due(wall_ms))
        if self.pin.age_ms:
            self.pin.ms = max(self.pin.ms, RetainRule(self.pin.age_ms).due(wall_ms))
        moved = before != (self.ms, self.pin.ms)
        if self.ms != before[0]:
            self.age_ms = self.rule.age_ms
        self.changed |= moved
        return moved

    def _legitimate(self, wall_ms: int) -> int:
        """Return the latest horizon that the rule or the one before it can have reached at a time."""
        return RetainRule(min(self.age_ms, self.rule.age_ms), floor_ms=self.rule.floor_ms).due(wall_ms)

    def is_astray(self, wall_ms: int) -> bool:
        """Return True if the horizon or the pin is later than it can be at a time that is right: a wrong clock has moved it."""
        pin_ms = self.pin.ms if self.pin.age_ms else 0
        return self.ms > self._legitimate(wall_ms + ASTRAY_MS) or pin_ms > wall_ms

    def turn_back(self, wall_ms: int) -> None:
        """Go back to where a time that is right puts the horizon and the pin."""
        self.ms = min(self.ms, self._legitimate(wall_ms))
        self.cut_ms = min(self.cut_ms, self.ms)
        if self.pin.age_ms:
            self.pin.ms = min(self.pin.ms, RetainRule(self.pin.age_ms).due(wall_ms))
            self.pin.cut_ms = min(self.pin.cut_ms, self.pin.ms)
        self.pin.reach_ms = min(self.pin.reach_ms, wall_ms)
        self.looked.oldest_ms = None
        self.changed = True

    def restart(self) -> None:
        """Begin again, without a pin: the rule that had moved the horizon has ended since."""
        self.ms = self.cut_ms = 0
        self.age_ms = self.rule.age_ms
        self.pin = Pin(0, 0, 0, self.pin.dropped, self.pin.reach_ms)
        self.looked = _Looked()
        self.changed = True

    def end_pin(self) -> None:
        """Keep as much as the mesh from here on; repairs bring what is missing."""
        self.pin = Pin(0, 0, 0, self.pin.dropped, self.pin.reach_ms)
        self.looked.oldest_ms = None
        self.changed = True

    def settle(self, ms: int, pin_ms: int) -> None:
        """Note that no row older than these two horizons is left. The first ends what the pin lacks."""
        self.cut_ms, self.pin.cut_ms = max(self.cut_ms, ms), max(self.pin.cut_ms, pin_ms)
        if self.cut_ms >= self.pin.reach_ms:
            self.pin.dropped.clear()
        self.changed = True

    @property
    def next_due(self) -> int:
        """The Unix time in milliseconds at which the horizon or the pin moves on."""
        moves = [(self.ms, self.rule.age_ms), *([(self.pin.ms, self.pin.age_ms)] if self.pin.age_ms else [])]
        return min((ms // step_of(age_ms) + 1) * step_of(age_ms) + age_ms for ms, age_ms in moves)

    def suspect(self, key: Any) -> None:
        """Note a row that a write may have put below the horizon."""
        if len(self.looked.suspects) < SUSPECTS_MAX:
            self.looked.suspects[key] = None
        else:
            self.looked.oldest_ms = None

    def drop(self, site: bytes, hlc: int) -> None:
        """Note that the pin has removed or refused a change."""
        if self.pin.dropped.get(site, 0) < hlc:
            self.pin.dropped[site] = hlc
        self.pin.reach_ms = max(self.pin.reach_ms, self.pin.ms)
        self.changed = True

    def on_equal(self, sites: Iterable[bytes]) -> None:
        """Note that a peer has the same entries of some sites at the same horizon: nothing that it has of them is missing."""
        if self.is_restoring:
            for site in sites:
                self.pin.dropped.pop(site, None)
            self.changed = True

    def on_holder(self, peer: bytes, vector: Vector) -> None:
        """Note that a peer was found to have what a vector covers: that of a table, or of one of its units."""
        if self.pin.age_ms:
            for site, ranges in vector.items():
                self.pin.elsewhere[site], self.pin.witness[site] = ranges[-1][1], peer

    def on_pinned_peer(self, peer: bytes) -> None:
        """Note that a peer has a pin of its own: it keeps nothing for this file."""
        for site in [site for site, witness in self.pin.witness.items() if witness == peer]:
            del self.pin.witness[site], self.pin.elsewhere[site]

    def adopted_ms(self, site: bytes) -> int | None:
        """Return since when the rows of an early site count, in Unix milliseconds, None if nobody has said it."""
        found = self.adopted.get(site)
        return self.adopted.get(self.origin(site)) if found is None and self.origin is not None else found

    def is_elsewhere(self, site: bytes, hlc: int) -> bool:
        """Return True if a peer without a pin was found to have a change since the pin began."""
        return hlc <= self.pin.elsewhere.get(site, 0)

    def vouched(self, vector: Vector) -> Vector:
        """Return the part of a vector whose changes this file holds, as far as it has not superseded them."""
        if not self.pin.dropped:
            return vector
        kept = Vector()
        for site, ranges in vector.items():
            first = self.pin.dropped.get(site, 0)
            for after, upto in ranges:
                if upto > first:
                    kept.add(site, max(after, first), upto)
        return kept

    # ---- comparing

    def mixed(self, digest: bytes) -> bytes:
        """Return the digest of a vector at this horizon; equal only for nodes that have cut what lies below it, and no more.

        A node that keeps less than the mesh, or has more than it should, compares equal to none.
        """
        if self.is_pinned:
            return _mix(digest, self.ms, _PINNED + self._node)
        return _mix(digest, self.ms, _CUTTING + self._node if self.is_cutting else _PLAIN)

    def alike(self, digest: bytes, theirs: bytes, peer: bytes) -> Likeness:
        """Return whether a peer has the vector of this digest at this horizon, the one before or the next, or without a rule."""
        if theirs == digest:
            return Likeness.HOLDS
        for ms, tag in self._states(peer):
            if theirs == _mix(digest, ms, tag):
                return Likeness.COVERS if tag[:1] == _PINNED else Likeness.HOLDS
        return Likeness.NONE

    def _states(self, peer: bytes) -> Iterator[tuple[int, bytes]]:
        step_ms = step_of(self.rule.age_ms)
        for ms in dict.fromkeys((self.ms, self.cut_ms, self.ms - step_ms, self.ms + step_ms)):
            if ms >= 0:
                for tag in (_PLAIN, _CUTTING + peer[:SITE_PREFIX], _PINNED + peer[:SITE_PREFIX]):
                    yield ms, tag


def _mix(digest: bytes, ms: int, tag: bytes) -> bytes:
    if not ms and not tag:
        return digest  # nothing was removed: as without a rule
    return blake2b(digest + ms.to_bytes(8, "big") + tag, digest_size=len(digest), person=b"mycomesh-horizon").digest()
