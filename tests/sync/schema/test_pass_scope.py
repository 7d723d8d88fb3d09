"""A pass that looks at the tables of new facts alone leaves everything as one over all tables: random facts in random order."""

from __future__ import annotations

import contextlib
import random
from unittest.mock import patch

import apsw
import pytest

from mycomesh.sync.schema import pass_scope
from mycomesh.sync.schema.policy import dropped_fact, generated_fact, name_fact
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import WALL_MS, Peer
from tests.sync.scale import SCALE, sweep

SITE = b"\x07" * 8 + bytes(8)
START = (WALL_MS - 60_000) << 16
TABLES = "abcdefghijkl"
COLUMNS = (
    *("x", "y INTEGER", "z TEXT DEFAULT 'q'", "u UNIQUE", "n NOT NULL DEFAULT 1", "CHECK(x <> 'bad')"),
    *(
        "p REFERENCES {other}(id)",
        "g AS (x || 'g')",
        "s AS (length(x)) STORED",
        "w COLLATE NOCASE",
        "c CHECK(c IN (1, 2))",
    ),
)
KEYS = ("id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY", "id TEXT PRIMARY KEY", "id")
UNUSABLE = (
    "CREATE TABLE {name}(",
    "CREATE TABLE {other}2(id)",
    "CREATE TABLE {name}(id, x CHECK(nosuch(x)))",
    "",
    "DROP TABLE a",
)
INDEXES = (
    *(
        "({name}_i) ON {name}(x)",
        "({name}_i) ON {name}(y)",
        "UNIQUE({name}_k) ON {name}(z)",
        "({name}_e) ON {name}(x || 'e')",
    ),
    *("({name}_p) ON {name}(x) WHERE y > 1", "({other}_i) ON {name}(x)", "UNIQUE({name}_k) ON {name}(x)"),
)


def table_fact(dice, name, _rare):
    other = dice.choice(TABLES)
    if dice.random() < 0.1:
        return name, "table", dice.choice(UNUSABLE).format(name=name, other=other)
    some = sorted(dice.sample(COLUMNS, dice.randint(1, 4)), key=lambda text: text.startswith("CHECK"))
    texts = [dice.choice(KEYS), *(["x"] if not any(text.startswith("x") for text in some) else []), *some]
    return name, "table", f"CREATE TABLE {name}({', '.join(texts).format(other=other)})"


def index_fact(dice, name, rare):
    text = dice.choice(INDEXES).format(name=name, other=dice.choice(TABLES))
    kind, rest = text.split("(", 1)
    own, rest = rest.split(")", 1)
    return f"index:{own}", "index", f"CREATE {kind} INDEX {own}{rest}" if dice.random() > rare else ""


def rare_fact(dice, name, _rare):
    other = dice.choice(TABLES)
    return dice.choice(
        (
            (f"view:v_{name}", "view", f"CREATE VIEW v_{name} AS SELECT x FROM {name}, {other}"),
            (f"view:v_{name}", "view", ""),
            (
                f"trigger:t_{name}",
                "trigger",
                f"CREATE TRIGGER t_{name} AFTER INSERT ON {name} BEGIN DELETE FROM {other}; END",
            ),
            dropped_fact((name,)),
            dropped_fact((name, dice.choice("xyz"))),
            name_fact((name,), f"{name}_new"),
            name_fact((name, "y"), "yy"),
            generated_fact(name, "g", "g AS (upper(x))"),
            (f'policy:["{name}"]', "policy", "keep-both"),
            (f'counter:["{name}","y"]', "counter", ""),
            ("header:user_version", "header", str(dice.randint(1, 9))),
            (f"index:{name}_i", "strange", "CREATE INDEX"),
        )
    )


def facts_of(dice, rare):
    """Return a few facts: several tables, indexes before their tables, and with some chance facts of other kinds."""
    found = {}
    for _ in range(dice.randint(1, 4)):
        roll, name = dice.random(), dice.choice(TABLES)
        make = rare_fact if roll < rare else index_fact if roll < 0.5 else table_fact
        fact = make(dice, name, rare)
        found[fact[0]] = fact
    return list(found.values())


