"""One change of the feed: who changed which row when, and what the row is by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import ms_from_hlc, time_text
from mycomesh.sync.merge.records import values_text

__all__ = ["DELETE", "INSERT", "UPDATE", "Change"]

INSERT, UPDATE, DELETE = "insert", "update", "delete"


@dataclass(slots=True, eq=False, repr=False)
class Change:
    """One committed change of a row. The values are those of today: superseded ones are gone.

    table: the name of the table in this file.
    op: `insert`, `update` or `delete`.
    row: the row's key as text, equal on every node: the value, a JSON array of several, SITE@HLC without a key.
    named: the key columns, of a deleted row with their values; empty for a table without a primary key.
    values: all columns of the row; None after a delete.
    columns: names of the columns that this change wrote and no later one has; empty for a delete.
    site: 16-byte id of the site that wrote it.
    hlc: the stamp of the write at its site.
    who: the name of the node that wrote it, where the reader's node knows it.
    touched: 0, or a number of this file for a row that appeared or went without a new write, as when a constraint refused it.
    """

    table: str
    op: str
    row: str
    named: tuple[str, ...] | Mapping[str, Any]
    values: dict[str, Any] | None
    columns: tuple[str, ...]
    site: bytes
    hlc: int
    touched: int = 0
    who: str = ""

    def __repr__(self) -> str:
        return f"Change({self.id!r}, {self.op!r}, {self.row!r})"

    @property
    def key(self) -> Mapping[str, Any]:
        """The key columns and their values; empty for a table without a primary key."""
        if isinstance(self.named, Mapping):
            return self.named
        return {name: self.values[name] for name in self.named} if self.values else {}

    @property
    def id(self) -> str:
        """The id of the change, TABLE/SITE/HLC, equal on every node: what receivers recognise repetitions by."""
        stamp = f"{self.table}/{self.site.hex()}/{self.hlc}"
        return f"{stamp}/{self.op}-{self.touched}" if self.touched else stamp

    @property
    def at_ms(self) -> int:
        """When it was written, in Unix milliseconds by the clock of its site."""
        return ms_from_hlc(self.hlc)

    def to_json(self) -> str:
        """Return one line of JSON; a blob is `{"base64": TEXT}`. Without a name, `who` is the site in hexadecimal."""
        head = {
            "id": self.id,
            "table": self.table,
            "op": self.op,
            "row": self.row,
            "who": self.who or self.site.hex(),
            "at": time_text(self.at_ms),
        }
        parts = [values_text(head)[1:-1]]
        parts.append(f'"key": {values_text(dict(self.key))}')
        parts.append(f'"values": {"null" if self.values is None else values_text(self.values)}')
        names = ", ".join(values_text({name: 0}).rpartition(":")[0][1:] for name in self.columns)
        parts.append(f'"columns": [{names}]')
        return f"{{{', '.join(parts)}}}"
