"""Seals: signatures by which a site states a run of its changes, so that any member can pass them on and none can alter them.

A seal signs the hashes of up to `SEAL_ROWS_MAX` changes, its leaves. A leaf hashes a change as its writer made it: kind, key, and
for each column a token, which is the encoded value, or the hash of a long one. Of a change that has lost columns to later
writes, the lost tokens (its residue) go along, so that the values that are left can still be proven (ADR 42).

Invariant: two different changes have different leaves, whatever values they have (collisions of 128 bits aside).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.sqlite.identifiers import NAME_MAX

__all__ = [
    "LEAF_BYTES",
    "RESIDUE_COLUMNS_MAX",
    "SEAL_ROWS_MAX",
    "SIGNATURE_BYTES",
    "TOKEN_BYTES_MAX",
    "Residue",
    "Seal",
    "leaves",
    "token",
    "tokens_of",
]

# Changes of one seal. More make a signature cheaper for each; a single row that is passed on brings the leaves of all.
SEAL_ROWS_MAX = 64
LEAF_BYTES = 16
SIGNATURE_BYTES = 64
# An encoded value that is longer is represented by its hash, which has this size with its head.
TOKEN_BYTES_MAX = 19
RESIDUE_COLUMNS_MAX = 2_000  # as many as a group has columns

# Tokens of one change by column: of all its columns, or of those that it has lost.
Residue = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Seal:
    """A site's signature over consecutive changes of one table.

    site: 16 bytes.
    hlcs: strictly ascending clocks, one a change.
    leaves: `LEAF_BYTES` for each.
    residues: the lost columns of those changes that are sent without them, by clock; the signature does not cover these.
    """

    site: bytes
    hlcs: tuple[int, ...]
    leaves: bytes
    signature: bytes
    residues: Mapping[int, Residue] = field(default_factory=dict)

    def signed_part(self, table: str) -> bytes:
        """Return the bytes that the signature covers."""
        return codec.encode([table, self.site, _deltas(self.hlcs), self.leaves])

    @property
    def core(self) -> tuple[tuple[int, ...], bytes, bytes]:
        """Everything but the site and the residues."""
        return self.hlcs, self.leaves, self.signature

    def stored(self, tokens: Mapping[int, Residue]) -> bytes:
        """Return the stored form, without the site: with the tokens of the changes of which they are known."""
        shapes: dict[tuple[str, ...], int] = {}
        rows: list[list[Any] | None] = []
        for hlc in self.hlcs:
            known = tokens.get(hlc)
            if known is None:
                rows.append(None)
                continue
            names = tuple(sorted(known))
            rows.append([shapes.setdefault(names, len(shapes)), *(known[name] for name in names)])
        return codec.encode([_deltas(self.hlcs), self.leaves, self.signature, list(shapes), rows])

    @classmethod
    def from_stored(cls, site: bytes, content: bytes) -> tuple[Seal, dict[int, Residue]]:
        """Return a stored seal, and the tokens of its changes by clock."""
        deltas, leaves_, signature, shapes, rows = codec.decode(content, bytes_max=len(content))
        seal = cls(site, tuple(itertools.accumulate(deltas)), leaves_, signature)
        known = zip(seal.hlcs, rows, strict=True)
        return seal, {hlc: dict(zip(shapes[row[0]], row[1:], strict=True)) for hlc, row in known if row is not None}

    def encode(self) -> bytes:
        """Return the form on the wire, without the site."""
        residues = [[hlc, _items(residue)] for hlc, residue in sorted(self.residues.items())]
        return codec.encode([_deltas(self.hlcs), self.leaves, self.signature, residues])

    @classmethod
    def decode(cls, site: bytes, content: bytes) -> Seal:
        """Return a seal of a peer; raise `DecodeError` for anything that the protocol does not allow."""
        value = codec.decode(content, bytes_max=len(content))
        require(is_array(value, 4), "a seal is not an array of 4")
        deltas, leaves_, signature, residues = value
        require(is_array(deltas) and 0 < len(deltas) <= SEAL_ROWS_MAX, "malformed clocks of a seal")
        require(all(is_int(delta, 1) for delta in deltas), "clocks of a seal do not ascend")
        hlcs = tuple(itertools.accumulate(deltas))
        require(hlcs[-1] <= HLC_MAX, "a clock of a seal is out of range")
        require(is_bytes(leaves_, LEAF_BYTES * len(hlcs)), "leaves and clocks of a seal differ in number")
        require(is_bytes(signature, SIGNATURE_BYTES), "malformed signature of a seal")
        require(is_array(residues) and len(residues) <= len(hlcs), "malformed residues of a seal")
        found: dict[int, Residue] = {}
        for item in residues:
            require(is_array(item, 2) and is_int(item[0]), "malformed residue")
            found[item[0]] = _residue(item[1])
        require(found.keys() <= set(hlcs), "a residue of no change of its seal")
        return cls(site, hlcs, leaves_, signature, found)

    def leaf_by_hlc(self) -> Iterator[tuple[int, bytes]]:
        """Yield the clock and the leaf of each change."""
        for at, hlc in enumerate(self.hlcs):
            yield hlc, self.leaves[LEAF_BYTES * at : LEAF_BYTES * (at + 1)]


def token(value: Any) -> bytes:
    """Return the bytes that represent a value in a leaf: its encoding, or the hash of a long one.

    A hash has the form of an array of two, as no encoded value has.
    """
    encoded = codec.encode(value)
    if len(encoded) <= TOKEN_BYTES_MAX:
        return encoded
    return codec.encode([None, hashlib.blake2b(encoded, digest_size=LEAF_BYTES, person=b"mycomesh-token").digest()])


def tokens_of(
    columns: Sequence[str], hlcs: Sequence[int], rows: Sequence[Sequence[Any]], residues: Mapping[int, Residue]
) -> dict[int, Residue]:
    """Return the tokens of all columns of each change of a group, by clock; `residues` has those that some have lost."""
    found: dict[int, Residue] = {}
    for hlc, row in zip(hlcs, rows, strict=True):
        tokens = dict(zip(columns, map(token, row), strict=False))
        residue = residues.get(hlc)
        found[hlc] = {**residue, **tokens} if residue else tokens
    return found


def leaves(kind: int, keys: Sequence[Any], tokens: Iterable[Residue]) -> list[bytes]:
    """Return the leaf of each change of a group."""
    head = codec.array_head(3) + codec.encode(kind)
    found = []
    for key, change in zip(keys, tokens, strict=True):
        names = sorted(change)
        content = head + codec.encode(key) + codec.encode(names) + b"".join([change[name] for name in names])
        found.append(hashlib.blake2b(content, digest_size=LEAF_BYTES, person=b"mycomesh-leaf").digest())
    return found


def _deltas(hlcs: Sequence[int]) -> list[int]:
    return [hlcs[0], *map(int.__sub__, hlcs[1:], hlcs)]


def _items(residue: Residue) -> list[list[str | bytes]]:
    return [[name, residue[name]] for name in sorted(residue)]


def _residue(items: Any) -> Residue:
    require(is_array(items) and 0 < len(items) <= RESIDUE_COLUMNS_MAX, "malformed residue")
    found: Residue = {}
    for item in items:
        require(is_array(item, 2) and type(item[0]) is str and 0 < len(item[0]) <= NAME_MAX, "malformed residue")
        require(type(item[1]) is bytes and 0 < len(item[1]) <= TOKEN_BYTES_MAX, "malformed token of a residue")
        found[item[0]] = item[1]
    require(list(found) == sorted(found) and len(found) == len(items), "columns of a residue are not sorted")
    return found
