"""Fuzz targets that reach a file: definitions as a member may state them, and changes as a member may write them.

Whatever comes, only the package's own errors leave the replica, SQLite finds its file whole, the node's own tables and sums hold,
the application can write, an honest batch arrives, and SQLite's work and memory stay within bounds. Replicas that take in the
same changes in another order are equal.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

import apsw
from hypothesis import event
from hypothesis import strategies as st

from mycomesh.sync.errors import SyncError
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.interest import Interest
from tests.fuzz.definitions import FACTS, NAMES
from tests.fuzz.registry import target
from tests.sync.peers import WALL_MS, Peer, assert_equal, converge

__all__ = []

MEMBER = b"\x77" * 16
HLC = (WALL_MS + 1_000) << 16
# Of SQLite, for all that one example brings: virtual-machine steps in thousands, and bytes.
KILOSTEPS_MAX = 20_000
MEMORY_BYTES_MAX = 160 << 20
AREAS = ReplicaConfig(interest=Interest({}))  # knows areas, and keeps all
QUIET_ROUNDS_MAX = 12  # of two nodes that answer each other

TABLES = """
CREATE TABLE d(id INTEGER PRIMARY KEY, doc, n INTEGER);
CREATE TABLE words(k TEXT PRIMARY KEY COLLATE NOCASE, doc, n UNIQUE) WITHOUT ROWID;
CREATE TABLE bag(doc, n);
CREATE TABLE strict(id INTEGER PRIMARY KEY, doc TEXT, n INT CHECK(n < 50), g INT AS (n + 1)) STRICT;
CREATE TABLE pair(a, b, doc, n DEFAULT 7, PRIMARY KEY(a, b));
CREATE TABLE numbered(id INTEGER PRIMARY KEY AUTOINCREMENT, doc, n);
CREATE INDEX by_doc ON bag(json_extract(doc, '$.a')) WHERE n > 0;
CREATE UNIQUE INDEX once ON pair(n) WHERE n IS NOT 3;
INSERT INTO d VALUES(1, '{}', 1), (2, 'no json', 2), (3, NULL, -9223372036854775808), (4, x'00', 1.5);
INSERT INTO words VALUES('a', 'b', 1), ('c', NULL, 2);
INSERT INTO bag VALUES('{}', 1), ('[1]', 2);
INSERT INTO strict VALUES(1, 'x', 1);
INSERT INTO pair VALUES(1, 2, 'x', 1), ('1', 2.0, 'y', 2)
"""


@functools.cache
def _template(number):
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    peer = Peer(folder / "template.db", number)
    peer.sql(TABLES)
    peer.drain()
    peer.close()
    return folder / "template.db"


@contextlib.contextmanager
def _peers(count):
    """Peers with the same rows, each its own copy of one file: the copies take sites of their own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        peers = []
        try:
            for number in range(count):
                path = Path(folder) / f"{number}.db"
                shutil.copy(_template(0), path)
                peers.append(Peer(path, number, config=AREAS))
            yield peers
        finally:
            for peer in peers:
                peer.close()


@contextlib.contextmanager
def _bounded(peer):
    """Count SQLite's steps and memory while the replica takes something in."""
    ticks = [0]
    apsw.memory_high_water(True)

    def tick():
        ticks[0] += 1
        return ticks[0] > KILOSTEPS_MAX

    peer.replica.store.db.set_progress_handler(tick, 1_000)
    try:
        yield
    finally:
        peer.replica.store.db.set_progress_handler(None)
    assert ticks[0] <= KILOSTEPS_MAX, "SQLite computes for too long"
    assert apsw.memory_high_water() < MEMORY_BYTES_MAX, f"{apsw.memory_high_water()} bytes"


def _take(peer, bundle, *, live=True, repair=False):
    """Take in a bundle, which may be refused."""
    try:
        payload = bundle.encode()
    except (TypeError, ValueError, OverflowError):
        return False  # no sender can say it
    with _bounded(peer):
        try:
            origin = {"origin": MEMBER} if live else {"sender": MEMBER}
            peer.replica.apply(payload, peer.wall_ms + 2_000, repair=repair, **origin)
        except SyncError as error:
            _assert_one_line(error)
            return False
    return True


