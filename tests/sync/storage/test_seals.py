"""Signed tables: whatever a member alters of what it passes on, nobody holds a row that its writer did not write."""

from __future__ import annotations

import functools
from array import array
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mycomesh.sync.errors import MigrationError, PolicyError, SyncError
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.merge import tombstones
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.storage import change_log
from mycomesh.sync.wire.bundle import Bundle, Group, Kind
from mycomesh.sync.wire.seals import SEAL_ROWS_MAX, Seal
from tests.sync.peers import assert_equal, catch_up, converge
from tests.sync.scale import SCALE
from tests.sync.signing import signing_peers

TABLES = """
CREATE TABLE t(id INTEGER PRIMARY KEY, v, w);
CREATE TABLE k(a TEXT PRIMARY KEY, v, w) WITHOUT ROWID;
CREATE TABLE bag(v, w);
CREATE TABLE plain(id INTEGER PRIMARY KEY, v);
"""
SIGNED = ("t", "k", "bag")
MANY = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 150)"


@pytest.fixture
def mesh(tmp_path):
    """Three members with signed tables: a writer, one that passes its rows on, and one that gets them from there."""
    peers = signing_peers(tmp_path, 3)
    peers[0].sql(TABLES)
    peers[0].drain()
    for table in SIGNED:
        peers[0].replica.decisions.decide_policy(table, "signed")
    converge(peers)
    yield peers
    for peer in peers:
        peer.close()


def write_all_kinds(peer):
    peer.sql(f"{MANY} INSERT INTO t SELECT i, 'v' || i, zeroblob(i) FROM n")
    peer.sql(f"{MANY} INSERT INTO k SELECT 'k' || i, i, i / 3.0 FROM n; {MANY} INSERT INTO bag SELECT i, NULL FROM n")
    batches = peer.drain()
    peer.sql("UPDATE t SET v = 'new' WHERE id % 3 = 0; UPDATE k SET w = x'00' WHERE v % 4 = 0; UPDATE bag SET w = v")
    peer.sql("DELETE FROM t WHERE id % 10 = 0; DELETE FROM bag WHERE v % 7 = 0; DELETE FROM k WHERE v > 140")
    return [*batches, *peer.drain()]


def count(peer, sql):
    return peer.app.execute(sql).fetchone()[0]


def seals_of(peer, name):
    return count(peer, f"SELECT count(*) FROM mycomesh_seals_{peer.replica.tables[name].table_id}")


def test_rows_of_every_kind_pass_through_a_third_member(mesh):
    writer, relay, far = mesh
    for batch in write_all_kinds(writer):
        assert not relay.replica.apply(batch, relay.wall_ms, origin=writer.node_id).unsigned
    catch_up(far, relay)
    assert_equal(relay, far)
    assert_equal(writer, far)


def test_columns_of_several_writers_are_each_proven(mesh):
    one, two, far = mesh
    one.sql("INSERT INTO t VALUES(1, 'one', 'one'), (2, 'one', 'one')")
    converge([one, two])
    two.sql("UPDATE t SET w = 'two' WHERE id = 1")
    converge([one, two])
    one.close()  # the writer of the older column is away
    catch_up(far, two)
    assert far.sql("SELECT * FROM t ORDER BY id") == [(1, "one", "two"), (2, "one", "one")]


def test_signatures_survive_a_restart_and_members_that_left(mesh):
    writer, relay, far = mesh
    writer.sql("INSERT INTO t VALUES(1, 'v', 'w')")
    catch_up(relay, writer)
    relay.close()
    relay.open()  # without the certificates that the mesh told it
    relay.sql("UPDATE t SET w = 'x'")
    catch_up(far, relay)
    assert far.sql("SELECT * FROM t") == [(1, "v", "x")]


