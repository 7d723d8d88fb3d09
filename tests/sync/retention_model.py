"""The rules of retention without SQLite: rows as sets of entries, a horizon that moves forward, and joins between replicas.

A row is a set of entries (kind, stamp, time written or None). Its join keeps the newest insert and the newest write of the time.
A cut forgets a row whose join is older than the horizon; a repair joins what the other side has, if both have one horizon.
"""

from __future__ import annotations

from dataclasses import dataclass, field

INSERT, UPDATE, DELETE = "insert", "update", "delete"
NO_TIME = None


@dataclass(frozen=True, order=True)
class Entry:
    """A write: its stamp is (time of the clock, replica, count); `at` is the value of the time column, if it wrote that."""

    stamp: tuple[int, int, int]
    kind: str
    writes_time: bool = True
    at: int | None = NO_TIME


@dataclass
class Row:
    """The joined entries of one row."""

    entries: frozenset[Entry] = frozenset()

    def join(self, entries):
        """Keep what no later insert, delete or write of the time has superseded."""
        every = self.entries | entries
        existence = [entry for entry in every if entry.kind != UPDATE]
        newest = max(existence, default=None)
        alive = [entry for entry in every if newest is None or entry.stamp >= newest.stamp]
        times = [entry for entry in alive if entry.writes_time]
        last = max(times, default=None)
        return Row(frozenset(entry for entry in alive if entry in (newest, last) or not entry.writes_time))

    @property
    def born(self):
        """The newest insert or delete, None for updates without their insert."""
        return max((entry for entry in self.entries if entry.kind != UPDATE), default=None)

    @property
    def visible(self):
        """The row is there."""
        return self.born is not None and self.born.kind == INSERT

    def time(self, by):
        """The time by which the row goes; None if it stays."""
        newest = max(entry.stamp[0] for entry in self.entries)
        if not self.visible:
            return None if self.born is not None else newest  # a tombstone goes otherwise
        if not by:
            return self.born.stamp[0]
        last = max((entry for entry in self.entries if entry.writes_time), default=None)
        if last is None or last.at is None:
            return None
        return last.at if last.kind == INSERT else max(last.at, last.stamp[0])


@dataclass
class Replica:
    """One replica: rows by key, what it covers by stamp, and its horizon."""

    number: int
    by: bool
    age: int
    clock: int = 0
    horizon: int = 0
    rows: dict = field(default_factory=dict)
    covered: set = field(default_factory=set)
    count: int = 0

    def write(self, key, kind, *, at=NO_TIME, writes_time=True):
        """A local write; returns its stamp."""
        self.count += 1
        entry = Entry((self.clock, self.number, self.count), kind, writes_time, at)
        self.take(key, {entry})
        return entry

    def take(self, key, entries):
        """Join entries into a row; inserts that are too old and whose row is unknown stay out."""
        self.covered |= {(key, entry) for entry in entries}
        known = self.rows.get(key, Row())
        kept = frozenset(
            entry
            for entry in entries
            if known.entries or entry.kind != INSERT or not self.is_old(Row(frozenset({entry})))
        )
        joined = known.join(kept)
        if joined.entries:
            self.rows[key] = joined

    def is_old(self, row):
        """The row is below the horizon."""
        at = row.time(self.by)
        return at is not None and at < self.horizon

    def move(self, *, step):
        """Move the horizon by the clock, in steps, and cut."""
        self.horizon = max(self.horizon, (self.clock - self.age) // step * step)
        self.cut()

    def cut(self):
        """Forget what is older than the horizon."""
        self.rows = {key: row for key, row in self.rows.items() if not self.is_old(row)}

    def shown(self):
        """The rows that a program sees, with their times."""
        return {key: row.time(self.by) for key, row in self.rows.items() if row.visible}


def catch_up(receiver, sender):
    """A round: entries that the receiver does not cover; then both cover the same."""
    for key, row in sender.rows.items():
        fresh = {entry for entry in row.entries if (key, entry) not in receiver.covered}
        if fresh:
            receiver.take(key, fresh)
    receiver.covered |= sender.covered


def repair(one, two):
    """Join both sides row by row, if they have one horizon and cover the same."""
    if one.horizon != two.horizon or one.covered != two.covered:
        return
    for key in sorted(one.rows.keys() | two.rows.keys()):
        both = one.rows.get(key, Row()).entries | two.rows.get(key, Row()).entries
        for side in (one, two):
            side.take(key, both)


__all__ = ["DELETE", "INSERT", "NO_TIME", "UPDATE", "Entry", "Replica", "Row", "catch_up", "repair"]