def _keep_less(peer):
    """Take the steps of retention until none is due."""
    for _ in range(QUIET_ROUNDS_MAX):
        now_ms = peer.wall_ms + 5_000
        due = peer.replica.retention.next_due(now_ms)
        if due is None or due > now_ms:
            return
        with _bounded(peer):
            peer.replica.retention.step(now_ms)
    raise AssertionError("retention does not end")


def _assert_one_line(error):
    assert str(error)
    assert "\n" not in str(error).strip()
    event(type(error).__name__)


def _assert_sound(peer):
    """The file is whole, and the node and the application go on."""
    assert peer.sql("PRAGMA integrity_check") == [("ok",)]
    assert internal_tables.damaged(peer.app) == []
    for table in peer.replica.tables.values():
        count, low, high = table.log.read_sums()
        assert (table.log.count, *table.log.sums) == (count, low, high), table.spec.name
    peer.drain()
    listing = (
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'mycomesh_*'"
    )
    for (name,) in peer.sql(listing):
        quoted = name.replace('"', '""')
        with contextlib.suppress(UnicodeDecodeError):  # text that is not UTF-8 is a value like any other
            peer.sql(f'SELECT * FROM "{quoted}" LIMIT 3')
    before = peer.digests()
    peer.close()
    peer.open()
    peer.drain()
    assert peer.digests() == before


# ---- definitions


def _facts_bundle(facts, hlc):
    last = {name: [kind, name, sql] for kind, name, sql in facts}
    rows = list(last.values())
    group = Group(MEMBER, Kind.INSERT, ("kind", "name", "sql"), [hlc + n for n in range(len(rows))], None, rows, None)
    return Bundle([Section(SCHEMA_TABLE, [(MEMBER, hlc - 1, hlc + len(rows))], [group])])


@target(st.lists(st.lists(FACTS, min_size=1, max_size=6), min_size=1, max_size=3))
def facts(batches):
    """Check that no definition of a member stops a node, costs it much, or reaches its own tables or the user's rows."""
    with _peers(1) as (peer,):
        kept = {name: peer.sql(f"SELECT count(*) FROM {name}") for name in NAMES}
        for number, batch in enumerate(batches):
            _take(peer, _facts_bundle(batch, HLC + 100 * number))
            peer.drain()
        _keep_less(peer)
        _assert_sound(peer)
        retained = {table.spec.folded for table in peer.replica.retention.retained()}
        for name in NAMES:
            table = peer.replica.tables.get(name)
            if table is not None and name not in retained:  # perhaps under another name
                shown = table.spec.name
                parked = peer.sql("SELECT count(*) FROM mycomesh_parked WHERE table_name = ?", shown)
                found = peer.sql('SELECT count(*) FROM "{}"'.format(shown.replace('"', '""')))
                assert found[0][0] + parked[0][0] >= kept[name][0][0]


def _exchange(peers):
    """Give each peer what the others publish, live, until none has anything to say."""
    for _ in range(QUIET_ROUNDS_MAX):
        said = [(peer, peer.drain()) for peer in peers]
        if not any(bundles for _, bundles in said):
            return
        for speaker, bundles in said:
            for peer in (peer for peer in peers if peer is not speaker):
                peer.published += peer.take(bundles, origin=speaker.node_id)
    raise AssertionError("the nodes answer each other without end")


@target(st.lists(st.lists(FACTS, min_size=1, max_size=6), min_size=1, max_size=3), st.randoms(use_true_random=False))
def answers(batches, order):
    """Check that nodes which take in the same definitions in another order say no more than they have to, and agree on them."""
    with _peers(2) as peers:
        _exchange(peers)
        bundles = [_facts_bundle(batch, HLC + 100 * number) for number, batch in enumerate(batches)]
        for peer in peers:
            for bundle in bundles:
                _take(peer, bundle)
            order.shuffle(bundles)
        _exchange(peers)
        for peer in peers:
            peer.close()
            peer.open()
        _exchange(peers)
        for peer in peers:
            _assert_sound(peer)
        converge(peers)
        one, two = (peer.sql("SELECT kind, name, sql FROM mycomesh_schema ORDER BY name") for peer in peers)
        assert one == two


# ---- changes