def test_seals_go_with_their_last_entry(mesh):
    writer, relay, _ = mesh
    write_all_kinds(writer)
    converge([writer, relay])
    assert seals_of(relay, "t") >= 150 / SEAL_ROWS_MAX
    writer.sql("DELETE FROM t")
    converge([writer, relay])
    for peer in (writer, relay):
        kept = {hlc for _, hlc, _, _ in peer.replica.tables["t"].log.scan(-1, 0, 10_000)}
        listing = f"SELECT content FROM mycomesh_seals_{peer.replica.tables['t'].table_id}"
        for (content,) in peer.app.execute(listing).fetchall():
            assert kept.intersection(Seal.from_stored(b"", content)[0].hlcs)


def test_tables_that_are_not_signed_have_none_of_it(mesh):
    writer, _, _ = mesh
    writer.sql("INSERT INTO plain VALUES(1, 'v')")
    (batch,) = writer.drain()
    assert b"mycomesh_seals" not in batch
    names = {name for (name,) in writer.sql("SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_seals*'")}
    assert names == {f"mycomesh_seals_{writer.replica.tables[name].table_id}" for name in SIGNED}


def test_a_file_without_signed_tables_has_nothing_of_it(tmp_path):
    (peer,) = signing_peers(tmp_path, 1)
    peer.sql(TABLES)
    peer.drain()
    assert not peer.sql("SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_s[ei][ag][ln]*'")
    peer.close()


@pytest.mark.parametrize("live", [True, False])
def test_rows_without_a_signature_are_left_out(mesh, live):
    writer, relay, _ = mesh
    writer.sql("INSERT INTO t VALUES(1, 'v', 'w')")
    (batch,) = writer.drain()
    bundle = Bundle.decode(batch)
    for section in bundle.sections:
        section.seals = []
    who = {"origin": writer.node_id} if live else {"sender": writer.node_id}
    applied = relay.replica.apply(bundle.encode(), relay.wall_ms, **who)
    assert applied.unsigned == 1
    assert relay.sql("SELECT count(*) FROM t") == [(0,)]
    catch_up(relay, writer)
    assert_equal(writer, relay)


def test_a_made_up_signer_signs_nothing(mesh, tmp_path):
    writer, relay, _ = mesh
    (tmp_path / "others").mkdir()
    writer.sql("INSERT INTO t VALUES(1, 'v', 'w')")
    bundle = Bundle.decode(writer.drain()[0])
    for section in bundle.sections:
        section.seals = [
            replace(seal, signature=relay.replica.store.signers.sign(seal.signed_part("t"))) for seal in section.seals
        ]
    assert relay.replica.apply(bundle.encode(), relay.wall_ms, sender=writer.node_id).unsigned == 1


def test_used_tables_counters_and_keep_both_are_refused(mesh):
    writer, _, _ = mesh
    decide = writer.replica.decisions.decide_policy
    writer.sql(
        "INSERT INTO plain VALUES(1, 1); CREATE TABLE c(id INTEGER PRIMARY KEY, n INTEGER);"
        " CREATE TABLE b(id INTEGER PRIMARY KEY)"
    )
    writer.drain()
    with pytest.raises(PolicyError, match="rows that nobody signed"):
        decide("plain", "signed")
    writer.replica.decisions.declare_counter("c", "n")
    decide("b", "keep-both")
    writer.drain()
    with pytest.raises(PolicyError, match="counters"):
        decide("c", "signed")
    with pytest.raises(PolicyError, match="keep-both"):
        decide("b", "signed")


def test_signed_is_final_and_keeps_its_columns(mesh):
    writer, relay, _ = mesh
    with pytest.raises(PolicyError, match="cannot be undone"):
        writer.replica.decisions.decide_policy("t", "same-row")
    with pytest.raises(PolicyError, match="is signed"):
        writer.replica.decisions.declare_counter("t", "v")
    with pytest.raises(MigrationError, match="is signed"):
        writer.replica.migrate("ALTER TABLE t DROP COLUMN v", writer.wall_ms)
    relay.sql("DELETE FROM mycomesh_schema WHERE kind = 'signed'")  # as a member that lies could have it deleted
    relay.close()
    relay.open()
    assert relay.replica.decisions.policy("t") == "signed"


