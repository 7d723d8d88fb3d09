"""Every table shape of issue 3, written so that one set of statements fits them all: a key, `v` for data, a UNIQUE `u`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, repr=False)
class Shape:
    """A table; `key` are its key columns as SQL, `keys` five different keys as SQL, `tail` a sixth that nobody inserts."""

    name: str
    ddl: str
    key: tuple[str, ...]
    keys: tuple[str, ...]
    primary: bool = True  # False: the key columns are ordinary columns of a table without a primary key
    table: str = ""

    def __repr__(self):
        return self.name

    @property
    def t(self):
        return self.table or self.name

    def columns(self, *more):
        return ", ".join([*self.key, *more])

    def where(self, number):
        return (
            f"({', '.join(self.key)}) IS ({self.keys[number]})"
            if len(self.key) > 1
            else (f"{self.key[0]} IS {self.keys[number]}")
        )

    def insert(self, number, v, u="NULL", how="INSERT"):
        return f"{how} INTO {self.t}({self.columns('v', 'u')}) VALUES({self.keys[number]}, {v}, {u})"

    def set_key(self, number):
        return (
            f"({', '.join(self.key)}) = ({self.keys[number]})"
            if len(self.key) > 1
            else (f"{self.key[0]} = {self.keys[number]}")
        )


NUMBERS = ("1", "2", "3", "-4", "9223372036854775807")
WORDS = ("'one'", "'Two'", "''", "'four'||char(0)||'4'", "'fünf'")
WIDE = ", ".join(f"c{number} DEFAULT {number}" for number in range(140))

SHAPES = (
    Shape("bag", "CREATE TABLE bag(k, v, u UNIQUE)", ("k",), NUMBERS, primary=False),
    Shape("pkint", "CREATE TABLE pkint(id INTEGER PRIMARY KEY, v, u UNIQUE)", ("id",), NUMBERS),
    Shape("auto", "CREATE TABLE auto(id INTEGER PRIMARY KEY AUTOINCREMENT, v, u UNIQUE)", ("id",), (*NUMBERS[:4], "77")),
    Shape("pkdesc", "CREATE TABLE pkdesc(id INTEGER PRIMARY KEY DESC, v, u UNIQUE)", ("id",), NUMBERS),
    Shape("pktext", "CREATE TABLE pktext(k TEXT PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",), WORDS),
    Shape("nullkey", "CREATE TABLE nullkey(k TEXT PRIMARY KEY, v, u UNIQUE)", ("k",), ("'a'", "NULL", "'c'", "'d'", "'e'")),
    Shape("pkblob", "CREATE TABLE pkblob(k BLOB PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",),
          ("x''", "x'00'", "x'0000'", "x'ff'", "'text'")),
    Shape("pkreal", "CREATE TABLE pkreal(k REAL PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",),
          ("1", "1.5", "9e999", "-9e999", "1e300")),
    Shape("pknum", "CREATE TABLE pknum(k NUMERIC PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",),
          ("1", "'2'", "'3.0'", "'x'", "4.25")),
    Shape("pknone", "CREATE TABLE pknone(k PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",), ("1", "'1'", "x'31'", "1.5", "2e18")),
    Shape("nocase", "CREATE TABLE nocase(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",),
          ("'Alpha'", "'bravo'", "'CHARLIE'", "'É'", "'é'")),
    Shape("rtrim", "CREATE TABLE rtrim(k TEXT COLLATE RTRIM PRIMARY KEY NOT NULL, v, u UNIQUE)", ("k",),
          ("'a  '", "'b'", "' c'", "''", "'d '")),
    Shape("pair", "CREATE TABLE pair(v, q TEXT NOT NULL, p INT NOT NULL, u UNIQUE, PRIMARY KEY(p, q))", ("p", "q"),
          ("1, 'a'", "1, 'b'", "2, 'a'", "-1, ''", "3, 'c'")),
    Shape("nullpair", "CREATE TABLE nullpair(p, q, v, u UNIQUE, PRIMARY KEY(p, q))", ("p", "q"),
          ("1, 'a'", "1, NULL", "NULL, NULL", "NULL, 'a'", "2, 2")),
    Shape("norowid", "CREATE TABLE norowid(k TEXT PRIMARY KEY, v, u UNIQUE) WITHOUT ROWID", ("k",), WORDS),
    Shape("norowidpair", "CREATE TABLE norowidpair(v, p INT, q TEXT, u UNIQUE, PRIMARY KEY(q DESC, p)) WITHOUT ROWID",
          ("p", "q"), ("1, 'a'", "1, 'b'", "2, 'a'", "-1, ''", "3, 'c'")),
    Shape("norowidint", "CREATE TABLE norowidint(id INTEGER PRIMARY KEY, v, u UNIQUE) WITHOUT ROWID", ("id",), NUMBERS),
    Shape("strict", "CREATE TABLE strict(id INT PRIMARY KEY NOT NULL, v ANY, u ANY UNIQUE) STRICT", ("id",), NUMBERS),
    Shape("generated", "CREATE TABLE generated(id INTEGER PRIMARY KEY, v, g AS (v || '!'), s AS (id % 7) STORED, u UNIQUE)",
          ("id",), NUMBERS),
    Shape("rowidname", "CREATE TABLE rowidname(rowid TEXT PRIMARY KEY, v, u UNIQUE)", ("rowid",), WORDS),
    Shape("bagrowid", "CREATE TABLE bagrowid(rowid, oid, v, u UNIQUE)", ("rowid", "oid"),
          ("1, 1", "1, 2", "2, 1", "5, 5", "6, 6"), primary=False),
    Shape("allnames", "CREATE TABLE allnames(rowid INTEGER PRIMARY KEY, oid, _rowid_, v, u UNIQUE)", ("rowid",), NUMBERS),
    Shape("odd name", 'CREATE TABLE "odd ""näme"" [x]"("the kéy" TEXT PRIMARY KEY NOT NULL, v, u UNIQUE, "select" DEFAULT 7)',
          ('"the kéy"',), WORDS, table='"odd ""näme"" [x]"'),
    Shape("wide", f"CREATE TABLE wide(id INTEGER PRIMARY KEY, {WIDE}, v, u UNIQUE)", ("id",), NUMBERS),
    Shape("widebag", f"CREATE TABLE widebag({WIDE}, k, v, u UNIQUE)", ("k",), NUMBERS, primary=False),
    Shape("upper", "CREATE TABLE UPPER(Id INTEGER PRIMARY KEY, V, U UNIQUE)", ("Id",), NUMBERS),
)  # fmt: skip
