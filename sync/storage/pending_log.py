"""The pending log of one table: the rows that triggers append, and the SQL that appends one without a trigger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, TableSpec
from mycomesh.sync.storage.store import Store

__all__ = [
    "AT_EARLY",
    "AT_UNKNOWN",
    "LOOK_AGAIN",
    "OP_DELETE",
    "OP_EVICT",
    "OP_INSERT",
    "WORD_BITS",
    "PendingLog",
    "key_names",
    "look_statement",
    "mask_words",
    "pending_name",
    "word_names",
]

# The log's `what`: an update's mask of changed columns (never negative), or one of these. One column fewer in each log
# row is measurable: an UPDATE of one column costs 0.2 us a row in plain SQLite, the whole trigger about 0.6.
LOOK_AGAIN = 0  # an update that names no column: compare the row with the digests of its entries
OP_INSERT = -1
OP_DELETE = -2
OP_EVICT = -3  # a REPLACE may have removed this row without any delete trigger: look
# The log's `at`, where it is neither a time nor NULL, which is the time of the drain.
AT_EARLY = 0  # the row is from before the mesh
AT_UNKNOWN = -1  # written into a new table before the table had triggers: as early as this site can stamp it
# Bits of one mask word: the largest whole number that keeps every word a positive 63-bit integer.
WORD_BITS = 62


class PendingLog:
    """The pending log of one table, as this connection writes it."""

    def __init__(self, store: Store, table_id: int) -> None:
        self._store = store
        self._name = pending_name(table_id)
        self.unread = False  # whether rows that this connection appended wait for a drain
        self.special = (
            False  # whether most edits of the last chunk needed a look each, so that the next chunk is a small one
        )

    def look_again(self, row: Row) -> None:
        """Append an update of a row that names no column: the next drain compares the row with its entries."""
        self._store.db.execute(f"INSERT INTO {self._name}(what, at, r) VALUES({LOOK_AGAIN}, NULL, ?)", (row,))
        self.unread = True


def pending_name(table_id: int) -> str:
    """Return the name of the table's pending log."""
    return f"mycomesh_pending_{table_id}"


def mask_words(bits: Mapping[str, int], names: Iterable[str]) -> dict[int, int]:
    """Return the words of a mask of columns, by number, without those that are 0."""
    words: dict[int, int] = {}
    for name in names:
        word, bit = divmod(bits[name], WORD_BITS)
        words[word] = words.get(word, 0) | 1 << bit
    return words


def word_names(bits: Mapping[str, int]) -> list[str]:
    """Return the pending log's mask columns for these column bits, 62 bits each."""
    return ["what", *(f"mask{word}" for word in range(1, max(bits.values(), default=0) // WORD_BITS + 1))]


def key_names(spec: TableSpec) -> list[str]:
    """Return the pending log's key columns: `r` (rowid) and/or `k0`.. (primary key)."""
    names = [f"k{number}" for number in range(len(spec.key))] if spec.kind is KeyKind.KEYED else []
    if spec.kind is not KeyKind.KEYED or spec.nullable_key:
        names.append("r")
    return names


def look_statement(
    spec: TableSpec,
    table_id: int,
    what: int,
    condition: str = "1",
    words: Mapping[int, int] | None = None,
    *,
    at: str = "NULL",
) -> str:
    """Return the SQL that logs rows `t` of the table as an operation of no trigger.

    Its time is `at`: NULL for that of the drain, `AT_EARLY` or `AT_UNKNOWN`. `words` are mask words beyond the first, by
    number.
    """
    more = sorted((words or {}).items())
    names = ", ".join(["what", "at", *(f"mask{number}" for number, _ in more), *key_names(spec)])
    values = ", ".join([str(what), at, *(str(mask) for _, mask in more), *_key_values(spec, "t")])
    return f"INSERT INTO {pending_name(table_id)}({names}) SELECT {values} FROM {quoted(spec.name)} t WHERE {condition}"


def _key_values(spec: TableSpec, row: str) -> list[str]:
    values = [f"{row}.{quoted(column.name)}" for column in spec.key] if spec.kind is KeyKind.KEYED else []
    if spec.kind is not KeyKind.KEYED or spec.nullable_key:
        values.append(f"{row}.{quoted(spec.rowid)}")
    return values
