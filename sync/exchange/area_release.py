"""Schedule of releases: asks the members which of them cover the areas that this node holds and does not keep.

A member that keeps an area says how far it covers each site there. Its word counts from the moment at which this node ceased to
keep the area: that member hands the area on in the same way before it releases it. So some member always answers for each entry.

Invariant: an area is given up only if `copies` members that keep it cover all that this node covers there, or all other members
if they are fewer (tests/stories/area_model.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.exchange.area_audit import AreaAudit
from mycomesh.sync.exchange.config import COPIES, ExchangeConfig
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire import messages as wire

__all__ = ["COPIES", "AreaRelease"]

# Sites about which one round of questions asks a peer, which takes 64 at once and another each half second.
SITES_ASKED_MAX = 16
# Between two steps of some milliseconds each: programs that wait for the file come in.
PAUSE_MS = 10


@dataclass(slots=True)
class _Link:
    peer: bytes
    asked: dict[bytes, int] = field(default_factory=dict)  # site -> from which clock on the peer is asked about it


class AreaRelease:
    """The releases of one node."""

    def __init__(
        self, replica: Replica, config: ExchangeConfig, send_rows: Callable[[int, str, list[Row]], None]
    ) -> None:
        """Take what sends whole rows of a unit on a link."""
        self._replica = replica
        self._config = config
        self._audit = AreaAudit(replica, send_rows)
        self._links: dict[int, _Link] = {}
        self._others: tuple[bytes, ...] | None = None  # other members; None before the mesh has named them
        self._said: dict[str, dict[bytes, Vector]] = {}  # unit -> member that keeps it -> what it covers of the unit
        self._kept_by = self._state()
        self._rotation = 0
        self._ask_at = 0
        self.held: tuple[
            tuple[str, str], ...
        ] = ()  # (table, area) that this node holds and does not keep, at the last look
        self._step_at: int | None = None if replica.registry.interest is None else 0

    def next_deadline(self) -> int | None:
        """Return when `on_timer` is due: at once if this node has begun to keep other areas."""
        return self._step_at if self._kept_by == self._state() else 0

    def _state(self) -> tuple[object, object]:
        """Return by what this node keeps areas or not: its interest, and its rights."""
        return self._replica.registry.interest, self._replica.rights.own_grants

    def wake(self, now_ms: int) -> None:
        """Look soon whether some area is to be released; without a table that is cut, nothing is ever due."""
        if self._step_at is None and any(table.areas is not None for table in self._replica.tables.values()):
            self._step_at = now_ms + self._config.release_ms

    def on_members(self, others: Iterable[bytes]) -> None:
        """Record the node ids of the other members."""
        self._others = tuple(others)

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """Register a link."""
        self._links[number] = _Link(peer)
        self._audit.on_link_opened(number, peer)

    def on_link_closed(self, number: int) -> None:
        """Remove a link and the questions under way on it."""
        self._links.pop(number, None)
        self._audit.on_link_closed(number)

    def on_audit_reply(self, number: int, message: wire.AuditReply, turn: Turn) -> bool:
        """Take which entries a member has; return False if a round has asked for that."""
        if not self._audit.on_reply(number, message, turn):
            return False
        self._on_answer(message.table, turn.now_ms)
        return True

    def _on_answer(self, name: str, now_ms: int) -> None:
        """Look at once whether an area can be given up: where a program writes all the time, the answer is soon too old."""
        unit = self._replica.registry.unit(name)
        needed = None if unit is None else self._needed(unit)
        if (
            unit is not None
            and needed is not None
            and len(self._covering(unit)) >= needed
            and self._step_at is not None
        ):
            self._step_at = min(self._step_at, now_ms)

    def on_coverage_reply(self, number: int, message: wire.CoverageReply, now_ms: int) -> None:
        """Record how far a member covers a site in the areas that it keeps."""
        link = self._links[number]
        if link.asked.get(message.site) != message.after:
            return
        del link.asked[message.site]
        for name, top in message.tables:
            unit = self._replica.registry.unit(name)
            if unit is None or unit.area is None or not unit.has_site(message.site):
                continue
            # From a member that may only read an area nobody else takes it, so its copy does not count; nor does that of one
            # which has not said in its own name that it keeps the area.
            if self._replica.is_holder(link.peer, unit.table.spec.folded, unit.area):
                self._said.setdefault(name, {}).setdefault(link.peer, Vector()).add(message.site, message.after, top)
                self._on_answer(name, now_ms)

    def on_timer(self, turn: Turn) -> None:
        """Ask, give up what enough others cover, and take a step of each release."""
        due = self.next_deadline()
        if due is None or turn.now_ms < due:
            return
        self._step_at = turn.now_ms + self._config.busy_ms  # after an error of the file
        if self._kept_by != self._state():
            self._kept_by = self._state()
            self._said.clear()  # what was said before this node ceased to keep an area does not count
            self._audit.forget()
        held = list(self._replica.releases.held())
        self.held = tuple((unit.table.spec.folded, unit.area or "") for unit in held)
        self._said = {unit.name: self._said[unit.name] for unit in held if unit.name in self._said}
        self._audit.forget(but=[unit.name for unit in held])
        more = False
        for unit in held:
            self._give_up(unit, turn)
            more = self._step(unit, turn) or more
        if turn.now_ms >= self._ask_at:
            self._ask_at = turn.now_ms + self._config.release_ms
            self._ask(held, turn)
        self._step_at = (turn.now_ms + PAUSE_MS if more else self._ask_at) if held else None

    def _give_up(self, unit: Unit, turn: Turn) -> None:
        needed, covering = self._needed(unit), self._covering(unit)
        if needed is None or not unit.vector.count:
            return
        if self._audit.needs(unit):
            peers = {link.peer: number for number, link in sorted(self._links.items())}
            for peer in [
                peer for peer in self._covering(unit, audited=False) if peer not in covering and peer in peers
            ]:
                self._audit.request(peers[peer], unit, turn)
        if len(covering) < needed:
            return
        published = self._replica.releases.give_up(unit, next(iter(covering.values())), turn.wall_ms)
        if published is not None:
            turn.publish(published)
            self._said.pop(unit.name, None)
            turn.changed = True

    def _covering(self, unit: Unit, *, audited: bool = True) -> dict[bytes, Vector]:
        """Return the members that cover all that this file covers of an area, with that: those found to hold it, or all."""
        said = self._said.get(unit.name, {})
        if audited and self._audit.needs(unit):
            said = {peer: self._audit.held_by(unit, peer) for peer in self._covering(unit, audited=False)}
        return {peer: covered for peer, covered in said.items() if not unit.vector.missing_from(covered)}

    def _needed(self, unit: Unit) -> int | None:
        """Return how many members have to cover an area before it is given up; None while the members are not known."""
        if self._others is None:
            return None
        able = (other for other in self._others if self._replica.rights.may_write(other, unit.name))
        return max(1, sum(1 for _ in itertools.islice(able, self._config.copies)))

    def _step(self, unit: Unit, turn: Turn) -> bool:
        """Remove entries that are not covered; return True if there are more of them."""
        if unit.vector.count or not unit.has_entries:
            return False
        step = self._replica.releases.step(unit, turn.wall_ms)
        turn.publish(step.published)
        if step.done and step.entries:
            area, table = unit.area or "", unit.table.spec.name
            text = f"released area {area} of {table}: other members keep it"
            turn.notify("area.released", text, {"table": table, "area": area}, "info")
        return not step.done

    def _ask(self, held: list[Unit], turn: Turn) -> None:
        """Ask each member that keeps areas about sites of which it has not said that it covers all that this node covers.

        What nobody has any more is a gap in what all cover, so the question begins where the gap of this node ends.
        """
        for number, link in sorted(self._links.items()):
            asked: dict[bytes, int] = {}
            for unit in held:
                if self._replica.is_holder(link.peer, unit.table.spec.folded, unit.area or ""):
                    said = self._said.get(unit.name, {}).get(link.peer, Vector())
                    for site, (after, _) in unit.vector.missing_from(said):
                        asked.setdefault(site, after)
            start = self._rotation % max(1, len(asked))
            questions = list(asked.items())
            link.asked = dict([*questions[start:], *questions[:start]][:SITES_ASKED_MAX])
            for site, after in link.asked.items():
                turn.send(number, wire.CoverageRequest(site, after))
        self._rotation += SITES_ASKED_MAX
