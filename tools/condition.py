"""A condition in SQL over the columns of a change, as `tail --where` and the `where` of a bridge have it."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Condition"]


class Condition:
    """A condition over the columns of a change; a delete, of which only the key is known, always holds."""

    def __init__(self, text: str, label: str) -> None:
        """Take the condition, and what messages call it."""
        self._text = text
        self._label = label
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        if re.search(r";\s*\S", text):
            raise NodeError(f"{label} takes one condition, not statements: {text!r}")

    def holds(self, change: Mapping[str, Any]) -> bool:
        """Return True if the row of a change meets the condition."""
        values = change["values"]
        if values is None:
            return True
        names = ", ".join(f'? AS "{name.replace(chr(34), chr(34) * 2)}"' for name in values)
        try:
            found = self._db.execute(
                f"SELECT 1 FROM (SELECT {names}) WHERE ({self._text})", [_bound(value) for value in values.values()]
            ).fetchone()
        except sqlite3.Error as error:
            raise NodeError(f"{self._label} {self._text!r}: {error}; columns are {', '.join(values)}") from error
        return found is not None


def _bound(plain: Any) -> Any:
    """Return the value of SQL that a value of JSON represents; text that is not UTF-8 as its bytes."""
    from mycomesh.sync.merge.records import value_of  # noqa: PLC0415 - it loads SQLite, which few conditions need

    value = value_of(plain) if isinstance(plain, dict) else plain
    return value[0] if isinstance(value, list) else value
