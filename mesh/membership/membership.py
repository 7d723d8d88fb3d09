"""Membership protocol: members exchange revocations, epochs and renewals; the root and admins issue them.

Invariants: a decree is stored before it is sent. A revocation goes out on every link, also on later ones, before the secret
that follows it. The secret is never sent to a node that is known to be revoked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.events import MembershipChanged, Notice
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.decree import DECREE_BYTES_MAX, Authority
from mycomesh.mesh.membership.purges import PURGE_BYTES_MAX, PURGES_MAX, Purge
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, base_of, read_certificate, renew
from mycomesh.mesh.membership.revocations import EPOCH_BYTES_MAX, EPOCHS_KEPT, REVOCATIONS_MAX, Revocation
from mycomesh.mesh.membership.roster import MEMBERS_MAX, Roster, digest_of
from mycomesh.mesh.messages import RECORDS_MAX, EpochHave, Epochs, Purges, Revocations, RevocationsHave
from mycomesh.mesh.primitives import KEY_BYTES, draw
from mycomesh.mesh.results import Drop, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.events import Address
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.results import Result

__all__ = [
    "MEMBERSHIP_BYTES_MAX",
    "RENEW_BEFORE_S",
    "RENEW_HINT",
    "WARN_BEFORE_S",
    "DecreeMessage",
    "Membership",
    "expiry_hint",
]

WARN_BEFORE_S = 7 * 86_400  # by then the node has had no link to a node that can renew it for three days
WARN_EVERY_S = 86_400
RENEW_HINT = (
    "link it with an admin or the node with the root key, which renews it automatically; after expiry it is out until it"
    " joins again with 'mycomesh join CODE'"
)
RENEW_BEFORE_S = 10 * 86_400  # of 30 days: a drone that links once a week is renewed in time
ATTEMPTS_MAX = 256  # addresses for which the next secret to try is remembered
REVOCATIONS_A_MESSAGE = 32  # about 40 KiB
MEMBERSHIP_BYTES_MAX = (
    REVOCATIONS_MAX * DECREE_BYTES_MAX
    + EPOCHS_KEPT * EPOCH_BYTES_MAX
    + MEMBERS_MAX * CERTIFICATE_CHAIN_BYTES_MAX
    + PURGES_MAX * PURGE_BYTES_MAX
    + 65_536
)

_VERSION = 1
_WITH_PURGES = 2  # one list more; a state without purges is written as before, so that an older version can read it
_WHAT = "membership state"

# Calls in a row that were connected and came to nothing, until the status says so: half a minute. A machine without a node takes
# no connection.
REFUSED_MIN = 5
REFUSED = (
    "members take this node's connections and refuse it: it was revoked, or it missed too many changes of the mesh's secret;"
    " see 'mycomesh members' on another node, and join again by a new code or a new ticket"
)
REVOKED = (
    "this node was revoked and cannot link any more: join again with 'mycomesh join', by a new code or a new ticket"
)

DecreeMessage = RevocationsHave | Revocations | EpochHave | Epochs | Purges


def expiry_hint(certificate: Certificate, now_s: int) -> str:
    """Return what to do about this node's own certificate, or an empty string while it is valid for long enough."""
    left_s = certificate.not_after_s - now_s
    if left_s > WARN_BEFORE_S:
        return ""
    if left_s <= 0:
        return (
            "this node's certificate has expired: set its clock if that is wrong, else run 'mycomesh join CODE' on it;"
            " it keeps its keys and its file"
        )
    left = f"{left_s // 86_400} d" if left_s >= 2 * 86_400 else f"{left_s // 3_600} h {left_s % 3_600 // 60} min"
    return f"this node's certificate expires in {left}: {RENEW_HINT}"


