"""A dishonest member's files in a directory of real gateways: others are read as before, and nobody stops or fills."""

from __future__ import annotations

import os

import pytest

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import POSITION_MAX, EnvelopeKeys
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT, Kind, StreamWriter
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.node.gateway.statement import Statement
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.storage.large_rows import KEY_BYTES_MAX
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Group, Section
from mycomesh.sync.wire.bundle import Kind as Change
from tests.integration.base_fleet import three_sharing
from tests.integration.machines import SQLITE, eventually
from tests.integration.test_hostile_member import RSS_MB_MAX, printable, rss_mb

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")

TABLES = 2_000
STREAMS = 300
RUN = 200  # envelopes of a run that never ends
HOSTILE = "x\x1b]0;owned\x07\x9b31m\u202e"


class Liar:
    """A member that has left its node and writes files into the directory, with its own keys."""

    def __init__(self, machine, share):
        self.identity = Keystore(machine.home).identity()
        self.keys = EnvelopeKeys(self.identity.mesh_id, self.identity.secret, (self.identity.secret,))
        self.mailbox = DirectoryMailbox(share)
        self.last = {self.stream(kind): 0 for kind in Kind}  # two kinds share one

    def stream(self, kind):
        return kind.stream(self.keys, self.identity.node_id)

    def say(self, kind, *messages, position=0):
        """Append messages as the member's own altered program could; return where, and the envelope."""
        stream = self.stream(kind)
        made = StreamWriter(self.identity, kind, self.last[stream])
        for each in messages:
            made.put(each if isinstance(each, bytes) else wire.encode(each))
        at, data = made.next_envelope(self.keys, position or (1_000 << POSITION_SHIFT) + self.last[stream] + 1)
        assert self.mailbox.append(self.keys.mesh, stream, at, data)
        self.last[stream] = at
        return at, data


def claims_of(count):
    window = Vector({bytes(16): [(0, 1 << 40)]})
    return tuple((f"made up {HOSTILE} {number:04}", window) for number in range(count))


def rows_of(liar, size):
    """Return a chunk of rows whose keys have so many bytes, in the liar's name."""
    site = liar.identity.node_id[:8] + bytes(8)
    hlcs = [(1_700_000_000_000 << 16) + number for number in range(4)]
    rows = [[f"{number}" + "k" * size, HOSTILE] for number in range(4)]
    section = Section(
        "drones", [(site, 0, hlcs[-1])], [Group(site, Change.INSERT, ("id", "v"), hlcs, None, rows, None)]
    )
    return wire.Chunk(Bundle([section]).encode())


@pytest.fixture
def bases(machine, joined, tmp_path):
    """Two gateways that share a directory, and a third member of which there is only its home."""
    made, share = three_sharing(machine, joined, tmp_path)
    for each in made[:2]:
        each.up("--port", "0", "--mailbox", f"dir:{share}")
    return made[0], made[1], Liar(made[2], share), share


def test_a_members_files_stop_and_fill_no_gateway(bases):
    alpha, bravo, liar, share = bases
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v); INSERT INTO drones VALUES('first', 1);")
    bravo.shows("SELECT id FROM drones", "first\n")
    before = {each: rss_mb(each) for each in (alpha, bravo)}
    words = statement.encode(Statement(HOSTILE, ((liar.stream(Kind.LIVE), POSITION_MAX),), (liar.stream(Kind.LIVE),)))
    claims = claims_of(TABLES)
    for _ in range(8):
        liar.say(Kind.STATEMENT, words, wire.Digests(()))
    at, data = liar.say(Kind.LIVE, wire.Vectors(claims), rows_of(liar, KEY_BYTES_MAX), wire.Done(claims, ()))
    for later in (99, 100, 1 << 40):
        liar.mailbox.append(liar.keys.mesh, liar.stream(Kind.LIVE), at + later, data)
    liar.last[liar.stream(Kind.LIVE)] = at + (1 << 40)
    for _ in range(RUN):
        liar.say(Kind.LIVE, wire.Vectors(()), wire.Ack(1))
    liar.say(Kind.PARCEL, wire.Vectors(claims), b"\xff" * 100_000, rows_of(liar, 1_000_000))
    liar.say(Kind.PARCEL, wire.Ack(1), position=POSITION_MAX)
    for number in range(STREAMS):
        liar.mailbox.append(liar.keys.mesh, os.urandom(8), 1 + number, os.urandom(50))
    folder = share / "mycomesh" / liar.keys.mesh.hex()
    for number in range(8):
        (folder / number.to_bytes(8, "big").hex()).write_bytes(b"no folder")
    (folder / liar.stream(Kind.PARCEL).hex() / f"{1 << 50:016x}.box").write_bytes(bytes(20_000_000))
    alpha.sql("INSERT INTO drones VALUES('second', 2);")
    bravo.sql("INSERT INTO drones VALUES('third', 3);")
    honest = "SELECT id FROM drones WHERE length(id) < 10 ORDER BY v"
    for each in (alpha, bravo):
        each.shows(honest, "first\nsecond\nthird\n")
        refused = "SELECT count(*) FROM mycomesh_mailboxes WHERE member = 'charlie'"
        each.shows(refused, "1\n")
        each.shows("SELECT count(*) FROM drones", "3\n")
    for words_of in (["status"], ["status", "--json"], ["tables"], ["members"]):
        done = alpha.run(*words_of)
        assert printable(done.stdout + done.stderr), words_of
    alpha.sql("DELETE FROM drones WHERE id = 'first';")
    bravo.shows(honest, "second\nthird\n")
    for each in (alpha, bravo):
        eventually(
            lambda each=each: rss_mb(each) < before[each] + RSS_MB_MAX,
            lambda each=each: f"{each.name}: {before[each]:.1f} MB, then {rss_mb(each):.1f} MB",
        )
        assert each.process.poll() is None
        assert "Traceback" not in each.output()
