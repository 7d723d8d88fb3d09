"""A second implementation of docs/PROTOCOL.md for reading, written from that page alone and without our packages.

It checks certificates and signatures, reads bundles, joins their changes into registers, and computes digests and vectors. Each
docstring names the section of the page first.
"""

from __future__ import annotations

import hashlib
import struct

import cbor2
from nacl.signing import VerifyKey

UPDATE, INSERT, DELETE = 0, 1, 2
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32


def blake(data, size, person=b"", key=b""):
    return hashlib.blake2b(data, digest_size=size, person=person, key=key).digest()


def verify(public, domain, data, signature):
    """Names and keys: Ed25519 over `mycomesh signature 1` NUL domain NUL data."""
    VerifyKey(public).verify(b"mycomesh signature 1\0" + domain + b"\0" + data, signature)


def digest_key(mesh_id, secret):
    return blake(mesh_id, 32, b"mycomesh digest", secret)


def join_code(text):
    """Enrolment: (mesh id, secret) of a code whose check bits match."""
    number = 0
    for sign in text.replace("-", ""):
        number = number << 5 | ALPHABET.index(sign)
    data, check = (number >> 36).to_bytes(33, "big"), number & (1 << 36) - 1
    assert data[0] == 1
    assert int.from_bytes(blake(data, 5, b"mycomesh join"), "big") >> 4 == check
    return data[1:17], data[17:33]


def certificate(raw, mesh_id, root):
    """Certificate: name and node key of a member, after all checks."""
    version, body, signature = cbor2.loads(raw)
    assert version == 1
    verify(root, b"certificate", body, signature)
    version, mesh, name, node_key, static, roles, grants, not_before, not_after, serial = cbor2.loads(body)
    assert (version, mesh, len(static), len(serial)) == (1, mesh_id, 32, 16)
    assert not_before < not_after
    assert roles
    assert grants
    return name, node_key


def batch(message, node_keys):
    """Messages, type 4: (origin, bundle) of a Batch with a valid signature."""
    assert message[:2] == bytes([1, 4])
    origin, signature, signed = message[2:18], message[18:82], message[82:]
    verify(node_keys[origin], b"batch", signed, signature)
    assert signed[0] & ~0b111 == 0
    return origin, signed[1:]


def changes(bundle):
    """Bundle: yields ("cover", table, site, after, upto) and ("change", table, site, hlc, kind, key or None, {column: value})."""
    version, sites, sections = cbor2.loads(bundle)
    assert version == 1
    for table, ranges, groups in sections:
        for site, after, upto in ranges:
            yield "cover", table, sites[site], after, upto
        for site, kind, columns, hlcs, keys, rows, _priors in groups:
            hlc = 0
            for at, step in enumerate(hlcs):
                hlc += step
                values = dict(zip(columns, rows[at], strict=True)) if kind != DELETE else {}
                yield "change", table, sites[site], hlc, kind, None if keys is None else keys[at], values


class Replica:
    """Registers and vectors of every table."""

    def __init__(self, tables, key):
        self.tables = tables
        self.key = key
        self.changes = {table: {} for table in tables}  # table -> row key -> [(stamp, kind, values)]
        self.vectors = {table: {} for table in tables}  # table -> site -> [(after, upto)]

    def take(self, bundle):
        for what, table, site, *rest in changes(bundle):
            if table not in self.tables:
                continue  # such as mycomesh_seen:TABLE, which has no values
            if what == "cover":
                self.cover(table, site, *rest)
            else:
                hlc, kind, key, values = rest
                if key is None:
                    key = self.own_key(table, site, hlc, values)
                self.changes[table].setdefault(key, []).append(((hlc, site), kind, values))

    def cover(self, table, site, after, upto):
        merged = []
        for low, high in sorted([*self.vectors[table].get(site, []), (after, upto)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], high))
            else:
                merged.append((low, high))
        self.vectors[table][site] = merged

    def own_key(self, table, site, hlc, values):
        """Return the key of an insert that carries no key: its row determines it."""
        kind, columns = self.tables[table]["kind"], self.tables[table]["key"]
        if kind == "rowid":
            return values[columns[0][0]]
        if kind == "bag":
            return b"\0" + site + hlc.to_bytes(8, "big")
        return cbor2.dumps([folded(values[name], collation) for name, collation in columns], canonical=True)

    def rows(self, table):
        """Joining: yields (key, changes that still own a column or the row, whether the row is visible).

        A change is (stamp, kind, {column: value}).
        """
        for key, row in self.changes[table].items():
            existence = max((stamp for stamp, kind, _ in row if kind != UPDATE), default=(0, b""))
            owners = {}
            for stamp, _, values in row:
                for column in values:
                    if stamp >= existence and stamp > owners.get(column, (0, b"")):
                        owners[column] = stamp
            entries = []
            for stamp, kind, values in row:
                owned = {column: value for column, value in values.items() if owners.get(column) == stamp}
                if owned or stamp == existence:
                    entries.append((stamp, kind if stamp == existence else UPDATE, owned))
            yield key, entries, any(kind == INSERT for stamp, kind, _ in entries)

    def entry_digest(self, table, key, stamp, kind, values):
        """Rounds, "entry digest"."""
        if kind == DELETE:
            return 0
        hlc, site = stamp
        if key == b"\0" + site + hlc.to_bytes(8, "big"):
            key = None if kind == INSERT else key
        columns = sorted(values)
        data = cbor2.dumps([table, site, kind, columns], canonical=True) + hlc.to_bytes(8, "big")
        data += cbor2.dumps(key, canonical=True) + cbor2.dumps([values[name] for name in columns], canonical=True)
        return struct.unpack(">q", blake(data, 8, b"mycomesh-change", self.key))[0]

    def digest(self, table):
        """Rounds: (vector digest, entry digest) of a table."""
        low = high = 0
        for key, entries, _ in self.rows(table):
            for stamp, kind, values in entries:
                digest = self.entry_digest(table, key, stamp, kind, values)
                low += digest & 0xFFFFFFFF
                high += digest >> 32 & 0xFFFFFFFF
        items = [
            [site, [edge for window in spans for edge in window]] for site, spans in sorted(self.vectors[table].items())
        ]
        vector = blake(cbor2.dumps(items, canonical=True), 8, b"mycomesh-vector")
        return vector, (low % 2**64).to_bytes(8, "big") + (high % 2**64).to_bytes(8, "big")

    def shown(self, table):
        """Return the visible rows, each as {column: value}."""
        found = []
        for _, entries, shown in self.rows(table):
            if shown:
                found.append({column: value for _, _, values in entries for column, value in values.items()})
        return found


def folded(value, collation):
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and collation == "NOCASE":
        return "".join(sign.lower() if sign.isascii() else sign for sign in value)
    return value


def digests(message):
    """Rounds, message 0: {table: (vector digest, entry digest)}."""
    kind, tables, answer = cbor2.loads(message)
    assert (kind, answer) == (0, 0)
    return {table: (vector, entries) for table, vector, entries in tables}
