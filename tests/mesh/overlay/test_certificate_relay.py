"""Each member gets each certificate about once, also while many nodes with several links each start at a time."""

from __future__ import annotations

from mycomesh.mesh.membership.roster import digest_of
from mycomesh.mesh.messages import Certificates
from mycomesh.mesh.overlay.certificate_relay import (
    GATHER_MS,
    GATHER_SLOW_MS,
    KNOWN_DIGESTS_MAX,
    KNOWN_LARGE_MS,
    KNOWN_MS,
    CertificateRelay,
)

ONE, TWO, THREE = b"one", b"two", b"three"
LINKS = ((1, b"p1"), (2, b"p2"), (3, b"p3"))


def relay_of(*, gets_news=lambda *_: False, has=()):
    """A relay whose three peers have asked, and have some certificates."""
    relay = CertificateRelay(gets_news)
    for link, _ in LINKS:
        relay.on_have(link, map(digest_of, has), [], 0)
    return relay


def sent(results):
    """The certificates that go on each link."""
    return {result.link: result.message.raws for result in results}


def test_a_peer_gets_what_it_lacks_when_it_asks():
    relay = CertificateRelay(lambda *_: False)
    (send,) = relay.on_have(1, [digest_of(ONE)], [TWO, THREE], 0)
    assert send.message == Certificates((TWO, THREE))
    relay.add(b"n2", TWO, 9, 0, slow=False)
    assert relay.on_timer(LINKS, GATHER_MS) == []  # it has that, and the others have not asked yet


def test_news_goes_to_peers_that_have_not_brought_it():
    relay = relay_of()
    relay.add(b"n1", ONE, 1, 0, slow=False)
    relay.on_received(2, [ONE])
    assert relay.deadline == GATHER_MS
    assert relay.on_timer(LINKS, GATHER_MS - 1) == []
    assert sent(relay.on_timer(LINKS, GATHER_MS)) == {3: (ONE,)}
    assert relay.deadline is None
    relay.add(b"n1", ONE, 1, 100, slow=False)
    assert relay.on_timer(LINKS, 100 + GATHER_MS) == []  # what was sent is known


def test_news_waits_beside_a_hub_that_brings_it():
    relay = relay_of(gets_news=lambda peer, _node, _raw: peer == b"p2")
    relay.add(b"n1", ONE, 1, 0, slow=True)
    assert relay.deadline == GATHER_SLOW_MS
    assert sent(relay.on_timer(LINKS, GATHER_SLOW_MS)) == {3: (ONE,)}
    relay.add(b"n2", TWO, 1, 0, slow=True)
    relay.add(b"n3", THREE, 1, 0, slow=False)
    assert relay.deadline == GATHER_MS


def test_what_this_node_has_made_goes_at_once():
    relay = relay_of(gets_news=lambda *_: True)
    relay.on_received(2, [ONE])
    assert sent(relay.spread(ONE, [1, 2, 3])) == {1: (ONE,), 3: (ONE,)}
    assert relay.spread(ONE, [1, 2, 3]) == []


def test_a_certificate_goes_before_what_its_node_signed():
    relay = relay_of(gets_news=lambda *_: True)
    relay.add(b"n1", ONE, 1, 0, slow=True)
    assert sent(relay.ahead_of(b"n1", [1, 2])) == {2: (ONE,)}
    assert relay.ahead_of(b"n1", [1, 2]) == []
    assert relay.ahead_of(b"n2", [1, 2]) == []


def test_what_peers_have_is_forgotten_sooner_among_many():
    for count, kept_ms in ((KNOWN_DIGESTS_MAX, KNOWN_MS), (KNOWN_DIGESTS_MAX + 1, KNOWN_LARGE_MS)):
        relay = CertificateRelay(lambda *_: False)
        relay.on_have(1, [digest_of(ONE), *(number.to_bytes(8, "big") for number in range(count - 1))], [], 0)
        for now_ms, lacking in ((kept_ms, {}), (kept_ms + 1, {1: (ONE,)})):
            relay.forget_old(now_ms)
            relay.add(b"n1", ONE, 9, now_ms, slow=False)
            assert sent(relay.on_timer(LINKS, now_ms + GATHER_MS)) == lacking
