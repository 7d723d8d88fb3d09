"""Statements: what a gateway says in its live stream every few minutes, so that others can prove the mailbox right.

A statement has the name of the base, how far the gateway has read every other stream, and which streams it needs a parcel of. The
digests of its tables follow, and the vectors of those that have changed.

Invariant: `decode(encode(s)) == s`, and `decode` returns only what keeps the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.mesh.mailbox.envelope import POSITION_MAX, STREAM_BYTES
from mycomesh.mesh.mailbox.mailbox import STREAMS_MAX
from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require

__all__ = ["BASE_BYTES_MAX", "STATEMENT_BYTES_MAX", "Statement", "decode", "encode"]

BASE_BYTES_MAX = 64
STATEMENT_BYTES_MAX = 64 * 1024  # 1,024 streams with a position each, twice
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Statement:
    """The first message of a statement.

    base: the name of the gateway's base, "" for none.
    receipts: (stream, position up to which the gateway has read it).
    wanted: live streams of which it misses something; their gateways write a parcel.
    """

    base: str
    receipts: tuple[tuple[bytes, int], ...]
    wanted: tuple[bytes, ...]


def encode(statement: Statement) -> bytes:
    """Return the canonical bytes."""
    receipts = [[stream, position] for stream, position in statement.receipts]
    return codec.encode([_VERSION, statement.base, receipts, list(statement.wanted)])


def decode(data: bytes) -> Statement:
    """Return the statement in `data`; raise `DecodeError` for anything else."""
    value = codec.decode(data, bytes_max=STATEMENT_BYTES_MAX)
    require(is_array(value, 4) and is_int(value[0], _VERSION, _VERSION), "not a statement of version 1")
    _, base, receipts, wanted = value
    require(isinstance(base, str) and len(base.encode()) <= BASE_BYTES_MAX, "a base without a proper name")
    require(is_array(receipts) and len(receipts) <= STREAMS_MAX, "too many receipts")
    require(is_array(wanted) and len(wanted) <= STREAMS_MAX, "too many wanted streams")
    for each in receipts:
        require(
            is_array(each, 2) and is_bytes(each[0], STREAM_BYTES) and is_int(each[1], 0, POSITION_MAX), "no receipt"
        )
    require(all(is_bytes(each, STREAM_BYTES) for each in wanted), "no stream is named so")
    return Statement(base, tuple((stream, position) for stream, position in receipts), tuple(wanted))
