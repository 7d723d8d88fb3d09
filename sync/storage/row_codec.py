"""Canonical CBOR of many rows, their keyed BLAKE2b digests, and the sums of digests: in C where it was compiled, else in Python.

These three are half of the CPU time of a row that is stamped or merged. `_rows.c` has them in C. It is compiled while mycomesh is
built, if there is a compiler (tools/release/build_hook.py); without it, or with MYCOMESH_PURE=1, a node runs the functions below.

Invariant: both give the same bytes and numbers for all values (tests/sync/storage/test_row_codec.py). ADR 47.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

from mycomesh.sync import codec

__all__ = ["COMPILED", "Prefix", "encode_row", "encode_rows", "sum_halves"]


def _load() -> Any:
    """Return the compiled module, if there is one and the operator wants it, else None."""
    if os.environ.get("MYCOMESH_PURE"):
        return None
    try:
        from mycomesh.sync.storage import _rows  # noqa: PLC0415 -- optional
    except ImportError:
        return None
    return _rows if _rows.VERSION == VERSION else None  # an editable install keeps what was compiled before an update


VERSION = 1  # of the interface; _rows.c has the same
COMPILED = _load()
_LOW = 0xFFFF_FFFF
_NO_KEY = codec.encode(None)
# Python raises its own error for a value that C refuses, or encodes it.
_REFUSED = (TypeError, OverflowError, UnicodeError)


def encode_row(row: Sequence[Any]) -> bytes:
    """Return a row, a list or a tuple of SQLite values, as an encoded array."""
    if COMPILED is not None:
        try:
            return COMPILED.encode_row(row)  # type: ignore[no-any-return]
        except _REFUSED:
            pass
    return codec.encode(row)


def encode_rows(rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """Return many rows, as `encode_row` does for one."""
    if COMPILED is not None:
        try:
            return COMPILED.encode_rows(rows)  # type: ignore[no-any-return]
        except _REFUSED:
            pass
    return list(map(codec.encode, rows))


def sum_halves(digests: Sequence[int]) -> tuple[int, int]:
    """Return the sums of the lower and of the upper 32 bits of signed 64-bit numbers."""
    if COMPILED is not None:
        return COMPILED.sum_halves(digests)  # type: ignore[no-any-return]
    return sum([digest & _LOW for digest in digests]), sum([digest >> 32 & _LOW for digest in digests])


class Prefix:
    """The part that the digests of some entries share: the state of the hash after the key, the purpose and the first data."""

    __slots__ = ("_compiled", "new_state")

    def __init__(self, mesh_key: bytes, person: bytes, data: bytes) -> None:
        state = hashlib.blake2b(data, digest_size=8, key=mesh_key, person=person)
        self.new_state: Callable[[], hashlib.blake2b] = state.copy
        self._compiled = None if COMPILED is None else COMPILED.prefix(mesh_key, person, data)

    def digests(self, hlcs: Sequence[int], keys: Sequence[Any] | None, rows: Sequence[bytes]) -> list[int]:
        """Return the digest of each clock, key (no key at all without `keys`) and encoded row, as a signed number."""
        if self._compiled is not None and COMPILED is not None:
            try:
                return COMPILED.digests(self._compiled, hlcs, keys, rows)  # type: ignore[no-any-return]
            except _REFUSED:
                pass
        heads = itertools.repeat(_NO_KEY) if keys is None else map(codec.encode, keys)
        new_state, found = self.new_state, []
        for hlc, head, row in zip(hlcs, heads, rows, strict=False):
            state = new_state()
            state.update(hlc.to_bytes(8, "big") + head + row)
            found.append(state.digest())
        return list(struct.unpack(f">{len(found)}q", b"".join(found)))
