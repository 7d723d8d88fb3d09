"""Membership as it changes: revocations, epochs and renewals, as members tell each other of them.

Owns what is said about the standing of the mesh, and this node's right to decide, if it has one. What always holds: what
is decided is stored before it is told; a revocation is told on every link, also late ones, before the secret that
follows it; the secret goes to nobody who is known to be revoked. Must not know: ciphers, batches, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.events import MembershipChanged, Notice
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.decree import DECREE_BYTES_MAX, Authority
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, base_of, read_certificate, renew
from mycomesh.mesh.membership.revocations import EPOCH_BYTES_MAX, EPOCHS_KEPT, REVOCATIONS_MAX, Revocation
from mycomesh.mesh.membership.roster import MEMBERS_MAX, Roster, digest_of
from mycomesh.mesh.messages import EpochHave, Epochs, Revocations, RevocationsHave
from mycomesh.mesh.primitives import KEY_BYTES, draw
from mycomesh.mesh.results import Drop, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.events import Address
    from mycomesh.mesh.membership.certificate import Certificate
    from mycomesh.mesh.membership.identity import Identity
    from mycomesh.mesh.results import Result

__all__ = [
    "RENEW_BEFORE_S",
    "RENEW_HINT",
    "STANDING_BYTES_MAX",
    "WARN_BEFORE_S",
    "DecreeMessage",
    "Membership",
    "expiry_hint",
]

WARN_BEFORE_S = 7 * 86_400  # whoever can renew has not been met for three days by then
WARN_EVERY_S = 86_400
RENEW_HINT = (
    "link it with an admin or the node with the root key, which renews it by itself; afterwards it is out, until it is let"
    " in with 'mycomesh join CODE'"
)
RENEW_BEFORE_S = 10 * 86_400  # of 30 days: a drone that comes by every week is renewed
GUESSES_MAX = 256  # addresses where another secret is tried first
REVOCATIONS_TOLD = 32  # in one message: some 40 KiB
STANDING_BYTES_MAX = (
    REVOCATIONS_MAX * DECREE_BYTES_MAX
    + EPOCHS_KEPT * EPOCH_BYTES_MAX
    + MEMBERS_MAX * CERTIFICATE_CHAIN_BYTES_MAX
    + 65_536
)

_VERSION = 1
_WHAT = "standing of the mesh"

DecreeMessage = RevocationsHave | Revocations | EpochHave | Epochs


def expiry_hint(certificate: Certificate, now_s: int) -> str:
    """What to do about this node's own certificate, or an empty string while it has time."""
    left_s = certificate.not_after_s - now_s
    if left_s > WARN_BEFORE_S:
        return ""
    if left_s <= 0:
        return "this node's certificate has expired: let it in again with 'mycomesh join CODE'; it keeps its keys and its file"
    left = f"{left_s // 86_400} d" if left_s >= 2 * 86_400 else f"{left_s // 3_600} h {left_s % 3_600 // 60} min"
    return f"this node's certificate expires in {left}: {RENEW_HINT}"


