"""The picture that a TAK bridge serves: the last event of each uid, for clients that come later, and its memory of uids.

It is bounded: beyond `ITEMS_MAX` the item that changed least recently is forgotten, and one client may bring `SHARE_MAX` items.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ITEMS_MAX", "Item", "Picture"]

ITEMS_MAX = 10_000


@dataclass(slots=True)
class Item:
    """One uid: its event as bytes, until when it holds, when it was said, and the row that it came in as, if it came in."""

    data: bytes
    stale: int
    time: int
    topic: str = ""
    row: Mapping[str, Any] | None = None


class Picture:
    """Items by uid, and the uid of each row that was served."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._uids: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._ended: OrderedDict[str, tuple[bytes, int]] = OrderedDict()  # uid -> its delete, and until when it holds

    def __len__(self) -> int:
        return len(self._items)

    def get(self, uid: str) -> Item | None:
        """Return the item of a uid."""
        return self._items.get(uid)

    def put(self, uid: str, item: Item) -> None:
        """Set the item of a uid."""
        self._items.pop(uid, None)
        self._ended.pop(uid, None)
        self._items[uid] = item
        if len(self._items) > ITEMS_MAX:
            self._items.popitem(last=False)

    def remove(self, uid: str) -> Item | None:
        """Forget a uid; return its item."""
        return self._items.pop(uid, None)

    def end(self, uid: str, data: bytes, until: int, now: int) -> None:
        """Keep the delete of a uid for a server whose connection is lost, and those that hold still."""
        self._ended.pop(uid, None)
        self._ended[uid] = data, until
        self._prune_ended(now)
        if len(self._ended) > ITEMS_MAX:
            self._ended.popitem(last=False)

    def ended(self, now: int) -> Iterator[tuple[str, bytes]]:
        """Yield uid and delete of what has ended and holds still; forget the others."""
        self._prune_ended(now)
        for uid, (data, _) in self._ended.items():
            yield uid, data

    def _prune_ended(self, now: int) -> None:
        while self._ended and next(iter(self._ended.values()))[1] <= now:  # the earliest is first
            self._ended.popitem(last=False)

    def name_row(self, table: str, key: str, uid: str) -> None:
        """Remember the uid of a row, which a delete of the row does not say."""
        self._uids.pop((table, key), None)
        self._uids[table, key] = uid
        if len(self._uids) > ITEMS_MAX:
            self._uids.popitem(last=False)

    def forget_row(self, table: str, key: str) -> str | None:
        """Forget a row; return its uid."""
        return self._uids.pop((table, key), None)

    def current(self, now: int) -> Iterator[tuple[str, bytes]]:
        """Yield uid and event of the items that are not stale; forget those that are."""
        self.prune(now)
        for uid, item in self._items.items():
            yield uid, item.data

    def prune(self, now: int) -> None:
        """Forget items that are stale."""
        for uid in [uid for uid, item in self._items.items() if item.stale <= now]:
            del self._items[uid]