def test_renamed_and_extended_tables_stay_signed(mesh):
    writer, relay, far = mesh
    writer.sql("INSERT INTO t VALUES(1, 'v', 'w')")
    writer.replica.migrate("ALTER TABLE t RENAME COLUMN v TO renamed; ALTER TABLE t RENAME TO shown", writer.wall_ms)
    writer.drain()
    writer.sql("ALTER TABLE shown ADD COLUMN more; INSERT INTO shown VALUES(2, 'v', 'w', 'm')")
    converge([writer, relay])
    catch_up(far, relay)
    catch_up(far, relay)
    assert far.sql("SELECT * FROM shown ORDER BY id") == [(1, "v", "w", None), (2, "v", "w", "m")]


def test_a_new_site_signs_its_rows_again(mesh):
    writer, relay, far = mesh
    writer.sql("INSERT INTO bag VALUES(1, 2)")
    writer.drain()
    writer.replica.outbox.set_clock_back(0, writer.wall_ms)
    writer.drain()
    catch_up(relay, writer)
    assert relay.sql("SELECT * FROM bag") == [(1, 2)]
    catch_up(far, relay)
    assert far.sql("SELECT * FROM bag") == [(1, 2)]


# ---- the law


FORGED = "forged"
POSITIONS = st.integers(0, 1 << 16)
ALTERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("value", "key", "hlc", "site", "kind", "column", "less", "leaf", "seal", "residue", "swap")),
        POSITIONS,
    ),
    min_size=1,
    max_size=4,
)


def altered(replica, bundle, alterations):  # noqa: PLR0912  (one branch an alteration)
    """Return a bundle with some of its changes and seals altered, as a member could that passes it on."""
    for what, at in alterations:
        sections = [section for section in bundle.sections if section.groups and section.table in SIGNED]
        if not sections:
            return bundle
        section = sections[at % len(sections)]
        group = section.groups[at % len(section.groups)]
        row = at % len(group.hlcs)
        seals = section.seals or [None]
        seal = seals[at % len(seals)]
        match what:
            case "value" if group.columns:
                group.rows[row][at % len(group.columns)] = FORGED
            case "key" if group.keys:
                group.keys[row] = group.keys[row - 1]
            case "hlc":
                group.hlcs = [hlc + 1 + at % 3 for hlc in group.hlcs]
            case "site":
                sites = [site for site, _ in replica.vector(section.table).items()]
                group.site = sites[at % len(sites)]
            case "kind":
                keys = group.keys or keys_of(replica.tables[section.table], group)
                section.groups[section.groups.index(group)] = Group(
                    group.site, Kind.DELETE, (), group.hlcs, keys, [[] for _ in keys], None
                )
            case "column" if len(group.columns) > 1 and group.keys:
                group.rows = [cells[:-1] for cells in group.rows]
                group.columns = group.columns[:-1]
            case "less":
                section.groups.remove(group)
            case "leaf" if seal is not None:
                section.seals[section.seals.index(seal)] = replace(seal, leaves=seal.leaves[1:] + b"x")
            case "seal" if seal is not None:
                section.seals.remove(seal)
            case "residue" if seal is not None:
                tokens = {hlc: {"v": b"\x01"} for hlc in seal.hlcs}
                section.seals[section.seals.index(seal)] = replace(seal, residues=tokens)
            case "swap":
                group.rows.reverse()
    return bundle


