"""The version vector of one table: which clocks of which sites this replica has, so that a round asks for the rest alone.

A transaction stages its changes to the vector, which become visible to peers with its commit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from mycomesh.sync.crdt.version_vector import RANGES_MAX, Range, Vector
from mycomesh.sync.storage.horizon import Horizon
from mycomesh.sync.storage.store import Store

__all__ = ["Coverage"]

# How many earlier vectors are remembered: as many states as a peer may be behind while writes are under way to it.
REMEMBERED_MAX = 32


class Coverage:
    """The vector of one table, and the digests of what it was before."""

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self._table_id = table_id
        self.vector = Vector()  # as of the last commit
        self._staged: Vector | None = None
        self._digest = b""
        self.remembered: deque[bytes] = deque(maxlen=REMEMBERED_MAX)  # digests of vectors that peers have seen
        self.may_be_ahead = (
            True  # the log may have entries that the vector does not cover (sync.exchange.entries_ahead)
        )
        self.loss: object = None  # another object each time that coverage of other sites is given up
        self.horizon: Horizon | None = None  # of a table whose rows go with time
        self.on_covered: Callable[[set[bytes]], None] | None = (
            None  # of a table that is cut: takes the sites of each commit
        )
        self.on_moved: Callable[[], None] | None = None  # of a table that is cut: called when the horizon has moved
        self._changed: set[bytes] = set()  # sites whose ranges the transaction has changed, if somebody asks

    def load(self) -> None:
        """Read the vector."""
        rows = self._store.db.execute(
            "SELECT place, after, upto FROM mycomesh_vectors WHERE id = ? ORDER BY place, after", (self._table_id,)
        )
        for site_number, after, upto in rows:
            self.vector.add(self._store.site(site_number), after, upto)

    @property
    def digest(self) -> bytes:
        """The digest of the committed vector, and of the horizon if there is one."""
        if not self._digest:
            self._digest = self.mixed(self.vector.digest())
        return self._digest

    def on_horizon(self, horizon: Horizon | None) -> None:
        """Take the horizon of the table, or one that has moved."""
        self.horizon = horizon
        self._digest = b""
        if self.on_moved is not None:
            self.on_moved()

    def mixed(self, digest: bytes) -> bytes:
        """Return the digest of a vector of this table or of one of its units, with the horizon if there is one."""
        return digest if self.horizon is None else self.horizon.mixed(digest)

    def vouched(self, vector: Vector) -> Vector:
        """Return a copy of a vector of this table or of one of its units, as far as a peer may take it over."""
        return (vector if self.horizon is None else self.horizon.vouched(vector)).copy()

    def remember(self) -> None:
        """Keep the digest of the committed vector: a peer that has this vector later has nothing that is missing here."""
        if self.digest not in self.remembered:
            self.remembered.append(self.digest)

    @property
    def staged(self) -> Vector:
        """The vector with the changes of the running transaction."""
        return self.vector if self._staged is None else self._staged

    def cover(self, site: bytes, after: int, upto: int) -> None:
        """Add `(after, upto]` of a site's clock; inside the transaction that stores the last entries of that range."""
        staged = self._stage()
        before = staged.ranges(site)
        staged.add(site, after, upto)
        ranges = staged.ranges(site)
        if len(ranges) > RANGES_MAX:  # a peer can make any number of gaps; rounds bring again what is given up
            staged.cut(site, ranges[RANGES_MAX - 1][1])
            self.remembered.clear()
        self._write(site, before, staged.ranges(site))

    def cut(self, site: bytes, after: int) -> None:
        """Give up a site's clock past `after`: its entries from there on got other stamps."""
        staged = self._stage()
        before = staged.ranges(site)
        staged.cut(site, after)
        self.remembered.clear()
        self._write(site, before, staged.ranges(site))

    def clear(self) -> None:
        """Give up all coverage: every entry gets another stamp."""
        self._changed.update(site for site, _ in self.staged.items())
        self.loss = object()
        self.may_be_ahead = True
        self.remembered.clear()
        self._staged = Vector()
        self._store.db.execute("DELETE FROM mycomesh_vectors WHERE id = ?", (self._table_id,))

    def give_up_others(self, keep: bytes) -> None:
        """Give up the coverage of every site but `keep`, so that rounds bring the changes of the others again."""
        before, site_number = self.staged, self._store.site_number_or_new(keep)
        self._changed.update(site for site, _ in before.items())
        self.loss = object()
        self.remembered.clear()
        self._staged = Vector()
        for after, upto in before.ranges(keep):
            self._staged.add(keep, after, upto)
        self._store.db.execute(
            "DELETE FROM mycomesh_vectors WHERE id = ? AND place <> ?", (self._table_id, site_number)
        )

    def _stage(self) -> Vector:
        if self._staged is None:
            self._staged = self.vector.copy()
        return self._staged

    def _write(self, site: bytes, before: Sequence[Range], ranges: Sequence[Range]) -> None:
        if self.on_covered is not None:
            self._changed.add(site)
        key = self._table_id, self._store.site_number_or_new(site)
        if len(ranges) == len(before) == 1 and ranges[0][0] == before[0][0]:  # most often the one range grows
            self._store.db.execute(
                "UPDATE mycomesh_vectors SET upto = ? WHERE id = ? AND place = ?", (ranges[0][1], *key)
            )
            return
        self._store.db.execute("DELETE FROM mycomesh_vectors WHERE id = ? AND place = ?", key)
        self._store.db.executemany(
            "INSERT INTO mycomesh_vectors VALUES(?, ?, ?, ?)", [(*key, low, high) for low, high in ranges]
        )

    def committed(self) -> None:
        """Make the staged vector the committed one."""
        if self._staged is not None:
            self.vector, self._staged = self._staged, None
            self._digest = b""
            if self.on_covered is not None:
                self.on_covered(self._changed)
            self._changed = set()

    def rolled_back(self) -> None:
        """Forget the staged vector."""
        self._staged = None
        self._changed = set()
