"""Accounts by origin: how much of each other node's writes this file has taken in, in `mycomesh_accounts`.

The figures are counted as changes are merged and written in the same transaction, so no figure is ever found by a scan. They only
grow. The changes that a round brings count for the node that wrote them, not for the one that sent them.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX, time_text

__all__ = ["OTHERS", "Account", "Accounts"]

# A member can bring rows in the name of nodes that it has made up: all beyond the limit share one account.
ACCOUNTS_MAX = 1_024
OTHERS = ""


@dataclass(slots=True)
class Account:
    """Figures of one origin.

    rows: changes that were news here, each of one row.
    bytes: of these changes as they came, a change counted as the average of its message unless the message is large.
    conflicts: records of conflicts that these changes have made.
    parked: rows that SQLite refused when these changes came, retried ones not counted again.
    """

    rows: int = 0
    bytes: int = 0
    conflicts: int = 0
    parked: int = 0

    def add(self, other: Account) -> None:
        """Add the figures of another account."""
        self.rows += other.rows
        self.bytes += other.bytes
        self.conflicts += other.conflicts
        self.parked += other.parked


class Accounts:
    """The accounts of one file; follows each transaction."""

    def __init__(self, db: Any) -> None:
        self._db = db
        self._staged: dict[str, Account] = {}
        self._known: set[str] | None = None  # origins with a row of their own; None until read

    def add(self, site: bytes, account: Account) -> None:
        """Count changes of a site; `write` writes them."""
        if account != Account():
            self._staged.setdefault(site[:SITE_PREFIX].hex(), Account()).add(account)

    def write(self, wall_ms: int) -> None:
        """Write what was counted, inside the transaction that took it in."""
        if not self._staged:
            return
        if self._known is None:
            self._known = {node for (node,) in self._db.execute("SELECT node FROM mycomesh_accounts ORDER BY node")}
        for node, account in self._staged.items():
            if node not in self._known and len(self._known) < ACCOUNTS_MAX:
                self._known.add(node)
            self._db.execute(
                "INSERT INTO mycomesh_accounts VALUES(?, ?, ?, ?, ?, ?) ON CONFLICT(node) DO UPDATE SET"
                " rows = rows + excluded.rows, bytes = bytes + excluded.bytes, conflicts = conflicts + excluded.conflicts,"
                " parked = parked + excluded.parked",
                (node if node in self._known else OTHERS, *astuple(account), time_text(wall_ms)),
            )
        self._staged = {}

    def read(self) -> list[tuple[str, Account, str]]:
        """Return (hexadecimal first half of the node's id, account, since when) of each origin, by id."""
        listing = "SELECT node, rows, bytes, conflicts, parked, since FROM mycomesh_accounts ORDER BY node"
        return [(node, Account(*figures), since) for node, *figures, since in self._db.execute(listing)]

    def committed(self) -> None:
        """Keep what was written."""
        self._staged = {}

    def rolled_back(self) -> None:
        """Forget what was counted."""
        self._staged = {}
        self._known = None
