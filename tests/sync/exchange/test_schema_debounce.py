"""New tables: taken in once their makers are quiet, a few in a transaction, and each read again only where it has changed."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CommitSeen
from mycomesh.sync.exchange.catch_up_stream import FACTS_MAX
from mycomesh.sync.exchange.schema_debounce import DEFER_MS_MAX, QUIET_MS
from mycomesh.sync.merge.work_budget import FACT_WEIGHT, TRANSACTION_WEIGHT_MAX
from mycomesh.sync.schema import catalog
from mycomesh.sync.schema.catalog import NEW_TABLES_MAX
from mycomesh.sync.sqlite import table_spec
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.exchanges import World
from tests.sync.peers import WALL_MS, Peer

MANY = 3 * NEW_TABLES_MAX + 1


def tables(number, columns="id INTEGER PRIMARY KEY, v"):
    return ";".join(f"CREATE TABLE t{each}({columns})" for each in range(number))


@pytest.fixture
def world(tmp_path):
    world = World.made(tmp_path, 2)
    yield world
    world.close()


@pytest.fixture
def transactions(monkeypatch):
    """How many tables each transaction has taken in, in order."""
    taken = []
    register, refresh, apply_facts = catalog.Registry.register, catalog.Catalog.refresh, catalog.Catalog.apply_facts

    def refreshing(self, drain, **most):
        taken.append(0)
        refresh(self, drain, **most)

    def applying(self, drain):
        taken.append(0)
        apply_facts(self, drain)

    def registering(self, spec):
        taken[-1] += 1
        return register(self, spec)

    monkeypatch.setattr(catalog.Catalog, "refresh", refreshing)
    monkeypatch.setattr(catalog.Catalog, "apply_facts", applying)
    monkeypatch.setattr(catalog.Registry, "register", registering)
    return taken


def write(world, node, script):
    """A commit of a program that may go on, as the node notices it."""
    node.sql(script)
    world.do(node, CommitSeen(writing=True))


def captured(node):
    return set(node.peer.replica.tables) - {"mycomesh_schema"}


# ---- a script is let alone


def test_script_of_many_tables_does_not_collide_with_nodes(world):
    node = world.nodes[0]
    for number in range(5):
        write(world, node, f"CREATE TABLE t{number}(v)")
        assert captured(node) == set()
        world.run(QUIET_MS // 2)
        write(world, node, f"INSERT INTO t{number} VALUES({number})")
        assert captured(node) == set()
        world.run(QUIET_MS // 2)
    world.run(QUIET_MS)
    assert captured(node) == {f"t{number}" for number in range(5)}
    assert not node.peer.replica.outbox.has_unstamped()


def test_a_look_without_a_new_commit_postpones_nothing(world):
    node = world.nodes[0]
    write(world, node, "CREATE TABLE t(v)")
    for _ in range(QUIET_MS // 10):
        world.run(10)
        world.do(node, CommitSeen(writing=True))
    assert captured(node) == {"t"}


def test_a_schema_that_keeps_changing_is_still_read(world):
    node = world.nodes[0]
    step = QUIET_MS - 10
    for number in range(DEFER_MS_MAX // step + 2):
        write(world, node, f"CREATE TABLE t{number}(v)")
        world.run(step)
    assert len(captured(node)) >= DEFER_MS_MAX // step


def test_row_of_table_that_stands_goes_out_at_once(world):
    one, two = world.nodes
    world.link(one, two)
    world.write(one, "CREATE TABLE t(v)")
    world.run(1_000)
    write(world, one, "INSERT INTO t VALUES(1)")
    world.run(10)
    assert two.sql("SELECT v FROM t") == [(1,)]


def test_a_question_has_new_tables_taken_in_at_once(world):
    node = world.nodes[0]
    write(world, node, "CREATE TABLE t(v)")
    world.do(node, CommitSeen())
    assert captured(node) == {"t"}


# ---- many tables at once


def test_many_new_tables_are_taken_in_by_a_few(world, transactions):
    node = world.nodes[0]
    node.sql(tables(MANY))
    world.do(node, CommitSeen())
    world.run(100)
    assert len(captured(node)) == MANY
    assert sum(transactions) == MANY
    assert max(transactions) == NEW_TABLES_MAX


def test_file_of_many_tables_is_opened_same_way(tmp_path, transactions):
    world = World.made(tmp_path, 1)
    node = world.nodes[0]
    node.peer.replica.remove()
    node.peer.replica = None
    node.sql(tables(MANY))
    node.sql("INSERT INTO t7(v) VALUES('was here')")
    transactions.clear()
    node.reopen()
    node.peer.drain()
    assert len(captured(node)) == MANY
    assert max(transactions) == NEW_TABLES_MAX
    assert node.peer.replica.status().tables
    world.close()


def test_a_peer_gets_the_rows_of_many_new_tables(world):
    one, two = world.nodes
    world.write(one, tables(MANY) + "".join(f";INSERT INTO t{each}(v) VALUES({each})" for each in range(MANY)))
    world.link(one, two)
    two.sql("CREATE TABLE own(v); INSERT INTO own VALUES('x')")
    world.run(20_000)
    assert world.equal()
    assert [two.sql(f"SELECT v FROM t{each}") for each in range(MANY)] == [[(each,)] for each in range(MANY)]
    assert one.sql("SELECT v FROM own") == [("x",)]


def test_a_joining_node_makes_tables_in_small_groups(world, transactions):
    one, two = world.nodes
    one.sql(tables(3 * FACTS_MAX))
    world.do(one, CommitSeen())
    world.run(100)
    transactions.clear()
    world.link(one, two)
    world.run(1_000)
    assert captured(two) == captured(one)
    assert sum(transactions) == 3 * FACTS_MAX
    assert max(transactions) == TRANSACTION_WEIGHT_MAX // FACT_WEIGHT


def test_only_what_has_changed_is_read_again(world, monkeypatch):
    node = world.nodes[0]
    world.write(node, tables(MANY))
    world.run(1_000)
    read = []
    plain = table_spec.read_table
    monkeypatch.setattr(table_spec, "read_table", lambda db, name: read.append(name) or plain(db, name))
    world.write(node, "CREATE TABLE late(v)")
    assert set(read) == {"late"}
    read.clear()
    world.write(node, "ALTER TABLE t3 ADD COLUMN w; CREATE UNIQUE INDEX u ON t5(v)")
    assert set(read) == {"t3", "t5"}


def test_a_changed_schema_is_followed_by_one_pass(world, monkeypatch):
    node = world.nodes[0]
    world.write(node, "CREATE TABLE a(v)")
    passes = []
    plain = catalog.Catalog.refresh
    monkeypatch.setattr(catalog.Catalog, "refresh", lambda *args, **named: passes.append(1) or plain(*args, **named))
    world.write(node, "CREATE TABLE b(v)")
    world.write(node, "INSERT INTO b VALUES(1)")
    assert len(passes) == 1


def test_an_undone_transaction_leaves_nothing_behind_in_memory(world, monkeypatch):
    """Its schema version is given to the next change, which is another one."""
    node = world.nodes[0]
    world.write(node, "CREATE TABLE a(v); CREATE TABLE b(v)")
    node.sql("CREATE TABLE c(v)")
    with monkeypatch.context() as broken:
        broken.setattr(catalog.Catalog, "_record_facts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            node.peer.replica.drain(WALL_MS)
    node.sql("DROP TABLE c; CREATE TABLE c(v, w); INSERT INTO c VALUES(1, 2)")
    world.do(node, CommitSeen())
    world.link(*world.nodes)
    world.run(20_000)
    assert world.equal()
    assert world.nodes[1].sql("SELECT v, w FROM c") == [(1, 2)]


def test_rows_before_their_table_are_fetched_again(tmp_path):
    """A round that brought them is not taken for complete, though the table is there at its end."""
    one, two = (Peer(tmp_path / f"{number}.db", number) for number in range(2))
    one.sql("CREATE TABLE t(v); INSERT INTO t VALUES('early')")
    rows = [
        Bundle([section]).encode()
        for bundle in one.drain()
        for section in Bundle.decode(bundle).sections
        if section.table == "t"
    ]
    vectors = {"t": one.replica.vector("t")}
    two.replica.inbox.begin_round("t")  # a round begins
    for bundle in rows:
        assert two.replica.apply(bundle, WALL_MS).unknown == ["t"]
    two.sql("CREATE TABLE t(v)")
    two.drain()
    assert two.replica.inbox.take_vectors(vectors, {}, WALL_MS) == []
    two.replica.inbox.begin_round("t")  # the next
    for bundle in rows:
        two.replica.apply(bundle, WALL_MS)
    two.replica.inbox.take_vectors(vectors, {}, WALL_MS)
    assert two.sql("SELECT v FROM t") == [("early",)]
    assert two.replica.vector("t") == one.replica.vector("t")
    one.close()
    two.close()
