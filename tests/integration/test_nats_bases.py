"""Bases that meet only in JetStream, each a gateway at a leaf of its own: the hub dies, and nothing is lost."""

import asyncio
import shutil

import pytest

from tests.integration.machines import eventually
from tests.mesh.mailbox.servers import HUB, Nats

pytestmark = pytest.mark.slow
BASES = {"alpha": "alps", "bravo": "bay"}


def rows(one):
    return one.sql("SELECT id, v FROM drones ORDER BY id")


def digest(one):
    return {table["name"]: table["digest"] for table in one.status()["tables"]}


def test_a_hub_that_dies_between_bases_loses_nothing(machine, joined, tmp_path):
    """Some 40 s: after the hub's return, JetStream waits so long before it goes on."""
    for name in BASES:
        shutil.copytree(joined / name, tmp_path / name)
    with Nats(tmp_path, (HUB, *BASES.values())) as servers:
        alpha, bravo = (machine(name) for name in BASES)
        for one, base in ((alpha, "alps"), (bravo, "bay")):
            one.up("--port", "0", "--mailbox", servers.url(base, f"?base={base}&hub={HUB}"))
        alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'known value')")
        eventually(lambda: rows(bravo) == "d1|known value\n", "the first row has come")
        servers.kill(HUB)
        for number in range(20):
            alpha.sql(f"INSERT INTO drones VALUES('a{number}', 'of alpha')")
            bravo.sql(f"INSERT INTO drones VALUES('b{number}', 'of bravo')")
        bravo.sql("DELETE FROM drones WHERE id = 'd1'")
        servers.start(HUB)
        eventually(lambda: len(rows(alpha).splitlines()) == len(rows(bravo).splitlines()) == 40, "all have come")
        eventually(lambda: digest(alpha) == digest(bravo), "both are equal")
        assert rows(alpha) == rows(bravo)
        assert not [peer for one in (alpha, bravo) for peer in one.status()["peers"] if peer["state"] == "linked"]
        for what in (b"known value", b"of bravo", b"drones"):
            kept = [
                file for name in servers.names for file in (tmp_path / name / "jetstream").rglob("*") if file.is_file()
            ]
            assert kept
            assert not [file for file in kept if what in file.read_bytes()]


def test_bases_that_are_both_up_fill_themselves_by_rounds(machine, joined, tmp_path):
    """The mailbox has forgotten everything, and gateways look for that each five minutes: a link over the leaves brings it."""
    for name in BASES:
        shutil.copytree(joined / name, tmp_path / name)
    with Nats(tmp_path, (HUB, *BASES.values())) as servers:
        alpha, bravo = (machine(name) for name in BASES)
        alpha.sql(
            "CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT);"
            "WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000)"
            " INSERT INTO drones SELECT 'd' || x, hex(randomblob(8)) FROM n"
        )
        starts = [
            ("--port", "0", "--mailbox", servers.url(base, f"?base={base}&hub={HUB}"), "--peer", servers.url(base))
            for base in BASES.values()
        ]
        alpha.up(*starts[0])
        eventually(lambda: alpha.status()["mailboxes"][0]["parcels"] == 1, "its parcel is there")
        asyncio.run(forget(servers))
        bravo.up(*starts[1])
        eventually(lambda: bravo.status()["tables"] and digest(alpha) == digest(bravo), "a round has brought all rows")
        (peer,) = bravo.status()["peers"]
        assert peer["address"].startswith("nats%")
        assert peer["received_bytes"] > 50_000
        assert sum(stream["taken"] for stream in bravo.status()["mailboxes"][0]["streams"]) == 0
        assert rows(alpha) == rows(bravo)


async def forget(servers):
    """Remove what the mailbox holds at every server."""
    import nats

    for name in servers.names:
        client = await nats.connect(servers.url(name))
        for stream in await client.jetstream().streams_info():
            await client.jetstream().purge_stream(stream.config.name)
        await client.close()
