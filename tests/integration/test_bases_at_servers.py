"""Bases that meet at servers alone: a bucket, or leaves of a NATS hub. The servers die, shut out, fill up and forget."""

import asyncio
import os
import random
import shutil
import time

import pytest

from tests.integration import machines
from tests.integration.base_fleet import HIDDEN, settled, stored, three_bases, write
from tests.integration.machines import eventually
from tests.mesh.mailbox.servers import HUB, KEYS, OPERATOR, S3, Door, Nats
from tests.sync.scale import SCALE

LEAVES = ("alps", "bay", "cape")
WHOLE = pytest.mark.skipif(SCALE <= 1, reason="takes minutes, nearly all of them waiting; make long runs it")
FILL = "x" * 4_000

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(tmp_path):
    server = S3(tmp_path)
    door = Door(server)
    yield door
    door.close()
    server.close()


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys.toml"
    path.touch(0o600)
    path.write_text(KEYS)
    return path


def create(bases):
    bases[0][0].sql("CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT)")
    for one in (one for base in bases for one in base):
        one.shows("SELECT count(*) FROM t", "0\n")


def box(gateway):
    return gateway.status()["mailboxes"][0]


def disturb(rng, bases, oracle, rounds=12):
    """Write everywhere, and kill gateways of the first two bases at random points."""
    made = [one for base in bases for one in base if one.process is not None]
    for number in range(rounds):
        write(rng.choice(made), oracle, number)
        gateway = bases[rng.randrange(2)][0]
        if rng.random() < 0.3:
            gateway.kill()
            write(gateway, oracle, number)
            gateway.up(*gateway.starts)


def waits(bases, reason):
    for base in bases:
        eventually(lambda base=base: box(base[0])["state"] == "waiting" and reason in box(base[0])["text"], reason)


def test_a_write_crosses_a_bucket(machine, joined, tmp_path, bucket, keys):
    """Some 20 s of waiting: a bucket is looked at each 15 s."""
    bases = three_bases(machine, joined, tmp_path, [bucket.url("boxes/here")] * 3, 1, keys)
    create(bases)
    oracle = {}
    write(bases[1][0], oracle, 1)
    settled([base[0] for base in bases], oracle)


@WHOLE
def test_three_bases_at_a_bucket_lose_nothing(machine, joined, tmp_path, monkeypatch, bucket, keys):
    monkeypatch.setattr(machines, "WAIT_S", 400)
    bases = three_bases(machine, joined, tmp_path, [bucket.url("boxes/here")] * 3, 3, keys)
    made = [one for base in bases for one in base]
    rng, oracle = random.Random(1), {}
    create(bases)
    away = bases[2][0]
    away.terminate()
    disturb(rng, bases, oracle)
    for mode, reason in (("away", ""), ("refused", "InvalidAccessKeyId"), ("full", "XMinioStorageFull")):
        bucket.mode = mode
        for base in bases[:2]:
            write(base[1], oracle, len(oracle), f" while it is {mode}")
        waits(bases[:2], reason)
        bucket.mode = "open"
        for base in bases[:2]:
            eventually(lambda base=base: box(base[0])["state"] == "running", "it goes on")
    away.up(*away.starts)
    settled(made, oracle)
    found = objects(bucket)
    assert len(found) > 6
    for word in HIDDEN:
        assert not [key for key, data in found.items() if word.encode() in data or word in key], word


def objects(bucket):
    """Return what the bucket holds."""
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "boxes",
        config={
            "endpoint": f"http://127.0.0.1:{bucket.behind.port}",
            "region": "us-east-1",
            "access_key_id": "fleet",
            "secret_access_key": "s3cret",
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True},
    )
    return {
        each["path"]: bytes(obstore.get(store, each["path"]).bytes()) for page in obstore.list(store) for each in page
    }


@WHOLE
def test_three_bases_at_a_hub_lose_nothing(machine, joined, tmp_path, monkeypatch):
    """Minutes of waiting: the hub dies, its disk is full, it shuts a base out, it forgets what one has not read."""
    monkeypatch.setattr(
        machines, "WAIT_S", 400
    )  # the base that was away needs parcels, which are asked for after a minute
    with Nats(tmp_path, (HUB, *LEAVES), known={name: f"of-{name}" for name in LEAVES}) as servers:
        urls = [servers.url(name, f"?base={name}&hub={HUB}") for name in LEAVES]
        bases = three_bases(machine, joined, tmp_path, urls)
        made = [one for base in bases for one in base]
        rng, oracle = random.Random(2), {}
        create(bases)
        away = bases[2][0]
        away.terminate()
        servers.kill(LEAVES[2])
        disturb(rng, bases, oracle)
        servers.kill(HUB)
        disturb(rng, bases, oracle, 6)
        servers.lines[HUB] = "jetstream: max_file_store: 200KB ;;"
        servers.start(HUB)
        for number in range(80):  # in one table, one change a time: more than the hub's disk holds
            write(bases[number % 2][1 + number % 2], oracle, number, f" {os.urandom(1_500).hex()}")
            time.sleep(0.05)
        eventually(lambda: "insufficient" in log(servers) or "resources" in log(servers), lambda: log(servers)[-2_000:])
        servers.kill(HUB)  # a reload would not close the link of a leaf that is open
        del servers.logins[LEAVES[1]]
        servers.lines[HUB] = ""
        servers.start(HUB)
        eventually(lambda: "authentication error" in log(servers), lambda: log(servers)[-2_000:])
        disturb(rng, bases, oracle, 4)
        servers.logins = dict(servers.known)
        servers.reload(HUB)
        reached = [one for base in bases[:2] for one in base]
        names = {one.name for one in reached}  # what the base without its gateway writes comes when that is back
        settled(reached, {key: text for key, text in oracle.items() if key.partition("-")[0] in names})
        asyncio.run(forget(servers))
        servers.start(LEAVES[2])
        away.up(*away.starts)
        settled(made, oracle)
        kept = stored(tmp_path / HUB)
        assert len(kept) > 10_000
        for word in HIDDEN:
            assert word.encode() not in kept, word


@WHOLE
def test_bases_go_on_after_a_hub_lost_everything(machine, joined, tmp_path, monkeypatch):
    """Up to 7 minutes: gateways look for that each 5."""
    monkeypatch.setattr(machines, "WAIT_S", 500)
    with Nats(tmp_path, (HUB, *LEAVES)) as servers:
        urls = [servers.url(name, f"?base={name}&hub={HUB}") for name in LEAVES]
        bases = three_bases(machine, joined, tmp_path, urls, 1)
        made, oracle = [base[0] for base in bases], {}
        create(bases)
        for number in range(21):
            write(made[number % 3], oracle, number)
        settled(made, oracle)
        servers.kill(HUB)
        shutil.rmtree(tmp_path / HUB)
        servers.start(HUB)
        for one in made:
            write(one, oracle, 22)
        settled(made, oracle)


def log(servers):
    return (servers.folder / f"{HUB}.log").read_text()


async def forget(servers):
    """Remove the older half of what the hub holds."""
    import nats

    ((user, password),) = OPERATOR.items()
    client = await nats.connect(servers.url(HUB), user=user, password=password)
    context = client.jetstream()
    state = (await context.stream_info("mycomesh-all")).state
    await context.purge_stream("mycomesh-all", seq=(state.first_seq + state.last_seq) // 2)
    await client.close()
