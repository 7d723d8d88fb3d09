"""The models of a served file: versions as rows of `mycomesh_models`, their bytes in parts by digest in `mycomesh_model_parts`.

Both are ordinary replicated tables. A node uses the highest version whose `nodes` matches its name and whose bytes are here and
have their digest; so a version that arrives in pieces, or was damaged, leaves the one before it in use.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import IO, TYPE_CHECKING, Any

import apsw

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CARD_CHARS_MAX",
    "MODEL_BYTES_MAX",
    "NAME_CHARS_MAX",
    "PART_BYTES",
    "PATTERN_CHARS_MAX",
    "VERSIONS_MAX",
    "Chosen",
    "ModelError",
    "Version",
    "add",
    "choose",
    "create",
    "open_file",
    "parts_here",
    "remove",
    "roll_out",
    "rollback",
    "usable",
    "uses",
    "versions",
    "write_verified",
]

MODEL_BYTES_MAX = 64 << 20  # of one version; the worker holds it beside the runtime
PART_BYTES = 256 << 10  # of one row: small enough for a batch on a slow link
VERSIONS_MAX = 64  # of all models of a file; more that a peer writes are not looked at
NAME_CHARS_MAX = 100
CARD_CHARS_MAX = 64 << 10
PATTERN_CHARS_MAX = 1_000
VERSION_MAX = 1_000_000_000
DIGEST_CHARS = 64
EVERY = "*"
_CREATE = """
CREATE TABLE IF NOT EXISTS mycomesh_models(
  name TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT, size INTEGER, card TEXT, nodes TEXT, PRIMARY KEY(name, version));
CREATE TABLE IF NOT EXISTS mycomesh_model_parts(
  sha256 TEXT NOT NULL, number INTEGER NOT NULL, bytes BLOB, PRIMARY KEY(sha256, number));
CREATE TABLE IF NOT EXISTS mycomesh_model_uses(
  flow TEXT NOT NULL, site TEXT NOT NULL, first INTEGER NOT NULL, node TEXT NOT NULL, name TEXT, version INTEGER, sha256 TEXT,
  PRIMARY KEY(flow, site, first, node));
