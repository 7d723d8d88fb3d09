"""Records of conflicts and parked rows that any SQLite client can read: `mycomesh_conflicts` and `mycomesh_parked`.

The records are for people: values are JSON text, times ISO 8601, sites hexadecimal. Each record is written in the transaction of
the merge that it is about.
"""

from __future__ import annotations

import base64
import functools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import is_early, ms_from_hlc, time_text
from mycomesh.sync.sqlite.raw_text import is_raw
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.conflict_room import KEPT
from mycomesh.sync.storage.statement_cache import Large, may_stay
from mycomesh.sync.storage.table import Table, insert_stamp

__all__ = [
    "DELETE_LOST",
    "KEPT",
    "TWO_VALUES",
    "VALUE_WEIGHT",
    "Loser",
    "LostTo",
    "Texts",
    "park",
    "park_many",
    "record_conflict",
    "record_conflicts",
    "record_reassigned_id",
    "recorded_rows",
    "rename_parked",
    "rename_table",
    "renumber_parked",
    "shortened",
    "shortened_value",
    "time_text",
    "unpark",
    "value_of",
    "winner_text",
]

TEXT_MAX = 1_000_000
VALUE_WEIGHT = 4  # bytes of a record for one byte of a value: JSON may escape it
SHORTENED_MAX = 200
LARGE = 1 << 16  # bytes of a value
_BASE64_STEP = 3 << 18  # bytes: whole groups of three
_PIECE = 1 << 18  # characters at once
WRITE_LOST = "a later write had not seen this one"
_CONFLICT_SQL = (
    "INSERT INTO mycomesh_conflicts(seen_at, table_name, row_key, lost, lost_at, lost_site, won_at, won_site, reason,"
    " lost_hlc, won, row) VALUES"
)
_LARGE_SQL = f"{_CONFLICT_SQL}({', '.join(f':v{number}' for number in range(12))})"
_CONFLICT_SQL += "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PARKED_SQL = (
    "INSERT INTO mycomesh_parked VALUES(?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT(id, row) DO UPDATE SET reason = excluded.reason, content = excluded.content"
    " WHERE reason IS NOT excluded.reason OR content IS NOT excluded.content"  # else each retry writes it again
)
_time_text = functools.lru_cache(maxsize=256)(time_text)  # writes of one moment are many
_ENCODER = json.JSONEncoder(ensure_ascii=False)  # making one takes as long as encoding a row
EARLY_LOST = "a row from before the mesh lost to another write"
TWO_VALUES = "two files had different values of one write"
DELETE_LOST = "a delete lost to a later write"


@dataclass(frozen=True, slots=True)
class Loser:
    """A write that lost: its row's key, the values that lost, its stamp, and whether it was a delete."""

    key: Any
    values: dict[str, Any]
    stamp: tuple[int, bytes]
    dead: bool


@dataclass(slots=True)
class Texts:
    """The values of a record as text: the losing ones, which may be large, and the winner's, None if the winner is a delete."""

    lost: str
    winner: str | None

    def take(self) -> str:
        """Return the losing values and forget them, so that they leave the memory as soon as SQLite has them."""
        text, self.lost = self.lost, ""
        return text


# A losing write, the winner's stamp, and the winner's values by column.
LostTo = tuple[Loser, tuple[int, bytes], Mapping[str, Any]]


def record_conflict(
    table: Table,
    loser: Loser,
    won: tuple[int, bytes],
    winner_values: Mapping[str, Any] | None,
    wall_ms: int,
    *,
    reason: str = "",
    texts: Texts | None = None,
) -> int:
    """Record one losing write; return 1 if it was not recorded before, else 0.

    `won` is the winner's stamp, `winner_values` the winner's values by column, None if the winner is a delete. `texts` are those
    of the values if the caller has made them; the losing one is taken out of it.
    """
    if texts is None:
        texts = Texts(values_text(loser.values), winner_text(loser.values, winner_values))
    winner, size, stays = texts.winner, len(texts.lost), may_stay((texts.lost,))
    key = key_text(loser.key)
    if _is_recorded(table, (table.spec.name, key, loser.stamp[1].hex(), loser.stamp[0]), texts.lost):
        return 0
    if stays:
        record: Any = _conflict_record(table, loser, won, (key, texts.lost, winner), wall_ms, reason)
        sql = _CONFLICT_SQL
    else:
        cells = _conflict_record(table, loser, won, (key, "", winner), wall_ms, reason)
        record = Large({f"v{number}": cell for number, cell in enumerate(cells)} | {"v3": texts.take()})
        sql = _LARGE_SQL
    ((number,),) = table.store.db.execute(f"{sql} RETURNING seq", record, can_cache=stays)
    table.store.conflict_room.on_records(range(number, number + 1), 2 * size + len(winner or ""), wall_ms)
    return 1