values = st.sampled_from(
    (None, 0, 1, 2, 3, -1, 60, 1.0, -0.0, 1.5, 1e308, (1 << 63) - 1, -(1 << 63), "", "a", "A", "a ", "b")
)
values |= st.sampled_from(
    ("{}", "[1]", '{"a":1}', "no json", "\0", "\ud7ff", b"", b"\x00", b"a", "x" * 3_000, b"y" * 3_000)
)
values |= st.sampled_from(([b"\xff"], [b"a"], [b"\xff", b"\xff"], [], True, False, (1 << 64), -(1 << 64), float("nan")))
COLUMNS = {
    "d": "id doc n",
    "words": "k doc n",
    "bag": "doc n",
    "strict": "id doc n g",
    "pair": "a b doc n",
    "numbered": "id doc n",
}
KEYS = {"d": ("id",), "words": ("k",), "bag": (), "strict": ("id",), "pair": ("a", "b"), "numbered": ("id",)}


@st.composite
def _group(draw, table, hlc):
    kind = draw(st.sampled_from(Kind))
    names = (*COLUMNS.get(table, "id doc n").split(), "unknown", "n\0" + "77" * 8, "")
    columns = set(draw(st.lists(st.sampled_from(names), max_size=4, unique=True)))
    if draw(st.integers(0, 4)):  # mostly what belongs to the table
        columns = set(draw(st.lists(st.sampled_from(names[:-3]), max_size=4, unique=True)))
        columns |= set(KEYS.get(table, ())) if kind is Kind.INSERT else set()
    columns = () if kind is Kind.DELETE else tuple(sorted(columns))
    count = draw(st.integers(1, 5))
    key = st.sampled_from(
        (1, 2, 3, 4, 5, 7, b"\x81\x61a", b"\x81\x61c", b"\x82\x01\x02", b"\x00" + MEMBER + hlc.to_bytes(8, "big"))
    )
    key |= st.sampled_from((0, -1, b"", b"\x81", b"\x01" + bytes(8), b"\x00" * 25, b"\x82\x61\x31\x02", (1 << 63) - 1))
    keys = None if kind is Kind.INSERT and draw(st.booleans()) else [draw(key) for _ in range(count)]
    rows = [[draw(values) for _ in columns] for _ in range(count)]
    priors = None
    if draw(st.integers(0, 3)) == 0:
        part = st.tuples(st.none() | st.just(columns[:1]), st.sampled_from((MEMBER, b"A" * 16)), st.integers(0, HLC))
        priors = [draw(st.lists(part, max_size=2)) for _ in range(count)]
    return Group(MEMBER, kind, columns, [hlc + n for n in range(count)], keys, rows, priors)


@st.composite
def _changes(draw):
    """Draw bundles of one member, no stamp twice, and none in the range of an earlier bundle, which says that it has come."""
    bundles, hlc = [], HLC
    for _ in range(draw(st.integers(1, 4))):
        sections = []
        for table in draw(st.lists(st.sampled_from((*NAMES, *NAMES, "unknown")), min_size=1, max_size=3, unique=True)):
            first, groups = hlc, []
            for _ in range(draw(st.integers(1, 3))):
                groups.append(draw(_group(table, hlc)))
                hlc += 10
            sections.append(Section(table, [(MEMBER, first - 1, hlc - 1)], groups))
        bundles.append(Bundle(sections))
    return bundles


@target(_changes(), st.randoms(use_true_random=False), st.booleans())
def changes(bundles, order, live):
    """Check that no change of a member stops a node, and that two which get them in another order become equal."""
    with _peers(2) as (one, two):
        for bundle in bundles:
            _take(one, bundle, live=live)
        _assert_sound(one)
        shuffled = [*bundles, *bundles[:1]]
        order.shuffle(shuffled)
        for bundle in shuffled:
            _take(two, bundle, live=live)
        _assert_sound(two)
        one.sql("INSERT INTO d(id, doc) VALUES(1000, 'honest')")
        two.sql("UPDATE d SET doc = 'honest' WHERE id = 1")
        one.drain()
        two.drain()
        converge([one, two])
        assert_equal(one, two)
        assert one.sql("SELECT doc FROM d WHERE id = 1000") == [("honest",)]


@target(_changes())
def repairs(bundles):
    """Check the same of rows that a repair brings, twice, and with other values for one stamp."""
    with _peers(1) as (one,):
        for bundle in [*bundles, *reversed(bundles)]:
            _take(one, bundle, live=False, repair=True)
        for group in (group for bundle in bundles for section in bundle.sections for group in section.groups):
            group.rows = [list(reversed(row)) for row in group.rows]
        for bundle in bundles:
            _take(one, bundle, live=False, repair=True)
        _assert_sound(one)
