"""Opens the file as a node needs it, and raises SQLite's errors about it as errors of this package."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import apsw

from mycomesh.sync.errors import DatabaseBusyError, DatabaseError, IndexTriggerError
from mycomesh.sync.sqlite import geometry
from mycomesh.sync.sqlite.extensions import load_extensions
from mycomesh.sync.sqlite.file_format import format_of

__all__ = ["BUSY_MS_MAX", "FLOAT_DIGITS", "FileErrors", "open_file", "open_read_only", "read_once", "set_float_digits"]

# A commit of the application holds the lock for milliseconds. After this long, the caller gives up and tries again later.
BUSY_MS_MAX = 2_000
FLOAT_DIGITS = 15  # of a floating-point number as text


class FileErrors:
    """A context that raises SQLite's errors about the file as errors of this package.

    While it is `opening` the file, an error says what the file is if it is no database: this process has no locks on it yet.
    A class, since a node enters such contexts for each event and a generator would cost three times as much.
    """

    __slots__ = ("_opening", "_path")

    def __init__(self, path: str, *, opening: bool = False) -> None:
        self._path = path
        self._opening = opening

    def __enter__(self) -> None:
        """Enter; one object may be entered again within itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise this package's error for one of SQLite's."""
        if error is not None:
            found = _translate(error, self._path, opening=self._opening)
            if found is not None:
                self._on_error(found)
                raise found from error
            if isinstance(error, DatabaseError):
                self._on_error(error)

    def _on_error(self, error: DatabaseError) -> None:
        """Take an error of this package that leaves the context."""


def _translate(error: BaseException, path: str, *, opening: bool) -> DatabaseError | None:  # noqa: PLR0911 -- a table
    """Return this package's error for one of SQLite's about the file, None for any other error."""
    match error:
        case UnicodeEncodeError():
            return DatabaseError(f"{path}: its path is not UTF-8, and SQLite takes no other; rename the file")
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return DatabaseBusyError(f"{path}: another program holds its write lock; close its transaction")
        case apsw.NotADBError():
            found = format_of(path) if opening else "not an SQLite database; give another file"
            return DatabaseError(f"{path}: {found}")
        case apsw.SQLError() if opening and "unsupported file format" in str(error):
            return DatabaseError(f"{path}: {format_of(path)}")
        case apsw.ReadOnlyError():
            return DatabaseError(f"{path}: read-only; make the file and its directory writable")
        case apsw.FullError():
            return DatabaseError(f"{path}: the disk is full; free some space")
        case apsw.CantOpenError():
            return DatabaseError(f"{path}: cannot be opened; check its permissions and those of its directory")
        case apsw.IOError() | apsw.CorruptError():
            if getattr(error, "extendedresult", None) == apsw.SQLITE_CORRUPT_VTAB:  # FTS: only index triggers write it
                return IndexTriggerError(f"{path}: {error}")
            return DatabaseError(f"{path}: {error}; run PRAGMA integrity_check and look at the disk")
    return None


def open_file(path: str, extensions: Sequence[str]) -> apsw.Connection:
    """Return a connection that writes the file as a node does; a file that is not there is made, in WAL mode."""
    file = Path(path)
    with contextlib.suppress(OSError):
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DatabaseError(f"{path}: not a regular file; give the path of an SQLite database")
    with FileErrors(path, opening=True):
        fresh = not file.exists() or file.stat().st_size == 0
        db = apsw.Connection(path)
        try:
            load_extensions(db, extensions)
            _configure(db, fresh=fresh)
        except BaseException:
            db.close()
            raise
    return db


def open_read_only(path: str) -> apsw.Connection:
    """Return a connection that cannot write the file."""
    if not Path(path).is_file():
        raise DatabaseError(f"{path}: there is no such file; check the path")
    with FileErrors(path, opening=True):
        return read_once(apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY))


def read_once(db: apsw.Connection) -> apsw.Connection:
    """Return a connection that has read its file, so that one which is no database fails here; the connection is closed then."""
    try:
        db.set_busy_timeout(BUSY_MS_MAX)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except BaseException:
        db.close()
        raise
    return db


def set_float_digits(db: apsw.Connection) -> None:
    """Convert numbers to text with 15 digits, as the SQLite of nearly every program does; from 3.52 on the default is 17.

    All programs that write one file must agree, because of indexes on the text of a number. Otherwise a program that deletes a
    row does not find its index entry, and SQLite calls the file malformed.
    """
    digits = getattr(apsw, "SQLITE_DBCONFIG_FP_DIGITS", None)
    if digits is not None:
        db.config(digits, FLOAT_DIGITS)


def _configure(db: apsw.Connection, *, fresh: bool) -> None:
    db.set_busy_timeout(BUSY_MS_MAX)
    set_float_digits(db)
    if db.readonly("main"):
        raise apsw.ReadOnlyError
    db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    geometry.register(db)
    if fresh:
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    if db.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        # NORMAL cannot corrupt a WAL file. A power cut may take back commits, which peers bring again; `durable` is for the rest.
        db.execute("PRAGMA synchronous = NORMAL").fetchall()
    db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
    db.execute("PRAGMA foreign_keys = 0").fetchall()
    db.execute("PRAGMA cache_size = -4096").fetchall()
