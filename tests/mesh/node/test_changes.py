"""Changes of a table within a program: one by one, in pages, with the program's own effect, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time

import pytest

import mesh
from mycomesh.mesh.node import readers

QUIET = mesh.NodeConfig(port=0, multicast=False)
CREATE = "CREATE TABLE drones(id INTEGER PRIMARY KEY, at); INSERT INTO drones VALUES(1, 'base'), (2, 'base')"


@pytest.fixture
def within(home, tmp_path):
    """Run a story with a node that serves `drones`, within half a minute."""

    def run(story):
        async def bounded():
            async with asyncio.timeout(30), mesh.open(tmp_path / "f.db", home=home, config=QUIET) as node:
                for statement in CREATE.split("; "):
                    await node.execute(statement)
                await story(node)

        asyncio.run(bounded())

    return run


def write(file, *statements):
    """Another program's writes, with Python's own SQLite."""
    code = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); [db.execute(s) for s in sys.argv[2:]]; db.commit()"
    subprocess.run([sys.executable, "-c", code, file, *statements], check=True)


async def taken(changes, count):
    return [await anext(changes) for _ in range(count)]


def test_a_program_gets_what_another_program_writes(within, tmp_path):
    async def story(node):
        changes = node.changes("drones", cursor="reports")
        first = await taken(changes, 2)
        assert [(change.op, change.key, change.who) for change in first] == [
            ("insert", {"id": 1}, "alpha"),
            ("insert", {"id": 2}, "alpha"),
        ]
        waiting = asyncio.create_task(anext(changes))
        await asyncio.to_thread(write, tmp_path / "f.db", "UPDATE drones SET at = 'ridge' WHERE id = 2")
        change = await waiting
        assert (change.op, change.columns, change.values) == ("update", ("at",), {"id": 2, "at": "ridge"})
        assert abs(change.at_ms - time.time() * 1_000) < 60_000
        await change.done()
        await changes.aclose()
        assert await node.execute("SELECT name, table_name FROM mycomesh_cursors") == [("reports", "drones")]

    within(story)


def test_a_cursor_goes_on_behind_the_last_done(within):
    async def story(node):
        changes = node.changes("drones", cursor="reports")
        first, second = await taken(changes, 2)
        await first.done()
        await changes.aclose()
        changes = node.changes("drones", cursor="reports")
        (again,) = await taken(changes, 1)
        assert again.id == second.id != first.id
        await changes.aclose()

    within(story)


def test_the_cursor_moves_with_the_programs_own_transaction(within):
    async def story(node):
        await node.execute("CREATE TABLE seen(id)")
        changes = node.changes("drones", cursor="reports")
        first, _ = await taken(changes, 2)
        with contextlib.suppress(ZeroDivisionError):
            async with node.transaction() as transaction:
                await transaction.execute("INSERT INTO seen VALUES(?)", (first.id,))
                await first.done(transaction=transaction)
                raise ZeroDivisionError
        await changes.aclose()
        changes = node.changes("drones", cursor="reports")
        (again,) = await taken(changes, 1)
        assert again.id == first.id
        async with node.transaction() as transaction:
            await transaction.execute("INSERT INTO seen VALUES(?)", (first.id,))
            await again.done(transaction=transaction)
        await changes.aclose()
        changes = node.changes("drones", cursor="reports")
        assert (await anext(changes)).key == {"id": 2}
        await changes.aclose()
        assert await node.execute("SELECT id FROM seen") == [(first.id,)]

    within(story)


def test_pages_hold_many_changes_and_are_done_at_once(within):
    async def story(node):
        await node.executemany("INSERT INTO drones VALUES(?, 'new')", [(number,) for number in range(10, 3_010)])
        pages = node.change_pages("drones", cursor="bulk", rows_max=500)
        count = 0
        while count < 3_002:
            page = await anext(pages)
            assert len(page.changes) <= 500
            count += len(page.changes)
            await page.done()
        await node.execute("DELETE FROM drones WHERE id >= 10 AND id < 20")
        gone = 0
        while gone < 10:
            page = await anext(pages)
            assert {change.op for change in page.changes} == {"delete"}
            gone += len(page.changes)
        await pages.aclose()

    within(story)


def test_a_reader_without_a_name_leaves_nothing(within):
    async def story(node):
        changes = node.changes("drones", from_now=True)
        waiting = asyncio.create_task(anext(changes))
        number = 2
        while not waiting.done():  # rows from before it began are not its own
            number += 1
            await node.execute("INSERT INTO drones VALUES(?, 'new')", (number,))
            await asyncio.sleep(0.05)
        assert 3 <= (await waiting).key["id"] <= number
        await changes.aclose()
        assert await node.execute("SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_cursors'") == []

    within(story)


@pytest.mark.parametrize(
    ("table", "cursor", "text"),
    [("nowhere", "a", "no replicated table 'nowhere'"), ("drones", "", "a cursor cannot be called ''")],
)
def test_a_wrong_name_is_refused_in_one_line(within, table, cursor, text):
    async def story(node):
        with pytest.raises(mesh.NodeError, match=text) as caught:
            await anext(node.changes(table, cursor=cursor))
        assert "\n" not in str(caught.value)

    within(story)


def test_a_cursor_has_one_reader_at_a_time(within):
    async def story(node):
        changes = node.changes("drones", cursor="reports")
        await anext(changes)
        with pytest.raises(mesh.NodeError, match="cursor 'reports' of drones is in use"):
            await anext(node.changes("drones", cursor="reports"))
        other = node.changes("drones", cursor="other")
        await anext(other)
        await other.aclose()
        await changes.aclose()
        again = node.changes("drones", cursor="reports")
        await anext(again)
        await again.aclose()

    within(story)


def test_a_reader_that_never_acknowledges_is_stopped(within):
    async def story(node):
        await node.executemany("INSERT INTO drones VALUES(?, 'new')", [(number,) for number in range(10, 12_010)])
        pages = node.change_pages("drones", cursor="bulk")
        counts = []

        while sum(counts) < readers.UNDONE_MAX:
            counts.append(len((await anext(pages)).changes))
        with pytest.raises(mesh.NodeError, match="changes that it has not acknowledged"):
            await anext(pages)

    within(story)


def test_a_change_that_fails_becomes_a_dead_letter(within):
    async def story(node):
        changes = node.changes("drones", cursor="reports")
        first = await anext(changes)
        await first.fail("no such team")
        second = await anext(changes)
        assert second.key == {"id": 2}
        await changes.aclose()
        letters = await node.execute("SELECT reader, row, why FROM mycomesh_dead_letters")
        assert letters == [("reports", "1", "no such team")]
        changes = node.changes("drones", cursor="reports")
        assert (await anext(changes)).key == {"id": 2}
        await changes.aclose()
        nameless = node.changes("drones")
        with pytest.raises(mesh.NodeError, match="without a cursor has no dead letters"):
            await (await anext(nameless)).fail("why")
        await nameless.aclose()

    within(story)


def test_a_reader_whose_changes_all_fail_is_stopped(within):
    async def story(node):
        await node.executemany("INSERT INTO drones VALUES(?, 'new')", [(number,) for number in range(10, 40)])
        changes = node.changes("drones", cursor="reports", rows_max=1)
        for _ in range(readers.FAILED_MAX):
            await (await anext(changes)).fail("why")
        with pytest.raises(mesh.NodeError, match="20 of the last 20 changes of drones failed, so the reader stops"):
            await anext(changes)
        again = node.changes("drones", cursor="reports")
        await (await anext(again)).done()
        await again.aclose()

    within(story)


def test_a_node_has_a_limit_of_readers(within, monkeypatch):
    monkeypatch.setattr(readers, "READERS_MAX", 2)

    async def story(node):
        held = [node.changes("drones") for _ in range(2)]
        for changes in held:
            await anext(changes)
        with pytest.raises(mesh.NodeError, match="2 readers are open already"):
            await anext(node.changes("drones"))
        await held.pop().aclose()
        one_more = node.changes("drones")
        await anext(one_more)
        for changes in (one_more, *held):
            await changes.aclose()

    within(story)


def test_changes_end_with_the_node(home, tmp_path):
    async def story():
        node = mesh.open(tmp_path / "f.db", home=home, config=QUIET)
        async with node:
            await node.execute(CREATE.partition("; ")[0])
            changes = node.changes("drones", cursor="reports")
            waiting = asyncio.create_task(anext(changes, None))
            await asyncio.sleep(0.1)
        assert await waiting is None

    asyncio.run(asyncio.wait_for(story(), 30))


def test_a_program_without_a_loop_reads_too(home, tmp_path):
    with mesh.open_sync(tmp_path / "f.db", home=home, config=QUIET) as node:
        for statement in CREATE.split("; "):
            node.execute(statement)
        node.execute("CREATE TABLE seen(id)")
        changes = node.changes("drones", cursor="reports")
        first, second = next(changes), next(changes)
        with node.transaction() as transaction:
            transaction.execute("INSERT INTO seen VALUES(?)", (first.id,))
            first.done(transaction=transaction)
        second.done()
        changes.close()
        node.execute("UPDATE drones SET at = 'ridge' WHERE id = 1")
        for page in node.change_pages("drones", cursor="reports"):
            assert [change.key for change in page.changes] == [{"id": 1}]
            page.done()
            break
        node.execute("INSERT INTO drones VALUES(8, 'x'), (9, 'y')")
        for page in node.change_pages("drones", cursor="reports"):
            page.fail(0, "cannot print it")
            break
        for page in node.change_pages("drones", cursor="reports"):
            assert [change.key for change in page.changes] == [{"id": 9}]
            break
        assert node.execute("SELECT row, why FROM mycomesh_dead_letters") == [("8", "cannot print it")]
