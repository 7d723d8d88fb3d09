"""Rounds of kills for a bridge: node, bridge and a real broker die at random while rows go out and messages come in."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time

from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.bridges.template import Template
from tests.integration.machines import eventually

SQL = (
    "CREATE TABLE drones(id TEXT PRIMARY KEY, n INTEGER, note TEXT);"
    "CREATE TABLE orders(n INTEGER PRIMARY KEY, what TEXT CHECK(what <> 'poison'))"
)


def section(broker, **more):
    """Return the section of a bridge between the two tables and a broker."""
    lines = ["[bridge.ground]", f'url = "{broker.url}"', "create = true", f'out = {{ drones = "{broker.outgoing}" }}']
    if broker.keeps:
        lines.append(f'in = {{ "{broker.incoming}" = "orders" }}')
    if broker.login:
        lines.append('credentials = "secret.toml"')
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in more.items()), ""])


def configure(machine, broker, **more):
    """Write config.toml, and the credentials beside it."""
    config = machine.home.config_file
    config.write_text(section(broker, **more))
    config.chmod(0o600)
    secret = config.parent / "secret.toml"
    secret.write_text("\n".join(f'{key} = "{value}"' for key, value in broker.login.items()))
    secret.chmod(0o600)


def child(machine):
    found = machine.status().get("children", ())
    return found[0] if found else {}


def figure(machine, name):
    """Return a figure of the bridge, 0 before it has said any."""
    return child(machine).get("figures", {}).get(name, 0)


def outside(broker):
    """Return the last message of each row that the broker has, by the stamp in its header; and all ids."""
    latest, ids = {}, []
    for topic, body, headers in asyncio.run(broker.read()):
        names = {name.lower(): value for name, value in headers.items()}
        ids.append(names["mesh-id"])
        hlc = int(names["mesh-hlc"])
        if hlc >= latest.get(topic, (0, b""))[0]:
            latest[topic] = hlc, body
    return {topic: json.loads(body) for topic, (_, body) in latest.items() if body}, ids


def inside(machine, broker):
    """Return the rows by the topic that each has outside."""
    kind = scheme_named(broker.scheme)
    template = Template.parse(broker.outgoing, kind)
    found = {}
    for line in machine.sql("SELECT id, n, note FROM drones").splitlines():
        row_id, number, note = line.split("|")
        topic = template.topic({"id": row_id}) if template.columns else row_id
        found[topic] = {"id": row_id, "n": int(number), "note": note}
    return found


def kill(machine, broker, victim, pause_s):
    """Kill one of the three, and start it again; the node starts its bridge again."""
    time.sleep(pause_s)
    if victim == "broker":
        broker.kill()
        if broker.durable:
            time.sleep(pause_s)
        else:  # what comes before the bridge has subscribed again has nobody to keep it for
            eventually(lambda: child(machine).get("state") != "running", "the bridge notices")
        broker.start()
    elif victim == "node":
        machine.kill()
        machine.up("--port", "0")
    else:
        pid = child(machine).get("pid")
        if pid is not None:
            os.kill(pid, signal.SIGKILL)


def run_rounds(machine, broker, rounds, seed, *, rows=60):
    """Run the rounds; return how many ids were published more than once."""
    rng = random.Random(seed)
    configure(machine, broker)
    machine.sql(SQL)
    machine.up("--port", "0")
    eventually(
        lambda: child(machine).get("state") == "running", lambda: f"it runs: {child(machine)} {machine.output()}"
    )
    number, wanted, poison = 0, 0, 0
    for _ in range(rounds):
        writes = []
        for _ in range(rows):
            number += 1
            row_id = f"d{rng.randrange(40)}"
            if rng.random() < 0.1:
                writes.append(f"DELETE FROM drones WHERE id = '{row_id}';")
            else:
                writes.append(f"INSERT OR REPLACE INTO drones VALUES('{row_id}', {number}, 'x');")
        middle = len(writes) // 2
        machine.sql("".join(writes[:middle]))
        kill(machine, broker, rng.choice(("broker", "node", "bridge")), rng.random() * 0.2)
        machine.sql("".join(writes[middle:]))
        if broker.keeps:
            eventually(lambda: child(machine).get("state") == "running", lambda: f"it runs again: {machine.output()}")
            bodies = []
            for _ in range(20):
                wanted += 1
                bad = wanted % 10 == 0
                poison += bad
                bodies.append(json.dumps({"n": wanted, "what": "poison" if bad else "fly"}).encode())
            asyncio.run(broker.send(bodies))
            kill(machine, broker, rng.choice(("node", "bridge")), rng.random() * 0.1)
            machine.shows("SELECT count(*) FROM orders", f"{wanted - poison}\n")
    eventually(lambda: outside(broker)[0] == inside(machine, broker), "outside is as inside")
    if broker.keeps:
        letters = eventually(lambda: json.loads(machine.done("dead", "--json")), "poison is set aside")
        assert len(letters) == poison, letters
    ids = outside(broker)[1]
    twice = len(ids) - len(set(ids))
    if broker.dedupes:
        assert twice == 0
    return twice