def winner_text(lost: Mapping[str, Any], winner_values: Mapping[str, Any] | None) -> str | None:
    """Return what a record says of the winner's values of the columns that lost, None if the winner is a delete."""
    return None if winner_values is None else values_text(_shortened_values(lost, winner_values))


def _is_recorded(table: Table, loss: tuple[Any, ...], text: str) -> bool:
    """Return True if there is a record of a loss (table, row's key, site, clock) with this text."""
    db = table.store.db
    # Not a UNIQUE constraint: its index would hold a second copy of each value.
    same = "table_name = ? AND row_key = ? AND lost_site = ? AND lost_hlc = ?"
    if may_stay((text,)) or not table.store.utf8:
        listing = f"SELECT 1 FROM mycomesh_conflicts WHERE {same} AND lost = ? LIMIT 1"
        return db.execute(listing, (*loss, text), can_cache=may_stay((text,))).fetchone() is not None
    listing = f"SELECT seq FROM mycomesh_conflicts WHERE {same} AND octet_length(lost) = ? ORDER BY seq"
    found = db.execute(listing, (*loss, _octets(text))).fetchall()
    return any(_is_text(db, number, text) for (number,) in found)


def _octets(text: str) -> int:
    """Return the length of a text in UTF-8."""
    if text.isascii():
        return len(text)
    return sum(len(text[at : at + _PIECE].encode()) for at in range(0, len(text), _PIECE))


def _is_text(db: Any, number: int, text: str) -> bool:
    """Return True if the losing values of a record are this text: read in pieces, since both may be large."""
    with db.blob_open("main", "mycomesh_conflicts", "lost", number, False) as stored:
        pieces = (text[at : at + _PIECE].encode() for at in range(0, len(text), _PIECE))
        return all(stored.read(len(piece)) == piece for piece in pieces)


def record_conflicts(table: Table, losses: Sequence[LostTo], wall_ms: int) -> int:
    """Record many losing writes of small values, no two of one row and stamp; return how many were not recorded before."""
    found = recorded_rows(table, [loser.key for loser, _, _ in losses])
    made, size = 0, 0
    records = []
    for loser, won, winner_values in losses:
        key = key_text(loser.key)
        if key in found:  # this very loss may be on record
            made += record_conflict(table, loser, won, winner_values, wall_ms)
            continue
        lost, winner = values_text(loser.values), winner_text(loser.values, winner_values)
        size += 2 * len(lost) + len(winner or "")
        records.append(_conflict_record(table, loser, won, (key, lost, winner), wall_ms))
    if records:
        db = table.store.db
        db.executemany(_CONFLICT_SQL, records)
        last = db.last_insert_rowid()
        table.store.conflict_room.on_records(range(last - len(records) + 1, last + 1), size, wall_ms)
    return made + len(records)


def recorded_rows(table: Table, keys: Iterable[Any]) -> dict[str, Any]:
    """Return those of some rows about which there are conflicts: their keys, by the key's text in the record."""
    if table.store.conflict_room.empty:
        return {}
    texts = {key_text(key): key for key in keys}
    listing = (
        "SELECT k.value FROM json_each(?) k WHERE EXISTS"
        " (SELECT 1 FROM mycomesh_conflicts WHERE table_name = ? AND row_key = k.value) ORDER BY k.key"
    )
    found = table.store.db.execute(listing, (json.dumps([*texts]), table.spec.name))
    return {text: texts[text] for (text,) in found}


