"""Large bundles: their rows stay in the message, and are made when somebody reads them.

Decoded, a message of 24 MiB takes that much again, and more where its items are many. Nearly all of that are rows, of which a
transaction merges a few megabytes. So only the frame of a large bundle is decoded, and each row is found by its place.

Invariant: `read_bundle` returns what `codec.decode` does, and refuses whatever it refuses (tests/sync/wire/test_unread_rows.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from mycomesh.sync import codec
from mycomesh.sync.codec import Walk, require

__all__ = ["UnreadRows", "read_bundle"]

# Rows of a group that are made with the message: an object that says where they are takes as much.
_SMALL = 256
# Bytes of a row whose values are made one by one: the decoder would copy the row before it makes them.
_LARGE = 1 << 14
_BLOCK_BYTES = 1 << 18  # of rows that are made at once while all are looked at


class UnreadRows(Sequence[Any]):
    """The rows or the keys of a group, each made from the message whenever it is read, or once if they are `holding`."""

    __slots__ = ("_data", "_held", "_places")

    def __init__(self, data: bytes, places: array[int], held: dict[int, Any] | None = None) -> None:
        """Take the message, and where each row begins and ends: twice as many places as rows."""
        self._data = data
        self._places = places
        self._held = held  # rows by where they begin

    def __len__(self) -> int:
        return len(self._places) // 2

    @overload
    def __getitem__(self, at: int) -> Any: ...

    @overload
    def __getitem__(self, at: slice) -> UnreadRows: ...

    def __getitem__(self, at: int | slice) -> Any:
        if isinstance(at, slice):
            first, last, step = at.indices(len(self))
            assert step == 1
            return UnreadRows(self._data, self._places[2 * first : 2 * max(first, last)], self._held)
        start, end = self._places[2 * at], self._places[2 * at + 1]
        if self._held is None:
            return _made(self._data, start, end)
        row = self._held.get(start)
        if row is None:
            row = self._held[start] = _made(self._data, start, end)
        return row

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def only(self, flags: Sequence[bool]) -> UnreadRows:
        """Return the flagged rows."""
        kept = array("L")
        for number, flag in enumerate(flags):
            if flag:
                kept.extend(self._places[2 * number : 2 * number + 2])
        return UnreadRows(self._data, kept, self._held)

    def holding(self) -> UnreadRows:
        """Return these rows so that each stays in memory once it was read, also for rows that are cut out of them."""
        return self if self._held is not None else UnreadRows(self._data, self._places, {})

    def release(self) -> None:
        """Forget the rows that were read."""
        if self._held is not None:
            self._held.clear()

    def size(self, number: int) -> int:
        """Return the bytes of a row in the message."""
        return self._places[2 * number + 1] - self._places[2 * number]

    def blocks(self) -> Iterator[list[Any]]:
        """Yield all rows as the message has them, some at a time.

        Raises:
            DecodeError: a row is malformed or outside the subset.
        """
        for first, last in self._spans():
            yield self._block(first, last)

    def fill(self) -> None:
        """Make the small rows of those that are held: many at a time take a fraction of what each alone takes."""
        assert self._held is not None
        for first, last in self._spans():
            if last - first > 1:
                self._held.update(zip(self._places[2 * first : 2 * last : 2], self._block(first, last), strict=True))

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield (first, behind the last) of rows that stand together in the message, of a bounded size; a large row is alone."""
        places, first, count = self._places, 0, len(self)
        while first < count:
            last, most = first + 1, places[2 * first] + _BLOCK_BYTES
            while last < count and places[2 * last] == places[2 * last - 1] and places[2 * last + 1] <= most:
                last += 1
            yield first, last
            first = last

    def _block(self, first: int, last: int) -> list[Any]:
        start, end = self._places[2 * first], self._places[2 * last - 1]
        if last - first == 1:
            return [_made(self._data, start, end)]
        encoded = codec.array_head(last - first) + self._data[start:end]
        found: list[Any] = codec.decode(encoded, bytes_max=len(encoded))
        return found


def read_bundle(data: bytes, *, bytes_max: int, version: int, groups_max: int, rows_max: int) -> Any:
    """Return the array that an encoded bundle is, with `UnreadRows` in place of the rows of large groups if it is large.

    Of another version, or with more groups in a section or rows in a group than the limits, it may be cut short: what is
    returned then is not a bundle.

    Raises:
        DecodeError: as `codec.decode`.
    """
    if len(data) > bytes_max or codec.is_small(data):
        return codec.decode(data, bytes_max=bytes_max)
    walk = Walk(data)
    require(walk.array() == 3, "a bundle is not an array of 3")
    found = [_item(walk, data)]
    if found[0] != version:
        return [found[0], None, None]
    found.append(_item(walk, data))
    found.append(_each(walk, data, len(data), lambda: _section(walk, data, groups_max, rows_max)))
    require(walk.at == len(data), "trailing bytes after the CBOR item")
    return found


def _section(walk: Walk, data: bytes, groups_max: int, rows_max: int) -> list[Any]:
    require(walk.array() == 3, "a section is not an array of 3")
    head = [_item(walk, data), _item(walk, data)]
    return [*head, _each(walk, data, groups_max, lambda: _group(walk, data, rows_max))]


def _group(walk: Walk, data: bytes, rows_max: int) -> list[Any]:
    require(walk.array() == 7, "a group is not an array of 7")
    head = [_item(walk, data) for _ in range(4)]
    keys = _rows(walk, data, rows_max) if walk.at < len(data) and data[walk.at] >> 5 == 4 else _item(walk, data)
    return [*head, keys, _rows(walk, data, rows_max), _item(walk, data)]


def _rows(walk: Walk, data: bytes, rows_max: int) -> Any:
    first = walk.at
    places = array("L")

    def take() -> None:
        places.extend((walk.skip(), walk.at))

    _each(walk, data, rows_max, take)
    if walk.at - first <= _SMALL:
        return codec.decode(data[first : walk.at], bytes_max=_SMALL)
    return UnreadRows(data, places)


def _each(walk: Walk, data: bytes, most: int, read: Callable[[], Any]) -> list[Any]:
    """Read the items of an array, at most so many."""
    count = walk.array()
    require(count is not None and count <= most, "malformed list of a bundle")
    found = []
    for _ in range(count or 0):
        require(walk.at < len(data), "malformed CBOR: the message is cut off")
        found.append(read())
    require(walk.at <= len(data), "malformed CBOR: the message is cut off")
    return found


def _item(walk: Walk, data: bytes) -> Any:
    start = walk.skip()
    return codec.decode(data[start : walk.at], bytes_max=len(data))


def _made(data: bytes, start: int, end: int) -> Any:
    """Return the row or key at a place of the message."""
    walk = Walk(data, start)
    if end - start <= _LARGE:
        return codec.decode(data[start:end], bytes_max=_LARGE)
    count = walk.array()
    return _cell(walk, data) if count is None else [_cell(walk, data) for _ in range(count)]


def _cell(walk: Walk, data: bytes) -> Any:
    start = walk.skip()
    string = codec.string_at(data, start, walk.at)
    if string is None and data[start] == 0x81:  # text that is not UTF-8
        string = codec.string_at(data, start + 1, walk.at)
        if isinstance(string, bytes):
            return [string]
        string = None
    return codec.decode(data[start : walk.at], bytes_max=len(data)) if string is None else string
