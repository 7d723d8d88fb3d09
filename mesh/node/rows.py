"""Rows of the embedding API: tuples that also answer to the names of their columns, as `sqlite3.Row` does.

A row type is made once for each list of column names, so a row takes no more memory than a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, SupportsIndex, overload

__all__ = ["Row", "row_type"]

TYPES_MAX = 256  # lists of column names whose row type is kept: more queries than a program has


class Row(tuple[Any, ...]):
    """One row of an answer.

    It is a tuple, and equals the tuple of its values. `row["name"]` gives a column by its name, in any case if it is ASCII;
    of two columns of one name, the first. `row.keys()` lists the names and `dict(row)` has both.
    """

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()
    _places: ClassVar[dict[str, int]] = {}

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Any: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...

    def __getitem__(self, key: SupportsIndex | str | slice) -> Any:
        """Return a value by position or name, or a tuple of values by a slice.

        Raises:
            IndexError: the row has no such position or name.
        """
        if isinstance(key, str):
            try:
                return tuple.__getitem__(self, self._places[_folded(key)])
            except KeyError:
                raise IndexError(f"no column {key!r}; the row has {', '.join(self._names)}") from None
        return tuple.__getitem__(self, key)

    def keys(self) -> list[str]:
        """Return the names of the columns, in order."""
        return list(self._names)

    def __reduce__(self) -> tuple[Callable[..., Row], tuple[tuple[str, ...], tuple[Any, ...]]]:
        """Pickle and copy by names and values, because row types are made at run time."""
        return _row, (self._names, tuple(self))


@lru_cache(maxsize=TYPES_MAX)
def row_type(names: tuple[str, ...]) -> type[Row]:
    """Return the type of rows with these columns."""
    places = {_folded(name): place for place, name in reversed(list(enumerate(names)))}
    return type("Row", (Row,), {"__slots__": (), "_names": names, "_places": places})


def _row(names: Sequence[str], values: Sequence[Any]) -> Row:
    return row_type(tuple(names))(values)


def _folded(name: str) -> str:
    """Fold the case of an ASCII name, and leave any other as it is, as `sqlite3.Row` does."""
    return name.lower() if name.isascii() else name