def _conflict_record(
    table: Table,
    loser: Loser,
    won: tuple[int, bytes],
    texts: tuple[str, str, str | None],
    wall_ms: int,
    reason: str = "",
) -> tuple[Any, ...]:
    """Return the values of `_CONFLICT_SQL`; `texts` are those of the key, the losing values and the winner's."""
    key, lost, winner = texts
    return (
        _time_text(wall_ms),
        table.spec.name,
        key,
        lost,
        _time_text(ms_from_hlc(loser.stamp[0])),
        loser.stamp[1].hex(),
        _time_text(ms_from_hlc(won[0])),
        won[1].hex(),
        reason or (DELETE_LOST if loser.dead else EARLY_LOST if is_early(loser.stamp[0]) else WRITE_LOST),
        loser.stamp[0],
        winner,
        loser.key,
    )


def record_reassigned_id(
    table: Table, wanted: int, given: int, lost: tuple[int, bytes], won: tuple[int, bytes]
) -> None:
    """Record that a row is visible under another id than the one its writer gave it."""
    column = table.spec.id_column
    loser = Loser(wanted, {column: wanted}, lost, dead=False)
    record_conflict(table, loser, won, {column: wanted}, table.store.clock.last >> 16, reason=f"{KEPT} {given}")


def park(table: Table, row: Row, key: Any, reason: str, values: dict[str, Any], wall_ms: int) -> None:
    """Record a row that a constraint of the user's table refuses. Its values are held, and the row is retried."""
    # A column with a NUL in its name is a share of a counter. The user's table has no such column.
    shown = {name: _beginning(value) for name, value in values.items() if "\0" not in name}
    content = values_text(shown)[:TEXT_MAX]
    table.store.parked_room.on_park(2 * len(content))
    record = (table.spec.name, key_text(key), reason, content, time_text(wall_ms), table.table_id, row)
    table.store.db.execute(_PARKED_SQL, record, can_cache=may_stay((content,)))


