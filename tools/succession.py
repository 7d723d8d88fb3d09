"""Succession: which of the nodes with a bridge or a flow has its turn, and how the others follow it, without a consensus.

Each node with the section has rows in a table, such as `bridge_positions`, which replicates like any other: that it runs, the
vector of its cursor for each table, and the offsets of what comes in. Among the nodes that this one reaches and on which it
runs, the one with the greatest hash of (name, node) has its turn. The others merge its vector into their own cursors, so that
a successor repeats seconds and no history. In a split each side has one; where results have equal ids, nothing is there twice.

A node that is alone in its mesh makes no such table.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.errors import NodeError, RefusedError
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.feed_session import FeedSession
from mycomesh.tools.node_link import NodeLink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.turn import Turn

__all__ = ["BRIDGES", "FLOWS", "Seat", "Succession", "forget_positions", "rank"]

STEP_S = 0.5  # between two looks: positions of a holder follow its cursor so closely
NEWS_MS = 5_000  # of one request for news
GRACE_S = 1.5  # a node that has just started, or become reachable, waits so long before its turn: it may lack rows
CHECK_S = 5  # before, and between, looks for the table of positions among those that the node replicates
BUSY_MS = 5_000
RUNS, OFFSETS = "", "in"  # the rows of a node beside those of its tables, which begin with OUT
OUT = "out:"


@dataclass(frozen=True, slots=True)
class Positions:
    """A table of positions, and its column of names; both are contracts between nodes."""

    table: str
    column: str

    @property
    def create(self) -> str:
        """SQL that makes the table."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.table}({self.column} TEXT NOT NULL, node TEXT NOT NULL, part TEXT NOT NULL,"
            f" position BLOB, PRIMARY KEY({self.column}, node, part))"
        )

    @property
    def put(self) -> str:
        """SQL that writes a row (name, node, part, position) where it is another one."""
        return (
            f"INSERT INTO {self.table} VALUES(?, ?, ?, ?) ON CONFLICT({self.column}, node, part) DO UPDATE"
            f" SET position = excluded.position WHERE {self.table}.position IS NOT excluded.position"
        )

    @property
    def stop(self) -> str:
        """SQL that removes the row of (name, node) which says that it runs."""
        return f"DELETE FROM {self.table} WHERE {self.column} = ? AND node = ? AND part = '{RUNS}'"


BRIDGES = Positions("bridge_positions", "bridge")
FLOWS = Positions("flow_positions", "flow")


@dataclass(frozen=True, slots=True)
class Seat:
    """Of what a node may have the turn.

    positions: the table by which nodes follow each other.
    name: of the bridge or the flow.
    cursor: its name in the change feed.
    tables: those that it reads.
    from_now: whether a cursor begins with what is written from then on.
    offsets: returns the offsets of what has come in, by source.
    follow: takes those of another node.
    """

    positions: Positions
    name: str
    cursor: str
    tables: Collection[str]
    from_now: bool
    offsets: Callable[[], Mapping[str, int]] = dict
    follow: Callable[[Mapping[str, int]], None] = lambda _: None


def rank(name: str, node_id: str) -> bytes:
    """Return the rank of a node for one name; the greatest has its turn (rendezvous hashing, Thaler and Ravishankar 1998)."""
    return hashlib.blake2b(f"{name}\0{node_id}".encode(), digest_size=16).digest()


def forget_positions(file: str, positions: Positions, name: str) -> None:
    """Remove the positions of all nodes, so that none of them is merged again after a rewind."""
    with (
        contextlib.closing(apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)) as db,
        contextlib.suppress(apsw.SQLError),
    ):
        db.set_busy_timeout(BUSY_MS)
        db.execute(f"DELETE FROM {positions.table} WHERE {positions.column} = ? AND part LIKE '{OUT}%'", (name,))


