"""The connection of a replica to its file: transactions, sites, the clock and other persisted facts.

User triggers are switched off on this connection, so that changes of other nodes are not captured again.

Invariants: every write is inside `transaction()`. State in memory that mirrors the file is enlisted, and follows each
transaction to its commit or rollback.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import apsw

from mycomesh.sync.crdt.hlc import SITE_PREFIX, Clock
from mycomesh.sync.errors import (
    DatabaseBusyError,
    DatabaseError,
    FileReplacedError,
    ForeignFileError,
    IndexTriggerError,
)
from mycomesh.sync.sqlite.identifiers import fold, is_internal
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.accounts import Accounts
from mycomesh.sync.storage.authority import Authority, Signers
from mycomesh.sync.storage.collector import CollectorPause
from mycomesh.sync.storage.conflict_room import ConflictLimits, ConflictRoom
from mycomesh.sync.storage.connection import BUSY_MS_MAX, FileErrors, open_file, open_read_only
from mycomesh.sync.storage.parked_room import ParkedRoom
from mycomesh.sync.storage.purged import PurgedWrites
from mycomesh.sync.storage.wal import Wal

__all__ = [
    "LOCKED_MS_MAX",
    "Enlisted",
    "Store",
    "is_replica",
]

FORMAT = 1
# The wait once the lock was not free for that long: the thread must stay free for requests such as `status`.
LOCKED_MS_MAX = 100
# Pauses between two tries for a lock, as in SQLite's own busy handler.
BUSY_PAUSES_MS = (1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50, 100)


class Enlisted(Protocol):
    """State in memory that mirrors the file and follows each transaction."""

    def committed(self) -> None:
        """Keep what was staged."""

    def rolled_back(self) -> None:
        """Forget what was staged."""


class _Translated(FileErrors):
    """Records at the store what the file refused."""

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        super().__init__(store.path)
        self._store = store

    def _on_error(self, error: DatabaseError) -> None:
        if not isinstance(
            error, (IndexTriggerError, FileReplacedError)
        ):  # these say nothing about the next transaction
            self._store.refusal = error
            self._store.refusals += 1


class Store:
    """The file. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        path: str,
        *,
        read_only: bool = False,
        on_lock: Callable[[bool], None] = lambda _: None,
        sleep: Callable[[float], None] | None = None,
        extensions: Sequence[str] = (),
    ) -> None:
        """Open the file, or create it; raise `DatabaseError` with one line if it cannot serve.

        A `read_only` store opens a file that was a replica before, also beside the node that serves it. `on_lock` is called
        with True once a transaction has the write lock, and with False once the lock is free again. `sleep` waits so many
        seconds while another connection has a lock; without it SQLite waits by itself. `extensions` are loaded first.
        """
        self.path = path
        self._enlisted: list[Enlisted] = []
        self._finishing: list[Callable[[], None]] = []
        self._sites: list[bytes] = []
        self._site_numbers: dict[bytes, int] = {}
        self._sites_of_node: Counter[bytes] = Counter()  # by the first 8 bytes of its id
        self._durable = False
        self._on_lock = on_lock
        self._pause = CollectorPause()
        self._sleep = sleep
        # For the change feed: called for each row of a user's table that this node writes (table id, name of the row, whether it
        # was deleted). None while the file has no cursor.
        self.on_write: Callable[[int, int | bytes, bool], None] | None = None
        self._index_errors = False  # whether index triggers of this connection may fail at a commit
        self.rollback_cause: BaseException | None = None  # the error of the last transaction that was rolled back
        # Why the file refused the last transaction (locked, disk full); None once a later one has been committed.
        self.refusal: DatabaseError | None = None
        self.refusals = 0  # transactions and reads that the file has refused
        self._translated = _Translated(self)
        self.begun = 0  # write transactions
        self.is_writing = False  # inside `transaction`: nobody else writes the file
        self.syncs = 0  # commits that waited for the disk
        self.clock = Clock()
        self.recreated: tuple[str, ...] = ()  # internal tables that were damaged when the file was opened
        # The clock and the number of the last commit, as they are in the file.
        self._left: tuple[Any, Any] | None = None
        # Typed Any: SQLite returns values of any type, and each reader knows its own SELECT.
        self.db: Any = open_read_only(path) if read_only else open_file(path, extensions)
        self.wal = Wal(self.db, path, self._wait_for_locks)
        self.conflict_room = ConflictRoom(self.db, ConflictLimits())
        self.signers = Signers(self.db, b"", None)
        self.enlist(self.conflict_room)
        self.accounts = Accounts(self.db)
        self.enlist(self.accounts)
        self.purged = PurgedWrites(self.db)
        self.parked_room = ParkedRoom(self.db)
        self.enlist(self.parked_room)
        if read_only:
            try:
                self._read_replica()
            except BaseException:
                self.db.close()
                raise
        else:
            self._wait_for_locks()

    def close(self) -> None:
        """Close the connection; the file stays a complete, ordinary database."""
        with contextlib.suppress(apsw.Error):
            self.wal.checkpoint()
        self.db.close()

    def set_authority(self, node_id: bytes, authority: Authority | None) -> None:
        """Take this node's keys, with which it signs what it writes to signed tables."""
        self.signers = Signers(self.db, node_id, authority)
        self.enlist(self.signers)

    def shrink(self) -> None:
        """Free the page cache (PRAGMA shrink_memory)."""
        self.db.execute("PRAGMA shrink_memory").fetchall()

    # ---- transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """Run the block in a write transaction; roll it back, with the enlisted state, if the block raises.

        Raises:
            DatabaseBusyError: another connection kept the write lock for `BUSY_MS_MAX`; nothing was changed.
            DatabaseError: the disk is full, or another error of the file; nothing was changed.
            FileReplacedError: the file was replaced by a backup under this connection; nothing was changed.
        """
        with self.translated():
            self.db.execute("BEGIN IMMEDIATE")
        self._pause.begin()
        self._on_lock(True)
        self.is_writing, self.begun = True, self.begun + 1
        clock, sites = self.clock.last, len(self._sites)
        try:
            with self.translated():
                self._check_same()
                yield self.db
                for finish in self._finishing:
                    finish()
                left = self.clock.last, 1 if self._left is None else self._left[1] + 1
                self.meta_set("clock", left[0])
                self.meta_set("commits", left[1])
                self._commit()
            self.is_writing = False
            self._on_lock(False)
            self._pause.end()
        except BaseException as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self.is_writing = False
            self._on_lock(False)
            self._pause.end()
            self.clock.last = clock
            for site in self._sites[sites:]:
                del self._site_numbers[site]
                self._sites_of_node[site[:SITE_PREFIX]] -= 1
            del self._sites[sites:]
            self._durable = False
            self.rollback_cause = error
            for member in list(self._enlisted):  # members may dismiss others
                member.rolled_back()
            raise
        self._left = left
        self.refusal = None
        for member in self._enlisted:
            member.committed()
        if self._durable:
            with self.translated():
                self._sync()  # if this fails, rounds bring what was committed: no batch is published
        if self.wal.is_due:
            self.wal.checkpoint()

    def translated(self) -> FileErrors:
        """Return a context that raises SQLite's errors about the file as this package's, and records that the file refused."""
        return self._translated

    def _on_busy(self, tries: int) -> bool:
        """Sleep until the next try for a lock that another connection holds; return False to give up."""
        limit_ms = LOCKED_MS_MAX if isinstance(self.refusal, DatabaseBusyError) else BUSY_MS_MAX
        last = len(BUSY_PAUSES_MS) - 1
        pause_ms = BUSY_PAUSES_MS[min(tries, last)]
        waited_ms = sum(BUSY_PAUSES_MS[:tries]) + BUSY_PAUSES_MS[last] * max(0, tries - last - 1)
        if self._sleep is None or waited_ms + pause_ms > limit_ms:
            return False
        self._sleep(pause_ms / 1000)
        return True

    def _commit(self) -> None:
        """Commit; raise `IndexTriggerError` if FTS, which writes its index at the commit, finds the index damaged."""
        try:
            self.db.execute("COMMIT")
        except (apsw.ConstraintError, apsw.SQLError) as error:  # damage that FTS recognises is CORRUPT_VTAB instead
            if self._index_errors:
                raise IndexTriggerError(f"{self.path}: {error}") from error
            raise

    def _check_same(self) -> None:
        """Raise `FileReplacedError` if the file is not as this connection left it: the state in memory mirrors that."""
        if self._left is None:
            return
        try:
            found = self.meta("clock"), self.meta("commits")
        except apsw.SQLError:  # no such table
            found = None, None
        if found != self._left:
            raise FileReplacedError(f"{self.path}: another content was put in its place while it was served")

    @contextlib.contextmanager
    def bare_transaction(self) -> Iterator[Any]:
        """Run the block in a transaction that writes no facts, so that it can drop the internal tables; then close the store."""
        with self.translated():
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
                self.db.execute("COMMIT")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                raise

    def expect_index_errors(self) -> None:
        """Take a failing commit for the failure of an index trigger: this connection has some."""
        self._index_errors = True

    def durable(self) -> None:
        """Wait for the disk at the commit of this transaction: a power cut must not take back a write that peers have.

        For example, a keyless row that was drained again, under a second stamp, would become two rows.
        """
        self._durable = True

    def _sync(self) -> None:
        """Sync the WAL, as `synchronous = FULL` would. With a rollback journal, each commit is synced already."""
        self._durable = False
        with contextlib.suppress(FileNotFoundError):
            # SQLite has no POSIX lock on the WAL itself, so closing this descriptor drops none of its locks.
            wal = os.open(self.path + "-wal", os.O_RDONLY)
            try:
                os.fdatasync(wal)
            except OSError as error:
                text = f"{self.path}-wal: cannot be written to the disk: {error.strerror}; look at the disk"
                raise DatabaseError(text) from error
            finally:
                os.close(wal)
        self.syncs += 1

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """Run the block in a read transaction, in which every SELECT sees one state. Keep it short, as it pins the WAL."""
        with self.translated():
            self.db.execute("BEGIN")
            try:
                self._check_same()
                yield self.db
                self.db.execute("COMMIT")
            finally:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")

    def enlist(self, member: Enlisted) -> None:
        """Make `member` follow every later transaction."""
        self._enlisted.append(member)

    def dismiss(self, member: Enlisted) -> None:
        """End what `enlist` began; nothing happens if it has ended: of a table whose making is rolled back, two parts say so."""
        if member in self._enlisted:
            self._enlisted.remove(member)

    def finish_with(self, act: Callable[[], None]) -> None:
        """Call `act` at the end of every later transaction, before its commit."""
        self._finishing.append(act)

    def _wait_for_locks(self) -> None:
        if self._sleep is None:
            self.db.set_busy_timeout(BUSY_MS_MAX)
        else:
            self.db.set_busy_handler(self._on_busy)

    # ---- persisted facts

    def create(self) -> None:
        """Create the internal tables that are missing and read the facts; inside `transaction()`.

        Raises:
            ForeignFileError: the application has a table with the name of an internal one.
            DatabaseError: an internal table that cannot be recreated was dropped or altered by hand.
        """
        if is_replica(self.db) or internal_tables.has_other_tables(self.db):
            self._recreate_damaged()
        else:
            left = internal_tables.left_capture(self.db)
            if left:
                # As a plain file it would bring the rows of its tables without a primary key a second time.
                raise DatabaseError(
                    f"{self.path}: all of the node's own tables were dropped ({left[0]} is left) and cannot be made again; put a"
                    " backup in the place of the file, or move it away: 'mycomesh up' brings what the peers have"
                )
            listing = "SELECT name FROM sqlite_schema WHERE name LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"
            taken = [name for (name,) in self.db.execute(listing).fetchall() if is_internal(fold(name))]
            if taken:
                raise ForeignFileError(
                    f"{self.path}: its table {taken[0]} has the name of one of the node's own; rename it"
                )
        with FileErrors(self.path):  # the first write, which fails if the directory cannot be written
            for statement in internal_tables.SCHEMA.split(";\n"):
                if statement.strip():
                    self.db.execute(statement)
            for name in internal_tables.RARE.keys() & {*self.recreated}:
                internal_tables.create_rare(self.db, name)
            internal_tables.mark_rare(self.db)
            internal_tables.give_rowids(self.db)
        internal_tables.fill_recreated(self.db, self.recreated)
        if self.meta("format") is None:
            self.meta_set("format", FORMAT)
            tables = "SELECT count(*) FROM sqlite_schema WHERE name NOT GLOB 'mycomesh_*' AND name NOT GLOB 'sqlite_*'"
            if self.db.execute(tables).fetchone() == (0,):
                self.meta_set("began_empty", 1)
        self._read_facts()

    def _recreate_damaged(self) -> None:
        """Drop the damaged internal tables, to be created again; raise `DatabaseError` if one cannot be."""
        if is_replica(self.db) and self.meta("format") not in (None, FORMAT):
            return
        wrong = internal_tables.damaged(self.db)
        lost = [name for name in wrong if "mycomesh_schema" in wrong or not internal_tables.can_recreate(self.db, name)]
        if lost:
            raise DatabaseError(
                f"{self.path}: of the node's own tables {', '.join(lost)} was dropped, emptied or altered, and cannot be made"
                " again; put a backup in the place of the file, or move it away: 'mycomesh up' brings what the peers have"
            )
        for name in wrong:
            if self.db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'view' AND name = ?", (name,)).fetchone():
                raise DatabaseError(
                    f"{self.path}: its view {name} has the name of one of the node's own tables; drop it"
                )
            self.db.execute(f"DROP TABLE IF EXISTS {name}")
        self.recreated = tuple(wrong)

    def check_whole(self) -> None:
        """Raise `FileReplacedError` if internal tables are damaged: opening the file again recreates them."""
        wrong = internal_tables.damaged(self.db, served=True) if is_replica(self.db) else ["mycomesh_meta"]
        if wrong:
            raise FileReplacedError(
                f"{self.path}: of the node's own tables {', '.join(wrong)} was dropped or altered while it was served"
            )

    def _read_replica(self) -> None:
        """Read the facts of a file; raise `ForeignFileError` if it is not a replica."""
        with FileErrors(self.path):
            known = is_replica(self.db)
        if not known:
            raise ForeignFileError(f"{self.path}: no node has served this file yet; check the path")
        self._read_facts()

    def _read_facts(self) -> None:
        found = self.meta("format")
        if found != FORMAT:
            raise ForeignFileError(
                f"{self.path}: made by another version of mycomesh (format {found}); update this node"
            )
        self.clock.last = self.meta("clock") or 0
        commits = self.meta("commits")
        self._left = None if commits is None else (self.clock.last, commits)
        self._sites = [site for (site,) in self.db.execute("SELECT site FROM mycomesh_sites ORDER BY place")]
        self._site_numbers = {site: number for number, site in enumerate(self._sites)}
        self._sites_of_node = Counter(site[:SITE_PREFIX] for site in self._sites)
        self.purged.load()

    def meta(self, name: str) -> Any:
        """Return one persisted fact, None if it was never set."""
        found = self.db.execute("SELECT value FROM mycomesh_meta WHERE name = ?", (name,)).fetchone()
        return found[0] if found else None

    def meta_set(self, name: str, value: object) -> None:
        """Set one persisted fact; inside `transaction()`."""
        self.db.execute(
            "INSERT INTO mycomesh_meta VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            (name, value),
        )

    def meta_forget(self, prefix: str) -> None:
        """Remove the persisted facts whose names begin with `prefix`; inside `transaction()`."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.db.execute("DELETE FROM mycomesh_meta WHERE name >= ? AND name < ?", (prefix, end))

    def remember(self, name: str, value: bytes) -> None:
        """Set one persisted fact in a transaction of its own."""
        with self.transaction():
            self.meta_set(name, value)

    # ---- sites: 16 bytes on the wire, a small integer in the file

    def site(self, site_number: int) -> bytes:
        """Return the 16-byte id of the site with that number."""
        return self._sites[site_number]

    @property
    def sites(self) -> Sequence[bytes]:
        """Every site that the file knows."""
        return self._sites

    def sites_of_node(self, member: bytes) -> int:
        """Return how many sites of one node the file knows, by the first 8 bytes of its id."""
        return self._sites_of_node[member]

    def site_number(self, site: bytes) -> int | None:
        """Return the small integer of a site, None if the file has never seen it."""
        return self._site_numbers.get(site)

    def site_number_or_new(self, site: bytes) -> int:
        """Return the small integer of a site; assign one if it has none. Inside `transaction()`."""
        number = self._site_numbers.get(site)
        if number is None:
            number = len(self._sites)
            self.db.execute("INSERT INTO mycomesh_sites VALUES(?, ?)", (number, site))
            self._sites.append(site)
            self._site_numbers[site] = number
            self._sites_of_node[site[:SITE_PREFIX]] += 1
        return number

    @functools.cached_property
    def utf8(self) -> bool:
        """True if the encoding of the file is UTF-8; in any other, text that is not valid UTF-8 cannot be stored."""
        return bool(self.db.execute("PRAGMA encoding").fetchone()[0] == "UTF-8")

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        # The pragma reads the file. The file control of the same name only reads the cache of this connection.
        return int(self.db.execute("PRAGMA data_version").fetchone()[0])


def is_replica(db: Any) -> bool:
    """Return True if a file is a replica: it has the table `mycomesh_meta` in our form."""
    columns = db.execute("SELECT name FROM pragma_table_info('mycomesh_meta') ORDER BY cid").fetchall()
    return bool(columns == [("name",), ("value",)])
