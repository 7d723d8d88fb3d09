"""`python -m tests.sync.lock_holds [NAME]`: the CPU that one batch of a member holds the write lock for, for many batches.

`honest_...` are batches as a node makes them; the others are the worst that a member could send, one for each thing that costs.
Prints the longest hold, the sum of all, and their number. ADR 12 has the figures.
"""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from mycomesh.sync import codec
from mycomesh.sync.errors import SyncError
from mycomesh.sync.replica import Hooks, Replica, ReplicaConfig
from mycomesh.sync.storage.table import insert_key
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section

SITE = b"B" * 8 + bytes(8)
COLUMNS = [f"c{number:04}" for number in range(500)]
WIDE = f"CREATE TABLE d(id INTEGER PRIMARY KEY, {', '.join(COLUMNS)})"
UNIQUE = "CREATE TABLE d(id INTEGER PRIMARY KEY, u UNIQUE)"
PLAIN = "CREATE TABLE d(id INTEGER PRIMARY KEY, u, v)"
COUNT = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT {})"
CASES = {}


class Timer:
    """Times the holds of a write lock, in milliseconds of CPU."""

    def __init__(self):
        self.holds, self.since = [], 0.0

    def on_lock(self, held):
        if held:
            gc.disable()
            self.since = time.thread_time()
        else:
            self.holds.append((time.thread_time() - self.since) * 1_000)
            gc.enable()