class Membership:
    """The members of the mesh and this node's authority over them. The state is in `roster` and `roster.revocations`."""

    __slots__ = (
        "_attempts",
        "_current",
        "_entropy",
        "_links",
        "_refused",
        "_root_seed",
        "_signing",
        "_unsaved",
        "_warned_s",
        "roster",
    )

    def __init__(
        self, identity: Identity, root_seed: bytes | None, entropy: Callable[[int], bytes], stored: bytes = b""
    ) -> None:
        self.roster = Roster(identity)
        self._root_seed = root_seed
        self._signing: tuple[bytes, Authority | None] = (b"", None)  # (own certificate, its authority), cached
        self._entropy = entropy
        self._links: dict[int, bytes] = {}
        self._current: dict[bytes, None] = {}  # members known to use the secret in use here
        self._attempts: dict[Address, int] = {}  # address -> index of the secret to try next
        self._unsaved = False
        self._warned_s = 0
        self._refused = 0  # calls in a row that were not answered, or whose member refused this node
        if stored:
            self._load(stored)

    @property
    def _authority(self) -> Authority | None:
        # A node's certificate can change while it runs, so the authority is looked up again for each certificate.
        identity = self.roster.identity
        if self._signing[0] != identity.certificate.raw:
            made = Authority.of(identity.certificate, identity.root_public, identity.node_seed, self._root_seed)
            self._signing = (identity.certificate.raw, made)
        return self._signing[1]

    # ---- what is stored

    def _load(self, stored: bytes) -> None:
        """Load the state that an earlier `MembershipChanged` stored; DecodeError if it is damaged."""
        version, count = (_WITH_PURGES, 4) if stored[:2] == bytes((0x85, _WITH_PURGES)) else (_VERSION, 3)
        kinds = (list,) * count
        lists = wire.decode_record(stored, what=_WHAT, version=version, kinds=kinds, bytes_max=MEMBERSHIP_BYTES_MAX)
        if any(type(raw) is not bytes for raws in lists for raw in raws):
            raise DecodeError(f"{_WHAT} contains an item that is not a record")
        revocations, epochs, members, purges = (*lists, [])[:4]
        known = self.roster.revocations
        try:
            for raw in revocations:
                known.add_revocation(raw)
            for raw in epochs:
                known.add_epoch(raw)
            for raw in purges:
                self.roster.purges.add(raw)
            for raw in members:
                certificate = read_certificate(raw, root_public=self.roster.identity.root_public)
                if known.revocation(certificate.node_id) is None:
                    self.roster.add(certificate)
        except CertificateError as error:
            raise DecodeError(
                f"{_WHAT} is damaged ({error}): restore the file, or remove it and link with a member"
            ) from None

    def snapshot(self) -> MembershipChanged:
        """Return the state to store."""
        self._unsaved = False
        revocations = self.roster.revocations
        members = tuple(member.raw for member in self.roster.members())
        lists = revocations.encoded_revocations(), revocations.encoded_epochs(), members
        purges = self.roster.purges.encoded()
        data = wire.encode((_WITH_PURGES, *lists, purges) if purges else (_VERSION, *lists))
        return MembershipChanged(self.roster.identity.encode(), data)

    def record_certificate(self, certificate: Certificate) -> bool:
        """Record a member's certificate and return whether it is new; the next timer stores it."""
        news = self.roster.add(certificate)
        self._unsaved = self._unsaved or news
        return news

    # ---- secrets of handshakes

    def secrets(self, wall_ms: int) -> tuple[bytes, ...]:
        """Return the secrets that a peer may connect with: the one in use first, then older ones that a member may still use."""
        own, wall_s = self.roster.own_id, max(wall_ms // 1_000, self.roster.newest_seen_s)
        # In no order: a gateway asks for each envelope, and to sort 1,000 members takes longer than to open one.
        current = all(node_id in self._current or node_id == own for node_id in self.roster.node_ids())
        return self.roster.revocations.secrets(wall_s, all_current=current)

    def secret_for(self, address: Address, wall_ms: int) -> bytes:
        """Return the secret to dial this address with: a peer that did not answer one secret may know another."""
        secrets = self.secrets(wall_ms)
        return secrets[self._attempts.get(address, 0) % len(secrets)]

    def record_call(self, address: Address, *, answered: bool, refused: bool) -> None:
        """Record how a call that led to no link ended.

        If the peer did not answer the first message, the next call tries the next secret. A member that answered and refused
        this node's certificate closed the connection without a reason.
        """
        attempt = self._attempts.pop(address, 0)
        self._refused = 0 if answered and not refused else self._refused + 1
        if not answered:
            self._attempts[address] = attempt + 1
            if len(self._attempts) > ATTEMPTS_MAX:
                del self._attempts[next(iter(self._attempts))]

    # ---- links

    def on_link_up(self, link: int, node_id: bytes) -> list[Result]:
        """Return the first messages on a link: digests of the known revocations, and the tag of the secret in use."""
        self._links[link] = node_id
        self._refused = 0
        known = *self.roster.revocations.encoded_revocations(), *self.roster.purges.encoded()
        digests = tuple(map(digest_of, known[:RECORDS_MAX]))
        return [Send(link, RevocationsHave(digests), 0), Send(link, EpochHave(self.roster.revocations.tag), 0)]

    def on_link_down(self, link: int) -> None:
        """Forget a closed link."""
        self._links.pop(link, None)

    def send_all_decrees(self, link: int) -> list[Result]:
        """Send all revocations and epochs to a member that connected with an older secret.

        It receives nothing else: it connects again with the secret in use.
        """
        revocations = self.roster.revocations
        results = self._send_revocations(link, revocations.encoded_revocations())
        return [
            *results,
            Send(link, Epochs(revocations.encoded_epochs()), 0),
            Send(link, EpochHave(revocations.tag), 0),
        ]

    def has_same_secret(self, message: object) -> bool:
        """Return whether this message says that the peer uses the same secret."""
        return isinstance(message, EpochHave) and message.tag == self.roster.revocations.tag

    # ---- messages

    def on_message(self, link: int, message: DecreeMessage) -> list[Result]:
        """Handle one message of a member; CertificateError if a record in it is not validly signed."""
        revocations = self.roster.revocations
        match message:
            case RevocationsHave(digests):
                theirs = dict.fromkeys(digests)
                lacks = [raw for raw in revocations.encoded_revocations() if digest_of(raw) not in theirs]
                purges = tuple(raw for raw in self.roster.purges.encoded() if digest_of(raw) not in theirs)
                return [
                    *self._send_revocations(link, lacks),
                    *([Send(link, Purges(purges), 0)] if purges else []),
                ]
            case Revocations(raws):
                made = [each for each in map(revocations.add_revocation, raws) if each is not None]
                return self._on_revoked(made, besides=link)
            case Purges(raws):
                return self._on_purges([each for each in map(self.roster.purges.add, raws) if each], besides=link)
            case EpochHave(tag):
                if tag != revocations.tag:
                    return (
                        [Send(link, Epochs(revocations.encoded_epochs()), 0)] if revocations.epoch is not None else []
                    )
                if link in self._links:
                    self._current[self._links[link]] = None
                return []
            case Epochs(raws):
                news = [revocations.add_epoch(raw) for raw in raws]
                return self._on_new_secret(besides=link) if any(news) else [Send(link, EpochHave(revocations.tag), 0)]
            case _:
                assert_never(message)

    def _send_revocations(self, link: int, raws: Iterable[bytes]) -> list[Result]:
        records = tuple(raws)
        pieces = (records[at : at + REVOCATIONS_A_MESSAGE] for at in range(0, len(records), REVOCATIONS_A_MESSAGE))
        return [Send(link, Revocations(piece), 0) for piece in pieces]

    def _on_revoked(self, made: list[Revocation], besides: int = -1) -> list[Result]:
        """Remove revoked members: store it first, then send the revocations, then drop the removed members' links."""
        if not made:
            return []
        results: list[Result] = []
        for each in made:
            self.roster.drop(each.node_id)
            self._current.pop(each.node_id, None)
        self.roster.version += 1  # an order about one of them may have arrived before
        results.append(self.snapshot())
        results += map(self._revocation_notice, made)
        raws = tuple(each.raw for each in made)
        gone = [
            link for link, node_id in self._links.items() if self.roster.revocations.revocation(node_id) is not None
        ]
        for link in self._links:
            if link != besides:  # the revoked member too: the signed decree tells it why nobody links with it any more
                results += self._send_revocations(link, raws)
        results += (Drop(link, "its member was revoked") for link in gone)
        return results

    def _on_purges(self, made: list[Purge], besides: int = -1) -> list[Result]:
        """Store orders that are news, then send them on the links."""
        if not made:
            return []
        self.roster.version += 1
        results: list[Result] = [self.snapshot()]
        for each in made:
            revoked = self.roster.revocations.revocation(each.node_id)
            name = each.node_id.hex()[:8] if revoked is None else revoked.certificate.name
            text = f"what {name} has written since {each.since} is dropped, here and on every node"
            detail = {"name": name, "node_id": each.node_id.hex(), "since_ms": each.since_ms}
            results.append(Notice("purge.ordered", text, detail, "warning"))
        raws = tuple(each.raw for each in made)
        results += [Send(link, Purges(raws), 0) for link in self._links if link != besides]
        return results

    def _revocation_notice(self, made: Revocation) -> Notice:
        name = made.certificate.name
        detail = {"name": name, "node_id": made.node_id.hex(), "at_s": made.at_s}
        if made.node_id == self.roster.identity.node_id:
            return Notice("identity.revoked", REVOKED, detail, "error")
        return Notice(
            "member.revoked", f"{name} was revoked: its links are closed, its writes are refused", detail, "warning"
        )

    def _on_new_secret(self, besides: int = -1) -> list[Result]:
        """Store the new secret in use, then send it on the links."""
        self._current.clear()
        self._attempts.clear()
        revocations = self.roster.revocations
        results: list[Result] = [self.snapshot()]
        text = "the mesh has a new secret; members that are away receive it when they link"
        results.append(
            Notice("mesh.epoch", text, {"number": 0 if revocations.epoch is None else revocations.epoch.number})
        )
        for link in self._links:
            if link != besides:
                results.append(Send(link, Epochs(revocations.encoded_epochs()), 0))
            results.append(Send(link, EpochHave(revocations.tag), 0))
        return results

    @property
    def is_revoked(self) -> bool:
        """Whether this node itself is revoked, as far as it knows."""
        return self.roster.revocations.revocation(self.roster.own_id) is not None

    @property
    def hint(self) -> str:
        """One line for a person if this node was revoked or seems to be; empty otherwise.

        A member that was revoked while it was away gets no message: to those that use a newer secret it is a stranger.
        """
        if self.is_revoked:
            return REVOKED
        return "" if self._refused < REFUSED_MIN or self._links else REFUSED

    # ---- deciding

    def revocable(self, node_id: bytes, wall_ms: int) -> str:
        """Return why this node cannot revoke that one, or an empty string if it can."""
        certificate = self.roster.get(node_id)
        authority = self._authority
        if authority is None:
            return "this node cannot revoke: only the node with the mesh's root key and admins can"
        if self.is_revoked or self._now_s(wall_ms) >= authority.until_s:
            return "this node cannot revoke: its own certificate is revoked or has expired"
        if certificate is None:
            return "this node knows no such member (or it is already revoked); see 'mycomesh members'"
        if node_id == self.roster.identity.node_id:
            return "a node cannot revoke itself; ask another admin"
        if "admin" in certificate.roles and not authority.is_root:
            return f"{certificate.name} is an admin: only the node with the mesh's root key can revoke it"
        return ""

    def revoke(self, node_ids: Iterable[bytes], wall_ms: int) -> list[Result]:
        """Revoke members, and give the mesh one secret that none of them knows. The caller has checked `revocable` of each.

        One secret for all: a member that misses more than four has to join again.
        """
        authority, at_s = self._authority, self._now_s(wall_ms)
        assert authority is not None
        revocations = self.roster.revocations
        made: list[Revocation] = []
        results: list[Result] = []
        for node_id in node_ids:
            certificate = self.roster.get(node_id)
            assert certificate is not None, "check `revocable` first"
            revocation = revocations.add_revocation(Revocation.issue(certificate, authority, at_s=at_s).raw)
            if revocation is not None:
                made.append(revocation)
                continue
            text = f"{REVOCATIONS_MAX} members are already revoked, which is the limit: create a new mesh"
            results.append(Notice("revoke.failed", text, level="error"))
            break
        if not made:
            return results
        secret = draw(self._entropy, KEY_BYTES)
        results += self._on_revoked(made)
        revocations.add_epoch(revocations.next_epoch(secret, made[-1].node_id, authority, at_s=at_s).raw)
        return results + self._on_new_secret()

    def purgeable(self) -> str:
        """Return why this node cannot have a member's writes dropped, or an empty string if it can."""
        authority = self._authority
        if authority is None or not authority.is_root:
            return "only the node with the mesh's root key can drop what a member has written; this node can revoke it at most"
        if len(self.roster.purges.encoded()) >= PURGES_MAX:
            return f"the writes of {PURGES_MAX} members are dropped already, which is the limit"
        return ""

    def purge(self, node_id: bytes, since_ms: int, wall_ms: int) -> list[Result]:
        """Order that what a revoked node has written since a time is dropped. The caller has checked `purgeable`."""
        authority = self._authority
        assert authority is not None
        made = self.roster.purges.add(Purge.issue(node_id, since_ms, authority, at_s=self._now_s(wall_ms)).raw)
        return self._on_purges([] if made is None else [made])

    def renew_due(self, is_up: Callable[[bytes], bool], wall_ms: int) -> list[Certificate]:
        """Renew members that are up and near their expiry; return the new certificates, to be announced."""
        if self._authority is None:
            return []
        own, made = self.roster.identity.node_id, []
        for member in self.roster.members():
            if member.node_id == own or is_up(member.node_id):
                made += self.renew_if_due(member, wall_ms)
        return made

    def renew_if_due(self, member: Certificate, wall_ms: int) -> list[Certificate]:
        """Renew one member if it is near its expiry; return at most one new certificate, to be announced."""
        authority, now_s = self._authority, self._now_s(wall_ms)
        left_s = member.not_after_s - now_s
        if authority is None or not 0 < left_s <= min(RENEW_BEFORE_S, (member.not_after_s - member.not_before_s) // 3):
            return []
        renewed = self._renew(member, authority, now_s)
        return [renewed] if renewed is not None and self.record_certificate(renewed) else []

    def _renew(self, member: Certificate, authority: Authority, now_s: int) -> Certificate | None:
        serial = draw(self._entropy, certificates.SERIAL_BYTES)
        base = read_certificate(base_of(member), root_public=authority.root_public)
        try:
            if not authority.is_root:
                gains = min(now_s + RENEW_BEFORE_S, authority.until_s) > member.not_after_s
                return (
                    renew(member, authority, at_s=now_s, serial=serial)
                    if gains and "admin" not in member.roles
                    else None
                )
            return certificates.issue(
                authority.secret[:KEY_BYTES],
                name=base.name,
                node_key=base.node_key,
                static_key=base.static_key,
                roles=base.roles,
                grants=base.grants,
                not_before_s=now_s,
                not_after_s=now_s + base.not_after_s - base.not_before_s,
                serial=serial,
            )
        except CertificateError:
            return None  # the chain would be too long for a handshake message: the root has to renew it

    def on_timer(self, wall_ms: int) -> list[Result]:
        """Store certificates recorded since the last time, and warn before this node's own certificate expires."""
        results: list[Result] = [self.snapshot()] if self._unsaved else []
        own, now_s = self.roster.identity.certificate, self._now_s(wall_ms)
        hint = expiry_hint(own, now_s)
        if hint and now_s >= self._warned_s + WARN_EVERY_S:
            self._warned_s = now_s
            results.append(Notice("identity.expiring", hint, {"not_after_s": own.not_after_s}, "warning"))
        return results

    def _now_s(self, wall_ms: int) -> int:
        return max(wall_ms // 1_000, self.roster.newest_seen_s)
