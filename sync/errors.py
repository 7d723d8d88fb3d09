"""The error tree of `sync`: each class says whose fault it is, whether anything changed, and what to do."""

from __future__ import annotations

__all__ = [
    "BatchRefusedError",
    "DatabaseBusyError",
    "DatabaseError",
    "DecodeError",
    "FileReplacedError",
    "ForeignFileError",
    "IndexTriggerError",
    "KeyMismatchError",
    "MigrationError",
    "PolicyError",
    "SyncError",
]


class SyncError(Exception):
    """Root of every error that `sync` raises on purpose; the text is one line: what, where, what to do."""

    code = "sync"  # stable: what `mycomesh explain` takes


class DatabaseError(SyncError):
    """The file cannot serve as a replica (not SQLite, read-only, unreadable, disk full). Nothing was changed."""

    code = "database.unusable"


class DatabaseBusyError(DatabaseError):
    """Another connection holds the write lock. Nothing was changed; the same call may succeed later."""

    code = "database.busy"


class IndexTriggerError(DatabaseBusyError):
    """A trigger that keeps an index here failed for a row of others. Nothing was changed; it is off when the call is made again.

    `table` is the table's name on the mesh, "" where that is not known.
    """

    def __init__(self, text: str, table: str = "") -> None:
        super().__init__(text)
        self.table = table


class FileReplacedError(DatabaseError):
    """The content of the file is not what this connection left: a backup was put back under it. Open it again."""

    code = "database.replaced"


class ForeignFileError(DatabaseError):
    """The file carries the internal tables of another mesh or of a later version. Nothing was changed."""

    code = "database.foreign"


class PolicyError(SyncError):
    """What a person asked of a table or a conflict cannot be done. Nothing was changed."""

    code = "decision.refused"


class MigrationError(SyncError):
    """A migration has a statement that cannot be run, or changes what cannot be changed. Nothing was changed."""

    code = "migration.refused"


class DecodeError(SyncError):
    """A peer sent bytes that are not what the protocol allows. The peer's fault; nothing was changed."""

    code = "protocol.malformed"


class KeyMismatchError(DecodeError):
    """Rows that a table with another key has, and this one cannot. The peer may not have learnt of it; nothing was changed."""


class BatchRefusedError(SyncError):
    """A well-formed batch that may not be accepted (forged site, stamp from the future). Nothing was changed."""

    code = "batch.refused"
