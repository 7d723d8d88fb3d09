"""Interests: which areas each member keeps, as facts that the members state about themselves.

A node states its interest once the mesh has cut a table, and again when it changes. Others need it to send a batch of an area
only where it is kept, and to see an area that too few members keep.

Invariant: a statement counts only under a stamp of the member that it is about. A member that has stated nothing is taken to
want everything and to keep nothing for certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.table_spec import encode_key
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Group, Kind, Section
from mycomesh.sync.wire.interest import INTEREST, Interest, interest_fact, interest_name, interest_of, member_of
from mycomesh.sync.wire.units import split_unit

__all__ = ["Interests", "stated_members", "states_own_interest"]

# Units for which it is remembered who leaves them out: as many as a large transaction writes.
UNITS_MAX = 4_096
_COLUMNS = frozenset({"kind", "name", "sql"})


class Interests:
    """The interests of the members, as one file knows them."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._known: dict[bytes, Interest | None] = {}
        self._stated: dict[bytes, Interest] | None = None  # of all other members, once somebody has asked for them
        self._unread: dict[bytes, None] = {}  # of these members `_stated` has what they stated before
        self._left_out: dict[str, frozenset[bytes]] = {}
        self.version = 0  # grows whenever an interest, or a table that is cut, may have changed

    def of(self, node: bytes) -> Interest | None:
        """Return the interest of a member by its node id, None if it has stated none."""
        member = node[:SITE_PREFIX]
        if member == self._store.signers.own:
            return self._registry.kept
        if member not in self._known:
            self._known[member] = self._read(member)
        return self._known[member]

    def stated(self) -> Mapping[bytes, Interest]:
        """Return what other members have stated, by the first 8 bytes of their node ids; not to be changed."""
        if self._stated is None:
            found = ((member, self.of(member)) for member in self._registry.facts.interested())
            own = self._store.signers.own
            self._stated = {member: stated for member, stated in found if stated is not None and member != own}
            self._unread = {}
        while self._unread:  # in place: a copy for each statement of a thousand members would be a million
            member = next(iter(self._unread))
            found_one = self.of(member)
            if found_one is None:
                self._stated.pop(member, None)
            else:
                self._stated[member] = found_one
            del self._unread[member]
        return self._stated

    def left_out(self, unit: str) -> frozenset[bytes]:
        """Return the members that have stated that they do not keep a unit: units for which it is equal go to the same nodes."""
        table, area = split_unit(unit) or (unit, None)
        if area is None:
            return frozenset()
        found = self._left_out.get(unit)
        if found is None:
            others = (member for member, stated in self.stated().items() if not stated.keeps(table, area))
            found = self._left_out[unit] = frozenset(others)
            if len(self._left_out) > UNITS_MAX:
                del self._left_out[next(iter(self._left_out))]
        return found

    def forget(self) -> None:
        """Read the statements again: facts have changed, or the transaction that did was rolled back."""
        self._known, self._stated, self._unread, self._left_out = {}, None, {}, {}
        self.version += 1

    def learn(self, members: Iterable[bytes]) -> bool:
        """Read the statements of these members again; return False if these facts say something else too.

        In a mesh of a thousand members each states its interest once, and a look at all of them for each would be a million.
        """
        members = dict.fromkeys(members)
        facts, own = self._registry.facts, self._store.signers.own
        if own in members or any(facts.kind(interest_name(member)) != INTEREST for member in members):
            return False
        for member in members:
            self._known.pop(member, None)
        self._unread |= members
        self._left_out = {}
        self.version += 1
        return True

    def renew(self, *, again: bool = False) -> bool:
        """State this node's interest if the mesh has cut a table; return whether a fact was written. Inside a transaction.

        With `again`, also if it is stated already: its certificate gives it no right to write facts, so rounds do not bring it.
        """
        self.forget()
        kept = self._registry.kept
        if kept is None or not self._registry.policies.areas:
            return False
        own = self._store.signers.own
        stated, repeats = interest_of(self._registry.facts.of(interest_name(own))) or (None, -1)
        if stated == kept and not again:
            return False
        self._registry.facts.write(*interest_fact(own, kept, repeats + 1))
        return True

    def _read(self, member: bytes) -> Interest | None:
        name = interest_name(member)
        found = interest_of(self._registry.facts.of(name))
        if found is None or self._registry.facts.kind(name) != INTEREST or not self._is_by(member, name):
            return None
        return self._registry.resolved(found[0])

    def _is_by(self, member: bytes, name: str) -> bool:
        table = self._registry.tables[SCHEMA_TABLE]
        bit = 1 << table.columns.bits["sql"]
        stored_entries = table.log.entries_of_row(encode_key(table.spec, (name,)))
        entries = [table.log.entry(stored) for stored in stored_entries]
        return any(entry.mask & bit and entry.stamp[1][:SITE_PREFIX] == member for entry in entries)


def stated_members(groups: Sequence[Group]) -> list[bytes] | None:
    """Return the members whose interest these changes of facts state; None if one may be of another kind."""
    found: dict[bytes, None] = {}
    for group in groups:
        if group.kind is Kind.DELETE or not _COLUMNS.issuperset(group.columns):
            return None
        at = group.columns.index("name") if "name" in group.columns else None
        if group.keys is not None:
            names = [_name_in(key) for key in group.keys]
        elif at is not None:
            names = [row[at] for row in group.rows]
        else:
            return None
        for name in names:
            member = member_of(name)
            if member is None:
                return None
            found[member] = None
    return list(found)


def _name_in(key: Any) -> object:
    """Return the name in the key of a fact, None for another key."""
    try:
        values = codec.decode(key, bytes_max=len(key)) if type(key) is bytes else None
    except DecodeError:
        return None
    return values[0] if type(values) is list and len(values) == 1 else None


def states_own_interest(section: Section, writer: bytes) -> bool:
    """Return True if a section of facts only states the interest of its writer, a node id, which every member may."""
    own = section.table == SCHEMA_TABLE and bool(section.groups)
    return own and all(_states_interest(group, writer[:SITE_PREFIX]) for group in section.groups)


def _states_interest(group: Group, member: bytes) -> bool:
    name = interest_name(member)
    if group.site[:SITE_PREFIX] != member or group.kind is Kind.DELETE or not _COLUMNS.issuperset(group.columns):
        return False
    if group.keys is None and "name" not in group.columns:
        return False
    key = codec.encode([name])
    rows = [dict(zip(group.columns, row, strict=True)) for row in group.rows]
    return all(each == key for each in group.keys or ()) and all(
        (row.get("name", name), row.get("kind", INTEREST)) == (name, INTEREST) for row in rows
    )
