"""The one connection that a replica has to its file: transactions, sites, the clock and other persisted facts.

Owns the apsw connection with triggers switched off, so that what the mesh applies is not captured again. What always holds:
everything is written inside `transaction()`; what is kept in memory beside the file is enlisted, and follows the
transaction's fate. It must not know what tables mean.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import apsw

from mycomesh.sync.crdt.hlc import Clock
from mycomesh.sync.errors import (
    DatabaseBusyError,
    DatabaseError,
    FileReplacedError,
    ForeignFileError,
    IndexTriggerError,
)
from mycomesh.sync.sqlite.identifiers import fold, is_internal
from mycomesh.sync.storage import internal_tables

__all__ = ["BUSY_MS_MAX", "DIGITS", "Enlisted", "Store", "agree_on_digits", "recognised"]

FORMAT = 1
# A commit of the application holds the lock for milliseconds; longer than this the caller tries again later.
BUSY_MS_MAX = 2_000
DIGITS = 15  # of a floating-point number as text
# Checkpoints are rare and alone (WAL-reset bug of clients before SQLite 3.51.3, design.md section 3): only past 16 MiB.
WAL_PAGES_MAX = 4_096


class Enlisted(Protocol):
    """Something in memory that mirrors the file and must follow each transaction."""

    def committed(self) -> None:
        """The transaction stands: keep what was staged."""

    def rolled_back(self) -> None:
        """The transaction is undone: forget what was staged."""


class Store:
    """The file. Not thread-safe: one thread owns it."""

    def __init__(self, path: str, *, read_only: bool = False, on_lock: Callable[[bool], None] = lambda _: None) -> None:
        """Open the file, or create it; raise `DatabaseError` with one line if it cannot serve.

        A `read_only` store opens a file that was a replica before, also beside the node that serves it. `on_lock` is called
        with True once a transaction has the write lock, and with False once the lock is free again.
        """
        self.path = path
        self._enlisted: list[Enlisted] = []
        self._sites: list[bytes] = []
        self._site_numbers: dict[bytes, int] = {}
        self._wal_pages = 0
        self._durable = False
        self._on_lock = on_lock
        self._index_errors = False  # whether index triggers of this connection may fail when it commits
        self.rollback_cause: BaseException | None = None  # the error that rolled the last such transaction back
        self.syncs = 0  # commits that were on the disk before `transaction()` ended
        self.clock = Clock()
        self.recreated: tuple[str, ...] = ()  # tables of ours that were not as they should be when the file was opened
        # What the last commit left in the file: the clock, and which commit it was.
        self._left: tuple[Any, Any] | None = None
        # Typed Any: rows come out of SQLite as whatever was stored, and each reader knows its own SELECT.
        self.db: Any = _open_read_only(path) if read_only else _open(path)
        if read_only:
            try:
                self._recognise()
            except BaseException:
                self.db.close()
                raise
        else:
            self.db.set_wal_hook(self._on_wal)

    def close(self) -> None:
        """Close the connection; the file stays a complete, ordinary database."""
        with contextlib.suppress(apsw.Error):
            self.checkpoint()
        self.db.close()

    def shrink(self) -> None:
        """Frees the page cache (PRAGMA shrink_memory)."""
        self.db.execute("PRAGMA shrink_memory").fetchall()

    # ---- transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        """One write transaction: committed at the end of the block, undone (memory too) if it raises.

        Raises:
            DatabaseBusyError: another connection kept the write lock for `BUSY_MS_MAX`; nothing was changed.
            DatabaseError: the disk is full, or the like; nothing was changed.
            FileReplacedError: a backup was put back under this connection; nothing was changed.
        """
        with _translated(self.path):
            self.db.execute("BEGIN IMMEDIATE")
        self._on_lock(True)
        clock = self.clock.last
        sites = len(self._sites)
        try:
            with _translated(self.path):
                self._check_same()
                yield self.db
                left = self.clock.last, 1 if self._left is None else self._left[1] + 1
                self.meta_set("clock", left[0])
                self.meta_set("commits", left[1])
                self._commit()
            self._on_lock(False)
        except BaseException as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self._on_lock(False)
            self.clock.last = clock
            for site in self._sites[sites:]:
                del self._site_numbers[site]
            del self._sites[sites:]
            self._durable = False
            self.rollback_cause = error
            for member in list(self._enlisted):  # some are dismissed by that
                member.rolled_back()
            raise
        self._left = left
        if self._durable:
            self._sync()
        for member in self._enlisted:
            member.committed()
        if self._wal_pages > WAL_PAGES_MAX:
            self.checkpoint()

    def _commit(self) -> None:
        """End the transaction; raises `IndexTriggerError` where FTS, which writes its index out now, finds that damaged."""
        try:
            self.db.execute("COMMIT")
        except (apsw.ConstraintError, apsw.SQLError) as error:  # damage that it knows as such is CORRUPT_VTAB
            if self._index_errors:
                raise IndexTriggerError(f"{self.path}: {error}") from error
            raise

    def _check_same(self) -> None:
        """What is kept in memory mirrors the file as this connection left it."""
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
        """One write transaction that keeps no facts of ours, for what takes their tables out; close the store after it."""
        with _translated(self.path):
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
        """Has what this transaction commits on the disk when it ends: what peers hear of, no power cut may take back.

        A row without a key that was drained twice, under two stamps, would be two rows.
        """
        self._durable = True

    def _sync(self) -> None:
        """Write the WAL out, as `synchronous = FULL` would; a rollback journal's commits are synced as they are."""
        self._durable = False
        with contextlib.suppress(FileNotFoundError):
            # No POSIX lock is on the WAL itself: to close it drops none of SQLite's.
            wal = os.open(self.path + "-wal", os.O_RDONLY)
            try:
                os.fdatasync(wal)
            finally:
                os.close(wal)
        self.syncs += 1

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """One read transaction: every SELECT of the block sees the same state. Keep it short: it pins the WAL."""
        with _translated(self.path):
            self.db.execute("BEGIN")
        try:
            self._check_same()
            yield self.db
        finally:
            if self.db.in_transaction:
                self.db.execute("COMMIT")

    def enlist(self, member: Enlisted) -> None:
        """Make `member` follow every later transaction."""
        self._enlisted.append(member)

    def dismiss(self, member: Enlisted) -> None:
        """End what `enlist` began."""
        self._enlisted.remove(member)

    def checkpoint(self) -> None:
        """Copy the WAL into the file as far as readers allow; never waits for them."""
        self._wal_pages = 0
        with contextlib.suppress(apsw.BusyError, apsw.LockedError):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _on_wal(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    # ---- persisted facts

    def create(self) -> None:
        """Make the internal tables where they are missing and reads what they hold; inside `transaction()`.

        Raises:
            ForeignFileError: the application has a table of one of their names.
            DatabaseError: one that cannot be made again was dropped or altered by hand.
        """
        if recognised(self.db) or internal_tables.remain(self.db):
            self._mend()
        else:
            listing = "SELECT name FROM sqlite_schema WHERE name LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"
            taken = [name for (name,) in self.db.execute(listing).fetchall() if is_internal(fold(name))]
            if taken:
                raise ForeignFileError(
                    f"{self.path}: its table {taken[0]} has the name of one of the node's own; rename it"
                )
        with _translated(self.path):  # the first write: a directory that cannot be written is met here
            for statement in internal_tables.SCHEMA.split(";\n"):
                if statement.strip():
                    self.db.execute(statement)
        internal_tables.refill(self.db, self.recreated)
        if self.meta("format") is None:
            self.meta_set("format", FORMAT)
        self._recall()

    def _mend(self) -> None:
        """Has tables of ours that somebody dropped or altered made again, if they can be."""
        if recognised(self.db) and self.meta("format") not in (None, FORMAT):
            return
        wrong = internal_tables.amiss(self.db)
        lost = [name for name in wrong if "mycomesh_schema" in wrong or not internal_tables.made_again(self.db, name)]
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
        """Raise `FileReplacedError` if tables of ours are not as they should be: to open the file again mends them."""
        wrong = internal_tables.amiss(self.db) if recognised(self.db) else ["mycomesh_meta"]
        if wrong:
            raise FileReplacedError(
                f"{self.path}: of the node's own tables {', '.join(wrong)} was dropped or altered while it was served"
            )

    def _recognise(self) -> None:
        """Read the facts of a file that must be a replica."""
        with _translated(self.path):
            known = recognised(self.db)
        if not known:
            raise ForeignFileError(f"{self.path}: no node has served this file yet; check the path")
        self._recall()

    def _recall(self) -> None:
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

    def remember(self, name: str, value: bytes) -> None:
        """Set one persisted fact in a transaction of its own."""
        with self.transaction():
            self.meta_set(name, value)

    # ---- sites: 16 bytes on the wire, a small integer in the file

    def site(self, site_number: int) -> bytes:
        """Return the 16-byte id of the site with that number."""
        return self._sites[site_number]

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
        return number

    @functools.cached_property
    def utf8(self) -> bool:
        """True if the file encodes its text as UTF-8: others have no place for text that is broken in UTF-8."""
        return bool(self.db.execute("PRAGMA encoding").fetchone()[0] == "UTF-8")

    def data_version(self) -> int:
        """Return a number that changes when another connection has committed."""
        # The pragma looks into the file; the file control of the same name only into this connection's cache.
        return int(self.db.execute("PRAGMA data_version").fetchone()[0])


def recognised(db: Any) -> bool:
    """Return True if a file has been a replica: its table of facts is there, and is ours."""
    columns = db.execute("SELECT name FROM pragma_table_info('mycomesh_meta') ORDER BY cid").fetchall()
    return bool(columns == [("name",), ("value",)])


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors about the file into ours."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise DatabaseError(f"{path}: its path is not UTF-8, and SQLite takes no other; rename the file") from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise DatabaseBusyError(f"{path}: another program holds its write lock; close its transaction") from error
    except apsw.NotADBError as error:
        raise DatabaseError(f"{path}: not an SQLite database; give another file") from error
    except apsw.ReadOnlyError as error:
        raise DatabaseError(f"{path}: read-only; make the file and its directory writable") from error
    except apsw.FullError as error:
        raise DatabaseError(f"{path}: the disk is full; free some space") from error
    except apsw.CantOpenError as error:
        raise DatabaseError(f"{path}: cannot be opened; check its permissions and those of its directory") from error
    except (apsw.IOError, apsw.CorruptError) as error:
        if getattr(error, "extendedresult", None) == apsw.SQLITE_CORRUPT_VTAB:  # FTS, which `echoes` alone write
            raise IndexTriggerError(f"{path}: {error}") from error
        raise DatabaseError(f"{path}: {error}; run PRAGMA integrity_check and look at the disk") from error


def _open(path: str) -> apsw.Connection:
    file = Path(path)
    with contextlib.suppress(OSError):
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DatabaseError(f"{path}: not a regular file; give the path of an SQLite database")
    with _translated(path):
        fresh = not file.exists() or file.stat().st_size == 0
        db = apsw.Connection(path)
        try:
            _configure(db, fresh=fresh)
        except BaseException:
            db.close()
            raise
    return db


def _open_read_only(path: str) -> apsw.Connection:
    if not Path(path).is_file():
        raise DatabaseError(f"{path}: there is no such file; check the path")
    with _translated(path):
        db = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        db.set_busy_timeout(BUSY_MS_MAX)
    return db


def agree_on_digits(db: apsw.Connection) -> None:
    """Has numbers become text with 15 digits, as in the SQLite of nearly every program; since 3.52 it would be 17.

    An index on a number's text must be the same for all who write to one file: else a program that deletes the row finds that
    its entry is missing, and SQLite calls the file malformed.
    """
    digits = getattr(apsw, "SQLITE_DBCONFIG_FP_DIGITS", None)
    if digits is not None:
        db.config(digits, DIGITS)


def _configure(db: apsw.Connection, *, fresh: bool) -> None:
    db.set_busy_timeout(BUSY_MS_MAX)
    agree_on_digits(db)
    if db.readonly("main"):
        raise apsw.ReadOnlyError
    db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    if fresh:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    if db.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        # WAL with NORMAL cannot corrupt, and peers have what a power cut takes back; our own writes see `durable`.
        db.execute("PRAGMA synchronous = NORMAL").fetchall()
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    db.execute("PRAGMA foreign_keys = 0").fetchall()
    db.execute("PRAGMA cache_size = -4096").fetchall()
