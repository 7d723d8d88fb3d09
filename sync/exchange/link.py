"""One link as the exchange sees it: the peer's last digests, and the limits on what the peer requests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from mycomesh.sync.exchange.flow_control import SendWindow, TokenBucket
from mycomesh.sync.exchange.link_status import LinkStatus, Progress
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.wire.parts import Joiner
from mycomesh.sync.wire.units import split_unit, summary_table, table_of

__all__ = ["NOBODY", "Link"]

NOBODY = bytes(16)  # the peer of a link that only records a round: the reader of a mailbox; no member has this id
NO_ENTRIES = bytes(16)  # the digest of the entries of a table or area of which nothing is there
# A link whose ends have nothing in common is compared half as often after each comparison, up to this many times.
QUIET_STEPS = 4


@dataclass(slots=True)
class Link:
    """One link. Tables have canonical names."""

    peer: bytes
    compare_at: int
    window: SendWindow
    requests: TokenBucket
    digests: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # the peer's last digests
    compared_at: int | None = None
    opening: bool = False  # the last digests were the first ones
    sent: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)  # our last digests for the peer
    sent_at: int = 0
    quiet: int = 0  # how often the period of comparisons was doubled
    equal_since: dict[str, int] = field(default_factory=dict)  # table -> monotonic ms
    joiner: Joiner = field(default_factory=Joiner)

    def is_compared(self, mine: Mapping[str, tuple[bytes, bytes]], now_ms: int, period_ms: int) -> bool:
        """Return True if the peer's own comparison of the last period serves for ours: each side has the other's digests.

        `mine` are the digests of the tables that the peer may read. Each side still sends its digests in every third period, so
        that the status of the other one is no older.
        """
        if self.compared_at is None or self.sent != mine:
            return False
        if any(mine.get(name, digest) != digest for name, digest in self.digests.items()):
            return False  # a table of one side alone cannot be made equal by another comparison
        return now_ms - self.compared_at < period_ms and now_ms - self.sent_at < 2 * period_ms

    def period_ms(self, compare_ms: int) -> int:
        """Return how long after a comparison the next one is due, where links that have something in common wait `compare_ms`."""
        return compare_ms << self.quiet

    def on_compare(self, mine: Mapping[str, tuple[bytes, bytes]], admitted: Callable[[str], bool]) -> None:
        """Choose the period that begins as these digests go out: a longer one where they only repeat what the last ones said."""
        repeats = self.sent == mine and self.has_nothing_in_common(admitted)
        self.quiet = min(self.quiet + 1, QUIET_STEPS) if repeats else 0

    def has_nothing_in_common(self, admitted: Callable[[str], bool]) -> bool:
        """Return True if the last digests of both have equal facts, and no table or area whose entries either may want.

        Whatever changes that is in the digests of one side: it compares then, and the other one follows. `admitted` returns
        whether this node would replicate a table or area that the peer has.
        """
        if self.compared_at is None or self.sent.get(SCHEMA_TABLE) != self.digests.get(SCHEMA_TABLE):
            return False
        for name in {**self.sent, **self.digests}:
            mine, theirs = self.sent.get(name), self.digests.get(name)
            if name == SCHEMA_TABLE or (mine == theirs and mine is not None and mine[1] == NO_ENTRIES):
                continue
            one_sided = mine is None or theirs is None
            if not one_sided or split_unit(name) is not None or summary_table(name) is not None:
                return False
            if mine is None and admitted(name):
                return False  # this file could not create it, or has not yet
        return True

    def status(  # noqa: PLR0913  (what a link does not know itself)
        self,
        mine: Mapping[str, tuple[bytes, bytes]],
        shown: Callable[[str], str],
        admitted: Callable[[str], bool],
        rows: tuple[int, int],
        progress: Progress | None,
        now_ms: int,
        *,
        streaming: bool,
        waiting: Collection[str] = (),
        cut: Collection[str] = (),
    ) -> LinkStatus:
        """Return the link for the operator.

        Args:
            mine: this replica's digests, without summaries of areas.
            shown: returns what this file calls a table.
            admitted: returns whether this node would replicate a table that the peer has; an area only if both keep it.
            rows: the numbers of changes sent and received.
            progress: that of the round from the peer, None without one.
            now_ms: monotonic.
            streaming: whether a stream to the peer is under way.
            waiting: the tables of it that wait for their budget.
            cut: tables without a unit of their name.
        """
        shared = {name: digest for name, digest in mine.items() if split_unit(name) is None or admitted(name)}
        behind = tuple(name for name, digest in shared.items() if self.digests.get(name) != digest)
        # This file could not create them, or has not yet. A summary of areas is no table.
        others = (name for name in sorted(self.digests) if name not in mine and summary_table(name) is None)
        behind += tuple(filter(admitted, others))
        since: dict[str, int] = {}
        unequal = {table_of(name) for name in behind}
        for name, at in self.equal_since.items():
            table = table_of(name)  # a table is equal if all of its areas are that both keep
            if name in shared and table not in unequal:
                since[shown(table)] = min(now_ms - at, since.get(shown(table), now_ms))
        if self.compared_at is not None:  # of a table without a base the two may share no area: nothing of it differs
            for table in sorted({*map(table_of, mine), *cut} - unequal):
                since.setdefault(shown(table), now_ms - self.compared_at)
        return LinkStatus(
            self.peer,
            not behind,
            tuple(map(shown, behind)),
            *rows,
            streaming,
            progress is not None,
            progress,
            None if self.compared_at is None else now_ms - self.compared_at,
            tuple(sorted(since.items())),
            tuple(dict.fromkeys(shown(table_of(name)) for name in waiting)),
        )