"""
_TABLES = {
    "mycomesh_models": ("name", "version", "sha256", "size", "card", "nodes"),
    "mycomesh_model_parts": ("sha256", "number", "bytes"),
    "mycomesh_model_uses": ("flow", "site", "first", "node", "name", "version", "sha256"),
}


class ModelError(Exception):
    """A model cannot be added, changed or used; the text is one line."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model.

    sha256: of its bytes, in hexadecimal.
    size: bytes.
    card: text about it, by the person who added it.
    nodes: patterns of the names of nodes that may use it, with commas between; "" for none.
    """

    name: str
    version: int
    sha256: str
    size: int
    card: str
    nodes: str

    def is_for(self, node: str) -> bool:
        """Return whether a node of that name may use it."""
        return any(fnmatchcase(node, each.strip()) for each in self.nodes.split(","))

    @property
    def title(self) -> str:
        """Name, version and the beginning of the digest."""
        return f"{self.name} version {self.version} (sha256 {self.sha256[:12]})"


@dataclass(frozen=True, slots=True)
class Chosen:
    """The version that a node uses, and why not a higher one, "" if nothing stops it."""

    version: Version
    note: str


def create(db: Any) -> None:
    """Create the tables; the node serves them as it does a user's.

    Raises:
        ModelError: another member has made one of them with other columns.
    """
    if not all(_has(db, name) for name in _TABLES):
        db.execute(_CREATE)
        for name in _TABLES:
            _has(db, name)


def versions(db: Any, name: str | None = None) -> list[Version]:
    """Return the versions of one model, or of all, the highest of each first; none where the tables are not there.

    Raises:
        ModelError: another member has made one of the tables with other columns.
    """
    if not (_has(db, "mycomesh_models") and _has(db, "mycomesh_model_parts")):
        return []
    rows = db.execute(
        "SELECT name, version, substr(sha256, 1, ?3), size, substr(card, 1, ?4), substr(nodes, 1, ?5) FROM mycomesh_models"
        " WHERE (?1 IS NULL OR name = ?1) AND length(name) <= ?6 AND typeof(version) = 'integer' AND typeof(size) = 'integer'"
        " ORDER BY name, version DESC LIMIT ?2",
        (name, VERSIONS_MAX, DIGEST_CHARS, CARD_CHARS_MAX, PATTERN_CHARS_MAX, NAME_CHARS_MAX),
    ).fetchall()
    return [
        Version(str(name), version, str(digest), size, str(card or ""), str(nodes or ""))
        for name, version, digest, size, card, nodes in rows
    ]


def add(db: Any, name: str, content: bytes, *, card: str, nodes: str, version: int | None) -> Version:
    """Write a version and its bytes in one transaction.

    Raises:
        ModelError: a name, a size or a number is beyond its limit, or the version is there.
    """
    _check(name, nodes)
    if not 0 < len(content) <= MODEL_BYTES_MAX:
        raise ModelError(f"a model has up to {MODEL_BYTES_MAX >> 20} MiB, not {'more' if content else 'no bytes'}")
    if len(card) > CARD_CHARS_MAX:
        raise ModelError(f"a card has at most {CARD_CHARS_MAX:,} characters, not {len(card):,}")
    if version is not None and not 1 <= version <= VERSION_MAX:
        raise ModelError(f"a version is a number of 1 to {VERSION_MAX:,}, not {version}")
    digest = hashlib.sha256(content).hexdigest()
    create(db)
    with _transaction(db):
        (count,) = db.execute("SELECT count(*) FROM mycomesh_models").fetchone()
        if count >= VERSIONS_MAX:
            raise ModelError(
                f"there are {count} versions of models, the limit is {VERSIONS_MAX}; remove some: mycomesh model remove"
            )
        there = [each.version for each in versions(db, name)]
        number = version or max(there, default=0) + 1
        if number in there:
            raise ModelError(f"{name} has a version {number} already; its versions are {', '.join(map(str, there))}")
        made = Version(name, number, digest, len(content), card, nodes)
        parts = range(0, len(content), PART_BYTES)
        db.executemany(
            "INSERT INTO mycomesh_model_parts(sha256, number, bytes) VALUES(?1, ?2, ?3)"
            " ON CONFLICT DO UPDATE SET bytes = ?3 WHERE bytes IS NOT ?3",
            ((digest, place, content[start : start + PART_BYTES]) for place, start in enumerate(parts)),
        )
        db.execute(
            "INSERT INTO mycomesh_models(name, version, sha256, size, card, nodes) VALUES(?, ?, ?, ?, ?, ?)",
            (name, number, digest, len(content), card, nodes),
        )
    return made


def remove(db: Any, name: str, version: int | None) -> list[Version]:
    """Remove one version or all, and the bytes that no version has any more; return what was removed."""
    with _transaction(db):
        gone = _found(db, name, version)
        for each in gone:
            db.execute("DELETE FROM mycomesh_models WHERE name = ? AND version = ?", (each.name, each.version))
            db.execute(
                "DELETE FROM mycomesh_model_parts WHERE sha256 = ?1 AND NOT EXISTS"
                " (SELECT 1 FROM mycomesh_models WHERE sha256 = ?1)",
                (each.sha256,),
            )
    return gone


def roll_out(db: Any, name: str, version: int, nodes: str) -> Version:
    """Let the nodes that match use a version, and no others; return it."""
    _check(name, nodes)
    with _transaction(db):
        _found(db, name, version)
        db.execute("UPDATE mycomesh_models SET nodes = ? WHERE name = ? AND version = ?", (nodes, name, version))
        (found,) = _found(db, name, version)
    return found


def rollback(db: Any, name: str) -> tuple[Version, Version]:
    """Withdraw the highest version in use from all nodes; return it and the one that they use then."""
    with _transaction(db):
        used = [each for each in _found(db, name, None) if each.nodes]
        if len(used) < 2:
            raise ModelError(f"{name} has no earlier version that nodes may use; see: mycomesh model show {name}")
        db.execute("UPDATE mycomesh_models SET nodes = '' WHERE name = ? AND version = ?", (name, used[0].version))
    return used[0], used[1]


def choose(db: Any, name: str, node: str, file: IO[bytes], *, only: int | None = None) -> Chosen:
    """Write the bytes of the version that a node uses into a file; `only` asks for one version whatever the node.

    Raises:
        ModelError: no version has its bytes here.
    """
    why = ""
    for each in usable(db, name, node, only=only):
        missing = write_verified(db, each, file)
        if not missing:
            return Chosen(each, why)
        why = why or f"{each.title} {missing}"
    raise ModelError(why)


def usable(db: Any, name: str, node: str, *, only: int | None = None) -> list[Version]:
    """Return the versions that a node may use, the highest first, whether their bytes are here or not.

    Raises:
        ModelError: no version is for it.
    """
    known = versions(db, name)
    if not known:
        raise ModelError(f"there is no model {name!r} in this file; add it: mycomesh model add {name} FILE.onnx")
    wanted = [each for each in known if (each.is_for(node) if only is None else each.version == only)]
    if not wanted:
        what = f"no version of {name} is for the node {node!r}" if only is None else f"{name} has no version {only}"
        raise ModelError(f"{what}; see: mycomesh model show {name}")
    return wanted


def parts_here(db: Any, version: Version) -> tuple[int, int]:
    """Return how many parts of a version are in this file, and how many it has."""
    (count,) = db.execute("SELECT count(*) FROM mycomesh_model_parts WHERE sha256 = ?", (version.sha256,)).fetchone()
    return count, -(-version.size // PART_BYTES)


def write_verified(db: Any, version: Version, file: IO[bytes]) -> str:
    """Write the bytes of a version into an emptied file; return why they cannot be used, "" if they have their digest."""
    file.seek(0)
    file.truncate()
    digest, size, count = hashlib.sha256(), 0, 0
    if not 0 < version.size <= MODEL_BYTES_MAX:
        return f"says that it has {version.size:,} bytes, beyond the limit of {MODEL_BYTES_MAX >> 20} MiB"
    for part in _parts(db, version):
        size, count = size + len(part), count + 1
        if size > version.size:
            break
        digest.update(part)
        file.write(part)
    file.flush()
    if size == version.size and digest.hexdigest() == version.sha256:
        return ""
    if size < version.size:
        return f"is not complete: {count} of {-(-version.size // PART_BYTES)} parts are here"
    return "does not have its digest"


def uses(db: Any, flow: str, site: str, hlc: str) -> list[tuple[str, str]]:
    """Return (node, model with version and digest) that a change of a site went through in a flow, by node."""
    listing = (
        "SELECT node, substr(name, 1, 100) || ' version ' || version || ' (sha256 ' || substr(sha256, 1, 64) || ')', max(first)"
        " FROM mycomesh_model_uses"
        " WHERE flow = ? AND site = ? AND first <= ? GROUP BY node ORDER BY node"
    )
    if not hlc.isdigit() or not _has(db, "mycomesh_model_uses"):
        return []
    return [(str(node), str(text)) for node, text, _ in db.execute(listing, (flow, site, int(hlc))).fetchall()]


def _parts(db: Any, version: Version) -> Iterator[bytes]:
    """Yield the parts of a version, one more than it has at most: a member may write any number of small ones."""
    listing = (
        "SELECT bytes FROM mycomesh_model_parts WHERE sha256 = ? AND typeof(bytes) = 'blob' AND length(bytes) <= ?"
        " ORDER BY number LIMIT ?"
    )
    for (part,) in db.execute(listing, (version.sha256, PART_BYTES, -(-version.size // PART_BYTES) + 1)):
        yield part


def _has(db: Any, table: str) -> bool:
    """Return whether a table is there; raise `ModelError` if it has not the columns that `_CREATE` gives it."""
    if db.execute("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (table,)).fetchone() is None:
        return False
    columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
    if not set(_TABLES[table]).issubset(columns):
        raise ModelError(
            f"{table} has other columns than a table of models, {', '.join(columns)[:200]}: some member made it so; drop it"
        )
    return True


def _found(db: Any, name: str, version: int | None) -> list[Version]:
    found = [each for each in versions(db, name) if version in (None, each.version)]
    if not found:
        names = ", ".join(sorted({each.name for each in versions(db)})) or "none"
        raise ModelError(
            f"there is no model {name!r}{f' of version {version}' if version else ''}; models are: {names}"
        )
    return found


def _check(name: str, nodes: str) -> None:
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable() or "@" in name:
        raise ModelError(f"a model's name has 1 to {NAME_CHARS_MAX} printable characters without @, not {name!r}")
    if len(nodes) > PATTERN_CHARS_MAX:
        raise ModelError(f"the patterns of nodes have at most {PATTERN_CHARS_MAX:,} characters, not {len(nodes):,}")


class _transaction:  # noqa: N801 -- a context manager
    """One write transaction, which an error rolls back."""

    def __init__(self, db: Any) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def open_file(path: str) -> apsw.Connection:
    """Open a served file for the commands."""
    db = apsw.Connection(path, apsw.SQLITE_OPEN_READWRITE)
    db.set_busy_timeout(30_000)
    return db
