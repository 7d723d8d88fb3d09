"""Rows on their way out: pages of the change feed become messages, and the cursor moves once the outside system has them.

One task per table. The next page is read while the last one is published; messages of a table are published in the order of
the feed, so that those of one row stay in order. A change that makes no message, or that the system refuses for ever, becomes a
dead letter. The flow stops when 20 of its last 50 changes have failed: else it would set all aside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.judge import FlowStoppedError, Judge
from mycomesh.tools.bridges.bodies import writer_of
from mycomesh.tools.bridges.scheme import Message, SchemeError
from mycomesh.tools.bridges.template import TopicError
from mycomesh.tools.feed_session import FeedSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.bridges.figures import Figures
    from mycomesh.tools.bridges.scheme import Scheme
    from mycomesh.tools.bridges.settings import BridgeSettings
    from mycomesh.tools.condition import Condition
    from mycomesh.tools.turn import Turn

__all__ = ["Outbound", "cursor_of"]

HEADER_BYTES = 64  # a rough sum for the names of the headers and what a protocol adds to each


def cursor_of(bridge: str) -> str:
    """Return the name of a bridge's cursor in the change feed."""
    return f"bridge.{bridge}"


@dataclass(frozen=True, slots=True)
class Done:
    """How many changes are done with, and (number, why) of those among them that are dead letters."""

    count: int = 0
    failed: Sequence[tuple[int, str]] = ()


@dataclass(slots=True)
class _Batch:
    """The messages of one page, and for each change of it the reason why it has none, "" for a message or a change to skip."""

    messages: list[Message] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # of the messages in the page
    failed: dict[int, str] = field(default_factory=dict)
    size: int = 0


