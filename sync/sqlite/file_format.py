"""Say what a file is that SQLite calls no database: encrypted, in a format of Turso's, or something else.

These files look to their programs like any database, so "not a database" alone sends a person looking for damage.

The formats are those of pyturso 0.8.3, and of SQLCipher 4 and SQLite3 Multiple Ciphers as they leave or keep the header.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["format_of"]

_MAGIC = b"SQLite format 3\0"
_VERSIONS = slice(18, 20)  # the versions that a program must know to write and to read the file; 1 and 2 are SQLite's
_HEAD_BYTES = 1_024
_RANDOM_BYTES_MIN = (
    200  # different bytes in so many: of random ones 251 on average, of a text or an image's header far fewer
)


def format_of(path: str) -> str:
    """Return what a file is, and what to do, for a message: "not an SQLite database; ..." for anything unknown.

    It opens the file. A process that has the file open in SQLite would lose SQLite's locks when it closes it again.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        head = b""
    if head.startswith(_MAGIC) and head[_VERSIONS] == b"\xff\xff":
        return "in Turso's MVCC mode, which SQLite cannot read; run PRAGMA journal_mode = 'wal' in Turso first"
    if head.startswith(b"Turso\0"):
        return "encrypted by Turso; a node serves no encrypted file: give it one without encryption"
    if head.startswith(_MAGIC):
        return "encrypted, or damaged: its header is that of an SQLite database, and the rest is not; give another file"
    if len(set(head)) >= _RANDOM_BYTES_MIN:
        return "not an SQLite database, or an encrypted one (SQLCipher and others), which a node cannot serve; give another file"
    return "not an SQLite database; give another file"