@settings(
    max_examples=30 if SCALE == 1 else int(60 * SCALE),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(alterations=ALTERATIONS, repair=st.booleans())
def test_no_alteration_brings_a_row_in_anothers_name(mesh, tmp_path_factory, alterations, repair):
    writer, relay, _ = mesh
    (far,) = signing_peers(tmp_path_factory.mktemp("far"), 3, first=2)
    if not writer.sql("SELECT 1 FROM t LIMIT 1"):
        write_all_kinds(writer)
        converge([writer, relay])
    true = entries_written(writer)
    stream = CatchUpStream(relay.replica, {name: far.replica.vector(name) for name in relay.replica.tables})
    while (chunk := stream.next(relay.wall_ms)).bundle is not None:
        forged = altered(relay.replica, Bundle.decode(chunk.bundle), alterations)
        try:
            far.replica.apply(forged.encode(), far.wall_ms, sender=relay.node_id, repair=repair)
        except SyncError:
            break
    for name in SIGNED:
        table = far.replica.tables.get(name)
        rows = [] if table is None else list(digests(table))
        for site_number, hlc, digest, mask in rows:
            site = table.store.site(site_number)
            # Each entry is one of the writer's; with all of its columns it is the same, byte for byte.
            same = true[name, site, hlc]
            assert all(theirs[0] == mask[0] for _, theirs in same)
            assert all(each == digest for each, theirs in same if theirs == mask)
        assert FORGED not in {value for row in far.sql(f"SELECT * FROM {name}") for value in row} if table else True
    far.close()


@functools.cache
def entries_written(writer):
    """Return (digest, whether it is a delete and its columns) of a writer's entries by table, site and clock."""
    found = {}
    for name in SIGNED:
        table = writer.replica.tables[name]
        for site_number, hlc, *rest in digests(table):
            found.setdefault((name, table.store.site(site_number), hlc), []).append(rest)
    return found


def digests(table):
    """Yield (site number, clock, digest, whether it is a delete and its columns) of every entry."""
    for site_number, hlc, row, digest in table.log.scan(-1, 0, 100_000):
        stored = next(each for each in table.log.entries_of_row(row) if each[:2] == (site_number, hlc))
        mask, dead = change_log.unpack_mask(stored[3])
        yield site_number, hlc, digest, (dead, *table.columns.names_of(mask))


def kept_rows(peer, name, liar):
    """Keep the rows of a table that a member has reported as deleted, as `keep-rows` does; return how many."""
    table = peer.replica.tables[name]
    absent = array("q", [each for place, hlc, _, _ in table.log.scan(-1, 0, 1_000) for each in (place, hlc)])
    assert peer.replica.drop_guard.judge(name, liar, absent).doubted == len(absent) // 2
    peer.replica.drop_guard.refuse(name)
    verdict = peer.replica.drop_guard.judge(name, liar, absent)
    assert verdict.kept == absent
    pairs = list(zip(absent[::2], absent[1::2], strict=True))
    with table.store.transaction():
        written = tombstones.write_again(table, pairs, peer.replica.site)
    peer.drain()
    return written


@pytest.mark.parametrize("name", SIGNED)
def test_kept_rows_are_signed_by_who_keeps_them(mesh, name):
    writer, keeper, far = mesh
    writer.sql("INSERT INTO t VALUES(1, 'a', 'b'), (2, 'c', NULL); INSERT INTO k VALUES('a', 1, 2), ('b', NULL, 2)")
    writer.sql("INSERT INTO bag VALUES(1, 2), (3, NULL)")
    converge([writer, keeper])
    before = keeper.tables()[name]
    rows = len(before)
    assert kept_rows(keeper, name, far.node_id) == rows
    assert keeper.tables()[name] == before
    # A member that had deleted them gets them back through the keeper, and a member that has them keeps them once.
    writer.wall_ms = far.wall_ms = keeper.wall_ms = keeper.wall_ms + 5
    catch_up(far, keeper)
    assert far.tables()[name] == before
    assert seals_of(far, name) > 0
    sites = {
        site for (site,) in far.sql(f"SELECT DISTINCT place FROM mycomesh_changes_{far.replica.tables[name].table_id}")
    }
    assert sites == {far.replica.store.site_number(keeper.replica.site)}
    converge(mesh)
    assert [peer.tables()[name] for peer in mesh] == [before] * 3
