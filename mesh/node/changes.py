"""Changes of a table as an embedding program gets them: one by one or in pages, each to be acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mycomesh.mesh.node.run_loop import as_node_errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence

    from mycomesh.mesh.node.database import Transaction
    from mycomesh.mesh.node.readers import Reader
    from mycomesh.sync.feed.change import Change as FeedChange
    from mycomesh.sync.feed.reader import Page

__all__ = ["Change", "ChangePage", "SyncChange", "SyncChangePage", "change_pages"]

_MOVE = "UPDATE mycomesh_cursors SET position = ? WHERE name = ? AND table_name = ? AND area = ''"


class ChangePage:
    """Changes that came together, in the order of their clocks at each site."""

    __slots__ = ("_done", "_page", "_reader")

    def __init__(self, reader: Reader, page: Page) -> None:
        self._reader = reader
        self._page = page
        self._done = 0

    @property
    def changes(self) -> Sequence[FeedChange]:
        """The changes: `table`, `op`, `row`, `key`, `values`, `columns`, `who`, `at_ms`, `id`."""
        return self._page.changes

    async def done(self, count: int | None = None, *, transaction: Transaction | None = None) -> None:
        """Acknowledge the first `count` changes, by default all: the cursor does not return to them.

        With `transaction`, the cursor moves when that commits, together with what else the transaction writes.

        Raises:
            NodeError: the cursor is gone, or the file takes no writes now.
        """
        count = len(self.changes) if count is None else count
        fresh, self._done = max(0, count - self._done), max(count, self._done)
        position, reader = self._page.after(count), self._reader
        if transaction is None:
            with as_node_errors():
                await reader.move(position, fresh)
        elif reader.cursor is not None:
            await transaction.execute(_MOVE, (position.encode(), reader.cursor, reader.canonical))
            reader.acknowledged(fresh)

    async def fail(self, number: int, why: str) -> None:
        """Set one change aside as a dead letter, and acknowledge it and all before it."""
        with as_node_errors():
            await self._reader.set_aside(self._page.changes[number], why, 1)
        self._done = max(number + 1, self._done)
        await self.done(number + 1)


class Change:
    """One committed change of a row, with the values that the row has by now: superseded ones are never seen."""

    __slots__ = ("_change", "_number", "_page")

    def __init__(self, page: ChangePage, number: int) -> None:
        self._page = page
        self._number = number
        self._change = page.changes[number]

    def __repr__(self) -> str:
        return repr(self._change)

    @property
    def id(self) -> str:
        """TABLE/SITE/HLC, equal on every node, by which receivers recognise repetitions."""
        return self._change.id

    @property
    def table(self) -> str:
        """The table's name in this file."""
        return self._change.table

    @property
    def op(self) -> str:
        """`insert`, `update` or `delete`."""
        return self._change.op

    @property
    def row(self) -> str:
        """The row's key as text, equal on every node."""
        return self._change.row

    @property
    def key(self) -> Mapping[str, Any]:
        """The key columns and their values; empty for a table without a primary key."""
        return self._change.key

    @property
    def values(self) -> dict[str, Any] | None:
        """All columns of the row; None after a delete."""
        return self._change.values

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that this change wrote and no later one has."""
        return self._change.columns

    @property
    def who(self) -> str:
        """The name of the node that wrote it, "" if this node does not know it."""
        return self._change.who

    @property
    def at_ms(self) -> int:
        """When it was written, in Unix milliseconds by the clock of that node."""
        return self._change.at_ms

    def to_json(self) -> str:
        """Return one line of JSON, as `mycomesh tail --json` prints it."""
        return self._change.to_json()

    async def done(self, *, transaction: Transaction | None = None) -> None:
        """Acknowledge this change and all before it; see `ChangePage.done`."""
        await self._page.done(self._number + 1, transaction=transaction)

    async def fail(self, why: str) -> None:
        """Set this change aside as a dead letter with a reason, and acknowledge it and all before it.

        Raises:
            NodeError: the reader has no cursor, or the file takes no writes now.
        """
        await self._page.fail(self._number, why)


class BlockingTransaction(Protocol):
    """The transaction of a `SyncNode`."""

    @property
    def inner(self) -> Transaction:
        """The transaction on the node's loop."""
        ...


class SyncChangePage:
    """A `ChangePage` of a `SyncNode`, whose `done` blocks."""

    def __init__(self, page: ChangePage, wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._page = page
        self._wait_for = wait_for

    @property
    def changes(self) -> Sequence[FeedChange]:
        """The changes, as `ChangePage.changes`."""
        return self._page.changes

    def done(self, count: int | None = None, *, transaction: BlockingTransaction | None = None) -> None:
        """Do the same as `ChangePage.done`."""
        inner = None if transaction is None else transaction.inner
        self._wait_for(self._page.done(count, transaction=inner))

    def fail(self, number: int, why: str) -> None:
        """Do the same as `ChangePage.fail`."""
        self._wait_for(self._page.fail(number, why))


class SyncChange(Change):
    """A `Change` of a `SyncNode`, whose `done` blocks."""

    __slots__ = ("_wait_for",)

    def __init__(self, page: ChangePage, number: int, wait_for: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__(page, number)
        self._wait_for = wait_for

    def done(self, *, transaction: BlockingTransaction | None = None) -> None:  # type: ignore[override]
        """Do the same as `Change.done`."""
        inner = None if transaction is None else transaction.inner
        self._wait_for(super().done(transaction=inner))

    def fail(self, why: str) -> None:  # type: ignore[override]
        """Do the same as `Change.fail`."""
        self._wait_for(super().fail(why))


async def change_pages(reader: Reader, rows_max: int) -> AsyncGenerator[ChangePage, None]:
    """Yield pages until the node ends, and close the reader then or with the generator."""
    try:
        while (page := await reader.page(rows_max=rows_max)) is not None:
            yield ChangePage(reader, page)
    finally:
        reader.close()