class Outbound:
    """The way out of one table."""

    def __init__(
        self,
        home: Home,
        settings: BridgeSettings,
        table: str,
        figures: Figures,
        is_echo: Callable[[Mapping[str, Any]], bool],
    ) -> None:
        """Take the settings; `is_echo` says whether a change came in by this bridge and has the same values still."""
        self._home = home
        self._settings = settings
        self._table = table
        self._template = settings.out[table]
        self._figures = figures
        self._is_echo = is_echo
        self._write = writer_of(settings.format)
        self._where = _condition(settings.where) if settings.where else None
        self._judge = Judge()

    async def run(self, scheme: Scheme, turn: Turn) -> None:
        """Publish whenever it is this node's turn, until the connection is lost.

        Raises:
            LinkError, SchemeError: of the scheme.
            NodeError: of the feed.
            FlowStoppedError: too many changes failed.
        """
        if scheme.limits.retained:
            await turn.wait()
            await self._publish_all(scheme)
        while True:
            await turn.wait()
            await self._publish_during(scheme, turn)

    async def _publish_during(self, scheme: Scheme, turn: Turn) -> None:
        """Publish until the turn ends; a new session then begins where the cursor has come to by other nodes' work."""
        settings = self._settings
        cursor, from_now = cursor_of(settings.name), settings.begin == "now"
        session = FeedSession(self._home, self._table, cursor, from_now=from_now, rows_max=settings.in_flight_max)
        done = Done()
        try:
            page: Sequence[Mapping[str, Any]] = await session.page()
            while turn.active:
                if not page:
                    sent, done = done, Done()
                    page = await session.page(done=sent.count, failed=sent.failed)
                    continue
                # This request acknowledges the page before, and reads ahead while this page is published.
                sent, done = done, Done()
                ahead = asyncio.ensure_future(session.page(done=sent.count, failed=sent.failed, wait_ms=0))
                try:
                    done = await self._publish(scheme, page)
                finally:
                    await asyncio.wait([ahead])
                page = ahead.result()
                if self._judge.stops:
                    sent, done = done, Done()
                    await session.page(done=sent.count, failed=sent.failed, wait_ms=0)
                    raise FlowStoppedError(f"{self._judge.text} changes of {self._table} failed")
        finally:
            await session.close(done=done.count, failed=done.failed)

    async def _publish_all(self, scheme: Scheme) -> None:
        """Publish every row that is there: what a system retains may have been lost, whatever it acknowledged."""
        session = FeedSession(self._home, self._table, None, from_now=False, rows_max=self._settings.in_flight_max)
        done = 0
        try:
            while page := await session.page(done=done, wait_ms=0):
                batch = self._batch(page, scheme)
                await scheme.publish(batch.messages)
                self._figures.add("republished", len(batch.messages))
                done = len(page)
        finally:
            await session.close()

    async def _publish(self, scheme: Scheme, page: Sequence[Mapping[str, Any]]) -> Done:
        """Publish a page; return what is to be acknowledged: fewer changes than all only where too many failed."""
        batch = self._batch(page, scheme)
        taken = await scheme.publish(batch.messages) if batch.messages else ()
        for place, answer in zip(batch.places, taken, strict=True):
            if answer == "duplicate":
                self._figures.add("duplicates")
            elif answer:
                batch.failed[place] = answer
            else:
                self._figures.add("sent")
        done = 0
        for number in range(len(page)):
            self._judge.add(failed=number in batch.failed)
            done += 1
            if self._judge.stops:
                break
        failed = sorted((number, why) for number, why in batch.failed.items() if number < done)
        self._figures.add("refused", len(failed))
        self._figures.add("bytes", batch.size)
        return Done(done, failed)

    def _batch(self, page: Sequence[Mapping[str, Any]], scheme: Scheme) -> _Batch:
        batch = _Batch()
        payload_max, by_key = scheme.limits.payload_max, scheme.deletes_by_key
        deletes, where, template, write = self._settings.deletes, self._where, self._template, self._write
        for number, change in enumerate(page):  # runs for each change
            values = change["values"]
            if (values is None and not deletes) or (where is not None and not where.holds(change)):
                continue
            if self._is_echo(change):
                self._figures.add("echoes")
                continue
            key = change["key"]
            try:
                topic = "" if values is None and by_key else template.topic(key if values is None else values)
            except TopicError as error:
                self._check_columns(change)
                batch.failed[number] = str(error)
                continue
            body = write(change)
            change_id = change["id"]
            size = len(body or b"") + len(topic) + len(change["row"]) + 2 * len(change_id) + HEADER_BYTES
            if size > payload_max:
                batch.failed[number] = f"the message has {size:,} bytes, more than the {payload_max:,} that are taken"
                continue
            headers = {
                "mesh-id": change_id,
                "mesh-op": change["op"],
                "mesh-hlc": hlc_of(change_id),
                "mesh-node": change["who"],
            }
            batch.size += size
            batch.places.append(number)
            batch.messages.append(
                Message(topic, body, change_id, change["row"], headers, change["table"], change["op"], values or key)
            )
        return batch

    def _check_columns(self, change: Mapping[str, Any]) -> None:
        """Raise `SchemeError` if the table has lost a column of the topic since the bridge began: no row is set aside for it."""
        values = change["values"]
        gone = next((name for name in self._template.columns if values is not None and name not in values), None)
        if gone is not None:
            raise SchemeError(
                f"out: {self._template.text!r} names the column {gone!r}, which {self._table} does not have any more;"
                f" correct the section, then run: mycomesh bridge resume {self._settings.name}"
            )


def _condition(where: str) -> Condition:
    from mycomesh.tools.condition import Condition  # noqa: PLC0415 -- it loads a second SQLite, which few bridges need

    return Condition(where, "where")


def hlc_of(change_id: str) -> str:
    """Return the stamp in the id of a change, TABLE/SITE/HLC or TABLE/SITE/HLC/OP-NUMBER."""
    last = change_id.rpartition("/")[2]
    return last if last.isdigit() else change_id.split("/")[-2]


def check_columns(settings: BridgeSettings, table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Return what is wrong with the topic of a table, "" if nothing is."""
    template = settings.out[table]
    unknown = next((name for name in template.columns if name not in columns), None)
    if unknown is not None:
        return (
            f"out: {template.text!r} names the column {unknown!r}, which {table} does not have;"
            f" its columns are {', '.join(columns)}"
        )
    loose = next((name for name in template.columns if name not in key), None)
    if settings.deletes and loose is not None and not settings.scheme.deletes_by_key:
        return (
            f"out: a delete of {table} has only the key ({', '.join(key) or 'none'}), so that {template.text!r} cannot be"
            f" made without {loose!r}; use columns of the key, or set deletes = false"
        )
    if settings.where:
        try:
            _condition(settings.where).holds({"values": dict.fromkeys(columns)})
        except NodeError as error:
            return str(error)
    return ""
