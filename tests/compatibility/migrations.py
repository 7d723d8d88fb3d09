"""Migration tools beside a node: each migrates on one node, and goes on working on the other, over three versions of a schema.

A trial passes if the tool finds nothing to do on the other node after each version, its writes on both nodes arrive, and both
files end with the same tables, definitions included, and no note in `status`.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from tests.compatibility.rows import CLIENTS, MODULES, PYTHON
from tests.compatibility.trial import Outcome, TrialError, ran
from tests.integration.machines import Machine, eventually

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MIGRATIONS"]

NORMALIZED = 'SELECT name, type, "notnull", pk FROM pragma_table_info(?) ORDER BY name'


def _tool(*command: object, version: str) -> object:
    """Return the trial of one tool; `version` is a command that prints its version."""

    def act(one: Machine, *words: object) -> str:
        return ran(*command, one.file, *words, NODE_PATH=str(MODULES), PATH=os.environ["PATH"])

    def trial(first: Machine, second: Machine) -> Outcome:
        names = []
        before = {each["name"] for one in (first, second) for each in one.status()["tables"]}  # of earlier trials
        for number, (here, other) in enumerate(((first, second), (first, second), (second, first)), 1):
            act(here, "migrate", number)
            _until(
                lambda other=other, number=number: act(other, "pending", number) == "none", f"version {number} arrives"
            )
            for one in (other, here):
                names.append(f"{one.name} {number}")
                act(one, "insert", number, names[-1])
                _until(lambda one=one: _state(first) == _state(second), lambda: _difference(first, second, names[-1]))
        found = _state(first)
        if not all(any(name in str(rows) for _, rows in found.values()) for name in names):
            raise TrialError(f"a row is missing: {found}")
        for one in (first, second):
            notes = [each["note"] for each in one.status()["tables"] if each["note"] and each["name"] not in before]
            if notes:
                raise TrialError(f"{one.name}: {notes[0]}")
        printed = ran("sh", "-c", version, NODE_PATH=str(MODULES))
        return Outcome(
            printed,
            "-",
            "three versions, two by the first node and one by the second; nothing to do on the other; equal",
        )

    return trial


def _state(one: Machine) -> dict[str, tuple[object, object]]:
    """Return the columns and the rows of each table of the user."""
    with closing(sqlite3.connect(one.file, timeout=20)) as db:
        listing = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'mycomesh%' AND name NOT LIKE 'sqlite_%'"
        tables = [name for (name,) in db.execute(listing).fetchall()]
        uniques = 'SELECT count(*) FROM pragma_index_list(?) WHERE "unique"'
        return {
            name: (
                (db.execute(NORMALIZED, (name,)).fetchall(), db.execute(uniques, (name,)).fetchall()),
                sorted(
                    map(repr, db.execute(f'SELECT * FROM "{name}"').fetchall() if name != "sqlite_sequence" else [])
                ),
            )
            for name in sorted(tables)
        }


def _difference(first: Machine, second: Machine, name: str) -> str:
    """Say in which tables the files differ."""
    here, there = _state(first), _state(second)
    differing = [table for table in sorted({*here, *there}) if here.get(table) != there.get(table)]
    return f"{name} is on both; these differ: " + ", ".join(f"{t}: {here.get(t)}, {there.get(t)}" for t in differing)


def _until(check: object, what: object) -> None:
    try:
        eventually(check, what)
    except AssertionError as error:
        raise TrialError(str(error)) from error


def _python(name: str, package: str) -> object:
    version = f"{PYTHON} -c 'import importlib.metadata as m; print(m.version({json.dumps(package)}))'"
    return _tool(PYTHON, CLIENTS / name, version=version)


def _node(name: str, package: Path) -> object:
    return _tool(
        "node", CLIENTS / name, version=f"node -p 'require({json.dumps(str(package / 'package.json'))}).version'"
    )


MIGRATIONS = {
    "Django migrate": _python("migrate_django.py", "Django"),
    "Alembic": _python("migrate_alembic.py", "alembic"),
    "SQLAlchemy create_all, sqlite-utils transform": _python("migrate_metadata.py", "sqlite-utils"),
    "Drizzle migrate": _node("migrate_drizzle.cjs", MODULES / "drizzle-orm"),
    "TypeORM synchronize": _node("migrate_typeorm.cjs", MODULES / "typeorm"),
    "Rails ActiveRecord": _tool(
        "ruby", CLIENTS / "migrate_rails.rb", version="ruby -e 'require \"active_record\"; puts ActiveRecord.version'"
    ),
}
