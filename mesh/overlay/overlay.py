"""Overlay of one node: exchanges certificates, link-states and batches with the linked members.

It joins roster, topology and gossip. A batch from an unknown origin waits, within limits, for the origin's certificate. The node
relays new certificates before batches, so that the receivers can check those.

Invariants: a batch is delivered once, after its origin's signature was checked with a certificate of the mesh, and is relayed
unchanged. Link-states of unknown authors are not kept.
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
    Purges,
    Revocations,
    RevocationsHave,
    Wants,
    signed_part,
)
from mycomesh.mesh.overlay.certificate_relay import CertificateRelay, pieces
from mycomesh.mesh.overlay.gossip import Gossip, GossipSend
from mycomesh.mesh.overlay.interests import Interests
from mycomesh.mesh.overlay.kin import Kin
from mycomesh.mesh.overlay.topology import Neighbour, Topology, chosen_relay
from mycomesh.mesh.rate_limit import admit_at_rate
from mycomesh.mesh.results import Drop, Result, Send

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.events import StateInterests
    from mycomesh.mesh.membership.certificate import Certificate

__all__ = ["Drop", "Overlay", "OverlayMessage", "Result", "Send"]

UNCERTIFIED_MAX = 64  # batches that wait for their origin's certificate. Peers send that first, so this is rare
UNCERTIFIED_BYTES_MAX = 4 << 20
GATHER_MS = 50  # link-states are collected this long: one message carries many, and skips peers that sent it meanwhile
GATHER_PARTIAL_MS = (
    1_500  # of those of others, beside a peer that wants all: it has more links, and these are known by then
)
UNKNOWN_MS = 3_000  # how long a certificate may take to follow a link-state of its node
UNKNOWN_MAX = 64  # authors without a certificate that are remembered; the next link's lists have the others
GATHER_BUSY_MS = 500  # least time between two relays of link-states: while a mesh forms or heals, all of them are news
_NO_LINK = -1
# Rate of one member's requests for lists: two at link-up, then one at each news of certificates. A reply may have 300 KB.
ANSWER_EVERY_MS = 500
ANSWERS_AT_ONCE = 16
ASK_MS = 300  # between requests for lists on links that come up together: the round trip of a slow radio
ASK_PARTIAL_MS = 1_500  # of a node that keeps parts: by then others have relayed what is new while a fleet starts
EXPIRE_MS = 60_000  # between checks of the members' expiry, which is a matter of days

_DOMAIN = b"batch"

OverlayMessage = (
    Batch | IHave | Graft | Prune | LinkStatesHave | LinkStates | CertificatesHave | Certificates | DecreeMessage
)


class Overlay:
    """The overlay of one node. A link is known by its number, a member by its 16-byte node id."""

    __slots__ = (
        "_ask_ms",
        "_certificates",
        "_config",
        "_expire_ms",
        "_links",
        "_links_to_ask",
        "_neighbours",
        "_recheck_link",
        "_records_to_relay",
        "_relay_not_before_ms",
        "_relay_records_ms",
        "_request_rates",
        "_spared",
        "_uncertified",
        "_uncertified_bytes",
        "_unknown",
        "_unknown_ms",
        "gossip",
        "interests",
        "kin",
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
        self._request_rates: dict[int, int] = {}  # link -> token bucket of its requests (`admit_at_rate`)
        self._uncertified: OrderedDict[bytes, tuple[int, Batch]] = OrderedDict()
        self._uncertified_bytes = 0
        self._spared: dict[int, None] = {}  # links that were taken off the tree at first
        self._expire_ms = 0
        self._links_to_ask: dict[int, None] = {}  # links whose peers were not asked yet what this node lacks
        self._certificates = CertificateRelay(self._gets_certificate)
        self._ask_ms = 0  # when the next one may be
        # Node -> (record, links that have it).
        self._records_to_relay: dict[bytes, tuple[bytes, dict[int, None]]] = {}
        self._relay_records_ms: int | None = None
        self._unknown: dict[
            bytes, int
        ] = {}  # author of a link-state, without a certificate so far -> link that brought it
        self._unknown_ms = 0  # when their certificates are requested
        # The link that brought certificates last. Before them, link-states of those members were skipped, so ask it again.
        self._recheck_link = _NO_LINK
        self._relay_not_before_ms = 0  # the last relay of link-states may still be in flight
        self.membership = membership
        self.roster = membership.roster
        self.topology = Topology(membership.roster.identity, partial=config.partial)
        self.interests = Interests(config.topic_of, _Ways(self))
        self.kin = Kin(membership.roster, self.interests, self.topology)
        self.gossip = Gossip(self._covered, rng, config.gossip, self.interests)

    def is_large(self, now_ms: int) -> bool:
        """Return True if the mesh is too large for a full mesh."""
        return max(self.topology.reachable_count(now_ms), len(self._links) + 1) > self._config.full_mesh_max

    @property
    def is_partial(self) -> bool:
        """True if this node wants parts only, or may before its application has said so."""
        own = self.interests.own
        return self._config.partial if own is None else bool(own)

    def _is_beside_hub(self) -> bool:
        """Return True if this node wants parts, and a peer all: news reaches other members by that peer first."""
        return self.is_partial and self.interests.has_hub

    # ---- links

    def on_link_up(self, link: int, certificate: Certificate, now_ms: int, wall_ms: int) -> list[Result]:
        """Add a link: send the member our summaries, announce its certificate if that is new, and renew it if it is due.

        All of this happens at once, because a drone that flies past may be out of reach a moment later. Of several links that
        come up together, the next is asked after `ASK_MS`, when the answer of the one before has come: each peer would send all.
        """
        results = self.membership.on_link_up(link, certificate.node_id)
        if self.membership.record_certificate(certificate):
            self._announce(certificate, link, now_ms)
        self._links[link] = certificate.node_id
        self.gossip.on_link_up(link)
        self.topology.on_links_changed(now_ms)
        self._links_to_ask[link] = None
        if self._ask_ms <= now_ms:
            results += self._ask_next(now_ms)
        results += self.interests.on_link_up(link)
        known = self.roster.get(certificate.node_id)
        for renewed in [] if known is None else self.membership.renew_if_due(known, wall_ms):
            results += self._certificates.spread(renewed.raw, self._links)
        return results

    def on_link_down(self, link: int, now_ms: int, *, lost: bool) -> None:
        """Remove a link. If it was `lost`, ask another peer for what its own peer may have been about to relay."""
        del self._links[link]
        self._links_to_ask.pop(link, None)
        self._spared.pop(link, None)
        self._certificates.on_link_down(link)
        self.membership.on_link_down(link)
        self._request_rates.pop(link, None)
        self.interests.on_link_down(link)
        self.gossip.on_link_down(link, now_ms)
        self.topology.on_links_changed(now_ms, fewer=True)
        if lost and self._links:
            self._recheck_link = next(reversed(self._links))
            self._schedule_relay(now_ms)

    def on_wants(self, link: int, message: Wants) -> list[Result]:
        """Record what a peer wants."""
        self.interests.on_wants(link, message)
        return self._spare_links()

    def state_interests(self, stated: StateInterests) -> list[Result]:
        """Take what this node and other members want."""
        return self.interests.state(stated) + self._spare_links()

    def _spare_links(self) -> list[Result]:
        """Take the links with members that want other parts off the tree of this node, while others are linked that share its.

        Each batch about everything would come on each link once, until each is pruned. Announcements go on, so where they are
        needed, a graft brings them back.
        """
        if not self.is_partial or not any(map(self.interests.shares, self._links)):
            return []
        spare = [link for link in self._links if link not in self._spared and self.interests.is_apart(link)]
        self._spared.update(dict.fromkeys(spare))
        return _to_results([send for link in spare for send in self.gossip.spare(link)])

    def links(self) -> Iterable[tuple[int, bytes]]:
        """Return every link, with the 16-byte node id of its peer."""
        return self._links.items()

    # ---- our own batches

    def publish(self, payload: bytes, priority: int, now_ms: int) -> list[Result]:
        """Sign one batch of this node and broadcast it."""
        identity = self.roster.identity
        direct = not self.is_partial and not self.is_large(now_ms)
        signature = identity.sign(_DOMAIN, signed_part(priority, payload, direct=direct))
        batch = Batch(identity.node_id, priority, direct, signature, payload)
        return _to_results(self.gossip.publish(batch, batch.id, now_ms))

    # ---- messages

    def on_message(self, link: int, message: OverlayMessage, now_ms: int, wall_ms: int) -> list[Result]:
        """Handle one message of a linked member.

        Raises:
            DecodeError, CertificateError: the member violated the protocol.
        """
        match message:
            case Batch():
                return self._on_batch(link, message, now_ms)
            case IHave() | Graft() | Prune():
                return _to_results(self.gossip.on_message(link, message, now_ms))
            case CertificatesHave() | LinkStatesHave() | RevocationsHave() if not self._admit_request(link, now_ms):
                return []  # the member will repeat the request, or get the data from another one
            case CertificatesHave(digests):
                return self._certificates.on_have(link, digests, self.roster.missing_from(digests), now_ms)
            case Certificates(raws):
                return self._on_certificates(link, raws, now_ms, wall_ms)
            case LinkStatesHave(versions):
                return self._on_link_states_have(link, versions)
            case LinkStates(records):
                self._on_link_states(link, records, now_ms)
                return []
            case RevocationsHave() | Revocations() | EpochHave() | Epochs() | Purges():
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
            # Regardless of its date, because anyone with the key can backdate a batch. Earlier accepted batches stay
            # (docs/SECURITY.md).
            text = "dropped a batch of a revoked node"
            return [Notice("batch.revoked", text, {"origin": batch.origin.hex(), "link": link}, "warning")]
        author = self.roster.get(batch.origin)
        if author is None:
            return self._await_certificate(link, batch, batch_id)
        if not verify(author.node_key, _DOMAIN, batch.signed, batch.signature):
            # Every relay checks a batch first, so the peer that sent this one is at fault, whether or not it made the batch.
            text = f"dropped a batch that claims to be from {author.name} but is not signed by it, and the link that brought it"
            notice = Notice("batch.forged", text, {"origin": batch.origin.hex(), "link": link}, "warning")
            return [notice, Drop(link, "sent a batch that its origin has not signed")]
        sends = self.gossip.accept(link, batch, batch_id, now_ms)
        receivers = [send.link for send in sends if isinstance(send.message, Batch)]
        results = self._certificates.ahead_of(batch.origin, receivers)  # which have to know the origin
        results.append(DeliverBatch(link, batch.origin, batch.payload))
        return results + _to_results(sends)

    def _await_certificate(self, link: int, batch: Batch, batch_id: bytes) -> list[Result]:
        """Keep a batch until its origin's certificate arrives; request that from the peer, which must have checked the batch."""
        if batch_id in self._uncertified or len(batch.payload) > UNCERTIFIED_BYTES_MAX:
            return []
        self._uncertified[batch_id] = (link, batch)
        self._uncertified_bytes += len(batch.payload)
        while len(self._uncertified) > UNCERTIFIED_MAX or self._uncertified_bytes > UNCERTIFIED_BYTES_MAX:
            _, (_, old) = self._uncertified.popitem(last=False)
            self._uncertified_bytes -= len(old.payload)
        return [Send(link, CertificatesHave(self.roster.digests()), 0)]

    def _retry_uncertified(self, now_ms: int) -> list[Result]:
        ready = [entry for entry in self._uncertified.values() if self.roster.get(entry[1].origin) is not None]
        results: list[Result] = []
        for link, batch in ready:
            del self._uncertified[batch.id]
            self._uncertified_bytes -= len(batch.payload)
            results += self._on_batch(link, batch, now_ms)
        return results

    def record_certificates(self, raws: tuple[bytes, ...], now_ms: int, wall_ms: int) -> list[Result]:
        """Record certificates that came over no link, and relay those that are new."""
        return self._on_certificates(_NO_LINK, raws, now_ms, wall_ms)

    def _on_certificates(self, link: int, raws: tuple[bytes, ...], now_ms: int, wall_ms: int) -> list[Result]:
        results: list[Result] = []
        news = 0
        self._certificates.on_received(link, raws)
        for raw in raws:
            try:
                certificate = self.roster.verify(raw, wall_ms)
            except CertificateError as error:
                # Clocks and decrees may differ: a certificate that is valid at the sender may be expired or revoked here. Any
                # other fault means that the sender did not check it.
                if error.reason in {"expired", "not-yet-valid", "revoked", "revoked-issuer"}:
                    continue
                raise
            if self.membership.record_certificate(certificate):
                news += 1
                if certificate.node_id == self.roster.identity.node_id:
                    results.append(self.membership.snapshot())
                    results.append(Notice("identity.renewed", "this node's certificate was renewed"))
                self._announce(certificate, link, now_ms)
        if news:
            known = [node_id for node_id in self._unknown if self.roster.get(node_id) is not None]
            for node_id in known:
                del self._unknown[node_id]
            if known:
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
                if author is None and len(self._unknown) < UNKNOWN_MAX:
                    self._unknown[node_id] = link
                    self._unknown_ms = (
                        max(self._unknown_ms, now_ms + UNKNOWN_MS) if len(self._unknown) == 1 else self._unknown_ms
                    )
                if author is not None and self.topology.add(news, raw, author.node_key, now_ms):
                    self._relay_record(node_id, raw, link, now_ms)

    # ---- time

    def deadline(self) -> int:
        """Return when `on_timer` has work."""
        due = self.topology.deadline()  # runs at each event
        for other in (self._expire_ms, self.gossip.deadline(), self._relay_records_ms, self._certificates.deadline):
            if other is not None and other < due:
                due = other
        if self._links_to_ask:
            due = min(due, self._ask_ms)
        return min(due, self._unknown_ms) if self._unknown else due

    def on_timer(self, now_ms: int, wall_ms: int) -> list[Result]:
        """Do all work that is due."""
        results = self._certificates.on_timer(self._links.items(), now_ms)
        if self._links_to_ask and self._ask_ms <= now_ms:
            results += self._ask_next(now_ms)
        if self._unknown and self._unknown_ms <= now_ms:
            results += self._ask_for_authors()
        results += _to_results(self.gossip.on_timer(now_ms))
        if results:
            self._certificates.forget_old(now_ms)
        if self._expire_ms <= now_ms:
            self._expire_ms = now_ms + EXPIRE_MS
            gone = self.roster.expire(wall_ms)
            results += (Drop(link, "its certificate has expired") for link, node in self._links.items() if node in gone)
            for node_id in gone:
                self.topology.forget(node_id)
            for certificate in self.membership.renew_due(self._is_reachable, wall_ms):
                results += self._certificates.spread(certificate.raw, self._links)
            results += self.membership.on_timer(wall_ms)
        if self.topology.deadline() <= now_ms:
            raw = self.topology.make_record(self._neighbours(now_ms), now_ms, wall_ms)
            self._relay_record(self.roster.identity.node_id, raw, -1, now_ms)
        if self._relay_records_ms is not None and self._relay_records_ms <= now_ms:
            self._relay_not_before_ms = now_ms + GATHER_BUSY_MS
            results += self._relay_records()
        return results

    # ---- helpers

    def revoke(self, node_ids: tuple[bytes, ...], wall_ms: int) -> list[Result]:
        """Revoke members. The caller has checked `Membership.revocable` of each."""
        results = self.membership.revoke(node_ids, wall_ms)
        for node_id in node_ids:
            self.topology.forget(node_id)
        return results

    def _forget_revoked(self, message: DecreeMessage) -> None:
        if isinstance(message, Revocations):
            for made in self.roster.revocations.effective():
                self.topology.forget(made.node_id)

    def _is_reachable(self, node_id: bytes) -> bool:
        """Return True if a member is reachable. Only such members are renewed, so that the certificate of a lost one expires."""
        return self.topology.hops(node_id) is not None

    def _ask_for_authors(self) -> list[Result]:
        """Ask those that brought link-states for the certificates of their authors, which have not followed."""
        links = [link for link in dict.fromkeys(self._unknown.values()) if link in self._links]
        self._unknown.clear()
        return [Send(link, CertificatesHave(self.roster.digests()), 0) for link in links]

    def _admit_request(self, link: int, now_ms: int) -> bool:
        """Count one request of a member; return False if it exceeds the rate."""
        over_ms = admit_at_rate(
            self._request_rates.get(link), now_ms, every_ms=ANSWER_EVERY_MS, at_once=ANSWERS_AT_ONCE
        )
        if over_ms is not None:
            self._request_rates[link] = over_ms
        return over_ms is not None

    def _covered(self, origin: bytes, link: int) -> bool:
        """Return True if the origin of a direct batch has pushed it to this link's peer itself."""
        peer = self._links.get(link, b"")
        return peer == origin or self.topology.are_linked(origin, peer)

    def _announce(self, certificate: Certificate, link: int, now_ms: int) -> None:
        """Relay a certificate that is new, which a link has brought."""
        self._certificates.add(certificate.node_id, certificate.raw, link, now_ms, slow=self._is_beside_hub())

    def _on_link_states_have(self, link: int, versions: Iterable[tuple[bytes, int]]) -> list[Result]:
        """Send a peer the records that it lacks; relay none to it that it has, or gets by this."""
        for _, known_to in self._records_to_relay.values():
            known_to[link] = None
        return [Send(link, LinkStates(piece), 1) for piece in pieces(self.topology.newer_than(versions))]

    def _relay_record(self, node_id: bytes, raw: bytes, link: int, now_ms: int) -> None:
        """Relay a record together with the next ones, to the peers that have not sent it by then."""
        self._records_to_relay[node_id] = (raw, {link: None})
        self._schedule_relay(now_ms, others=node_id != self.roster.own_id)

    def _schedule_relay(self, now_ms: int, *, others: bool = False) -> None:
        """Schedule the next relay of link-states, if none is due sooner; `others` if this one can wait for those of others."""
        wait_ms = GATHER_PARTIAL_MS if others and self._is_beside_hub() else GATHER_MS
        due_ms = max(now_ms + wait_ms, self._relay_not_before_ms)
        if self._relay_records_ms is None or due_ms < self._relay_records_ms:
            self._relay_records_ms = due_ms

    def _gets_record(self, peer: bytes, author: bytes, raw: bytes, known_to: Iterable[int]) -> bool:
        """Return True if a peer gets a record of another node without this one: from the author, or another of its neighbours.

        Whatever is lost that way, because a link that the records name is dead, comes by `on_link_down` or the next record.
        """
        own, topology = self.roster.own_id, self.topology
        if author == own:
            return False
        return self._gets_news(peer, author, raw) or (
            author not in self._links.values()
            and any(source in self._links and topology.are_linked(self._links[source], peer) for source in known_to)
        )

    def _gets_certificate(self, peer: bytes, node_id: bytes, raw: bytes) -> bool:
        """Return True if a peer gets a node's certificate without this node; its own may be one that another has renewed."""
        return node_id not in (peer, self.roster.own_id) and self._gets_news(peer, node_id, raw)

    def _gets_news(self, peer: bytes, author: bytes, raw: bytes) -> bool:
        """Return True if a peer gets news from its author, or from a relay between the two that is not this node.

        `raw` is the news, by which one of several relays is chosen.
        """
        own, topology = self.roster.own_id, self.topology
        if peer == author or peer in topology.neighbours(author):
            return True  # the author sends its record to those that the record names
        relays = topology.relays(author, peer)
        if author in self._links.values():
            return bool(relays) and chosen_relay((own, *relays), raw) != own
        return bool(relays)

    def _ask_next(self, now_ms: int) -> list[Result]:
        """Ask the peer of the first link that waits for it what this node lacks."""
        link = next(iter(self._links_to_ask))
        del self._links_to_ask[link]
        self._ask_ms = now_ms + (ASK_PARTIAL_MS if self.is_partial else ASK_MS)
        certificates = Send(link, CertificatesHave(self.roster.digests()), 0)
        return [certificates, Send(link, LinkStatesHave(self.topology.versions()), 1)]

    def _relay_records(self) -> list[Result]:
        results: list[Result] = []
        for link, peer in self._links.items():
            records = [
                raw
                for author, (raw, known_to) in self._records_to_relay.items()
                if link not in known_to and not self._gets_record(peer, author, raw, known_to)
            ]
            results += (Send(link, LinkStates(piece), 1) for piece in pieces(records))
        if self._recheck_link in self._links:
            results.append(Send(self._recheck_link, LinkStatesHave(self.topology.versions()), 1))
        self._recheck_link = _NO_LINK
        self._records_to_relay.clear()
        self._relay_records_ms = None
        return results


class _Ways:
    """The ways through the mesh that one overlay knows."""

    __slots__ = ("_overlay",)

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay

    def version(self) -> int:
        return self._overlay.topology.version

    def first_link(self, wanted: Callable[[bytes], bool]) -> int | None:
        first = self._overlay.topology.first_hop(wanted)
        return next((link for link, node_id in self._overlay.links() if node_id == first), None)


def _to_results(sends: list[GossipSend]) -> list[Result]:
    return [
        Send(send.link, send.message, send.message.priority if isinstance(send.message, Batch) else 0) for send in sends
    ]
