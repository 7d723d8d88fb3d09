"""Views and triggers of the user as facts: created, replaced and dropped on every node as on the one whose program did it.

A trigger acts where a program writes. The node never runs it: what it wrote elsewhere replicates by itself. So it travels only if
all tables that it writes are served, and the member that states it may write all of them. Triggers that keep an index travel with
their index (`virtual_facts`).

A text is tried before it enters the file (`view_trial`). One that cannot be used yet, since a table or view that it names is not
here, waits for the next change of the schema. The file records what it had in its last pass, so the next one knows a program's
DROP from a view that was never here. ADR 50.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import apsw

from mycomesh.sync.crdt.hlc import SITE_PREFIX, is_early
from mycomesh.sync.schema.facts import SCHEMA_TABLE, TRIGGER, VIEW
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite import geometry
from mycomesh.sync.sqlite.create_table import mentions, unquoted
from mycomesh.sync.sqlite.definitions import authorize_create, execute_one
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, quoted
from mycomesh.sync.sqlite.indexes import column_names
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.refusals import FILE_ERRORS, REFUSALS
from mycomesh.sync.sqlite.table_spec import SQL_MAX, encode_key
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN, readable_sql
from mycomesh.sync.sqlite.view_trial import Tried, trial
from mycomesh.sync.sqlite.virtual_tables import CACHES, virtual_tables
from mycomesh.sync.storage.store import Store

__all__ = ["TRIGGERS_MAX", "TRIGGERS_OF_TABLE_MAX", "VIEWS_MAX", "VIEW_CHARS_MAX", "ViewFacts"]

# Facts that have effect, by name; each is tried under the file's lock, some 0.3 ms.
VIEWS_MAX = 256
TRIGGERS_MAX = 256
TRIGGERS_OF_TABLE_MAX = 32  # SQLite compiles each of them into every write of the table
TRIED_MAX = 32  # in one pass
VIEW_CHARS_MAX = 1 << 20  # of all these texts: every connection to the file reads them
_SEEN = "views"  # in `mycomesh_meta`: what the file had after the last pass
_OWN = "own:"  # of a text from before the mesh, which differs from the mesh's
_CREATE = {VIEW: apsw.SQLITE_CREATE_VIEW, TRIGGER: apsw.SQLITE_CREATE_TRIGGER}
_MAP_TABLES = ("gpkg_geometry_columns", "geometry_columns")
_MAP_FUNCTIONS = (*geometry.FUNCTIONS, "geometryconstraints", "rtreealign")  # that programs of map files have

# Whether the member whose sites begin so may write a table, by canonical name.
MayWrite = Callable[[bytes, str], bool]


class ViewFacts:
    """Writes and follows the facts of the views and triggers of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self.may_write: MayWrite = lambda _member, _table: True
        self._taken: dict[str, str] = {}  # SQL that `take_off` has dropped, by the name of its fact
        self._failed: dict[
            str, tuple[str, str, str]
        ] = {}  # by fact: its SQL, the file's schema, and why SQLite refused it
        self._stayed: set[str] = set()  # the names of the facts of texts that the last pass has left at home
        self.unfinished = False  # whether the next pass has to follow more of them

    # ---- what this file states

    def record(self, *, followed: bool) -> None:
        """Write a fact for each view and trigger that a program has created, replaced or dropped since the last pass.

        Nothing is written if the node itself has `followed` other nodes since then.
        """
        here = self._here()
        for key in self._stayed - here.keys():  # nothing else knows those that were dropped
            self._note(key, "")
        stored = self._store.meta(_SEEN)
        seen: dict[str, str] = json.loads(stored) if isinstance(stored, str) else {}
        now = {key: _digest(sql) for key, (_, sql) in here.items()}
        if isinstance(stored, str) and now == {key: _plain(mark) for key, mark in seen.items()}:
            return
        kept = {key: mark for key, mark in seen.items() if now.get(key) == _plain(mark)}
        if not followed:
            changed = {key: each for key, each in here.items() if key not in kept}
            kept |= self._state(changed, adopted=not isinstance(stored, str))
            for key in seen.keys() - here.keys():
                self._state_dropped(key)
            now = {}
        # A text that stays at home does not become the mesh's because the node has followed something else.
        now = {key: mark for key, mark in now.items() if key in seen or self._registry.facts.of(key) == here[key][1]}
        self._store.meta_set(_SEEN, json.dumps(now | kept, sort_keys=True))

    def _state(self, changed: dict[str, tuple[str, str]], *, adopted: bool) -> dict[str, str]:
        """Write facts of new and changed texts; return the marks of those that travel, for the file to remember.

        `adopted` if they are from before the mesh. The next pass tries again those that do not travel: it may have their tables.
        """
        marks = {}
        self._stayed.clear()
        facts = self._registry.facts
        with trial(self._store.db, self._functions()) as tried:
            for key, (owner, sql) in changed.items():
                kind, _, name = key.partition(":")
                fact = facts.of(key)
                refused = ""
                if fact != sql and not (adopted and fact is not None):
                    tried.remove(kind, name)
                    refused = self._stays(tried.add(kind, name, sql), owner, sql, self._own_member())
                    if not refused:
                        facts.write(key, kind, sql, early=adopted)
                self._note(key, f"it stays on this node: {refused}" if refused else "")
                if refused:
                    self._stayed.add(key)
                else:
                    marks[key] = (_OWN if adopted else "") + _digest(sql)
        return marks

    def _state_dropped(self, key: str) -> None:
        """Write that a program has dropped a view or a trigger; one whose table is gone is not dropped by that."""
        facts = self._registry.facts
        sql = facts.of(key)
        self._note(key, "")
        if sql and (key.startswith(f"{VIEW}:") or any(self._served_by_mention(sql))):
            facts.write(key, key.partition(":")[0], "")

    def _served_by_mention(self, sql: str) -> Iterator[str]:
        for name, table in self._registry.tables.items():
            if name != SCHEMA_TABLE and mentions(sql, fold(table.spec.name)):
                yield name
        for key, _ in self._registry.facts.all(VIEW):
            if mentions(sql, key.partition(":")[2]):
                yield key

    def _stays(self, tried: Tried, owner: str, sql: str, member: bytes) -> str:
        """Return why a text does not travel, or does not enter this file; "" if it may. `owner` is its table or view here."""
        if tried.refused or len(sql) > SQL_MAX:
            return tried.refused or f"it has {len(sql):,} characters; {SQL_MAX:,} may travel"
        too_new = self._registry.too_new(sql)
        if too_new or not tried.owner:
            return too_new
        canonical = {
            fold(table.spec.name): name for name, table in self._registry.tables.items() if name != SCHEMA_TABLE
        }
        views = {key.partition(":")[2] for key in self._here() if key.startswith(f"{VIEW}:")}
        used = {fold(owner), *tried.writes} - views
        other = sorted(used - canonical.keys())
        if other:
            return f"it is on or writes {other[0]}, which is not replicated"
        forbidden = sorted(canonical[name] for name in used if not self.may_write(member, canonical[name]))
        return f"the member that states it may not write {forbidden[0]}" if forbidden else ""

    # ---- what other nodes state

    def take_off(self) -> None:
        """Drop the views and triggers that the mesh has dropped or has otherwise: they name columns that may be dropped next.

        Those that name a column which the mesh has dropped go too, and wait until they can be compiled again. So do views that
        cannot be compiled any more, because SQLite drops no column beside one.
        """
        self._taken = {}
        here, leaving = self._here(), self._leaving_columns()
        for key, fact in self._effective().items():
            if key not in here:
                continue
            if here[key][1] == fact:
                self._note(key, "")
                if leaving and (any(mentions(fact, column) for column in leaving) or not self._compiles(key)):
                    self._drop(key)
            elif not self._is_kept(key):
                self._taken[key] = here[key][1]
                self._drop(key)

    def _compiles(self, key: str) -> bool:
        """Return False for a view whose tables or columns are gone."""
        kind, _, name = key.partition(":")
        try:
            if kind == VIEW:
                self._store.db.execute(f"EXPLAIN SELECT * FROM {quoted(name)}", can_cache=False).close()
        except FILE_ERRORS:
            raise
        except apsw.Error:
            return False
        return True

    def _leaving_columns(self) -> set[str]:
        """Return the folded names of the columns that the mesh has dropped and this file still has."""
        found: set[str] = set()
        for name, table in self._registry.tables.items():
            dropped = self._registry.policies.dropped_of(name)
            if dropped:
                found |= dropped & {fold(each) for each in column_names(self._store.db, table.spec.name)}
        return found

    def follow(self) -> None:
        """Create what the mesh has and this file lacks; give back what `take_off` took for a text that this file cannot use."""
        here, facts = self._here(), self._effective()
        due = {key: sql for key, sql in facts.items() if sql and key not in here}
        self.unfinished = False
        if not due:
            self._taken = {}
            return
        signature = self._signature()
        self._failed = {key: found for key, found in self._failed.items() if found[:2] == (due.get(key), signature)}
        notes = {key: found[2] for key, found in self._failed.items()}
        with trial(self._store.db, self._functions()) as tried:
            for key in [key for key in due if key not in self._failed][:TRIED_MAX]:
                notes[key] = self._create(tried, key, due[key])
                if tried.is_spent:  # the next pass goes on
                    break
        created = not all(notes.values())
        # A text that was refused, or stays at home, may name what has been created.
        self.unfinished = len(notes) < len(due) or (created and (any(notes.values()) or bool(self._stayed)))
        for key, refused in notes.items():
            if refused:
                self._failed[key] = due[key], signature, refused
            self._note(key, self._refused(key, refused))
        self._taken = {key: sql for key, sql in self._taken.items() if key in due.keys() - notes.keys()}

    def _signature(self) -> str:
        """Return a digest of the tables and views of the file: with others, a text that was refused may be accepted."""
        listing = f"SELECT {raw_select('sql')} FROM sqlite_schema WHERE type IN ('table', '{VIEW}') ORDER BY name"
        texts = (str(restore(cells)) for cells in self._store.db.execute(listing).fetchall())
        return _digest("".join(text for text in texts if INTERNAL_PREFIX not in text))

    @property
    def waiting(self) -> bool:
        """True if the mesh has views or triggers that this file lacks."""
        here = self._here()
        return any(sql and key not in here for key, sql in self._effective().items())

    def _refused(self, key: str, refused: str) -> str:
        """Put back what this file had before under a fact that it cannot use; return the note."""
        before = self._taken.get(key)
        if not refused or before is None:
            return refused and f"not created: {refused}"
        kind = key.partition(":")[0]
        try:
            execute_one(self._store.db, before, authorize_create(_CREATE[kind]))
        except FILE_ERRORS:
            raise
        except apsw.Error as error:
            return f"not created: {refused}; what this file had before was dropped, as it fails too: {error}"
        return f"this file keeps its own: {refused}"

    def _create(self, tried: Any, key: str, sql: str) -> str:
        """Create a view or a trigger; return why not, "" if it is done."""
        kind, _, name = key.partition(":")
        if kind == VIEW and self._store.db.execute(_TAKEN, (name,)).fetchone() is not None:
            return "this file has a table or index of that name; rename it"
        found = tried.add(kind, name, sql)
        refused = self._stays(found, found.owner, sql, self._member(key))
        if not refused:
            try:
                execute_one(self._store.db, sql, authorize_create(_CREATE[kind]))
            except REFUSALS as error:
                refused = str(error)
        return refused

    def _effective(self) -> dict[str, str]:
        """Return the texts by the names of their facts, those within the limits."""
        found: dict[str, str] = {}
        left = VIEW_CHARS_MAX
        for kind, most in ((VIEW, VIEWS_MAX), (TRIGGER, TRIGGERS_MAX)):
            tables: dict[str, int] = {}
            stated = [(key, sql) for key, sql in self._registry.facts.all(kind) if key.startswith(f"{kind}:")]
            live = 0
            for key, sql in stated:
                owner = _owner_in(sql) if kind == TRIGGER and sql else ""
                if sql and (live >= most or len(sql) > left or tables.get(owner, 0) >= TRIGGERS_OF_TABLE_MAX):
                    self._note(key, "not created: the mesh has more of them than a file takes")
                    continue
                if sql:
                    live, left = live + 1, left - len(sql)
                    tables[owner] = tables.get(owner, 0) + (owner != "")
                found[key] = sql
        return found

    def _is_kept(self, key: str) -> bool:
        """Return True if this file keeps its own text, which is from before the mesh, as is the mesh's."""
        stored = self._store.meta(_SEEN)
        mark = json.loads(stored).get(key, "") if isinstance(stored, str) else _OWN
        kept = mark.startswith(_OWN) and self._is_early(key)
        if kept:
            self._note(
                key, "it differs from the mesh's, and both are from before the mesh: create it again where it is right"
            )
        return kept or not mark

    def _newest(self, key: str) -> tuple[int, bytes]:
        """Return the stamp of a fact: clock and site."""
        table = self._registry.tables[SCHEMA_TABLE]
        entries = table.log.entries_of_row(encode_key(table.spec, (key,)))
        return max(((stored[1], self._store.site(stored[0])) for stored in entries), default=(0, b""))

    def _is_early(self, key: str) -> bool:
        return is_early(self._newest(key)[0])

    def _member(self, key: str) -> bytes:
        return self._newest(key)[1][:SITE_PREFIX]

    def _own_member(self) -> bytes:
        site = self._store.meta("site")
        return bytes(site)[:SITE_PREFIX] if isinstance(site, bytes) else b""

    # ---- the file

    def _here(self) -> dict[str, tuple[str, str]]:
        """Return (table, SQL) of the views and triggers that may travel, by the names of their facts."""
        found: dict[str, tuple[str, str]] = {}
        if not self._registry.file.has_extras:
            return found
        indexes = [fold(each.name) for each in virtual_tables(self._store.db)] + list(CACHES)
        for cells in self._store.db.execute(_LISTING).fetchall():
            kind, name, table, sql = restore(cells)
            sql = readable_sql(sql) if isinstance(sql, str) else None
            if sql is None or not isinstance(name, str) or not isinstance(table, str):
                continue
            if INTERNAL_PREFIX in fold(sql):
                continue
            if kind == TRIGGER and any(mentions(sql, index) for index in indexes):
                continue
            found[f"{kind}:{fold(name)}"] = table, sql
        return found

    def _drop(self, key: str) -> None:
        kind, _, name = key.partition(":")
        self._store.db.execute(f"DROP {kind.upper()} IF EXISTS {quoted(name)}")

    def _functions(self) -> tuple[str, ...]:
        """Return the functions that programs of this file have beyond SQLite's."""
        return _MAP_FUNCTIONS if any(name in self._registry.tables for name in _MAP_TABLES) else ()

    def _note(self, key: str, line: str) -> None:
        self._registry.notes.put(key.replace(":", " ", 1), line)


_LISTING = (
    f"SELECT type, NULL, {raw_select('name')}, {raw_select('tbl_name')}, {raw_select('sql')} FROM sqlite_schema"
    f" WHERE type IN ('{VIEW}', '{TRIGGER}') AND name NOT GLOB '{INTERNAL_PREFIX}*' ORDER BY type DESC, name"
)
_TAKEN = "SELECT 1 FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type IN ('table', 'index')"


def _owner_in(sql: str) -> str:
    """Return the folded name after ON in a CREATE TRIGGER."""
    pieces = [piece for piece in TOKEN.findall(sql) if piece[0] not in BLANKS and not piece.startswith(COMMENTS)]
    at = next((at for at, piece in enumerate(pieces) if fold(piece) == "on"), len(pieces))
    return fold(unquoted("".join(pieces[at + 1 : at + 2])))


def _digest(sql: str) -> str:
    return hashlib.blake2b(sql.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _plain(mark: str) -> str:
    return mark.removeprefix(_OWN)
