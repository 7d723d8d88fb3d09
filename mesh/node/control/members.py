"""Requests about members (invite, list, ticket, revoke, remove), from the control socket or for a home without a node.

Invariants: a refused request changes nothing; an invitation or ticket is stored before it is shown.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.membership.certificate import GRANTS_ALL, lifetime_s, rights_fault
from mycomesh.mesh.membership.enrolment import ticket_encode
from mycomesh.mesh.membership.identity import make_identity
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.node.errors import KeystoreError, NodeError
from mycomesh.mesh.node.keystore import NO_MESH, Keystore
from mycomesh.mesh.node.shell import clock
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.wire.units import pattern_fault

if TYPE_CHECKING:
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.enrolment import Invitation
    from mycomesh.mesh.node.serving import ServingNode

__all__ = ["answer", "answer_counted"]

ROLES = {"member": ("member",), "read-only": ("read-only",), "relay": ("relay",), "admin": ("member", "admin")}
ID_CHARS_MIN = 8  # of a node id in place of a name: 32 bits distinguish a thousand members
LIST_MAX = 16
REMOVED_MAX = 64  # members in one request


def answer(store: Keystore, node: ServingNode | None, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request and return its result; without a serving node, use the stored files.

    Raises:
        NodeError: the request is wrong, or this node cannot carry it out.
    """
    match request.get("do"):
        case "invite":
            code, invitation = _invite(store, request)
            if node is not None:
                node.add_invitation(invitation)
            return {"code": code}
        case "members":
            return {"members": _members_of(_membership(store, node))}
        case "ticket":
            return {"ticket": _ticket(store, _membership(store, node), request)}
        case "revoke":
            if node is None:
                raise NodeError("the node is not serving yet; see 'mycomesh status'")
            return _revoke(node, node.membership, str(request.get("who")))
        case "remove-members":
            if node is None:
                raise NodeError("the node is not serving yet; see 'mycomesh status'")
            return _remove(node, node.membership, request)
        case other:
            raise AssertionError(f"{other!r} is not a request about members")


def _membership(store: Keystore, node: ServingNode | None) -> Membership:
    """Return the node's membership, or the stored one if no node serves."""
    if node is not None:
        return node.membership
    identity = store.identity()
    if identity is None:
        raise KeystoreError(NO_MESH)
    try:
        return Membership(identity, store.root_seed(identity), os.urandom, store.membership())
    except MeshError as error:
        raise KeystoreError(str(error)) from error


def _invite(store: Keystore, request: dict[str, Any]) -> tuple[str, Invitation]:
    """Create and store an invitation; return its code and the invitation."""
    expires_s, uses = request.get("expires_s"), request.get("uses")
    if type(expires_s) is not int or type(uses) is not int or expires_s < 1:
        raise NodeError(
            "an invitation needs whole numbers for 'expires_s' and 'uses'; use the same version for node and command"
        )
    roles, grants = _rights_of(request)
    code, invitation = store.invite(
        expires_s=expires_s, uses=uses, wall_ms=clock()[1], entropy=os.urandom, roles=roles, grants=grants
    )
    return str(code), invitation


