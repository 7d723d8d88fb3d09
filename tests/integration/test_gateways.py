"""Gateways as real processes: bases without a link that share a directory all the time."""

import contextlib
import random
import subprocess

import pytest

from tests.integration import machines
from tests.integration.base_fleet import HIDDEN, all_equal, settled, stored, three_bases, three_sharing, write
from tests.integration.machines import eventually
from tests.sync.scale import SCALE


@pytest.fixture
def bases(machine, joined, tmp_path):
    return three_sharing(machine, joined, tmp_path)


def up(one, share):
    return one.up("--port", "0", "--mailbox", f"dir:{share}")


def test_writes_reach_every_base_through_a_directory(bases):
    made, share = bases
    for each in made:
        up(each, share)
    alpha, bravo, charlie = made
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'one'), ('d2', 'two')")
    for other in (bravo, charlie):
        other.shows("SELECT v FROM drones ORDER BY id", "one\ntwo\n")
    before = set(share.rglob("*.box"))
    bravo.sql("UPDATE drones SET v = 'changed' WHERE id = 'd1'; DELETE FROM drones WHERE id = 'd2'")
    eventually(lambda: set(share.rglob("*.box")) - before, "a file appears")
    for other in (alpha, charlie):
        other.shows("SELECT v FROM drones ORDER BY id", "changed\n")
    all_equal(made)
    (box,) = alpha.status()["mailboxes"]
    assert (box["state"], box["parcels"], [each["member"] for each in box["streams"]]) == (
        "running",
        1,
        ["bravo", "charlie"],
    )
    shown = alpha.done("status")
    assert f"mailbox dir:{share}: running" in shown
    assert "bravo" in shown
    alpha.shows(
        "SELECT member, state FROM mycomesh_mailboxes ORDER BY member", "|running\nbravo|current\ncharlie|current\n"
    )
    alpha.terminate()
    up(alpha, share)  # none of the others says anything, and nothing is fetched

    def shown_again():
        return [(each["member"], each["bytes"]) for each in alpha.status()["mailboxes"][0]["streams"]]

    eventually(lambda: shown_again() == [("bravo", 0), ("charlie", 0)], shown_again)


def test_a_revoked_gateway_neither_reads_nor_brings_anything(bases):
    """It was away when it was revoked, and has only the mailbox: it goes on under the secret of before."""
    (alpha, bravo, charlie), share = bases
    for each in (alpha, bravo, charlie):
        up(each, share)
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY); INSERT INTO drones VALUES('of before')")
    for other in (bravo, charlie):
        other.shows("SELECT id FROM drones", "of before\n")
    for each in (bravo, charlie):
        each.terminate()
    alpha.done("revoke", "bravo")
    charlie.up("--port", "0", "--mailbox", f"dir:{share}", "--peer", alpha.address)
    eventually(lambda: any(peer["state"] == "linked" for peer in alpha.status()["peers"]), "charlie learns of it")
    charlie.sql("INSERT INTO drones VALUES('of charlie')")
    alpha.sql("INSERT INTO drones VALUES('secret of alpha')")
    bravo.sql("INSERT INTO drones VALUES('of bravo')")
    up(bravo, share)
    for each in (alpha, charlie):
        each.shows("SELECT id FROM drones ORDER BY id", "of before\nof charlie\nsecret of alpha\n")

    def refused(one):
        streams = one.status()["mailboxes"][0]["streams"]
        return [each["why"] for each in streams if each["refused"] or "revoked" in each["why"]]

    for each in (alpha, bravo):
        eventually(lambda each=each: refused(each), f"{each.name} cannot open what the other appends")
    bravo.shows("SELECT id FROM drones ORDER BY id", "of before\nof bravo\n")
    alpha.shows("SELECT id FROM drones ORDER BY id", "of before\nof charlie\nsecret of alpha\n")
    unknown = "a mesh secret that this node does not know"
    assert all(unknown in why for why in refused(bravo)), refused(bravo)
    assert all(unknown in why or "bravo was revoked" in why for why in refused(alpha)), refused(alpha)


@pytest.fixture
def fleet(machine, joined, tmp_path):
    """Three bases of three nodes that share a directory, which is small if this machine can mount one."""
    share = tmp_path / "share"
    share.mkdir()
    limited = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(share)], check=False).returncode == 0
    yield three_bases(machine, joined, tmp_path, [f"dir:{share}"] * 3), share, limited
    if limited:
        subprocess.run(["umount", "--lazy", str(share)], check=True)


@contextlib.contextmanager
def full(share, limited):
    """Let no more bytes into the directory; where nothing can be mounted, let no directory be there."""
    if not limited:
        share.rename(share.parent / "gone")
        yield
        (share.parent / "gone").rename(share)
        return
    filler = share / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))
    yield
    filler.unlink()


@pytest.mark.parametrize(
    "keeps",
    [True, pytest.param(False, marks=pytest.mark.skipif(SCALE <= 1, reason="takes minutes; make long runs it"))],
)
def test_three_bases_agree_after_everything(fleet, keeps, monkeypatch):
    monkeypatch.setattr(machines, "WAIT_S", 60 if keeps else 400)
    bases, share, limited = fleet
    rng, oracle = random.Random(1), {}
    made = [one for base in bases for one in base]
    bases[0][0].sql("CREATE TABLE t(id TEXT PRIMARY KEY, v TEXT)")
    for one in made:
        one.shows("SELECT count(*) FROM t", "0\n")
    away = bases[2][0]
    away.terminate()
    for number in range(round(12 * SCALE)):
        write(rng.choice(made), oracle, number)
        gateway = bases[rng.randrange(2)][0]
        if rng.random() < 0.4:  # kill -9 at a random point, and up again
            gateway.kill()
            write(gateway, oracle, number)
            gateway.up(*gateway.starts)
    kept = sorted(share.rglob("*.box"))
    for path in [] if keeps else kept[: len(kept) // 2]:  # base 2 is away for longer than this mailbox keeps
        path.unlink()
    with full(share, limited):
        write(bases[0][1], oracle, 100)
        write(bases[1][2], oracle, 101)
        for base in bases[:2]:
            eventually(lambda base=base: base[0].status()["mailboxes"][0]["state"] == "waiting", "it waits for room")
    away.up(*away.starts)
    settled(made, oracle)
    for word in HIDDEN:
        assert word.encode() not in stored(share), word
    assert {each["base"] for each in away.status()["mailboxes"][0]["streams"]} <= {
        "base0",
        "base1",
        "",
    }  # by statements
