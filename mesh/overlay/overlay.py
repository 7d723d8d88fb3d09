"""What members say to each other over their links: certificates, link-state, batches.

Owns the roster, the topology and the spreading of one node, and the rules that tie them together. What always holds: a
batch is delivered once, after its origin's signature was checked with a certificate of the mesh, and relayed
unchanged; a batch of an unknown origin waits, bounded, for the certificate; records of unknown authors are not kept.
Must not know: connections, ciphers, addresses, how full a link is (its owner says when it is congested).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, assert_never

from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.events import DeliverBatch, Notice
from mycomesh.mesh.membership.identity import verify
from mycomesh.mesh.membership.membership import DecreeMessage, Membership
from mycomesh.mesh.messages import (
    Batch,
    Certificates,
    CertificatesHave,
    EpochHave,
    Epochs,
    Graft,
    IHave,
    LinkStates,
    LinkStatesHave,
    Prune,
    Revocations,
    RevocationsHave,
    signed_part,
)
from mycomesh.mesh.overlay.gossip import Gossip, GossipSend
from mycomesh.mesh.overlay.topology import Neighbour, Topology
from mycomesh.mesh.rate_limit import admit_at_rate
from mycomesh.mesh.results import Drop, Result, Send

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.membership.certificate import Certificate

__all__ = ["Drop", "Overlay", "OverlayMessage", "Result", "Send"]

UNCERTIFIED_MAX = 64  # batches whose origin's certificate has not come yet: it is sent before them, so this is rare
UNCERTIFIED_BYTES_MAX = 4 << 20
PIECE_BYTES = 48 << 10  # of a list of records in one message: fits one frame, lets urgent messages pass
GATHER_MS = 50  # link-states are passed on together: one message for many, and none to whoever sent them meanwhile
GATHER_BUSY_MS = 500  # and no more often than this: while a mesh forms or heals, each hop has news of everybody
# What one member may ask us to list: at link-up twice, then at each news of certificates; the answer may be 300 KB.
ANSWER_EVERY_MS = 500
ANSWERS_AT_ONCE = 16
EXPIRE_MS = 60_000  # between looks at the members' expiry, which is a matter of days

_DOMAIN = b"batch"

OverlayMessage = (
    Batch | IHave | Graft | Prune | LinkStatesHave | LinkStates | CertificatesHave | Certificates | DecreeMessage
)


class Overlay:
    """The mesh as seen from one node's links."""

    __slots__ = (
        "_certificates_to_relay",
        "_config",
        "_expire_ms",
        "_links",
        "_neighbours",
        "_recheck_link",
        "_records_to_relay",
        "_relay_certificates_ms",
        "_relay_not_before_ms",
        "_relay_records_ms",
        "_request_rates",
        "_uncertified",
        "_uncertified_bytes",
        "gossip",
        "membership",
        "roster",
        "topology",
    )

    def __init__(
        self,
        membership: Membership,
        config: MeshConfig,
        rng: random.Random,
        neighbours: Callable[[int], Iterable[Neighbour]],
    ) -> None:
        self._config = config
        self._neighbours = neighbours
        self._links: dict[int, bytes] = {}
        self._request_rates: dict[int, int] = {}  # link -> its questions so far, as `pace.paced` counts
        self._uncertified: OrderedDict[bytes, tuple[int, Batch]] = OrderedDict()
        self._uncertified_bytes = 0
        self._expire_ms = 0
        self._records_to_relay: dict[
            bytes, tuple[bytes, dict[int, None]]
        ] = {}  # node -> (record to pass on, links that have it)
        self._relay_records_ms: int | None = None
        self._certificates_to_relay: dict[
            bytes, tuple[bytes, int]
        ] = {}  # node -> (certificate to pass on, link that brought it)
        self._relay_certificates_ms: int | None = None
        self._recheck_link = (
            -1
        )  # the link that brought certificates last: records of new members were skipped before these came
        self._relay_not_before_ms = 0  # not before: what was passed on last is still on its way
        self.membership = membership
        self.roster = membership.roster
        self.topology = Topology(membership.roster.identity)
        self.gossip = Gossip(self._covered, rng, config.gossip)

    def is_large(self, now_ms: int) -> bool:
        """Whether the mesh is too large for links of all to all."""
        return max(self.topology.reachable_count(now_ms), len(self._links) + 1) > self._config.full_mesh_max

    # ---- links

    def on_link_up(self, link: int, certificate: Certificate, wall_ms: int) -> list[Result]:
        """A member is linked: tell it what we know of, tell the others of it if it is news; renew it if it is time.

        At once, because a drone that passes by may be out of reach a moment later.
        """
        results = self.membership.on_link_up(link, certificate.node_id)
        if self.membership.record_certificate(certificate):
            self._announce(certificate, results)
        self._links[link] = certificate.node_id
        self.gossip.on_link_up(link)
        self.topology.on_links_changed()
        results.append(Send(link, CertificatesHave(self.roster.digests()), 0))
        results.append(Send(link, LinkStatesHave(self.topology.versions()), 1))
        known = self.roster.get(certificate.node_id)
        for renewed in [] if known is None else self.membership.renew_if_due(known, wall_ms):
            self._announce(renewed, results)
        return results

    def on_link_down(self, link: int, now_ms: int) -> None:
        """The member's link is gone."""
        del self._links[link]
        self.membership.on_link_down(link)
        self._request_rates.pop(link, None)
        self.gossip.on_link_down(link, now_ms)
        self.topology.on_links_changed()

    # ---- batches of our own

    def publish(self, payload: bytes, priority: int, now_ms: int) -> list[Result]:
        """Sign and spread one batch."""
        identity = self.roster.identity
        direct = not self.is_large(now_ms)
        signature = identity.sign(_DOMAIN, signed_part(priority, payload, direct=direct))
        batch = Batch(identity.node_id, priority, direct, signature, payload)
        return _to_results(self.gossip.publish(batch, batch.id, now_ms))

    # ---- messages

    def on_message(self, link: int, message: OverlayMessage, now_ms: int, wall_ms: int) -> list[Result]:
        """Take one message of a linked member. DecodeError or CertificateError: it broke the protocol."""
        match message:
            case Batch():
                return self._on_batch(link, message, now_ms)
            case IHave() | Graft() | Prune():
                return _to_results(self.gossip.on_message(link, message, now_ms))
            case CertificatesHave() | LinkStatesHave() | RevocationsHave() if not self._admit_request(link, now_ms):
                return []  # it will ask again, or hear it from another
            case CertificatesHave(digests):
                return [Send(link, Certificates(piece), 0) for piece in _pieces(self.roster.missing_from(digests))]
            case Certificates(raws):
                return self._on_certificates(link, raws, now_ms, wall_ms)
            case LinkStatesHave(versions):
                return [Send(link, LinkStates(piece), 1) for piece in _pieces(self.topology.newer_than(versions))]
            case LinkStates(records):
                self._on_link_states(link, records, now_ms)
                return []
            case RevocationsHave() | Revocations() | EpochHave() | Epochs():
                results = self.membership.on_message(link, message)
                self._forget_revoked(message)
                return results
            case _:
                assert_never(message)

    def _on_batch(self, link: int, batch: Batch, now_ms: int) -> list[Result]:
        batch_id = batch.id
        known = self.gossip.check_duplicate(link, batch, batch_id, now_ms)
        if known is not None:
            return _to_results(known)
        if self.roster.revocations.revocation(batch.origin) is not None:
            # Whatever its date: whoever has the key can date it back. What was taken before stays (docs/SECURITY.md).
            text = "a batch of a revoked node was dropped"
            return [Notice("batch.revoked", text, {"origin": batch.origin.hex(), "link": link}, "warning")]
        author = self.roster.get(batch.origin)
        if author is None:
            return self._await_certificate(link, batch, batch_id)
        if not verify(author.node_key, _DOMAIN, batch.signed, batch.signature):
            # Whoever relays has checked it before: who brought it is at fault, whoever made it.
            text = f"a batch in the name of {author.name} is not signed by it; it was dropped, and the link that brought it"
            notice = Notice("batch.forged", text, {"origin": batch.origin.hex(), "link": link}, "warning")
            return [notice, Drop(link, "sent a batch that its origin has not signed")]
        results = self._relay_certificates()  # who gets a batch knows its origin
        results.append(DeliverBatch(link, batch.origin, batch.payload))
        results += _to_results(self.gossip.accept(link, batch, batch_id, now_ms))
        return results

    def _await_certificate(self, link: int, batch: Batch, batch_id: bytes) -> list[Result]:
        """Keep a batch until its author is known; ask the one who brought it, who must have known him."""
        if batch_id in self._uncertified or len(batch.payload) > UNCERTIFIED_BYTES_MAX:
            return []
        self._uncertified[batch_id] = (link, batch)
        self._uncertified_bytes += len(batch.payload)
        while len(self._uncertified) > UNCERTIFIED_MAX or self._uncertified_bytes > UNCERTIFIED_BYTES_MAX:
            _, (_, old) = self._uncertified.popitem(last=False)
            self._uncertified_bytes -= len(old.payload)
        return [Send(link, CertificatesHave(self.roster.digests()), 0)]

    def _retry_uncertified(self, now_ms: int) -> list[Result]:
        held = [entry for entry in self._uncertified.values() if self.roster.get(entry[1].origin) is not None]
        results: list[Result] = []
        for link, batch in held:
            del self._uncertified[batch.id]
            self._uncertified_bytes -= len(batch.payload)
            results += self._on_batch(link, batch, now_ms)
        return results

    def _on_certificates(self, link: int, raws: tuple[bytes, ...], now_ms: int, wall_ms: int) -> list[Result]:
        results: list[Result] = []
        news = 0
        for raw in raws:
            try:
                certificate = self.roster.verify(raw, wall_ms)
            except CertificateError as error:
                # Clocks and news differ: what is valid at the sender may have expired here. Anything else is a lie.
                if error.reason in {"expired", "not-yet-valid", "revoked", "revoked-issuer"}:
                    continue
                raise
            if self.membership.record_certificate(certificate):
                news += 1
                if certificate.node_id == self.roster.identity.node_id:
                    results.append(self.membership.snapshot())
                    results.append(Notice("identity.renewed", "this node's certificate was renewed"))
                self._certificates_to_relay[certificate.node_id] = (certificate.raw, link)
        if news:
            if self._relay_certificates_ms is None:
                self._relay_certificates_ms = now_ms + GATHER_MS
            self._recheck_link = link
            self._schedule_relay(now_ms)
            results += self._retry_uncertified(now_ms)
        return results

    def _on_link_states(self, link: int, records: tuple[bytes, ...], now_ms: int) -> None:
        for raw in records:
            node_id, news = self.topology.peek(raw)
            waiting = self._records_to_relay.get(node_id)
            if waiting is not None and waiting[0] == raw:
                waiting[1][link] = None
            elif news is not None:
                author = self.roster.get(node_id)
                if author is not None and self.topology.add(news, raw, author.node_key, now_ms):
                    self._relay_record(node_id, raw, link, now_ms)

    # ---- time

    def deadline(self) -> int:
        """When `on_timer` has something to do."""
        due = min(self.topology.deadline(), self._expire_ms)
        for other in (self.gossip.deadline(), self._relay_records_ms, self._relay_certificates_ms):
            due = due if other is None else min(due, other)
        return due

    def on_timer(self, now_ms: int, wall_ms: int) -> list[Result]:
        """Do what is due."""
        results: list[Result] = []
        if self._relay_certificates_ms is not None and self._relay_certificates_ms <= now_ms:
            results += self._relay_certificates()
        results += _to_results(self.gossip.on_timer(now_ms))
        if self._expire_ms <= now_ms:
            self._expire_ms = now_ms + EXPIRE_MS
            gone = self.roster.expire(wall_ms)
            results += (Drop(link, "its certificate has expired") for link, node in self._links.items() if node in gone)
            for node_id in gone:
                self.topology.forget(node_id)
            for certificate in self.membership.renew_due(self._is_reachable, wall_ms):
                self._announce(certificate, results)
            results += self.membership.on_timer(wall_ms)
        if self.topology.deadline() <= now_ms:
            raw = self.topology.make_record(self._neighbours(now_ms), now_ms, wall_ms)
            self._relay_record(self.roster.identity.node_id, raw, -1, now_ms)
        if self._relay_records_ms is not None and self._relay_records_ms <= now_ms:
            self._relay_not_before_ms = now_ms + GATHER_BUSY_MS
            results += self._relay_records()
        return results

    # ---- helpers

    def revoke(self, node_id: bytes, wall_ms: int) -> list[Result]:
        """Revoke a member, once `Membership.revocable` has nothing against it."""
        results = self.membership.revoke(node_id, wall_ms)
        self.topology.forget(node_id)
        return results

    def _forget_revoked(self, message: DecreeMessage) -> None:
        if isinstance(message, Revocations):
            for made in self.roster.revocations.effective():
                self.topology.forget(made.node_id)

    def _is_reachable(self, node_id: bytes) -> bool:
        """Whether a member can be reached: only such are renewed, so that one that was lost runs out."""
        return self.topology.hops(node_id) is not None

    def _admit_request(self, link: int, now_ms: int) -> bool:
        """Count one question of a member, if it has not asked too many."""
        over_ms = admit_at_rate(
            self._request_rates.get(link), now_ms, every_ms=ANSWER_EVERY_MS, at_once=ANSWERS_AT_ONCE
        )
        if over_ms is not None:
            self._request_rates[link] = over_ms
        return over_ms is not None

    def _covered(self, origin: bytes, link: int) -> bool:
        """Whether the origin of a direct batch has pushed it to this link's peer itself."""
        peer = self._links.get(link, b"")
        return peer == origin or self.topology.are_linked(origin, peer)

    def _announce(self, certificate: Certificate, results: list[Result], besides: int = -1) -> None:
        message = Certificates((certificate.raw,))
        results += (Send(link, message, 0) for link in self._links if link != besides)

    def _relay_record(self, node_id: bytes, raw: bytes, link: int, now_ms: int) -> None:
        """Pass a record on with the next ones, to those who have not sent it to us by then."""
        self._records_to_relay[node_id] = (raw, {link: None})
        self._schedule_relay(now_ms)

    def _schedule_relay(self, now_ms: int) -> None:
        """Say what there is to say of link-states together, and not too often."""
        if self._relay_records_ms is None:
            self._relay_records_ms = max(now_ms + GATHER_MS, self._relay_not_before_ms)

    def _relay_certificates(self) -> list[Result]:
        results: list[Result] = []
        for link in self._links if self._certificates_to_relay else ():
            raws = [raw for raw, source in self._certificates_to_relay.values() if source != link]
            results += (Send(link, Certificates(piece), 0) for piece in _pieces(raws))
        self._certificates_to_relay.clear()
        self._relay_certificates_ms = None
        return results

    def _relay_records(self) -> list[Result]:
        results: list[Result] = []
        for link in self._links:
            records = [raw for raw, held_by in self._records_to_relay.values() if link not in held_by]
            results += (Send(link, LinkStates(piece), 1) for piece in _pieces(records))
        if self._recheck_link in self._links:
            results.append(Send(self._recheck_link, LinkStatesHave(self.topology.versions()), 1))
        self._recheck_link = -1
        self._records_to_relay.clear()
        self._relay_records_ms = None
        return results


def _to_results(sends: list[GossipSend]) -> list[Result]:
    return [
        Send(send.link, send.message, send.message.priority if isinstance(send.message, Batch) else 0) for send in sends
    ]


def _pieces(records: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Cut a list of records so that each message stays small."""
    pieces: list[tuple[bytes, ...]] = []
    piece: list[bytes] = []
    size = 0
    for record in records:
        if piece and size + len(record) > PIECE_BYTES:
            pieces.append(tuple(piece))
            piece, size = [], 0
        piece.append(record)
        size += len(record)
    if piece:
        pieces.append(tuple(piece))
    return pieces
