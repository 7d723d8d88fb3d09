"""Remove every trigger, index and internal table of mycomesh from a file, in one transaction.

Names are matched exactly, so that nothing of the user's is dropped, even if its name begins with "mycomesh_". After a crash
the file is either unchanged or free of mycomesh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mycomesh.sync.errors import ForeignFileError
from mycomesh.sync.sqlite.identifiers import is_capture_index, is_capture_trigger, is_internal, quoted
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.storage.store import Store, is_replica

__all__ = ["Removed", "drop_all", "uninstall"]

# Triggers and indexes come before tables, because dropping a table drops its indexes too.
_INTERNAL: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("trigger", is_capture_trigger),
    ("index", is_capture_index),
    ("table", is_internal),
)


@dataclass(frozen=True, slots=True)
class Removed:
    """Numbers of removed triggers and tables, and of conflicts and parked rows, which only internal tables held."""

    triggers: int
    tables: int
    conflicts: int
    parked: int


def uninstall(path: Path) -> Removed:
    """Remove everything of mycomesh from a file that no node serves; writes without a stamp stay in the user's tables.

    Raises:
        DatabaseError: it cannot be read or written; nothing was changed.
        ForeignFileError: there is no such file, or nothing of mycomesh is in it; nothing was changed.
    """
    if not path.is_file():
        raise ForeignFileError(f"{path}: there is no such file; check the path")
    store = Store(str(path))
    try:
        with store.bare_transaction() as db:
            if not is_replica(db) and not internal_tables.left_capture(db):
                raise ForeignFileError(f"{path}: nothing of mycomesh is in it; check the path")
            return drop_all(db)
    finally:
        store.close()


def drop_all(db: Any) -> Removed:
    """Drop everything of mycomesh; inside a transaction that writes nothing else."""
    conflicts, parked = (_rows(db, name) for name in ("mycomesh_conflicts", "mycomesh_parked"))
    counts = {}
    for kind, is_internal_name in _INTERNAL:
        names = _names(db, kind, is_internal_name)
        for name in names:
            db.execute(f"DROP {kind.upper()} {quoted(name)}")
        counts[kind] = len(names)
    return Removed(counts["trigger"], counts["table"], conflicts, parked)


def _names(db: Any, kind: str, is_internal_name: Callable[[str], object]) -> list[str]:
    listing = "SELECT name FROM sqlite_schema WHERE type = ? AND name GLOB 'mycomesh_[a-z0-9_]*' ORDER BY name"
    return [name for (name,) in db.execute(listing, (kind,)).fetchall() if is_internal_name(name)]


def _rows(db: Any, table: str) -> int:
    found = db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if found is not None else 0
