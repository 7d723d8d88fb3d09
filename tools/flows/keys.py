"""Keys of results: derived from the flow, the change that came in, and a number, so that a replay writes the same rows."""

from __future__ import annotations

import hashlib

__all__ = ["dot_of", "integer_key", "site_of", "text_key"]

INTEGER_BITS = 62  # positive, and below the sign of SQLite's integers


def dot_of(change_id: str) -> str:
    """Return TABLE/SITE/HLC of the id of a change, without what tells apart that its row came back unwritten."""
    parts = change_id.rsplit("/", 1)
    return change_id if parts[-1].isdigit() else parts[0]


def site_of(change_id: str) -> str:
    """Return the site that wrote a change, in hexadecimal."""
    return dot_of(change_id).rsplit("/", 2)[1]


def text_key(flow: str, dot: str, number: int) -> str:
    """Return the key of a result for a column of text; number 1 is the first result of the change."""
    return _digest(flow, dot, number).hex()


def integer_key(flow: str, dot: str, number: int) -> int:
    """Return the key of a result for an INTEGER PRIMARY KEY."""
    return int.from_bytes(_digest(flow, dot, number)[:8]) >> (64 - INTEGER_BITS)


def _digest(flow: str, dot: str, number: int) -> bytes:
    return hashlib.blake2b(f"{flow}\0{dot}\0{number}".encode(), digest_size=16).digest()
