"""A node inside a program: the docs' own examples, live queries, waiting, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
import threading

import pytest

import mesh
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NoNodeError
from mycomesh.mesh.node.home import Home
from tests.integration.machines import ROOT, Machine, eventually

WAIT_S = 30
QUIET = mesh.NodeConfig(port=0, multicast=False)
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "API.md").read_text(), re.DOTALL)


def client(file, text):
    """Another program's write, with Python's own SQLite: in a process of its own."""
    code = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute(sys.argv[2]).fetchall()); db.commit()"
    )
    done = subprocess.run([sys.executable, "-c", code, file, text], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def within(story):
    async def bounded():
        async with asyncio.timeout(WAIT_S):
            await story()

    asyncio.run(bounded())


@pytest.mark.slow
def test_the_examples_of_the_docs_run_as_they_stand(home, tmp_path):
    for place in (home, tmp_path / "base", tmp_path / "kite"):
        place.mkdir(exist_ok=True)
        (place / "config.toml").write_text(
            "port = 0\nmulticast = false\n" if place == home else "port = 0\nloopback = true\n"
        )
    environ = {**os.environ, "MYCOMESH_HOME": str(home), "PYTHONPATH": str(ROOT)}
    said = []
    for example in EXAMPLES:
        done = subprocess.run(
            [sys.executable, "-c", example],
            check=False,
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        assert done.returncode == 0, done.stderr
        said += done.stdout.splitlines()
    assert said == [
        "[('heron',), ('kestrel',), ('swift',)]",
        "kestrel 0.93 {'name': 'kestrel', 'battery': 0.93}",
        "alpha serves 1 table",
        "to be charged: [('heron',), ('swift',)]",
        "1 node holds it",
        "[(0,)]",
        "insert {'id': 1} {'id': 1, 'text': 'low battery'} by alpha",
        "base of survey",
        "kite has joined",
    ]


def test_a_live_query_reports_every_writer_and_nothing_else(home, tmp_path):
    file = tmp_path / "fleet.db"

    async def story():
        async with mesh.open(file, home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT); CREATE TABLE u(v)")
            answers = node.watch("SELECT v FROM t ORDER BY id")
            assert await anext(answers) == []
            await node.execute("INSERT INTO t VALUES(1, 'own')")
            assert await anext(answers) == [("own",)]
            await asyncio.to_thread(client, file, "INSERT INTO t VALUES(2, 'of another')")
            assert await anext(answers) == [("own",), ("of another",)]
            waiting = asyncio.ensure_future(anext(answers))
            await node.execute("INSERT INTO u VALUES(1)")  # another table
            await node.execute("UPDATE t SET v = v")  # no other answer
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done
            await node.execute("DELETE FROM t")
            assert await waiting == []
            await answers.aclose()

    within(story)


def test_writes_of_peers_arrive_in_live_queries_and_waits(home, tmp_path):
    other = Machine(tmp_path, "other")
    file = tmp_path / "fleet.db"

    async def story():
        async with mesh.open(file, home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)")
            port = (await node.status()).port
            code = (await asyncio.to_thread(ask, Home.locate(home, {}), "invite", expires_s=600, uses=1))["code"]
            joined = await asyncio.to_thread(other.run, "join", code, "--no-multicast", "--peer", f"127.0.0.1:{port}")
            assert joined.returncode == 0, joined.stderr
            await asyncio.to_thread(other.up, "--port", "0", "--peer", f"127.0.0.1:{port}")
            answers = node.watch("SELECT v FROM t ORDER BY id")
            assert await anext(answers) == []
            await node.execute("INSERT INTO t VALUES(1, 'from the program')")
            assert await anext(answers) == [("from the program",)]
            assert await node.wait(replicas=2, timeout_s=WAIT_S) == 2
            await asyncio.to_thread(other.shows, "SELECT v FROM t", "from the program\n")
            await asyncio.to_thread(other.sql, "INSERT INTO t VALUES(2, 'from the other')")
            assert await anext(answers) == [("from the program",), ("from the other",)]
            with pytest.raises(TimeoutError, match=r"^on 2 of 3 nodes after 0\.3 s$"):
                await node.wait(replicas=3, timeout_s=0.3)
            assert [peer.state for peer in (await node.status()).peers] == ["linked"]
            await answers.aclose()

    try:
        within(story)
    finally:
        if other.process is not None:
            other.kill()


def test_many_rows_are_one_transaction(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY CHECK(id < 10))")
            with pytest.raises(mesh.SqlError, match="INSERT INTO t VALUES"):
                await node.executemany("INSERT INTO t VALUES(?)", [[1], [2], [99]])
            assert await node.execute("SELECT count(*) FROM t") == [(0,)]

    within(story)


def test_errors_are_one_line_and_the_node_goes_on(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            with pytest.raises(mesh.SqlError, match="no such table: nowhere: SELECT") as refused:
                await node.execute("SELECT *\n FROM nowhere")
            assert "\n" not in str(refused.value)
            assert refused.value.code == "sql.refused"
            with pytest.raises(mesh.SqlError):
                await node.execute("SELECT ?", [object()])
            with pytest.raises(mesh.SqlError, match="syntax error"):
                await anext(node.watch("SELEKT 1"))
            assert await node.execute("SELECT 1") == [(1,)]
        with pytest.raises(mesh.NodeError, match="has ended"):
            await node.execute("SELECT 1")

    within(story)


def test_home_without_mesh_and_a_served_file_are_refused(home, tmp_path):
    async def story():
        with pytest.raises(mesh.NodeError, match="mycomesh init"):
            async with mesh.open(tmp_path / "fleet.db", home=tmp_path / "empty", config=QUIET):
                pass
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET):
            with pytest.raises(mesh.NodeError, match="already runs for this home"):
                async with mesh.open(tmp_path / "other.db", home=home, config=QUIET):
                    pass
        with pytest.raises(mesh.NodeError, match="was not started"):
            await mesh.open(tmp_path / "fleet.db", home=home, config=QUIET).execute("SELECT 1")

    within(story)
    assert not (tmp_path / "other.db").exists()


def test_live_queries_end_with_the_node(home, tmp_path):
    async def story():
        answers, answered = [], asyncio.Event()

        async def follow(node):
            async for rows in node.watch("SELECT 1"):
                answers.append(rows)
                answered.set()

        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            following = asyncio.ensure_future(follow(node))
            await answered.wait()
        await following
        assert answers == [[(1,)]]
        with pytest.raises(NoNodeError):
            await asyncio.to_thread(ask, Home.locate(home, {}), "status")

    within(story)


def test_file_that_is_taken_away_breaks_node_with_reason(home, tmp_path):
    file = tmp_path / "fleet.db"

    async def follow():
        async with mesh.open(file, home=home, config=QUIET) as node:
            file.unlink()
            async for _ in node.watch("SELECT 1"):
                pass

    async def story():
        with pytest.raises(mesh.NodeError, match="was replaced or removed"):
            await follow()

    within(story)


def test_the_synchronous_node_does_the_same(home, tmp_path):
    file = tmp_path / "fleet.db"
    with mesh.open_sync(file, home=home, config=QUIET) as node:
        node.execute("CREATE TABLE t(v)")
        node.executemany("INSERT INTO t VALUES(?)", [[1], [2]])
        answers = node.watch("SELECT sum(v) FROM t")
        assert next(answers) == [(3,)]
        assert client(file, "INSERT INTO t VALUES(4)") == "[]"
        assert next(answers) == [(7,)]
        answers.close()
        assert node.wait(1) == 1
        assert node.status().phase == "serving"
        with pytest.raises(mesh.SqlError):
            node.execute("SELEKT")
    with (
        pytest.raises(mesh.NodeError, match="mycomesh init"),
        mesh.open_sync(file, home=tmp_path / "none", config=QUIET),
    ):
        pass
    with sqlite3.connect(file) as plain:  # the node is gone: any library may open it
        assert plain.execute("SELECT count(*) FROM t").fetchall() == [(3,)]
    eventually(lambda: not (tmp_path / "fleet.db-journal").exists(), "no journal is left")


def test_values_go_by_name_too(home, tmp_path):
    with mesh.open_sync(tmp_path / "fleet.db", home=home, config=QUIET) as node:
        node.execute("CREATE TABLE t(a, b)")
        node.execute("INSERT INTO t VALUES(:a, :b)", {"b": 2, "a": 1})
        node.executemany("INSERT INTO t VALUES(:a, :b)", [{"b": 4, "a": 3}])
        assert node.execute("SELECT * FROM t ORDER BY a") == [(1, 2), (3, 4)]
        for ask in (node.execute, lambda sql, row: node.executemany(sql, [row])):
            with pytest.raises(mesh.SqlError, match="no value for 'b'"):
                ask("INSERT INTO t VALUES(:a, :b)", {"a": 5})
        assert node.execute("SELECT count(*) FROM t") == [(2,)]


def test_a_synchronous_node_that_does_not_run_says_so(home, tmp_path):
    node = mesh.open_sync(tmp_path / "fleet.db", home=home, config=QUIET)
    with pytest.raises(mesh.NodeError, match="is not running"):
        node.execute("SELECT 1")
    found = []

    def wait():
        with pytest.raises(mesh.NodeError) as caught:  # in the words of where it was met
            node.wait(99)
        found.append(caught)

    waiting = threading.Thread(target=wait)
    with node:
        waiting.start()
        answers = node.watch("SELECT 1")
        assert next(answers) == [(1,)]
    waiting.join(WAIT_S)
    assert len(found) == 1
    answers.close()
    with pytest.raises(mesh.NodeError, match="is not running"):
        node.status()
    with pytest.raises(mesh.NodeError, match="started before"), node:
        pass


def test_importing_the_mesh_loads_no_node():
    code = "import sys, mesh; print(any(name.startswith(('mycomesh.mesh.node.e', 'apsw')) for name in sys.modules)); mesh.open"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="nothing_here"):
        mesh.nothing_here  # noqa: B018


# ---- transactions


REFUSED_TEXT = "BEGIN; INSERT INTO t VALUES(2); INSERT INTO t VALUES(1); COMMIT"


@pytest.mark.parametrize(
    "text", [REFUSED_TEXT, "BEGIN; INSERT INTO t VALUES(2)", "SAVEPOINT s; INSERT INTO t VALUES(2)"]
)
def test_a_text_leaves_no_transaction_open(home, tmp_path, text):
    file = tmp_path / "fleet.db"
    with mesh.open_sync(file, home=home, config=QUIET) as node:
        node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY); INSERT INTO t VALUES(1)")
        with pytest.raises(
            mesh.SqlError, match="UNIQUE constraint failed" if text == REFUSED_TEXT else "leaves its transaction open"
        ):
            node.execute(text)
        assert client(file, "INSERT INTO t VALUES(9)") == "[]"
        assert node.execute("SELECT id FROM t ORDER BY id") == [(1,), (9,)]


def test_transaction_commits_or_is_rolled_back_by_exception(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
            async with node.transaction() as transaction:
                await transaction.execute("INSERT INTO t VALUES(1)")
                await transaction.executemany("INSERT INTO t VALUES(?)", [[2], [3]])
                with pytest.raises(mesh.SqlError, match="UNIQUE"):
                    await transaction.execute("INSERT INTO t VALUES(3)")
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with node.transaction() as transaction:
                    await transaction.execute("DELETE FROM t")
                    1 / 0  # noqa: B018
            assert await node.execute("SELECT count(*) FROM t") == [(3,)]

    within(story)


def test_calls_outside_a_transaction_wait_and_inside_are_refused(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
            async with node.transaction() as transaction:
                await transaction.execute("INSERT INTO t VALUES(1)")
                other = asyncio.create_task(node.execute("SELECT count(*) FROM t"))
                for call in (node.execute("SELECT 1"), node.executemany("SELECT ?", [[1]])):
                    with pytest.raises(mesh.NodeError, match="run SQL on the transaction"):
                        await call
                assert not other.done()
                await transaction.execute("INSERT INTO t VALUES(2)")
            assert await other == [(2,)]

    within(story)


def test_a_cancelled_transaction_is_rolled_back(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
            begun = asyncio.Event()

            async def write():
                async with node.transaction() as transaction:
                    await transaction.execute("INSERT INTO t VALUES(1)")
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(write())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await node.execute("SELECT count(*) FROM t") == [(0,)]

    within(story)


def test_a_transaction_that_its_own_sql_ended_is_reported(home, tmp_path):
    with mesh.open_sync(tmp_path / "fleet.db", home=home, config=QUIET) as node:
        node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        with pytest.raises(mesh.SqlError, match="has ended"), node.transaction() as transaction:  # noqa: PT012
            transaction.execute("INSERT INTO t VALUES(1); COMMIT")
            transaction.execute("INSERT INTO t VALUES(2)")
        assert node.execute("SELECT id FROM t") == [(1,)]


def test_leaving_the_node_with_a_transaction_open_ends_it(home, tmp_path):
    file = tmp_path / "fleet.db"

    async def story():
        async with mesh.open(file, home=home, config=QUIET) as node:
            await node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
            begun = asyncio.Event()

            async def write():
                async with node.transaction() as transaction:
                    await transaction.execute("INSERT INTO t VALUES(1)")
                    begun.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(write())
            await begun.wait()
        task.cancel()
        await asyncio.wait([task])

    within(story)
    with sqlite3.connect(file) as plain:
        assert plain.execute("SELECT count(*) FROM t").fetchall() == [(0,)]


def test_leaving_the_node_interrupts_a_statement_without_end(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
            task = asyncio.create_task(node.execute(endless))
            await asyncio.sleep(0.2)
        with pytest.raises(mesh.SqlError, match="interrupted"):
            await task

    within(story)


def test_the_synchronous_transaction_does_the_same(home, tmp_path):
    with mesh.open_sync(tmp_path / "fleet.db", home=home, config=QUIET) as node:
        node.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        with node.transaction() as transaction:
            transaction.executemany("INSERT INTO t VALUES(?)", [[1], [2]])
            assert transaction.execute("SELECT count(*) AS n FROM t")[0]["n"] == 2
            with pytest.raises(mesh.NodeError, match="run SQL on the transaction"):
                node.execute("SELECT 1")
        with pytest.raises(ZeroDivisionError), node.transaction() as transaction:  # noqa: PT012
            transaction.execute("DELETE FROM t")
            1 / 0  # noqa: B018
        assert node.execute("SELECT count(*) FROM t") == [(2,)]


# ---- rows by name


def test_rows_of_each_statement_have_its_names(home, tmp_path):
    with mesh.open_sync(tmp_path / "fleet.db", home=home, config=QUIET) as node:
        one, two = node.execute("CREATE TABLE t(a); SELECT 1 AS Lat, 2 AS lon; SELECT 'x' AS name")
        assert (one["lat"], one["LON"], two["name"]) == (1, 2, "x")
        assert next(node.watch("SELECT 5 AS five"))[0]["five"] == 5


# ---- making and joining a mesh


def test_mesh_is_made_joined_and_invited_to_by_functions(tmp_path):
    member = mesh.init("fleet", node_name="alpha", home=tmp_path / "a")
    assert (member.mesh, member.node) == ("fleet", "alpha")
    assert member == mesh.Member("fleet", member.mesh_id, "alpha", member.node_id)
    with pytest.raises(mesh.NodeError, match="already belongs to mesh 'fleet'"):
        mesh.init(home=tmp_path / "a")
    with pytest.raises(mesh.NodeError, match="uses"):
        mesh.invite(uses="three", home=tmp_path / "a")
    code = mesh.invite(home=tmp_path / "a")
    with pytest.raises(TimeoutError, match="the code is stored"):
        mesh.join(code, home=tmp_path / "b", config=QUIET, timeout_s=0.1)
    with pytest.raises(mesh.NodeError, match="cannot read"):
        mesh.join(tmp_path / "absent.ticket", home=tmp_path / "c")
    with pytest.raises(mesh.NodeError):
        mesh.join("no code", home=tmp_path / "c", config=QUIET)


def test_a_running_node_invites(home, tmp_path):
    async def story():
        async with mesh.open(tmp_path / "fleet.db", home=home, config=QUIET) as node:
            assert len(await node.invite(role="read-only", uses=3)) > 20
            with pytest.raises(mesh.NodeError, match="no role 'king'"):
                await node.invite(role="king")
            with pytest.raises(mesh.NodeError, match=r"asyncio\.to_thread"):
                mesh.invite(home=home)
            assert await asyncio.to_thread(mesh.invite, home=home)

    within(story)
