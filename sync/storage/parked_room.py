"""Limit on the parked rows of one origin: a member could fill the disk with rows that a constraint refuses.

A node that has that many of a member's rows parked takes no further inserts of it into those tables, and does not cover them, so
that rounds bring them again. Updates and deletes go on: they may make room. Counting looks at all parked rows, so it is done
only once there may be too many.
"""

from __future__ import annotations

from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX

__all__ = ["PARKED_BYTES_MAX", "PARKED_ROWS_MAX", "ParkedRoom"]

PARKED_ROWS_MAX = 10_000
PARKED_BYTES_MAX = 64 << 20  # of their values as held, and as text in `mycomesh_parked`
# Parked rows are counted again after a sixteenth of the limit.
SLACK = 16


class ParkedRoom:
    """The parked rows of one file by origin; follows each transaction."""

    def __init__(self, db: Any) -> None:
        self._db = db
        # Rows and bytes that any origin has at most; None until counted.
        self._most: tuple[int, int] | None = None
        self._since = (0, 0)  # rows and bytes parked since they were counted
        self._freed = False  # some were unparked since then
        self._full: frozenset[tuple[int, bytes]] = frozenset()  # (table id, first bytes of an origin's sites)
        self._told: set[bytes] = set()
        self._news: list[bytes] = []

    def on_park(self, size: int, rows: int = 1) -> None:
        """Count rows that were parked; `size` is about the bytes that they take."""
        self._since = self._since[0] + rows, self._since[1] + size

    def on_unpark(self) -> None:
        """Note that a row is parked no more."""
        self._freed = True

    def is_full(self, table_id: int, site: bytes) -> bool:
        """Return True if a table takes no more inserts of a site's node; inside a transaction."""
        if self._most is None or self._may_be_over() or (self._freed and self._full):
            self._count()
        return (table_id, site[:SITE_PREFIX]) in self._full

    def renew(self) -> None:
        """Count again if some origin is full and rows were unparked since; inside a transaction."""
        if self._full and self._freed:
            self._count()

    @property
    def full(self) -> list[tuple[int, bytes]]:
        """The (table id, first bytes of the origin's sites) that take no more inserts, as of the last count."""
        return sorted(self._full)

    def take_news(self) -> list[bytes]:
        """Return the origins that have reached the limit since the last call."""
        news, self._news = self._news, []
        return news

    def _may_be_over(self) -> bool:
        assert self._most is not None
        rows, size = self._since
        if self._full:  # others may come near the limit too
            return rows > PARKED_ROWS_MAX // SLACK or size > PARKED_BYTES_MAX // SLACK
        return rows > 0 and (self._most[0] + rows >= PARKED_ROWS_MAX or self._most[1] + size >= PARKED_BYTES_MAX)

    def _count(self) -> None:
        rows: dict[bytes, list[int]] = {}
        tables: dict[bytes, set[int]] = {}
        for (table_id,) in self._db.execute("SELECT DISTINCT id FROM mycomesh_parked ORDER BY id").fetchall():
            listing = (
                "SELECT s.site, count(*), sum(octet_length(p.content) + coalesce(octet_length(h.content), 0))"
                f" FROM mycomesh_parked p JOIN mycomesh_changes_{table_id} c ON c.row = p.row"
                " JOIN mycomesh_sites s ON s.place = c.place LEFT JOIN mycomesh_held h"
                " ON h.id = p.id AND h.place = c.place AND h.hlc = c.hlc WHERE p.id = ? GROUP BY c.place ORDER BY c.place"
            )
            for site, count, size in self._db.execute(listing, (table_id,)).fetchall():
                node = site[:SITE_PREFIX]
                total = rows.setdefault(node, [0, 0])
                total[0] += count
                total[1] += size
                tables.setdefault(node, set()).add(table_id)
        over = {node for node, (count, size) in rows.items() if count >= PARKED_ROWS_MAX or size >= PARKED_BYTES_MAX}
        self._full = frozenset((table_id, node) for node in over for table_id in tables[node])
        within = [total for node, total in rows.items() if node not in over]
        self._most = max((total[0] for total in within), default=0), max((total[1] for total in within), default=0)
        self._since, self._freed = (0, 0), False
        self._news += sorted(over - self._told)
        self._told = over

    def committed(self) -> None:
        """Keep the counts."""

    def rolled_back(self) -> None:
        """Count again."""
        self._most = None
