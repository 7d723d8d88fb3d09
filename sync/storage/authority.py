"""Keys of the members, for the seals of signed tables: the border at which `sync` asks the mesh's cryptography.

Certificates are opaque bytes here. Those of signers whose seals this file keeps are in `mycomesh_signers`, which is created with
the first of them: a member that has left, expired or been revoked has still signed what it wrote.
"""

from __future__ import annotations

from typing import Any, Protocol

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import PolicyError

__all__ = ["UNREAD_MAX", "Authority", "Signers"]

# Certificates that are kept before they are checked: more are checked at once, and made-up ones forgotten.
UNREAD_MAX = 4_096


class Authority(Protocol):
    """Signs as this node, and knows whom the root of the mesh has admitted."""

    @property
    def certificate(self) -> bytes:
        """This node's certificate."""

    def sign(self, data: bytes) -> bytes:
        """Return this node's signature, 64 bytes."""

    def admitted(self, certificate: bytes) -> tuple[bytes, bytes] | None:
        """Return (16-byte node id, public key) of a certificate that the root has signed, whenever that was; else None."""

    def verify(self, key: bytes, data: bytes, signature: bytes) -> bool:
        """Return True if a signature is that of a public key."""


class Signers:
    """The certificates of signers, by the first bytes of their sites. None is checked before some seal needs it."""

    __slots__ = ("_authority", "_db", "_keys", "_read", "_saved", "_unread", "own")

    def __init__(self, db: Any, own: bytes, authority: Authority | None) -> None:
        """Take the connection to the file, and the id of this node."""
        self._db = db
        self._authority = authority
        self.own = own[:SITE_PREFIX]
        self._keys: dict[bytes, tuple[bytes, bytes]] = {}  # (public key, certificate)
        self._unread: dict[bytes, None] = {} if authority is None else {authority.certificate: None}
        self._saved: set[bytes] = set()
        self._read = False

    def learn(self, certificate: bytes) -> None:
        """Take a certificate; one that the root has not signed is ignored."""
        if self._authority is not None:
            self._unread[certificate] = None
            if len(self._unread) > UNREAD_MAX:
                self._load()

    def certificate_of(self, site: bytes) -> bytes | None:
        """Return the certificate of a site's node."""
        self._load()
        found = self._keys.get(site[:SITE_PREFIX])
        return None if found is None else found[1]

    def sign(self, data: bytes) -> bytes:
        """Return this node's signature."""
        if self._authority is None:
            raise PolicyError("this program has no key of a member, so it cannot write to a signed table")
        return self._authority.sign(data)

    def verify(self, site: bytes, data: bytes, signature: bytes) -> bool:
        """Return True if the node of a site has signed the data."""
        self._load()
        found = self._keys.get(site[:SITE_PREFIX])
        return found is not None and self._authority is not None and self._authority.verify(found[0], data, signature)

    def save(self, site: bytes) -> None:
        """Keep the certificate of a site's node in the file; inside a transaction."""
        node = site[:SITE_PREFIX]
        certificate = None if node in self._saved else self.certificate_of(site)
        if certificate is not None:
            self._saved.add(node)
            self._db.execute("CREATE TABLE IF NOT EXISTS mycomesh_signers(node BLOB PRIMARY KEY, certificate BLOB)")
            self._db.execute("INSERT OR REPLACE INTO mycomesh_signers VALUES(?, ?)", (node, certificate))

    def committed(self) -> None:
        """Keep what the transaction has saved."""

    def rolled_back(self) -> None:
        """Save certificates again."""
        self._saved.clear()

    def _load(self) -> None:
        """Read the certificates that have not been read."""
        if not self._read:
            self._read = True
            if self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_signers'").fetchone() is not None:
                listing = "SELECT node, certificate FROM mycomesh_signers ORDER BY node"
                for node, certificate in self._db.execute(listing).fetchall():
                    self._saved.add(node)
                    self._unread[certificate] = None
        unread, self._unread = self._unread, {}
        for certificate in unread:
            found = None if self._authority is None else self._authority.admitted(certificate)
            if found is not None:
                self._keys.setdefault(found[0][:SITE_PREFIX], (found[1], certificate))