class Membership:
    """Who belongs to the mesh, and who decides. `roster` and its `standing` are what it works on."""

    __slots__ = ("_entropy", "_guesses", "_links", "_met", "_root_seed", "_signing", "_unstored", "_warned_s", "roster")

    def __init__(
        self, identity: Identity, root_seed: bytes | None, entropy: Callable[[int], bytes], standing: bytes = b""
    ) -> None:
        self.roster = Roster(identity)
        self._root_seed = root_seed
        self._signing: tuple[bytes, Authority | None] = (b"", None)  # our certificate, and what it lets us sign
        self._entropy = entropy
        self._links: dict[int, bytes] = {}
        self._met: dict[bytes, None] = {}  # members who are known to use the secret that we use
        self._guesses: dict[Address, int] = {}  # address -> which of our secrets to call with
        self._unstored = False
        self._warned_s = 0
        if standing:
            self._load(standing)

    @property
    def _authority(self) -> Authority | None:
        """What this node may sign with under its certificate of this moment: an admin is renewed while it runs."""
        identity = self.roster.identity
        if self._signing[0] != identity.certificate.raw:
            made = Authority.of(identity.certificate, identity.root_public, identity.node_seed, self._root_seed)
            self._signing = (identity.certificate.raw, made)
        return self._signing[1]

    # ---- what is stored

    def _load(self, standing: bytes) -> None:
        """Take what `MembershipChanged` once told to store; DecodeError if it is damaged."""
        kinds = (list, list, list)
        lists = wire.decode_record(standing, what=_WHAT, version=_VERSION, kinds=kinds, bytes_max=STANDING_BYTES_MAX)
        if any(type(raw) is not bytes for raws in lists for raw in raws):
            raise DecodeError(f"{_WHAT} holds something else than records")
        revocations, epochs, members = lists
        own = self.roster.standing
        try:
            for raw in revocations:
                own.add_revocation(raw)
            for raw in epochs:
                own.add_epoch(raw)
            for raw in members:
                certificate = read_certificate(raw, root_public=self.roster.identity.root_public)
                if own.revocation(certificate.node_id) is None:
                    self.roster.add(certificate)
        except CertificateError as error:
            raise DecodeError(
                f"{_WHAT} is damaged ({error}): restore the file, or remove it and meet a member"
            ) from None

    def stored(self) -> MembershipChanged:
        """What is to be stored."""
        self._unstored = False
        standing = self.roster.standing
        members = tuple(member.raw for member in self.roster.members())
        data = wire.encode((_VERSION, standing.revocations(), standing.epochs(), members))
        return MembershipChanged(self.roster.identity.encode(), data)

    def learnt(self, certificate: Certificate) -> bool:
        """Keep a member's certificate; whether it is news, which is stored when there is time."""
        news = self.roster.add(certificate)
        self._unstored = self._unstored or news
        return news

    # ---- secrets of handshakes

    def secrets(self, wall_ms: int) -> tuple[bytes, ...]:
        """What callers may use: the secret in use first, older ones while a member may still come with them."""
        others = (each.node_id for each in self.roster.members() if each.node_id != self.roster.identity.node_id)
        wall_s = max(wall_ms // 1_000, self.roster.newest_seen_s)
        return self.roster.standing.secrets(wall_s, all_met=all(node_id in self._met for node_id in others))

    def secret_for(self, address: Address, wall_ms: int) -> bytes:
        """What to call this address with: who was silent to one secret may know another."""
        secrets = self.secrets(wall_ms)
        return secrets[self._guesses.get(address, 0) % len(secrets)]

    def called(self, address: Address, *, answered: bool) -> None:
        """A call has ended: in silence, so another secret is tried next, or not, so both have the same one from here on."""
        guess = self._guesses.pop(address, 0)
        if not answered:
            self._guesses[address] = guess + 1
            if len(self._guesses) > GUESSES_MAX:
                del self._guesses[next(iter(self._guesses))]

    # ---- links

    def link_up(self, link: int, node_id: bytes) -> list[Result]:
        """The first words on a link: who is revoked, which secret is in use."""
        self._links[link] = node_id
        held = tuple(map(digest_of, self.roster.standing.revocations()))
        return [Send(link, RevocationsHave(held), 0), Send(link, EpochHave(self.roster.standing.tag), 0)]

    def link_down(self, link: int) -> None:
        """The link is gone."""
        self._links.pop(link, None)

    def brief(self, link: int) -> list[Result]:
        """All that a member hears who came with an older secret; it calls again with the one in use."""
        standing = self.roster.standing
        results = self._tell_revocations(link, standing.revocations())
        return [*results, Send(link, Epochs(standing.epochs()), 0), Send(link, EpochHave(standing.tag), 0)]

    def agrees(self, message: object) -> bool:
        """Whether the other side has said that it uses the same secret."""
        return isinstance(message, EpochHave) and message.tag == self.roster.standing.tag

    # ---- messages

    def on_message(self, link: int, message: DecreeMessage) -> list[Result]:
        """Take one message of a member. CertificateError: it tells what nobody has decided."""
        standing = self.roster.standing
        match message:
            case RevocationsHave(digests):
                theirs = dict.fromkeys(digests)
                return self._tell_revocations(
                    link, [raw for raw in standing.revocations() if digest_of(raw) not in theirs]
                )
            case Revocations(raws):
                made = [each for each in map(standing.add_revocation, raws) if each is not None]
                return self._revoked(made, besides=link)
            case EpochHave(tag):
                if tag != standing.tag:
                    return [Send(link, Epochs(standing.epochs()), 0)] if standing.epoch is not None else []
                if link in self._links:
                    self._met[self._links[link]] = None
                return []
            case Epochs(raws):
                news = [standing.add_epoch(raw) for raw in raws]
                return self._moved(besides=link) if any(news) else [Send(link, EpochHave(standing.tag), 0)]
            case _:
                assert_never(message)

    def _tell_revocations(self, link: int, raws: Iterable[bytes]) -> list[Result]:
        told = tuple(raws)
        pieces = (told[at : at + REVOCATIONS_TOLD] for at in range(0, len(told), REVOCATIONS_TOLD))
        return [Send(link, Revocations(piece), 0) for piece in pieces]

    def _revoked(self, made: list[Revocation], besides: int = -1) -> list[Result]:
        """Members are members no more: store it, tell it, end their links."""
        if not made:
            return []
        results: list[Result] = []
        for each in made:
            self.roster.drop(each.node_id)
            self._met.pop(each.node_id, None)
        results.append(self.stored())
        results += map(self._notice, made)
        raws = tuple(each.raw for each in made)
        gone = [link for link, node_id in self._links.items() if self.roster.standing.revocation(node_id) is not None]
        for link in self._links:
            if link != besides and link not in gone:
                results += self._tell_revocations(link, raws)
        results += (Drop(link, "its member was revoked") for link in gone)
        return results

    def _notice(self, made: Revocation) -> Notice:
        name = made.certificate.name
        detail = {"name": name, "node_id": made.node_id.hex(), "at_s": made.at_s}
        if made.node_id == self.roster.identity.node_id:
            text = (
                "this node was revoked: the mesh is closed to it. To come back it joins with another --home, by a code"
            )
            return Notice("identity.revoked", text, detail, "error")
        return Notice(
            "member.revoked", f"{name} was revoked: its links are cut, its writes are refused", detail, "warning"
        )

    def _moved(self, besides: int = -1) -> list[Result]:
        """Another secret is in use: store it, and hand it on."""
        self._met.clear()
        self._guesses.clear()
        standing = self.roster.standing
        results: list[Result] = [self.stored()]
        text = "the mesh has another secret; members that were away get it when they come"
        results.append(Notice("mesh.epoch", text, {"number": 0 if standing.epoch is None else standing.epoch.number}))
        for link in self._links:
            if link != besides:
                results.append(Send(link, Epochs(standing.epochs()), 0))
            results.append(Send(link, EpochHave(standing.tag), 0))
        return results

    # ---- deciding

    def revocable(self, node_id: bytes, wall_ms: int) -> str:
        """Why this node cannot revoke that one, or an empty string."""
        certificate = self.roster.get(node_id)
        authority = self._authority
        if authority is None:
            return "this node cannot revoke: only the node with the mesh's root key and admins can"
        if (
            self.roster.standing.revocation(self.roster.identity.node_id) is not None
            or self._now_s(wall_ms) >= authority.until_s
        ):
            return "this node cannot revoke: its own certificate is over"
        if certificate is None:
            return "no such member is known here (or it is revoked already); see 'mycomesh members'"
        if node_id == self.roster.identity.node_id:
            return "a node does not revoke itself; ask another admin"
        if "admin" in certificate.roles and not authority.is_root:
            return f"{certificate.name} is an admin: only the node with the mesh's root key revokes it"
        return ""

    def revoke(self, node_id: bytes, wall_ms: int) -> list[Result]:
        """Revoke a member, and give the mesh a secret that it does not know."""
        certificate, authority = self.roster.get(node_id), self._authority
        assert certificate is not None, "asked `revocable` first"
        assert authority is not None
        at_s = self._now_s(wall_ms)
        standing = self.roster.standing
        made = standing.add_revocation(Revocation.issue(certificate, authority, at_s=at_s).raw)
        if made is None:
            text = f"{REVOCATIONS_MAX} members are revoked already: it is time for another mesh"
            return [Notice("revoke.failed", text, level="error")]
        secret = draw(self._entropy, KEY_BYTES)
        results = self._revoked([made])
        standing.add_epoch(standing.next_epoch(secret, node_id, authority, at_s=at_s).raw)
        return results + self._moved()

    def due(self, up: Callable[[bytes], bool], wall_ms: int) -> list[Certificate]:
        """Renew members that are up and whose time runs out; what was issued, to be announced."""
        if self._authority is None:
            return []
        own, made = self.roster.identity.node_id, []
        for member in self.roster.members():
            if member.node_id == own or up(member.node_id):
                made += self.due_of(member, wall_ms)
        return made

    def due_of(self, member: Certificate, wall_ms: int) -> list[Certificate]:
        """Renew one member if its time runs out: at most one certificate, to be announced."""
        authority, now_s = self._authority, self._now_s(wall_ms)
        left_s = member.not_after_s - now_s
        if authority is None or not 0 < left_s <= min(RENEW_BEFORE_S, (member.not_after_s - member.not_before_s) // 3):
            return []
        renewed = self._renewed(member, authority, now_s)
        return [renewed] if renewed is not None and self.learnt(renewed) else []

    def _renewed(self, member: Certificate, authority: Authority, now_s: int) -> Certificate | None:
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
            return None  # a chain too long for a handshake: the root renews it

    def on_timer(self, wall_ms: int) -> list[Result]:
        """Store what was learnt meanwhile; warn of our own end."""
        results: list[Result] = [self.stored()] if self._unstored else []
        own, now_s = self.roster.identity.certificate, self._now_s(wall_ms)
        hint = expiry_hint(own, now_s)
        if hint and now_s >= self._warned_s + WARN_EVERY_S:
            self._warned_s = now_s
            results.append(Notice("identity.expiring", hint, {"not_after_s": own.not_after_s}, "warning"))
        return results

    def _now_s(self, wall_ms: int) -> int:
        return max(wall_ms // 1_000, self.roster.newest_seen_s)
