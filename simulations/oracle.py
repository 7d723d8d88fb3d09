"""The oracle: the history of all committed writes, as users see it, which the checkers compare with the replicas.

Each value is a token that is unique in the run, so a value found anywhere identifies its write. A write that reads the old
value in the same transaction *saw* it, and must win over it on every node (design.md section 3: a user always overwrites what
he sees). The oracle contains no stamps or merge rules, so that it cannot repeat an error of the code under test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import apsw

__all__ = ["BORN_WITH", "KEPT", "TOKEN", "Deleted", "Oracle", "Written", "kept_tokens"]

TOKEN = re.compile(rb"<w(\d+)>")
# Where the file keeps a value that is not visible. The word of a member that rows were deleted takes none of so few rows.
KEPT = (
    ("mycomesh_conflicts", "lost", "reason NOT LIKE 'deleted elsewhere%'"),
    ("mycomesh_parked", "content", "1"),
    ("mycomesh_held", "content", "1"),
)

# The columns of a shared row that only its insert writes, and of the others one that every row has.
BORN_WITH = ("birth", "body", "timestamp")


@dataclass(slots=True)
class Written:
    """One value of one cell: where and when it was written, and the writes that saw it and replaced or deleted it."""

    table: str
    key: str
    column: str
    node: int
    at_us: int
    seen_by: list[int] = field(default_factory=list)


class Deleted(NamedTuple):
    """One delete: the node, virtual microseconds, and the row (table, key)."""

    node: int
    at_us: int
    row: tuple[str, str]


class Oracle:
    """All committed writes of all applications, by token number."""

    def __init__(self) -> None:
        self.written: dict[int, Written] = {}
        self.deletes: dict[int, Deleted] = {}
        self.made_up: dict[tuple[str, str], None] = {}  # rows (table, key) that a traitor wrote without its application
        self.excused: dict[int, None] = {}  # writes that may be lost without a violation
        self.rolled_back: dict[int, None] = {}  # writes of nodes that went back to a backup from before them
        self.revoked_us: dict[int, int] = {}  # node -> virtual microseconds of its revocation
        self.traitors: dict[int, None] = {}  # nodes that lie, so that none of their writes has to be anywhere
        self.purged: dict[int, None] = {}  # nodes whose writes are dropped
        self.doubling: dict[int, None] = {}  # nodes whose rows without a key may be there twice from now on
        self.duplicable: dict[int, None] = {}  # writes that were in a copied file without a stamp
        self.refused: dict[
            int, None
        ] = {}  # inserts into areas that their writer may not write: no other node takes them
        self.unequal: dict[
            tuple[int, str], None
        ] = {}  # (node, area) that it may not write and has written: it alone has that
        self.counts: dict[str, int] = {}  # by item: the sum of all committed increments
        self._last = 0

    def token(self) -> int:
        """Return a new token number."""
        self._last += 1
        return self._last

    def record_write(self, token: int, written: Written, over: str | None) -> None:
        """Record a committed value; `over` is the value that it replaced and its writer saw."""
        self.written[token] = written
        if written.node in self.revoked_us:
            self.excused[token] = None
        if written.node in self.doubling:
            self.duplicable[token] = None
        self._record_seen(token, over)

    def record_delete(self, token: int, node: int, at_us: int, values: tuple[object, ...]) -> None:
        """Record a committed delete of a row with these values."""
        known = [self.written[old] for value in values for old in tokens_in(value)]
        row = (known[0].table, known[0].key) if known else ("", "")
        self.deletes[token] = Deleted(node, at_us, row)
        if node in self.revoked_us:
            self.excused[token] = None
        for value in values:
            self._record_seen(token, value)

    def record_count(self, item: str, by: int) -> None:
        """Record a committed `n = n + by`."""
        self.counts[item] = self.counts.get(item, 0) + by

    def excuse(self, node: int, since_us: int) -> None:
        """Excuse the loss of a node's writes since `since_us`."""
        self.excused.update(dict.fromkeys(self._since(node, since_us)))

    def record_rollback(self, node: int, since_us: int) -> None:
        """Record that a node's file went back to its state at `since_us`: its writes from then on may be lost."""
        lost = dict.fromkeys(self._since(node, since_us))
        self.rolled_back.update(lost)
        self.excused.update(lost)

    def excuse_records(self, tokens: Iterable[int]) -> None:
        """Excuse values of which a file that is lost had the record of a conflict: it may have been the only one."""
        self.excused.update(dict.fromkeys(tokens))

    def record_revocation(self, node: int, since_us: int, at_us: int) -> None:
        """Record that a node was revoked at `at_us`. Its later writes are void; those since `since_us` may be refused."""
        self.excuse(node, since_us)
        self.revoked_us[node] = at_us

    def record_traitor(self, node: int, at_us: int) -> None:
        """Record that a node lies from `at_us` on."""
        self.traitors[node] = None
        self.record_revocation(node, 0, at_us)

    def record_copy(self, node: int, since_us: int, at_us: int) -> None:
        """Record that a file was copied at `at_us`. Writes after `since_us` may be in the copy without a stamp.

        A row without a key then gets a stamp in the file and another one in the copy, and becomes two rows, because the copy
        cannot distinguish that write from one of its own. A user who then deletes one of the rows has not seen the other.
        """
        for token, written in self.written.items():
            if written.node == node and since_us < written.at_us <= at_us:
                self.duplicable[token] = None

    def is_replaced(self, token: int) -> bool:
        """Return whether a write that cannot be lost saw this value and replaced or deleted it."""
        return any(by not in self.excused for by in self.written[token].seen_by)

    def is_uncovered(self, token: int, visible: Mapping[int, int]) -> bool:
        """Return whether a purge may have uncovered this value: of no write that had replaced it is anything left.

        Purged writes had overwritten each of them in turn, so the newest value that is left comes back (ADR 46). `visible` counts
        the values that users see.
        """
        return bool(self.purged) and not any(self._is_left(by, visible) for by in self.written[token].seen_by)

    def _is_left(self, token: int, visible: Mapping[int, int]) -> bool:
        """Return whether some node still knows of a write: it holds, or one that replaced it is left."""
        if token in self.excused:
            return False
        if token in self.deletes:
            row = self.deletes[token].row
            return row not in self.made_up and not any(
                self._may_end(old, token) for old, each in self.written.items() if (each.table, each.key) == row
            )
        written = self.written[token]
        if visible.get(token) or not written.seen_by:
            return bool(visible.get(token)) or (written.table, written.key) not in self.made_up
        return any(self._is_left(by, visible) for by in written.seen_by)

    def _may_end(self, old: int, token: int) -> bool:
        """Return whether a purged insert or delete of the row of a value may have taken the place of a delete.

        It has not if the delete came later and its user saw that. One that neither saw may have the greater stamp.
        """
        written, deleted = self.written[old], self.deletes[token]
        others = [(by, self.deletes[by]) for by in written.seen_by if by in self.deletes]
        if any(
            each.node in self.purged and (each.at_us >= deleted.at_us or token in written.seen_by) for _, each in others
        ):
            return True
        return (
            written.node in self.purged
            and written.column in BORN_WITH
            and token not in written.seen_by
            and not any(each.at_us < deleted.at_us for _, each in others)
        )

    def undone(self) -> frozenset[int]:
        """Return the values that a write replaced or deleted which may be lost."""
        seen = self.written.items()
        return frozenset(token for token, written in seen if any(by in self.excused for by in written.seen_by))

    def _since(self, node: int, since_us: int) -> list[int]:
        """Return the writes and deletes of a node at a time and after it, in microseconds."""
        writes = [
            token for token, written in self.written.items() if written.node == node and written.at_us >= since_us
        ]
        deletes = [token for token, made in self.deletes.items() if made.node == node and made.at_us >= since_us]
        return writes + deletes

    def _record_seen(self, token: int, value: object) -> None:
        for old in tokens_in(value):
            self.written[old].seen_by.append(token)


def text_of(token: int) -> str:
    """Return the value for a token."""
    return f"<w{token}>"


def tokens_in(value: object) -> list[int]:
    """Return the tokens in a value of any type, in order."""
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        return []
    return [int(found) for found in TOKEN.findall(value)]


def kept_tokens(db: apsw.Connection, tables: Iterable[tuple[str, str, str]] = KEPT) -> list[int]:
    """Return the tokens in conflicts, parked rows and held values, which no user table shows."""
    tokens: list[int] = []
    for table, column, condition in tables:
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone() is not None:
            for (value,) in db.execute(f"SELECT {column} FROM {table} WHERE {condition} ORDER BY 1"):
                tokens += tokens_in(value)
    return tokens