def memory_folder():
    """Return the folder of a file system in memory, None without one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class File(Timer):
    """A replica whose holds of the write lock are timed."""

    def __init__(self, *script):
        self.folder = tempfile.mkdtemp(dir=memory_folder())
        self.path = Path(self.folder) / "holds.db"
        self.app = sqlite3.connect(self.path, isolation_level=None)
        self.app.executescript(";".join(["PRAGMA journal_mode = WAL", *script]))
        super().__init__()
        self.now = time.time_ns() // 1_000_000
        self.hlc = (self.now + 5) << 16
        self.replica = Replica.open(
            str(self.path),
            node_id=b"A" * 16,
            mesh_key=bytes(32),
            entropy=os.urandom,
            config=ReplicaConfig(),
            hooks=Hooks(on_lock=self.on_lock),
        )
        self.drain()

    def drain(self):
        while self.replica.drain(self.now)[1]:
            pass

    def sql(self, script, *values):
        self.app.execute(script, values)
        self.drain()
        return self

    def take(self, bundle):
        return self.take_bytes(bundle.encode())

    def take_bytes(self, data):
        self.holds.clear()
        try:
            merged = self.replica.apply(data, self.now + 10, origin=b"B" * 16).merged
            done = f"{merged.changes} news, {merged.conflicts} conflicts, {merged.parked} parked"
        except SyncError as error:
            done = str(error)
        return len(data), done

    def close(self):
        self.app.close()
        self.replica.close()
        shutil.rmtree(self.folder)


def case(make):
    CASES[make.__name__] = make
    return make


def batch(file, *groups, table="d", last=100_000):
    return Bundle([Section(table, [(SITE, 0, file.hlc + last)], list(groups))])


def inserts(file, columns, rows, at=0):
    hlcs = [file.hlc + at + number for number in range(len(rows))]
    return Group(SITE, Kind.INSERT, columns, hlcs, None, rows, None)


def updates(file, columns, rows, *, keys=None, priors=None, at=0):
    hlcs = [file.hlc + at + number for number in range(len(rows))]
    return Group(SITE, Kind.UPDATE, columns, hlcs, list(range(len(rows))) if keys is None else keys, rows, priors)


def filled(count, value="'u' || i"):
    return File(PLAIN, f"{COUNT.format(count)} INSERT INTO d SELECT i, {value}, i FROM n")


@case
def honest_inserts():
    file = File(PLAIN)
    return file, batch(file, inserts(file, ("id", "u", "v"), [[n, f"u{n}", n] for n in range(2_048)]))


@case
def policies_beside_thousands_of_others():
    file = File(PLAIN)

    def stated(first, count):
        hlcs = [file.hlc + first + number for number in range(count)]
        rows = [["policy", f'policy:["made up {hlc}"]', "keep-both"] for hlc in hlcs]
        group = Group(SITE, Kind.INSERT, ("kind", "name", "sql"), hlcs, None, rows, None)
        return Bundle([Section("mycomesh_schema", [(SITE, hlcs[0] - 1, hlcs[-1])], [group])])

    for first in range(0, 3_000, 500):
        file.take(stated(first, 500))
    return file, stated(3_000, 100)


@case
def honest_inserts_with_four_indexes():
    ddl = "CREATE TABLE d(id TEXT PRIMARY KEY, u UNIQUE, v, w); CREATE INDEX dv ON d(v); CREATE INDEX dw ON d(w, v)"
    file = File(ddl)
    rows = [[f"{n * 7_919 % 2_048:032}", f"u{n}", n, "x" * 100] for n in range(2_048)]
    return file, batch(file, inserts(file, ("id", "u", "v", "w"), rows))


@case
def honest_edits_that_conflict():
    file = filled(3_000).sql("UPDATE d SET v = 'mine'")
    return file, batch(file, updates(file, ("v",), [["w"]] * 64))


@case
def honest_inserts_that_a_unique_refuses():
    file = File(UNIQUE, f"{COUNT.format(2_048)} INSERT INTO d SELECT -i - 1, 'u' || i FROM n")
    return file, batch(file, inserts(file, ("id", "u"), [[n, f"u{n}"] for n in range(2_048)]))


@case
def every_row_refused():
    file = File(UNIQUE, "INSERT INTO d VALUES(-1, 'u')")
    return file, batch(file, inserts(file, ("id", "u"), [[n, "u"] for n in range(20_000)]))


@case
def one_row_of_17_refused():
    file = File(UNIQUE, "INSERT INTO d VALUES(-1, 'u')")
    rows = [[n, "u" if n % 17 == 16 else n] for n in range(65_536)]
    return file, batch(file, inserts(file, ("id", "u"), rows))


@case
def one_row_of_1000_refused():
    file = File(UNIQUE, "INSERT INTO d VALUES(-1, 'u')")
    rows = [[n, "u" if n % 1_000 == 999 else n] for n in range(65_536)]
    return file, batch(file, inserts(file, ("id", "u"), rows))


@case
def refused_beside_3000_parked_rows():
    file = File(UNIQUE, "INSERT INTO d VALUES(-1, 'u')")
    file.take(batch(file, inserts(file, ("id", "u"), [[n, "u"] for n in range(3_000)]), last=30_000))
    rows = [[10_000 + n, "u"] for n in range(3_000)]
    return file, batch(file, inserts(file, ("id", "u"), rows, 40_000))


@case
def every_row_conflicts():
    file = filled(20_000).sql("UPDATE d SET v = 'mine'")
    return file, batch(file, updates(file, ("v",), [["w"]] * 20_000))


@case
def wide_inserts():
    file = File(WIDE)
    return file, batch(file, inserts(file, (*COLUMNS, "id"), [[0] * 500 + [n] for n in range(2_048)]))


@case
def wide_edits_that_conflict():
    file = File(WIDE, f"{COUNT.format(64)} INSERT INTO d(id) SELECT i FROM n")
    file.sql(f"UPDATE d SET {' = 1, '.join(COLUMNS)} = 1")
    return file, batch(file, updates(file, tuple(COLUMNS), [[2] * 500] * 64))


@case
def edits_with_500_priors():
    file = File(WIDE, f"{COUNT.format(64)} INSERT INTO d(id) SELECT i FROM n").sql("UPDATE d SET c0000 = 7")
    priors = [((name,), bytes([number % 250]) * 16, number + 1) for number, name in enumerate(COLUMNS)]
    return file, batch(file, updates(file, tuple(COLUMNS), [[2] * 500] * 64, priors=[priors] * 64))


def many_parts(names, count=2_000):
    """Priors of which each part names all columns."""
    return [(names, bytes([number % 250]) * 16, number + 1) for number in range(count)]


@case
def edits_with_2000_priors_of_all_columns():
    file = File(WIDE, f"{COUNT.format(8)} INSERT INTO d(id) SELECT i FROM n").sql("UPDATE d SET c0000 = 7")
    return file, batch(file, updates(file, tuple(COLUMNS), [[2] * 500] * 8, priors=[many_parts(tuple(COLUMNS))] * 8))


@case
def deletes_with_2000_priors_of_all_columns():
    file = File(WIDE, f"{COUNT.format(8)} INSERT INTO d(id) SELECT i FROM n").sql("UPDATE d SET c0000 = 7")
    parts = [(None, bytes([7]) * 16, 5), *many_parts(tuple(COLUMNS), 1_999)]
    hlcs = [file.hlc + number for number in range(8)]
    return file, batch(file, Group(SITE, Kind.DELETE, (), hlcs, list(range(8)), [[]] * 8, [parts] * 8))


@case
def rebuild_of_100000_rows():
    file = filled(99_000)
    fact = ["table", "d", "CREATE TABLE d(id INTEGER PRIMARY KEY, u TEXT, v TEXT)"]
    return file, batch(file, inserts(file, ("kind", "name", "sql"), [fact]), table="mycomesh_schema")


@case
def one_row_in_500_edits():
    file = File(WIDE, "INSERT INTO d(id) VALUES(0)")
    return file, batch(file, *(updates(file, (name,), [[2]], at=n) for n, name in enumerate(COLUMNS)))


@case
def edits_of_350_kb():
    file = filled(64, "''")
    return file, batch(file, updates(file, ("v",), [["w" * 350_000]] * 64))


@case
def edits_of_350_kb_that_conflict():
    file = filled(64, "''").sql("UPDATE d SET v = ?", "m" * 350_000)
    return file, batch(file, updates(file, ("v",), [["w" * 350_000]] * 64))


@case
def one_blob_of_16_mb_that_conflicts():
    file = filled(64, "''").sql("UPDATE d SET v = ? WHERE id = 0", b"m" * (16 << 20))
    return file, batch(file, updates(file, ("v",), [[b"w" * (16 << 20)]]))


@case
def one_text_of_16_mb_that_conflicts():
    file = filled(64, "''").sql("UPDATE d SET v = ? WHERE id = 0", "m" * (16 << 20))
    return file, batch(file, updates(file, ("v",), [["w" * (16 << 20)]]))


@case
def one_blob_of_16_mb_that_loses():
    """The change loses to a later write that had not seen it."""
    file = filled(64, "''")
    file.now += 1_000
    file.sql("UPDATE d SET v = ? WHERE id = 0", b"m" * (16 << 20))
    return file, batch(file, updates(file, ("v",), [[b"w" * (16 << 20)]]), last=100)


@case
def one_blob_of_16_mb_inserted():
    file = filled(64, "''")
    return file, batch(file, inserts(file, ("id", "u", "v"), [[1_000, "u", b"w" * (16 << 20)]]))


@case
def one_blob_of_16_mb_in_an_edit():
    file = filled(64, "''")
    return file, batch(file, updates(file, ("v",), [[b"w" * (16 << 20)]]))


@case
def rows_of_1000_bytes_in_22_mb():
    file = File(PLAIN)
    return file, batch(file, inserts(file, ("id", "u", "v"), [[n, "u" * 980, n] for n in range(22_000)]))


def edits_by_keys_of(size, count):
    fill = f"{COUNT.format(count)} INSERT INTO d SELECT i || printf('%.{size}c', 'k'), i FROM n"
    file = File("CREATE TABLE d(id TEXT PRIMARY KEY, v)", fill)
    keys = [codec.encode([f"{n}" + "k" * size]) for n in range(count)]
    return file, batch(file, updates(file, ("v",), [["w"]] * count, keys=keys))


@case
def edits_by_keys_of_60_kb():
    return edits_by_keys_of(60_000, 350)


@case
def inserts_with_keys_of_60_kb():
    file = File("CREATE TABLE d(id TEXT PRIMARY KEY, v)")
    return file, batch(file, inserts(file, ("id", "v"), [[f"{n}" + "k" * 60_000, n] for n in range(350)]))


@case
def edits_by_keys_of_350_kb():
    """Beyond the limit: they are left out."""
    return edits_by_keys_of(350_000, 64)


@case
def edits_beside_values_of_4_mb():
    """Each row of an edit that loses is read, with all its values."""
    file = File(PLAIN, f"{COUNT.format(64)} INSERT INTO d SELECT i, zeroblob(4 << 20), i FROM n").sql(
        "UPDATE d SET v = 'mine'"
    )
    return file, batch(file, updates(file, ("v",), [["w"]] * 64))


@case
def edits_of_large_rows_that_an_index_refuses():
    """As before, by the way of single rows."""
    file = File(
        PLAIN,
        "CREATE UNIQUE INDEX i ON d(v)",
        f"{COUNT.format(65)} INSERT INTO d SELECT i, zeroblob(4 << 20), i FROM n",
    )
    return file, batch(file, updates(file, ("v",), [[64]] * 64))


@case
def large_values_of_many_column_sets():
    """Each set of columns is a statement of its own, which stays prepared."""
    names = COLUMNS[:20]
    file = File(
        f"CREATE TABLE d(id INTEGER PRIMARY KEY, {', '.join(names)})",
        f"{COUNT.format(20)} INSERT INTO d(id) SELECT i FROM n",
    )
    groups = [updates(file, (name,), [[b"w" * (1 << 20)]], keys=[at], at=at) for at, name in enumerate(names)]
    return file, batch(file, *groups)


@case
def ranges_of_one_site():
    return File(PLAIN), Bundle([Section("d", [(SITE, 10 * n + 1, 10 * n + 2) for n in range(4_000)])])


@case
def ranges_of_4000_sites():
    return File(PLAIN), Bundle([Section("d", [(SITE[:8] + n.to_bytes(8, "big"), 1, 2) for n in range(4_000)])])


@case
def groups_of_one_row():
    file = File(PLAIN)
    return file, batch(file, *(inserts(file, ("id", "v"), [[n, n]], n) for n in range(20_000)))


@case
def groups_of_many_column_sets():
    names = COLUMNS[:16]
    file = File(f"CREATE TABLE d(id INTEGER PRIMARY KEY, {', '.join(names)})")
    groups = []
    for n in range(4_000):
        columns = (*(name for bit, name in enumerate(names) if n >> bit & 1), "id")
        groups.append(inserts(file, columns, [[1] * (len(columns) - 1) + [n]], n))
    return file, batch(file, *groups)


@case
def columns_that_nobody_has():
    file = File(PLAIN)
    return file, batch(file, *(inserts(file, ("id", f"x{n}"), [[n, 1]], n) for n in range(2_000)))


@case
def sections_of_500_tables():
    file = File(";".join(f"CREATE TABLE d{n}(id INTEGER PRIMARY KEY, v)" for n in range(500)))
    row = [inserts(file, ("id", "v"), [[1, 1]])]
    return file, Bundle([Section(f"d{n}", [(SITE, 0, file.hlc + 10)], row) for n in range(500)])


@case
def partial_index_refuses():
    file = File(
        PLAIN,
        "CREATE UNIQUE INDEX i ON d(u) WHERE v > 0",
        f"{COUNT.format(20_000)} INSERT INTO d SELECT -i - 1, 'u' || i, 1 FROM n",
    )
    return file, batch(file, inserts(file, ("id", "u", "v"), [[n, f"u{n}", 1] for n in range(500)]))


@case
def partial_index_without_rowid_refuses():
    file = File(
        f"{PLAIN} WITHOUT ROWID",
        "CREATE UNIQUE INDEX i ON d(u) WHERE v > 0",
        f"{COUNT.format(20_000)} INSERT INTO d SELECT -i - 1, 'u' || i, 1 FROM n",
    )
    return file, batch(file, inserts(file, ("id", "u", "v"), [[n, f"u{n}", 1] for n in range(500)]))


def keeping_both():
    file = File(PLAIN)
    file.replica.decisions.decide_policy("d", "keep-both")
    file.drain()
    return file


@case
def one_id_wanted_by_5000_rows():
    file = keeping_both()
    return file, batch(file, inserts(file, ("id", "v"), [[1, n] for n in range(5_000)]))


@case
def one_id_claimed_earlier_3000_times():
    file = keeping_both()
    return file, batch(file, *(inserts(file, ("id", "v"), [[1, n]], n) for n in reversed(range(3_000))))


@case
def deletes_of_unknown_rows():
    file = File("CREATE TABLE d(v)")
    hlcs = [file.hlc + n for n in range(20_000)]
    keys = [insert_key(SITE, n + 1) for n in range(20_000)]
    return file, batch(file, Group(SITE, Kind.DELETE, (), hlcs, keys, [[] for _ in hlcs], None))


@case
def facts_of_200_tables():
    return facts_of(f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, v UNIQUE, w)" for n in range(200))


@case
def facts_of_10_tables_of_800_columns():
    columns = ", ".join(f"c{n}" for n in range(800))
    return facts_of(f"CREATE TABLE t{n}(id INTEGER PRIMARY KEY, {columns})" for n in range(10))


def facts_of(tables):
    source = File(";".join(tables))
    rows = [list(row) for row in source.app.execute("SELECT kind, name, sql FROM mycomesh_schema ORDER BY name")]
    source.close()
    file = File(UNIQUE)
    return file, batch(file, inserts(file, ("kind", "name", "sql"), rows), table="mycomesh_schema")


def main(names):
    for name in names or CASES:
        gc.collect()
        file, bundle = CASES[name]()
        size, done = file.take(bundle)
        holds = f"longest {max(file.holds, default=0):6.1f} ms, {sum(file.holds):6.0f} ms in {len(file.holds):4}"
        print(f"{name:40} {size / 1e3:7.0f} kB  {holds}  {done}", flush=True)
        file.close()


if __name__ == "__main__":
    main(sys.argv[1:])
