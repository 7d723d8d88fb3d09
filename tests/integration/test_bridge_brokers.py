"""Bridges between real nodes and real brokers: kills, poison, and one of several nodes that publishes."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from mycomesh.mesh.node.judge import FAILED_MAX
from tests.integration.bridge_rounds import SQL, child, configure, figure, inside, outside, run_rounds
from tests.integration.machines import SQLITE, WAIT_S, eventually
from tests.tools.bridges.brokers import BROKERS, Mosquitto, Nats

SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))
pytestmark = [
    pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)"),
    pytest.mark.slow,
]


@pytest.fixture
def broker_of(tmp_path):
    """Return a function that starts a broker."""
    made = []

    def start(kind):
        folder = tmp_path / f"broker{len(made)}"
        folder.mkdir()
        made.append(kind(folder).start())
        return made[-1]

    yield start
    for one in made:
        one.stop()


def rests(machine, sql):
    """Whether a query has the same rows after two looks of a holder of the turn, which follows its cursor every half second."""
    before = machine.sql(sql)
    time.sleep(1.2)
    return before and machine.sql(sql) == before


def bridged(pair, broker, first=""):
    """Start both members again, linked and each with the bridge to a broker; `first` begins their config.toml."""
    for machine in pair:
        machine.terminate()
        configure(machine, broker)
        config = machine.home.config_file
        config.write_text(f"{first}\n{config.read_text()}")
    alpha, bravo = pair
    alpha.sql(SQL)
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)
    return alpha, bravo


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("name", [name for name in BROKERS if SCALE > 1 or not BROKERS[name].shared])
def test_kills_lose_nothing_and_double_nothing(machine, broker_of, name):
    """RabbitMQ takes its turn in `make long`, since it starts for ten seconds."""
    alpha = machine("alpha")
    alpha.done("init", "--node-name", "alpha")
    run_rounds(alpha, broker_of(BROKERS[name]), round(2 * SCALE), seed=3)


def test_one_node_publishes_and_another_takes_over(pair, broker_of):
    broker = broker_of(Nats)
    alpha, bravo = bridged(pair, broker)
    bravo.shows("SELECT count(*) FROM drones", "0\n")
    states = lambda: sorted((child(alpha).get("state", ""), child(bravo).get("state", "")))  # noqa: E731
    eventually(
        lambda: states() == ["running", "standing by"], lambda: f"one has its turn: {child(alpha)} {child(bravo)}"
    )
    for number in range(50):
        (alpha if number % 2 else bravo).sql(f"INSERT INTO drones VALUES('d{number}', {number}, 'x')")
    eventually(lambda: asyncio.run(broker.count()) == 50, "all are out")
    first, second = (alpha, bravo) if child(alpha)["state"] == "running" else (bravo, alpha)
    eventually(lambda: "bridge_positions" in first.sql("SELECT name FROM sqlite_schema"), "positions are shared")
    eventually(
        lambda: rests(second, "SELECT hex(position) FROM bridge_positions WHERE part = 'out:drones'"), "it has all"
    )
    first.kill()
    second.sql("INSERT INTO drones VALUES('late', 99, 'x')")
    eventually(lambda: child(second).get("state") == "running", "the other one takes over")
    eventually(lambda: outside(broker)[0] == inside(second, broker), "outside is as inside")
    assert figure(second, "sent") + figure(second, "duplicates") < 40  # it repeats seconds, no history
    assert len(set(outside(broker)[1])) == len(outside(broker)[1])


def test_positions_that_stay_here_are_told(pair, broker_of):
    """Each of two nodes publishes then, since neither sees whose turn it is."""
    broker = broker_of(Nats)
    alpha, bravo = bridged(pair, broker, 'only = ["drones", "orders"]')
    eventually(
        lambda: all(
            "bridge_positions is not replicated here" in child(each).get("text", "") for each in (alpha, bravo)
        ),
        lambda: f"both say so: {child(alpha)} {child(bravo)}",
    )
    assert "child.alone" in alpha.output()
    alpha.sql("INSERT INTO drones VALUES('d1', 1, 'x')")
    eventually(lambda: figure(alpha, "sent") + figure(alpha, "duplicates") == 1, "alpha publishes")


def test_a_bridge_that_has_stopped_lets_another_work(pair, broker_of):
    broker = broker_of(Nats)
    alpha, bravo = bridged(pair, broker)
    states = lambda: sorted((child(alpha).get("state", ""), child(bravo).get("state", "")))  # noqa: E731
    eventually(
        lambda: states() == ["running", "standing by"], lambda: f"one has its turn: {child(alpha)} {child(bravo)}"
    )
    # The turn may change meanwhile. Of so many messages just one of the two refuses enough to stop, however they share them.
    asyncio.run(broker.send([b'{"n": 1, "what": "poison"}'] * (2 * FAILED_MAX - 1)))
    eventually(
        lambda: states() == ["running", "stopped"], lambda: f"the other one goes on: {child(alpha)} {child(bravo)}"
    )
    stopped = alpha if child(alpha)["state"] == "stopped" else bravo
    assert "bridge resume ground" in stopped.output()
    asyncio.run(broker.send([b'{"n": 2, "what": "fly"}']))
    stopped.shows("SELECT n, what FROM orders", "2|fly\n")
    stopped.done("bridge", "resume", "ground")
    eventually(lambda: states() == ["running", "standing by"], lambda: f"both serve: {child(alpha)} {child(bravo)}")


def test_both_sides_of_a_split_publish(pair, broker_of):
    broker = broker_of(Nats)
    alpha, bravo = bridged(pair, broker)
    bravo.shows("SELECT count(*) FROM drones", "0\n")
    alpha.done("isolate")
    for machine, name in ((alpha, "a"), (bravo, "b")):
        machine.sql("".join(f"INSERT INTO drones VALUES('{name}{number}', {number}, 'x');" for number in range(30)))
    eventually(lambda: asyncio.run(broker.count()) == 60, lambda: f"both are out: {child(alpha)} {child(bravo)}")
    alpha.done("rejoin")
    bravo.shows("SELECT count(*) FROM drones", "60\n")
    alpha.sql("INSERT INTO drones VALUES('end', 1, 'x')")
    eventually(lambda: asyncio.run(broker.count()) == 61, "what follows is out")
    ids = outside(broker)[1]
    assert len(set(ids)) == len(ids) == 61
    assert outside(broker)[0] == inside(bravo, broker)


def test_rows_that_came_in_do_not_go_out(machine, broker_of):
    broker = broker_of(Nats)
    alpha = machine("alpha")
    alpha.done("init", "--node-name", "alpha")
    configure(alpha, broker)
    config = alpha.home.config_file
    config.write_text(config.read_text().replace('"orders" }', '"drones" }').replace('= "orders"', '= "drones"'))
    alpha.sql(SQL)
    alpha.up("--port", "0")
    eventually(lambda: child(alpha).get("state") == "running", "it runs")
    asyncio.run(broker.send([json.dumps({"id": f"in{n}", "n": n, "note": "x"}).encode() for n in range(10)]))
    alpha.shows("SELECT count(*) FROM drones", "10\n")
    alpha.sql("INSERT INTO drones VALUES('own', 1, 'x'); UPDATE drones SET n = 77 WHERE id = 'in3'")
    # The insert of 'in3' has the new value too, if it is read before the update is stamped.
    eventually(lambda: figure(alpha, "sent") in (2, 3), "two rows are out")
    eventually(lambda: outside(broker)[0].get("fleet.in3.at", {}).get("n") == 77, "the changed row is out")
    assert sorted(outside(broker)[0]) == ["fleet.in3.at", "fleet.own.at"]
    eventually(lambda: figure(alpha, "echoes") >= 9, "what came in is counted as such")


@pytest.mark.timeout(3_000)
def test_a_broker_that_was_away_gets_every_row(machine, broker_of):
    """In `make long` 100,000 rows wait; each hundredth message that comes in meanwhile is poison."""
    rows = round(2_000 * max(1.0, 10 * (SCALE - 1) + 1)) if SCALE < 5 else 100_000
    broker = broker_of(Nats)
    alpha = machine("alpha")
    alpha.done("init", "--node-name", "alpha")
    configure(alpha, broker, max_in_flight=1_000)
    alpha.sql(SQL)
    alpha.up("--port", "0")
    eventually(lambda: child(alpha).get("state") == "running", "it runs")
    bodies = [json.dumps({"n": n, "what": "poison" if n % 100 == 0 else "fly"}).encode() for n in range(1, 1_001)]
    asyncio.run(broker.send(bodies))
    alpha.shows("SELECT count(*) FROM orders", "990\n")
    broker.kill()
    eventually(lambda: child(alpha).get("state") == "waiting", "it waits")
    before = memory_kb(child(alpha)["pid"])
    alpha.sql(
        f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows})"
        " INSERT INTO drones SELECT 'd' || n, n, 'x' FROM c"
    )
    broker.start()
    wanted = rows + len(bodies)  # the bridge's stream has what came in too
    wait_s = max(WAIT_S, rows // 100)
    eventually(lambda: asyncio.run(broker.count()) == wanted, lambda: f"all are out: {child(alpha)}", wait_s)
    assert len(json.loads(alpha.done("dead", "--json"))) == 10
    assert memory_kb(child(alpha)["pid"]) - before < 16_000


def test_retained_rows_return_while_nobody_writes(machine, broker_of):
    """A bridge that only publishes has nothing to send when the broker has lost everything, and still notices it."""
    broker = broker_of(Mosquitto)
    alpha = machine("alpha")
    alpha.done("init", "--node-name", "alpha")
    configure(alpha, broker)
    config = alpha.home.config_file
    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("in =")))
    alpha.sql(SQL + "; INSERT INTO drones VALUES('d1', 1, 'x'), ('d2', 2, 'x')")
    alpha.up("--port", "0")
    eventually(lambda: outside(broker)[0] == inside(alpha, broker), lambda: f"both are out: {child(alpha)}")
    broker.kill()
    eventually(lambda: child(alpha).get("state") == "waiting", lambda: f"it waits: {child(alpha)}")
    broker.start()
    eventually(lambda: outside(broker)[0] == inside(alpha, broker), lambda: f"both are there again: {child(alpha)}")


def memory_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
