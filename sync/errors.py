"""The errors of `sync`: each class says whose fault it is, whether anything changed, and what to do."""

from __future__ import annotations

__all__ = [
    "BatchRefusedError",
    "DatabaseBusyError",
    "DatabaseError",
    "DecodeError",
    "ExtensionError",
    "FeedError",
    "FileReplacedError",
    "ForeignFileError",
    "IndexTriggerError",
    "KeyMismatchError",
    "MigrationError",
    "PolicyError",
    "StatementError",
    "SyncError",
]


class SyncError(Exception):
    """The base of all errors that `sync` raises on purpose. The text is one line: what, where, what to do."""

    code = "sync"  # a stable name, which `mycomesh explain` accepts


class DatabaseError(SyncError):
    """The file cannot serve as a replica (not SQLite, read-only, unreadable, disk full). Nothing was changed."""

    code = "database.unusable"


class DatabaseBusyError(DatabaseError):
    """Another connection has the write lock. Nothing was changed; the same call may succeed later."""

    code = "database.busy"


class ExtensionError(DatabaseError):
    """A loadable extension of the settings cannot be loaded. Nothing was changed."""

    code = "database.extension"


class IndexTriggerError(DatabaseBusyError):
    """A user's trigger that updates an index failed for a remote row. Nothing was changed.

    The trigger is disabled from here on, so the same call may succeed. `table` is the canonical name of its table, "" if the
    table is not known.
    """

    def __init__(self, text: str, table: str = "") -> None:
        super().__init__(text)
        self.table = table


class FileReplacedError(DatabaseError):
    """The content of the file is not what this connection left, as after a restored backup. Open the file again."""

    code = "database.replaced"


class ForeignFileError(DatabaseError):
    """The file has the internal tables of another mesh or of a later version. Nothing was changed."""

    code = "database.foreign"


class PolicyError(SyncError):
    """The operator's decision about a table or a conflict cannot be carried out. Nothing was changed."""

    code = "decision.refused"


class FeedError(SyncError):
    """A reader of the change feed names a table or a cursor that is not there, or may not use it. Nothing was changed."""

    code = "feed.refused"


class NoTableError(FeedError):
    """A reader of the change feed names a table that the file does not have, or not yet. Nothing was changed."""


class MigrationError(SyncError):
    """A migration has a statement that is not allowed, or changes a table in an unsupported way. Nothing was changed."""

    code = "migration.refused"


class DecodeError(SyncError):
    """A peer sent bytes that the protocol does not allow. This is the peer's fault. Nothing was changed."""

    code = "protocol.malformed"


class KeyMismatchError(DecodeError):
    """A peer sent rows with another kind of key than the table has here. It may not know this yet. Nothing was changed."""


class BatchRefusedError(SyncError):
    """A well-formed batch must be refused (forged site, stamp from the future). Nothing was changed."""

    code = "batch.refused"


class StatementError(BatchRefusedError):
    """SQLite failed on what a peer sent, in a way that no layer expects. Nothing was changed; the message is refused."""

    code = "statement.failed"
