"""The keystore: the files that outlive a run, which are identity, root key, invitations, pending join and addresses.

A damaged or exposed key file stops the command with one line; the keystore does not try to repair it.

Invariant: `init` or a completed join creates the identity. Only another join of the same mesh replaces it, and never where the
mesh's root key is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.events import Address
from mycomesh.mesh.membership.certificate import GRANTS_ALL
from mycomesh.mesh.membership.enrolment import INVITATIONS_MAX, Candidate, Invitation, JoinCode
from mycomesh.mesh.membership.enrolment import invite as fresh_invitation
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.node.errors import KeystoreError
from mycomesh.mesh.node.home import read_private, remove_private, write_private
from mycomesh.mesh.primitives import KEY_BYTES, signing_pair

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["NO_MESH", "Keystore", "PendingJoin"]

NO_MESH = (
    "this home has no mesh yet; run 'mycomesh init' to create one, "
    "or 'mycomesh join CODE' with a code from 'mycomesh invite'"
)
ADDRESSES_MAX = 64  # last addresses of members; discovery and the peers provide the others


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """A join that no member has granted yet. The keys stay the same however often the node tries."""

    code: JoinCode
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Keystore:
    """The files of one home. Every method reads or writes them directly; nothing is cached."""

    home: Home

    # ---- identity and root

    def identity(self) -> Identity | None:
        """Return this node's identity, None before `init` or a completed join."""
        path = self._path("identity")
        data = read_private(path)
        if data is None:
            return None
        try:
            return Identity.decode(data)
        except MeshError as error:
            raise KeystoreError(f"{path} is damaged ({error}); {_RESTORE}") from error

    def store_mesh(self, identity: Identity, root_seed: bytes) -> None:
        """Store the identity and root key of a mesh created here; raise `KeystoreError` if the home has an identity."""
        self._refuse_second_identity()
        # The root key first: an identity alone would look like a finished `init` that cannot invite anyone.
        write_private(self._path("root"), root_seed.hex().encode("ascii") + b"\n")
        self.store_identity(identity)

    def store_identity(self, identity: Identity) -> None:
        """Store the identity that a join brought.

        It replaces an earlier one of the same mesh, for example of a member that was revoked or gets other rights.

        Raises:
            KeystoreError: the home belongs to another mesh, or has the root key of this one.
        """
        known = self.identity()
        if known is None or known.mesh_id != identity.mesh_id or self.root_seed(known) is not None:
            self._refuse_second_identity()
        write_private(self._path("identity"), identity.encode(), exclusive=known is None)

    def membership(self) -> bytes:
        """Return the mesh's decrees and members as last stored, empty if never."""
        return read_private(self._path("standing")) or b""

    def store_membership(self, identity: bytes, membership: bytes) -> None:
        """Store this node's identity, which may have been renewed, and the mesh's decrees and members."""
        write_private(self._path("standing"), membership)
        if identity != read_private(self._path("identity")):
            write_private(self._path("identity"), identity)

    def root_seed(self, identity: Identity) -> bytes | None:
        """Return the seed of the mesh's root key on the node where `init` ran, None on every other node."""
        path = self._path("root")
        data = read_private(path)
        if data is None:
            return None
        try:
            seed = bytes.fromhex(data.decode("ascii").strip())
        except ValueError as error:
            raise KeystoreError(f"{path} is damaged; {_RESTORE}") from error
        if len(seed) != KEY_BYTES:
            raise KeystoreError(f"{path} is damaged ({len(seed)} of {KEY_BYTES} bytes); {_RESTORE}")
        if signing_pair(seed)[0] != identity.root_public:
            raise KeystoreError(f"{path} is the root key of another mesh, not of {identity.mesh_name!r}; {_RESTORE}")
        return seed

    def _refuse_second_identity(self) -> None:
        identity = self.identity()
        if identity is not None:
            raise KeystoreError(
                f"this home already belongs to mesh {identity.mesh_name!r} as {identity.name!r} ({self.home.state}); "
                "use another --home for another mesh, or a join code or ticket to join this one again"
            )

    # ---- invitations

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the stored invitations, including expired ones."""
        path = self._path("invitations")
        entries = _json_list(path, read_private(path))
        try:
            return tuple(Invitation.decode(bytes.fromhex(entry)) for entry in entries)
        except (MeshError, ValueError, TypeError) as error:
            raise KeystoreError(f"{path} is damaged; remove it and invite again") from error

    def store_invitations(self, invitations: tuple[Invitation, ...]) -> None:
        """Store these invitations in place of the earlier ones."""
        kept = [invitation.encode().hex() for invitation in invitations]
        write_private(self._path("invitations"), _json_bytes(kept))

    def invite(
        self,
        *,
        expires_s: int,
        uses: int,
        wall_ms: int,
        entropy: Callable[[int], bytes],
        roles: tuple[str, ...] = ("member",),
        grants: tuple[tuple[str, str], ...] = GRANTS_ALL,
    ) -> tuple[JoinCode, Invitation]:
        """Create and store an invitation; return it with the code that the joining user types.

        Raises:
            KeystoreError: the home has no mesh or no root key, or too many invitations are open.
        """
        identity = self.identity()
        if identity is None:
            raise KeystoreError(NO_MESH)
        if self.root_seed(identity) is None:
            raise KeystoreError(
                f"this node has no root key of mesh {identity.mesh_name!r}; "
                "run 'mycomesh invite' on the node where 'mycomesh init' ran"
            )
        still_open = tuple(kept for kept in self.invitations() if kept.is_open(wall_ms))
        if len(still_open) >= INVITATIONS_MAX:
            raise KeystoreError(
                f"{INVITATIONS_MAX} invitations are open already; wait until some are used or expire, or invite with --uses"
            )
        invitation = fresh_invitation(
            entropy=entropy, expires_ms=wall_ms + expires_s * 1000, uses=uses, roles=roles, grants=grants
        )
        self.store_invitations((*still_open, invitation))
        return invitation.code(identity.mesh_id), invitation

    # ---- a pending join

    def pending_join(self) -> PendingJoin | None:
        """Return the pending join, or None."""
        path = self._path("join")
        data = read_private(path)
        if data is None:
            return None
        try:
            value = json.loads(data)
            keys = [_key(value[name]) for name in ("node_seed", "static_private")]
            return PendingJoin(JoinCode.parse(value["code"]), Candidate(str(value["name"]), *keys))
        except (MeshError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise KeystoreError(f"{path} is damaged; run 'mycomesh join CODE' again") from error

    def store_join(self, join: PendingJoin) -> None:
        """Store a join until it completes; a later code replaces an earlier one."""
        identity = self.identity()
        if identity is None or identity.mesh_id != join.code.mesh_id:
            self._refuse_second_identity()
        value = {
            "code": str(join.code),
            "name": join.candidate.name,
            "node_seed": join.candidate.node_seed.hex(),
            "static_private": join.candidate.static_private.hex(),
        }
        write_private(self._path("join"), _json_bytes(value))

    def complete_join(self, identity: Identity) -> None:
        """Store the identity that a join brought and remove the pending join.

        A member that joins its own mesh again keeps its node id, so the new identity replaces the old one.
        """
        known = self.identity()
        if known is not None and (known.mesh_id, known.node_id) == (identity.mesh_id, identity.node_id):
            write_private(self._path("identity"), identity.encode())  # also where the root key is
        else:
            self.store_identity(identity)
        remove_private(self._path("join"))

    def forget_join(self) -> None:
        """Remove a pending join that `init` or another join has made obsolete."""
        remove_private(self._path("join"))

    # ---- last known addresses

    def addresses(self) -> tuple[Address, ...]:
        """Return the last known addresses of members. They are hints, so a damaged file counts as empty."""
        path = self._path("addresses")
        try:
            entries = _json_list(path, read_private(path))
            return tuple(Address(str(host), int(port)) for host, port in entries)
        except (KeystoreError, ValueError, TypeError):
            return ()

    def store_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Store the last `ADDRESSES_MAX` of these addresses of members."""
        kept = [[address.host, address.port] for address in addresses[-ADDRESSES_MAX:]]
        write_private(self._path("addresses"), _json_bytes(kept))

    def _path(self, name: str) -> Path:
        return self.home.state / name


_RESTORE = "restore it from a backup, or move the state directory away and join again"


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("a key has the wrong length")
    return key


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _json_list(path: Path, data: bytes | None) -> list[Any]:
    if data is None:
        return []
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KeystoreError(f"{path} is damaged; remove it") from error
    if not isinstance(value, list):
        raise KeystoreError(f"{path} is damaged; remove it")
    return value
