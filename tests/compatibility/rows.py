"""The drivers and applications that are tried: how to run each, what to set, and what a user should know."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["APPLICATIONS", "DRIVERS", "PIP", "Driver"]

CLIENTS = Path(__file__).parent / "clients"
FOLDER = Path(__file__).parents[2] / ".venv" / "compatibility"  # what `--install` makes
PYTHON = FOLDER / "python" / "bin" / "python"
MODULES = FOLDER / "npm" / "node_modules"
GO = FOLDER / "go-client"
JAVA = Path("/usr/bin/java")
JAR = Path("/usr/share/java/sqlite-jdbc.jar")

PIP = (
    "apsw==3.54.1.0", "SQLAlchemy==2.1.9", "Django==5.2.19", "peewee==4.5.3", "sqlite-utils==4.2.1", "aiosqlite==0.22.1",
    "libsql==0.1.11", "adbc-driver-sqlite==1.13.0", "pyarrow", "pandas==3.1.1", "duckdb==1.5.5",
    "duckdb-extension-sqlite-scanner==1.5.5", "datasette==0.65.5", "rosbags==0.11.9",
    "alembic==1.20.1", "pyturso==0.8.3", "sqlcipher3==0.6.4",
)  # fmt: skip
NPM = (
    "better-sqlite3@12.11.1",
    "@libsql/client@0.18.0",
    "sql.js@1.17.0",
    "drizzle-orm@0.45.4",
    "typeorm@1.1.1",
    "reflect-metadata@0.2.2",
    "libsql@0.5.29",
)


@dataclass(frozen=True)
class Driver:
    """One driver: `command` takes a file and reads SQL lines; it can be run if all of `needs` exist."""

    name: str
    command: tuple[str, ...]
    needs: tuple[Path, ...]
    advice: str  # what to set, and what to know
    takes_pragma: bool = True  # `PRAGMA busy_timeout` holds for the lines that follow
    writes_back: bool = False  # it reads and writes the whole file, so what it reports as done need not last
    loses: bool = False  # after a refusal it loses writes that it reports as done, also without a node

    def line(self, file: Path) -> list[str]:
        """Return the command for a file."""
        return [word.replace("FILE", str(file)) for word in self.command]


def _python(name: str, driver: str, advice: str) -> Driver:
    python = Path(sys.executable) if driver == "sqlite3" else PYTHON
    command = (str(python), str(CLIENTS / "python_drivers.py"), driver, "FILE")
    return Driver(name, command, (python,), advice, takes_pragma=driver != "duckdb")


def _node(name: str, advice: str) -> Driver:
    needs = (Path("/usr/bin/node"), MODULES / name)
    command = ("/usr/bin/node", str(CLIENTS / "node_drivers.js"), name, "FILE")
    return Driver(name, command, needs, advice, writes_back=name == "sql.js", loses=name == "@libsql/client")


def _debian(name: str, program: str, client: str, advice: str, *more: str) -> Driver:
    command = (program, str(CLIENTS / client), *more, "FILE")
    return Driver(name, command, (Path(program),), advice, takes_pragma=client != "shell.sh")


DRIVERS = (
    _python("Python sqlite3", "sqlite3", "enough; `BEGIN IMMEDIATE` where a transaction reads before it writes"),
    _python("apsw", "apsw", "`connection.set_busy_timeout(5000)`"),
    _python("SQLAlchemy", "sqlalchemy", "enough; for transactions that read first see [TASKS](TASKS.md)"),
    _python("Django", "django", '`"OPTIONS": {"transaction_mode": "IMMEDIATE"}` (Django 5.1)'),
    _python("peewee", "peewee", '`db.atomic("IMMEDIATE")` where a transaction reads first'),
    _python("sqlite-utils", "sqlite_utils", "enough"),
    _python("aiosqlite", "aiosqlite", "enough"),
    _python("pandas to_sql", "pandas", "enough; `replace` is a row of its own below"),
    _python("libsql (Python)", "libsql", "enough"),
    _python("ADBC", "adbc", "`PRAGMA busy_timeout = 5000` after connecting"),
    _python("DuckDB sqlite scanner", "duckdb", "no setting helps: repeat a write that is refused, or leave 50 ms between two"),
    _node("better-sqlite3", "enough; `db.transaction(f).immediate()` where a transaction reads first"),
    _node("@libsql/client", "`PRAGMA busy_timeout = 5000` first: after a refusal it loses writes that it reports as done"),
    _node("sql.js", "use it while no node serves the file: it reads and writes the whole file, without the -wal"),
    _debian("PHP SQLite3", "/usr/bin/php", "client.php", "`$db->busyTimeout(5000)`", "SQLite3"),
    _debian("PHP PDO", "/usr/bin/php", "client.php", "enough", "PDO"),
    _debian("Ruby sqlite3", "/usr/bin/ruby", "client.rb", "`db.busy_timeout = 5000`; Rails sets 5 s"),
    _debian("Perl DBD::SQLite", "/usr/bin/perl", "client.pl", "enough"),
    _debian("Tcl sqlite3", "/usr/bin/tclsh", "client.tcl", "`db timeout 5000`"),
    Driver("Java sqlite-jdbc", (str(JAVA), "-cp", str(JAR), str(CLIENTS / "Client.java"), "FILE"), (JAVA, JAR), "enough"),
    Driver("Go go-sqlite3", (str(GO), "FILE"), (GO,), "enough"),
    _debian("sqlite3 shell", "/bin/sh", "shell.sh", "`.timeout 5000` in `~/.sqliterc`"),
)  # fmt: skip

# Name: (the programs that it needs, what to set and to know); tests/compatibility/applications.py runs each.
APPLICATIONS = {
    "GDAL ogr2ogr": (
        ("/usr/bin/ogr2ogr",),
        "write with `-update` or `-append`",
    ),
    "sqlite-utils command": (
        (str(FOLDER / "python" / "bin" / "sqlite-utils"),),
        "enough",
    ),
    "pandas to_sql replace": ((str(PYTHON),), "drops and creates the table: the content is replaced on every node"),
    "Datasette": ((str(FOLDER / "python" / "bin" / "datasette"),), "it lists the tables named `mycomesh_` too"),
    "DB Browser for SQLite": (
        ("/usr/bin/sqlitebrowser",),
        "Write Changes (Ctrl+S) soon: until then it holds the write lock, and the node waits; hide tables named `mycomesh_`",
    ),
    "rosbags": (
        (str(PYTHON),),
        "serve a bag once it is closed: a recorder keeps one transaction open",
    ),
    "Turso": (
        (str(PYTHON),),
        "`PRAGMA journal_mode = 'wal'` before `mycomesh up`; use Turso while no node serves the file",
    ),
    "SQLCipher": ((str(PYTHON),), "export the content into a plain file: a node serves no encrypted one"),
    "Litestream": (("/usr/bin/sqlite3",), "not tried: the program itself"),
    "reader with immutable=1": (
        ("/usr/bin/sqlite3",),
        "while programs write without a pause it sees less; use `mode=ro`",
    ),
    "Django migrate": ((str(PYTHON),), "run it on one node; see [ORM](ORM.md)"),
    "Alembic": ((str(PYTHON),), "`include_name` keeps autogenerate off the node's tables; see [ORM](ORM.md)"),
    "SQLAlchemy create_all, sqlite-utils transform": ((str(PYTHON),), "run it on one node; see [ORM](ORM.md)"),
    "Drizzle migrate": (
        (str(MODULES / "drizzle-orm"),),
        '`tablesFilter: ["!mycomesh_*"]` for push and pull; see [ORM](ORM.md)',
    ),
    "TypeORM synchronize": ((str(MODULES / "typeorm"),), "it leaves other tables alone; see [ORM](ORM.md)"),
    "Rails ActiveRecord": (
        ("/usr/bin/ruby",),
        "`ignore_tables` keeps schema.rb free of the node's tables; see [ORM](ORM.md)",
    ),
}