PROGRAMS = (
    *(
        "CREATE TABLE IF NOT EXISTS own(id INTEGER PRIMARY KEY, x)",
        "CREATE TABLE {name}(id INTEGER PRIMARY KEY, x, mine)",
    ),
    *(
        "CREATE INDEX own_{name} ON {name}(x)",
        "DROP INDEX {name}_i",
        "DROP TABLE {name}",
        "ALTER TABLE {name} ADD COLUMN more",
    ),
    *("ALTER TABLE {name} RENAME TO {name}_own", "ALTER TABLE {name} DROP COLUMN y", "CREATE VIEW {name} AS SELECT 1"),
)
ROWS = (
    "INSERT INTO {name}(id, x) VALUES({n}, 'x{n}')",
    "UPDATE {name} SET x = 'bad'",
    "DELETE FROM {name} WHERE id = {n}",
)


class FailedError(Exception):
    """The transaction of a test is rolled back by it."""


class Node(Peer):
    """A replica that says everything that it knows of its schema."""

    def state(self):
        registry, db = self.replica.registry, self.replica.store.db
        catalogue = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid").fetchall()
        listing = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name"
        names = [name for (name,) in db.execute(listing) if name != "sqlite_schema"]
        rows = {name: db.execute(f'SELECT * FROM "{name}" ORDER BY 1').fetchall() for name in names}
        for name in [name for name in names if name.startswith("mycomesh_pending_")]:
            rows[name] = [each[1:] for each in rows[name]]  # the first is when the test has run
        tables = {
            name: (table.table_id, table.spec, *(getattr(table.columns, each) for each in COLUMNS_STATE))
            for name, table in registry.tables.items()
        }
        return {
            "catalogue": catalogue,
            "notes": registry.notes.by_name(),
            "unchanged": [name for name, table in registry.tables.items() if registry.is_unchanged(table)],
            "known": (tables, registry.behind, registry.removed, registry.policies, registry.refused_definitions),
            **rows,
        }

    def receive(self, bundle, *, fail):
        if not fail:
            self.take([bundle])
            return
        catalog = self.replica.catalog
        with patch.object(catalog.own_ids, "renew", side_effect=FailedError), contextlib.suppress(FailedError):
            self.take([bundle])


COLUMNS_STATE = ("captured", "bits", "dropped", "converting", "counters", "installed")


def history(tmp_path, seed, rare):
    """Run one history on two nodes, of which one makes only passes over all tables; return the scopes of the other's passes."""
    dice = random.Random(seed)
    nodes = []
    for folder in ("narrow", "whole"):
        (tmp_path / folder).mkdir()
        nodes.append(Node(tmp_path / folder / "file.db", 0))
    narrow, whole = nodes
    scopes, begin = [], pass_scope.FollowedFacts.begin

    def noted(followed, *, unchanged):
        scope = begin(followed, unchanged=unchanged)
        if followed is not narrow.replica.catalog._followed:
            return None
        scopes.append(scope)
        return scope

    clock = START
    with patch.object(pass_scope.FollowedFacts, "begin", noted):
        for step in range(25):
            roll = dice.random()
            facts, fail = facts_of(dice, rare), dice.random() < 0.1
            script = dice.choice(PROGRAMS if roll < 2 * rare else ROWS).format(
                name=dice.choice(TABLES), n=dice.randint(1, 9)
            )
            clock += 100
            rows = [[kind, name, sql] for name, kind, sql in facts]
            group = Group(
                SITE, Kind.INSERT, ("kind", "name", "sql"), [clock + n for n in range(len(rows))], None, rows, None
            )
            bundle = Bundle([Section("mycomesh_schema", [(SITE, clock - 100, clock + 99)], [group])]).encode()
            for node in nodes:
                if roll < 0.2:
                    with contextlib.suppress(apsw.Error):
                        node.sql(script)
                    if roll < 0.15 + rare:
                        node.drain()
                else:
                    node.receive(bundle, fail=fail)
                    if fail:
                        node.receive(bundle, fail=False)
            one, two = narrow.state(), whole.state()
            differing = {name: (one.get(name), two.get(name)) for name in one | two if one.get(name) != two.get(name)}
            assert not differing, f"seed {seed}, step {step}: {script if roll < 0.2 else facts}"
    for node in nodes:
        node.close()
    return scopes


@pytest.mark.parametrize(("rare", "share"), [(0.01, 3), (0.05, 5), (0.12, 10)])
def test_narrow_passes_leave_what_whole_ones_leave(tmp_path, rare, share):
    scopes = []
    for seed in sweep(range(round(6 * SCALE)), 3):
        (tmp_path / str(seed)).mkdir()
        scopes += history(tmp_path / str(seed), seed, rare)
    assert sum(scope is not None for scope in scopes) > len(scopes) // share