def _rights_of(request: dict[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the roles and grants that a request asks for by `role` and the table patterns `write` and `read`.

    Write access includes read access. Without patterns a role has its usual rights.
    """
    roles = ROLES.get(str(request.get("role") or "member"))
    if roles is None:
        raise NodeError(f"there is no role {request.get('role')!r}; choose one of {', '.join(ROLES)}")
    writes, reads = _patterns(request, "write"), _patterns(request, "read")
    grants = tuple((pattern, "rw") for pattern in writes)
    grants += tuple((pattern, "r") for pattern in reads if pattern not in writes)
    if not writes and not reads:
        grants = (("*", "r"),) if roles == ("read-only",) else GRANTS_ALL
    fault = rights_fault(roles, grants) or next(filter(None, map(pattern_fault, (*writes, *reads))), "")
    if fault:
        raise NodeError(f"no member can have these rights: {fault}")
    return roles, grants


def _members_of(membership: Membership) -> list[dict[str, Any]]:
    """Return all known members, including revoked ones, ordered by name."""
    revocations, own = membership.roster.revocations, membership.roster.identity.node_id
    revoked = {each.node_id: each for each in revocations.effective()}
    found = [_member(each, own, None) for each in membership.roster.members() if each.node_id not in revoked]
    dropped = dict(membership.roster.purge_orders())
    found += [_member(each.certificate, own, each.at_s, dropped.get(each.node_id)) for each in revoked.values()]
    return sorted(found, key=lambda member: (member["name"], member["node_id"]))


def _ticket(store: Keystore, membership: Membership, request: dict[str, Any]) -> str:
    """Create an identity for a machine that cannot join by a code, and store its certificate; return the ticket's text."""
    identity = membership.roster.identity
    root_seed = store.root_seed(identity)
    if root_seed is None:
        mesh = identity.mesh_name
        raise NodeError(
            f"this node has no root key of mesh {mesh!r}; run 'mycomesh ticket' on the node where 'mycomesh init' ran"
        )
    roles, grants = _rights_of(request)
    name = str(request.get("name"))
    if any(each.name == name for each in membership.roster.members()):
        raise NodeError(
            f"the mesh already has a member {name!r}; choose another name, or run 'mycomesh revoke {name}' first"
        )
    try:
        made = make_identity(
            root_seed,
            mesh_name=identity.mesh_name,
            node_name=name,
            secret=identity.secret,
            roles=roles,
            entropy=os.urandom,
            not_before_s=max(clock()[1] // 1_000, membership.roster.newest_seen_s),
            lifetime_s=lifetime_s(roles),
            grants=grants,
            epochs=membership.roster.revocations.epochs_for_joiner(),
        )
    except MeshError as error:
        raise NodeError.of(error) from error
    membership.record_certificate(made.certificate)
    changed = membership.snapshot()
    store.store_membership(changed.identity, changed.membership)
    return ticket_encode(made).decode("ascii")


def _revoke(node: ServingNode, membership: Membership, name_or_id: str) -> dict[str, Any]:
    member = _revocable(membership, name_or_id)
    node.revoke((member.node_id,))
    if membership.roster.revocations.revocation(member.node_id) is None:
        raise NodeError(f"the node did not revoke {member.name}; see its log")
    return {
        "name": member.name,
        "node_id": member.node_id.hex(),
        "since_ms": None,
        "changes": 0,
        "tables": {},
        "done": True,
    }


async def answer_counted(store: Keystore, node: ServingNode | None, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request as `answer` does, and a revocation that drops writes, which reads the file first."""
    if request.get("do") == "revoke" and request.get("drop_since_ms") is not None:
        if node is None:
            raise NodeError("the node is not serving yet; see 'mycomesh status'")
        return await _purge(node, request)
    return answer(store, node, request)


async def _purge(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Count what a purge of a member's writes would drop on this node; carry it out if the request confirms that number.

    The member is revoked first if it is not yet.

    Raises:
        NodeError: the request is wrong, this node has no root key, or the confirmed number is another one.
    """
    since_ms, confirmed, membership = request.get("drop_since_ms"), request.get("confirm"), node.membership
    if type(since_ms) is not int or not 0 <= since_ms <= clock()[1]:
        raise NodeError("the time since which writes are dropped is no time of the past")
    fault = membership.purgeable()
    if fault:
        raise NodeError(fault)
    member = _revoked(membership, str(request.get("who"))) or _revocable(membership, str(request.get("who")))
    counted = await node.run_on_replica(lambda replica: replica.purges.count(member.node_id, since_ms))
    total = sum(each.inserts + each.updates + each.deletes for each in counted.values())
    result = {"name": member.name, "node_id": member.node_id.hex(), "since_ms": since_ms, "changes": total}
    result |= {"tables": {name: asdict(each) for name, each in counted.items()}, "done": False}
    if request.get("dry_run") is True or confirmed is None:
        return result
    if confirmed != total:
        raise NodeError(
            f"{total} changes would be dropped, not {confirmed}: nothing was done; look at them with --dry-run, and repeat"
            f" with --confirm {total}"
        )
    if membership.roster.revocations.revocation(member.node_id) is None:
        _revoke(node, membership, member.node_id.hex())
    node.purge(member.node_id, since_ms)
    if membership.roster.purges.of(member.node_id) is None:
        raise NodeError(f"the node did not order that the writes of {member.name} are dropped; see its log")
    return result | {"done": True}


def _revoked(membership: Membership, name_or_id: str) -> Certificate | None:
    """Return the one revoked member of this name or id, None if a present member has it, or nobody.

    Raises:
        NodeError: several have it.
    """
    if any(_matches(each, name_or_id) for each in membership.roster.members()):
        return None
    found = [each.certificate for each in membership.roster.revocations.effective()]
    matching = [each for each in found if _matches(each, name_or_id)]
    if len(matching) > 1:
        ids = ", ".join(each.node_id.hex()[:ID_CHARS_MIN] for each in matching)
        raise NodeError(f"{len(matching)} revoked members have the name {name_or_id!r}; give the id of one: {ids}")
    return matching[0] if matching else None


def _remove(node: ServingNode, membership: Membership, request: dict[str, Any]) -> dict[str, Any]:
    """Revoke members that are away, all by one new secret; refuse all of them if one is linked."""
    who = request.get("who")
    if type(who) is not list or not 0 < len(who) <= REMOVED_MAX or any(type(each) is not str for each in who):
        raise NodeError(f"'who' must be a list of 1 to {REMOVED_MAX} names or ids of members")
    found = {member.node_id: member for member in (_revocable(membership, each) for each in who)}
    for node_id, member in found.items():
        if node.is_reachable(node_id):
            raise NodeError(
                f"{member.name} is connected; nothing was removed; if it is to be locked out: mycomesh revoke {member.name}"
            )
    node.revoke(tuple(found))
    removed = [
        each
        for each in _members_of(membership)
        if each["revoked_s"] is not None and bytes.fromhex(each["node_id"]) in found
    ]
    if len(removed) < len(found):
        raise NodeError(f"the node removed {len(removed)} of {len(found)} members; see its log")
    return {"members": removed}


def _revocable(membership: Membership, name_or_id: str) -> Certificate:
    """Return the one member of this name or id; raise `NodeError` if this node cannot revoke it."""
    matching = [each for each in membership.roster.members() if _matches(each, name_or_id)]
    if len(matching) > 1:
        ids = ", ".join(each.node_id.hex()[:ID_CHARS_MIN] for each in matching)
        raise NodeError(f"{len(matching)} members have the name {name_or_id!r}; give the id of one: {ids}")
    if not matching:
        raise NodeError(f"this node knows no member {name_or_id!r}; see 'mycomesh members'")
    fault = membership.revocable(matching[0].node_id, clock()[1])
    if fault:
        raise NodeError(fault)
    return matching[0]


def _matches(member: Certificate, name_or_id: str) -> bool:
    node_id = member.node_id.hex()
    return member.name == name_or_id or (len(name_or_id) >= ID_CHARS_MIN and node_id.startswith(name_or_id.lower()))


def _member(
    certificate: Certificate, own: bytes, revoked_s: int | None, dropped_since_ms: int | None = None
) -> dict[str, Any]:
    return {
        "name": certificate.name,
        "node_id": certificate.node_id.hex(),
        "roles": certificate.roles,
        "grants": certificate.grants,
        "serial": certificate.serial.hex(),
        "not_before_s": certificate.not_before_s,
        "not_after_s": certificate.not_after_s,
        "renewed_by": certificate.renewed_by.hex(),
        "revoked_s": revoked_s,
        "dropped_since_ms": dropped_since_ms,
        "self": certificate.node_id == own,
    }


def _patterns(request: dict[str, Any], name: str) -> list[str]:
    value = request.get(name) or []
    if type(value) is not list or len(value) > LIST_MAX or any(type(each) is not str for each in value):
        raise NodeError(f"{name!r} must be a list of at most {LIST_MAX} table patterns")
    return [fold(each) for each in dict.fromkeys(value)]