def park_many(
    table: Table,
    keys: Sequence[Any],
    reasons: Iterable[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    wall_ms: int,
) -> None:
    """Record many rows, named by their keys, as `park` does for one; their values are small, and no column is a share."""
    shape = ", ".join(_name_text(name).replace("%", "%%") + ": %s" for name in columns)
    contents = [f"{{{shape}}}" % cells for cells in zip(*map(_texts, zip(*rows, strict=True)), strict=True)]
    name, table_id, since = table.spec.name, table.table_id, _time_text(wall_ms)
    records = [
        (name, key_text(key), reason, content, since, table_id, key)
        for key, reason, content in zip(keys, reasons, contents, strict=True)
    ]
    table.store.parked_room.on_park(2 * sum(len(record[3]) for record in records), len(records))
    table.store.db.executemany(_PARKED_SQL, records)


def unpark(table: Table, row: Row) -> None:
    """Remove the record of a row that is no longer refused."""
    table.store.db.execute("DELETE FROM mycomesh_parked WHERE id = ? AND row = ?", (table.table_id, row))
    if table.store.db.changes():
        table.store.parked_room.on_unpark()


def rename_parked(table: Table, row: Row, name: Row, key: Any) -> None:
    """Follow a parked row to another name in the change log and another key."""
    table.store.db.execute(
        "UPDATE OR REPLACE mycomesh_parked SET row = ?, row_key = ? WHERE id = ? AND row = ?",
        (name, key_text(key), table.table_id, row),
    )


def renumber_parked(table: Table, numbers: str) -> None:
    """Follow parked rows to other rowids; `numbers` is the name of a table (old, new)."""
    db = table.store.db
    parked = "FROM mycomesh_parked WHERE id = ? AND typeof(row) = 'integer'"
    listing = (
        f"SELECT table_name, row_key, reason, content, since, id, (SELECT new FROM {numbers} WHERE old = row) {parked}"
    )
    records = db.execute(listing, (table.table_id,)).fetchall()
    db.execute(f"DELETE {parked}", (table.table_id,))
    db.executemany("INSERT INTO mycomesh_parked VALUES(?, ?, ?, ?, ?, ?, ?)", records)


def rename_table(table: Table, name: str) -> None:
    """Follow a table to its new name; call it while `table` still has the old one."""
    for record in ("mycomesh_parked", "mycomesh_conflicts"):
        table.store.db.execute(
            f"UPDATE OR REPLACE {record} SET table_name = ? WHERE table_name = ?", (name, table.spec.name)
        )


def key_text(key: Any) -> str:
    """Return a row's key as a person writes it.

    That is the value, a JSON array of several values, or SITE@HLC: the insert of a row that has no other name.
    """
    if isinstance(key, int):
        return str(key)
    if key[:1] == b"\x01":
        return str(int.from_bytes(key[1:], "big", signed=True))
    if key[:1] == b"\x00":
        site, hlc = insert_stamp(key)
        return f"{site.hex()}@{hlc}"
    values = codec.decode(key, bytes_max=len(key))
    plain = [_plain(value) for value in values]
    return str(plain[0]) if len(plain) == 1 else json.dumps(plain, ensure_ascii=False)


def values_text(values: dict[str, Any]) -> str:
    """Return columns and values as a JSON object. A site's share of a counter has the name 'COLUMN +'."""
    # One by one: an encoder of whole objects takes as long to make as a few values, and the text of a large value is not copied.
    text = "{"
    for number, (name, value) in enumerate({_name_text(name): value for name, value in values.items()}.items()):
        text += f"{', ' * (number > 0)}{name}: "
        if isinstance(value, bytes) and len(value) > LARGE:
            text += '{"base64": "'
            for at in range(0, len(value), _BASE64_STEP):
                text += base64.b64encode(value[at : at + _BASE64_STEP]).decode("ascii")
            text += '"}'
        elif isinstance(value, str) and len(value) > LARGE:
            text += '"'
            for at in range(0, len(value), _PIECE):
                text += encode_basestring(value[at : at + _PIECE])[1:-1]
            text += '"'
        else:
            text += _value_text(value)
    text += "}"  # in place, as all of the above: the text may be large
    return text


def _texts(values: Sequence[Any]) -> Iterable[str]:
    """Return the values of one column as `_value_text` does, without a call of Python for each where they are of one type."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return map(encode_basestring, values)
    if kinds == {int} or (kinds == {float} and all(map(math.isfinite, values))):
        return map(repr, values)
    return map(_value_text, values)


def _value_text(value: Any) -> str:
    """Return a value as JSON: `json` in a fifth of its time for what most cells are."""
    kind = type(value)
    if kind is str:
        return encode_basestring(value)
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return "null" if value is None else _ENCODER.encode(_plain(value))


@functools.lru_cache(maxsize=256)
def _name_text(name: str) -> str:
    column, nul, _ = name.partition("\0")
    return encode_basestring(column + " +" * bool(nul))


def _beginning(value: Any) -> Any:
    """Return as much of a value as `TEXT_MAX` characters of a record can show."""
    return value[:TEXT_MAX] if isinstance(value, (str, bytes)) else value


def value_of(plain: Any) -> Any:
    """Return the value that a record's JSON represents."""
    if not isinstance(plain, dict):
        return plain
    if "base64" in plain:
        return base64.b64decode(plain["base64"])
    return [base64.b64decode(plain["text in base64"])]


def _shortened_values(values: Mapping[str, Any], winner_values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the winner's values, shortened, of the columns that lost. The user's table has the whole winner."""
    return {name: shortened_value(winner_values[name]) for name in values if name in winner_values}


def shortened_value(value: Any) -> Any:
    """Return a value as a record has the winner's: plain, and shortened if it is long."""
    if not isinstance(value, bytes) or len(value) <= SHORTENED_MAX:
        return shortened(_plain(value))
    # As `shortened` does, without encoding the whole of a large blob.
    text = json.dumps({"base64": base64.b64encode(value[:SHORTENED_MAX]).decode()})
    size = len('{"base64": ""}') + (len(value) + 2) // 3 * 4
    return f"{text[:SHORTENED_MAX]}... ({size} characters)"


def shortened(plain: Any) -> Any:
    """Return a record's value, or its beginning and its length if it is long."""
    if plain is None or isinstance(plain, (int, float)):
        return plain
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
    return plain if len(text) <= SHORTENED_MAX else f"{text[:SHORTENED_MAX]}... ({len(text)} characters)"


def _plain(value: Any) -> Any:
    if is_raw(value):
        return {"text in base64": base64.b64encode(value[0]).decode()}
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