class Succession:
    """The part of one node in the turns of one bridge or flow."""

    def __init__(self, home: Home, seat: Seat, turn: Turn, warn: Callable[[str], None]) -> None:
        """Take the turn to set; `warn` gets why nodes cannot follow each other, and "" once they can."""
        self._home = home
        self._seat = seat
        self._turn = turn
        self._warn = warn
        self._check_s: float | None = None  # when to look whether the table of positions is replicated
        self._shared = False
        self._link = NodeLink(home)
        self._db: apsw.Connection | None = None
        self._own = ""
        self._first_s: float | None = None  # since when this node ranks first
        self._followed: dict[tuple[str, str], bytes] = {}  # (node, part) -> the position that was merged
        self._opened: set[str] = set()  # tables whose cursor exists
        self._left = False

    async def run(self, on_members: Callable[[list[str]], None] = lambda _: None) -> None:
        """Decide whose turn it is whenever the file or the reach of the node has changed; tell the ids of the members."""
        seen = 0
        while True:
            with contextlib.suppress(NodeError, apsw.BusyError):
                wait_ms = self._wait_ms(asyncio.get_running_loop().time())
                reach = await self._link.ask("status", brief=True, seen=seen, wait_ms=wait_ms)
                if reach["phase"] == "serving" and (reach["news"] != seen or wait_ms < NEWS_MS):
                    on_members([reach["node_id"], *(peer["node_id"] for peer in reach["peers"])])
                    await self._step(reach)
                    seen = reach["news"]  # a step that failed is done again
            await asyncio.sleep(STEP_S)

    def _wait_ms(self, now_s: float) -> int:
        """Return how long to wait for news: less, where a step depends on time."""
        ends = [now_s + NEWS_MS / 1000]
        if self._check_s is not None and not self._shared:
            ends.append(self._check_s)
        if self._first_s is not None and not self._turn.active and not self._left:
            ends.append(self._first_s + GRACE_S - STEP_S)
        return max(0, round(1000 * (min(ends) - now_s)))

    async def _step(self, reach: dict[str, Any]) -> None:
        self._own = reach["node_id"]
        if not reach["peers"]:
            self._turn.set(active=True, holder=reach["node"])
            return
        rows = await asyncio.to_thread(self._exchange, reach["file"])
        if not self._shared:
            await self._check_shared(asyncio.get_running_loop().time())
        names = {peer["node_id"]: peer["name"] for peer in reach["peers"] if peer["state"] != "down"}
        names[self._own] = reach["node"]
        running = [node for node, part, _ in rows if part == RUNS and node in names]
        if self._left:
            self._turn.set(active=False, holder="")
            return
        holder = max(running, key=lambda node: rank(self._seat.name, node), default=self._own)
        now_s = asyncio.get_running_loop().time()
        if holder != self._own:
            self._first_s = None
            self._turn.set(active=False, holder=names[holder])
        news = [
            (node, part, data) for node, part, data in rows if node != self._own and self._is_news(node, part, data)
        ]
        if news:
            self._turn.set(active=False, holder=self._turn.holder)  # its reader begins again behind what it has merged
            await self._follow(news)
        if holder == self._own:
            self._first_s = now_s if self._first_s is None else self._first_s
            if now_s - self._first_s >= GRACE_S:
                self._turn.set(active=True, holder=reach["node"])

    async def _check_shared(self, now_s: float) -> None:
        """Warn if the table of positions stays on this node."""
        if self._check_s is None:
            self._check_s = now_s + CHECK_S
        if now_s < self._check_s:
            return
        self._check_s = now_s + CHECK_S
        table = self._seat.positions.table
        status = await self._link.ask("status")
        self._shared = any(fold(each["name"]) == table for each in status["tables"])
        self._warn(
            ""
            if self._shared
            else f"{table} is not replicated here, so that this node does not see whose turn it is, and does all the work"
            f" again: let 'only' and 'except' of the node include {table}"
        )

    def _exchange(self, file: str) -> list[tuple[str, str, bytes]]:
        """Write this node's rows, and return all rows of its name; on a thread, since the file may be locked."""
        if self._db is None:
            self._db = apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)
            self._db.set_busy_timeout(BUSY_MS)
            self._db.execute(self._seat.positions.create)
        db, seat = self._db, self._seat
        positions, name = seat.positions, seat.name
        own: dict[str, bytes] = {} if self._left else {RUNS: b""}
        if self._turn.active:
            with contextlib.suppress(apsw.SQLError):  # there are no cursors yet
                for table in seat.tables:
                    select = "SELECT position FROM mycomesh_cursors WHERE name = ? AND table_name = ?"
                    found: Any = db.execute(select, (seat.cursor, fold(table))).fetchone()
                    if found is not None and isinstance(found[0], bytes):
                        own[OUT + table] = found[0]
            offsets = seat.offsets()
            if offsets:
                own[OFFSETS] = json.dumps(offsets, sort_keys=True).encode()
        rows: list[Any] = db.execute(
            f"SELECT node, part, position FROM {positions.table} WHERE {positions.column} = ? ORDER BY node, part",
            (name,),
        ).fetchall()
        known = {part: data for node, part, data in rows if node == self._own}
        if self._left and RUNS in known:
            db.execute(positions.stop, (name, self._own))
        changed = [(name, self._own, part, data) for part, data in own.items() if known.get(part) != data]
        if changed:
            with db:
                db.executemany(positions.put, changed)
        return [*rows, *[(node, part, data) for _, node, part, data in changed]]

    def _is_news(self, node: str, part: str, data: object) -> bool:
        return part != RUNS and isinstance(data, bytes) and self._followed.get((node, part)) != data

    async def _follow(self, rows: list[tuple[str, str, bytes]]) -> None:
        """Merge positions of other nodes into the cursors and offsets of this one."""
        seat = self._seat
        for table in seat.tables:  # a cursor has to exist before it moves
            if table not in self._opened:
                session = FeedSession(self._home, table, seat.cursor, from_now=seat.from_now, rows_max=1)
                with contextlib.suppress(RefusedError):
                    await session.page(wait_ms=0)
                    self._opened.add(table)
                await session.close()
        for node, part, data in rows:
            if part == OFFSETS:
                with contextlib.suppress(ValueError, AttributeError):
                    plain = {str(source): int(offset) for source, offset in json.loads(data).items()}
                    await asyncio.to_thread(seat.follow, plain)
            elif part.removeprefix(OUT) in seat.tables:
                position = base64.b64encode(data).decode()
                follow = {"cursor": seat.cursor, "table": part.removeprefix(OUT), "position": position}
                await self._link.ask("cursors", follow=follow)
            self._followed[node, part] = data

    def leave(self) -> None:
        """Let another node have the turn from now on: this one has stopped until a person acts."""
        self._left = True

    async def end(self) -> None:
        """Say that it does not run on this node, so that another one has its turn at once."""
        self._link.close()
        if self._db is not None:
            db, self._db = self._db, None
            with contextlib.suppress(apsw.Error):
                db.set_busy_timeout(500)
                db.execute(self._seat.positions.stop, (self._seat.name, self._own))
            db.close()
