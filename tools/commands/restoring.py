"""The steps that put a backup back, as commands to run: for a lost file, a lost machine, a lost mesh, and for undoing a mistake.

Every command is one line, so that a script can run them; tests/integration/test_restoring.py does.
"""

from __future__ import annotations

import contextlib
import shlex
import sqlite3
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.sqlite.identifiers import quoted

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["recipe"]

HEAD = """\
# How to put {backup} back in the place of {file}.
# It was written {written} and has {tables}. Lines that begin with # are remarks, the others are commands.
{origin}
# A backup does not undo anything on other nodes: they have later writes and deletes, and bring them back here. See 4.
"""
STEPS = """
# 1. The file on this machine is damaged or lost, and its keys are there (mycomesh status names the node).
#    Stop the programs that use the file. The node gets what the backup lacks from its peers, under a new site.
mycomesh down
mkdir -p {before} && for end in "" -wal -shm -journal; do test ! -e {file}"$end" || mv {file}"$end" {before}/; done
cp {backup} {file}
mycomesh up {file}

# 2. The machine is lost, and other nodes go on. On the machine with the root key: mycomesh invite
#    Then on the new machine, with the code that it prints:
mycomesh join CODE
cp {backup} {file}
mycomesh up {file}

# 3. Every machine is lost: a new mesh begins with the backup. Do this on one machine alone.
#    The others join by 'mycomesh invite' there, and run 'mycomesh up' with a path where no file exists.
cp {backup} {file}
mycomesh forget {file}
mycomesh init
mycomesh up {file}

# 4. Undo a mistake on all nodes: write the rows of the backup again, as any program would. Leave the node running.
#    Rows that are not in the backup stay. Add a WHERE to choose rows; one line for each table.
"""
ORIGIN = {
    True: "# It was made by 'mycomesh backup'.",
    False: "# It was not made by 'mycomesh backup': its last commits may be in a -wal file that belonged to it.",
}
TABLES = (
    "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
    " AND name NOT GLOB 'sqlite_*' AND name NOT GLOB 'mycomesh_*' ORDER BY name"
)


def recipe(backup: Path, file: Path) -> str:
    """Return the steps; raise `NodeError` if the backup cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(backup.absolute().as_uri() + "?mode=ro", uri=True)) as db:
            damage = [line for (line,) in db.execute("PRAGMA quick_check(1)") if line != "ok"]
            written = db.execute("SELECT datetime(?, 'unixepoch')", (backup.stat().st_mtime,)).fetchone()[0]
            origin = ORIGIN[_is_backup(db)]
            tables = [name for (name,) in db.execute(TABLES)]
            undo = [_undo(db, name, backup) for name in tables]
    except sqlite3.Error as error:
        raise NodeError(f"cannot read {backup}: {error}; give the path of a backup") from error
    if damage:
        raise NodeError(f"{backup} is damaged ({damage[0]}); take another backup")
    words = {
        "backup": shlex.quote(str(backup)),
        "file": shlex.quote(str(file)),
        "before": shlex.quote(f"{file}.before"),
    }
    head = HEAD.format(
        **words, written=f"{written}Z", tables=f"{len(tables)} table{'s' * (len(tables) != 1)}", origin=origin
    )
    shell = f"sqlite3 -cmd '.timeout 5000' {words['file']} "
    return head + STEPS.format(**words) + "".join(f"{shell}{shlex.quote(sql)}\n" for sql in undo)


def _is_backup(db: sqlite3.Connection) -> bool:
    meta = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'mycomesh_meta'").fetchone()
    return meta is not None and db.execute("SELECT 1 FROM mycomesh_meta WHERE name = 'site'").fetchone() is None


def _undo(db: sqlite3.Connection, name: str, backup: Path) -> str:
    """Return the SQL that writes a table's rows again; of a table without a key those that are not there."""
    found = db.execute("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", (name,)).fetchall()
    columns = ", ".join(quoted(column) for column, _ in found)
    attach = "ATTACH '" + str(backup).replace("'", "''") + "' AS old; "
    rows = f"INTO {quoted(name)}({columns}) SELECT {columns} FROM old.{quoted(name)}"
    if any(pk for _, pk in found):
        return f"{attach}INSERT OR REPLACE {rows}"
    return f"{attach}INSERT {rows} EXCEPT SELECT {columns} FROM main.{quoted(name)}"
