"""What a node remembers between runs: its identity, the mesh's root key, open invitations, a pending join, addresses.

Owns the files under the home's state directory and their meaning. What always holds: an identity is made once, by
`init` or by a completed join, and never replaced; a damaged or exposed key file stops the command with one line instead
of being repaired by guesswork. It must not know sockets, SQL or the daemon.
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
    "no mesh here yet: run 'mycomesh init' to make one, or 'mycomesh join CODE' with a code from 'mycomesh invite'"
)
ADDRESSES_MAX = 64  # last places where members were met; discovery and the peers themselves tell the rest


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """A join that waits for its first member; the keys stay the same however often it is tried."""

    code: JoinCode
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Keystore:
    """The files of one home. Every method reads or writes at once; nothing is cached."""

    home: Home

    # ---- identity and root

    def identity(self) -> Identity | None:
        """Return this node's identity, None where neither `init` nor a join was completed."""
        path = self._path("identity")
        data = read_private(path)
        if data is None:
            return None
        try:
            return Identity.decode(data)
        except MeshError as error:
            raise KeystoreError(f"{path} is damaged ({error}); {_RESTORE}") from error

    def store_mesh(self, identity: Identity, root_seed: bytes) -> None:
        """Keep the identity and root key of a mesh made here; refuse when this home has an identity."""
        self._refuse_second_identity()
        # The root first: an identity without its root would look like a finished `init` that cannot invite anyone.
        write_private(self._path("root"), root_seed.hex().encode("ascii") + b"\n")
        self.store_identity(identity)

    def store_identity(self, identity: Identity) -> None:
        """Keep the identity that a join brought; refuse to replace one."""
        self._refuse_second_identity()
        write_private(self._path("identity"), identity.encode(), exclusive=True)

    def standing(self) -> bytes:
        """Return the mesh's decrees and members as they were stored last, empty where nothing was."""
        return read_private(self._path("standing")) or b""

    def store_membership(self, identity: bytes, standing: bytes) -> None:
        """Keep what the mesh has decided: this node's renewed identity, and the decrees and members."""
        write_private(self._path("standing"), standing)
        if identity != read_private(self._path("identity")):
            write_private(self._path("identity"), identity)

    def root_seed(self, identity: Identity) -> bytes | None:
        """Return the mesh's root seed where `init` ran, None on every other node."""
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
            raise KeystoreError(f"{path} is the root key of another mesh than {identity.mesh_name!r}; {_RESTORE}")
        return seed

    def _refuse_second_identity(self) -> None:
        identity = self.identity()
        if identity is not None:
            raise KeystoreError(
                f"this home belongs to mesh {identity.mesh_name!r} as {identity.name!r} already ({self.home.state}); "
                "use another --home for another mesh"
            )

    # ---- invitations

    def invitations(self) -> tuple[Invitation, ...]:
        """Return the invitations kept here, expired ones among them."""
        path = self._path("invitations")
        entries = _json_list(path, read_private(path))
        try:
            return tuple(Invitation.decode(bytes.fromhex(entry)) for entry in entries)
        except (MeshError, ValueError, TypeError) as error:
            raise KeystoreError(f"{path} is damaged; remove it and invite again") from error

    def store_invitations(self, invitations: tuple[Invitation, ...]) -> None:
        """Keep these invitations, and no others."""
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
        """Make one invitation, keep it, and return it with the code that a joining person types."""
        identity = self.identity()
        if identity is None:
            raise KeystoreError(NO_MESH)
        if self.root_seed(identity) is None:
            raise KeystoreError(
                f"this node cannot invite: the root key of mesh {identity.mesh_name!r} is where 'mycomesh init' ran"
            )
        still_open = tuple(kept for kept in self.invitations() if kept.is_open(wall_ms))
        if len(still_open) >= INVITATIONS_MAX:
            raise KeystoreError(
                f"{INVITATIONS_MAX} invitations are open already; let some be used or expire, or invite with --uses"
            )
        invitation = fresh_invitation(
            entropy=entropy, expires_ms=wall_ms + expires_s * 1000, uses=uses, roles=roles, grants=grants
        )
        self.store_invitations((*still_open, invitation))
        return invitation.code(identity.mesh_id), invitation

    # ---- a pending join

    def pending_join(self) -> PendingJoin | None:
        """Return the join that waits for its first member, if any."""
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
        """Keep a join until it completes; a later code replaces an earlier one."""
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
        """Keep what the join brought and forget its code. A member that joins its mesh again stays the node that it is."""
        known = self.identity()
        if known is not None and (known.mesh_id, known.node_id) == (identity.mesh_id, identity.node_id):
            write_private(self._path("identity"), identity.encode())
        else:
            self.store_identity(identity)
        remove_private(self._path("join"))

    def forget_join(self) -> None:
        """Forget a code that a join or an `init` has made pointless."""
        remove_private(self._path("join"))

    # ---- last known addresses

    def addresses(self) -> tuple[Address, ...]:
        """Return where members were met last; hints only, so a damaged file is no reason to stop."""
        path = self._path("addresses")
        try:
            entries = _json_list(path, read_private(path))
            return tuple(Address(str(host), int(port)) for host, port in entries)
        except (KeystoreError, ValueError, TypeError):
            return ()

    def store_addresses(self, addresses: tuple[Address, ...]) -> None:
        """Keep where members were met, the latest `ADDRESSES_MAX`."""
        kept = [[address.host, address.port] for address in addresses[-ADDRESSES_MAX:]]
        write_private(self._path("addresses"), _json_bytes(kept))

    def _path(self, name: str) -> Path:
        return self.home.state / name


_RESTORE = "restore it from a backup, or move the state directory away and join anew"


def _key(text: str) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != KEY_BYTES:
        raise ValueError("a key is cut short")
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
