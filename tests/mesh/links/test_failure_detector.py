"""The detector: the dead are noticed soon, the living are left alone, distance and clocks are measured."""

import random
from itertools import pairwise

import pytest

from mycomesh.mesh.links.failure_detector import MEASURE_EVERY, PHI_DEAD, FailureDetector
from mycomesh.mesh.messages import Pong

BEAT = 1_000


def step(detector, until, *, answer=lambda now, token: now + 1, start=0):
    """Let an idle link live: each due ping is answered at `answer(now, token)` (None: never). When it died, or None."""
    now = start
    arriving = []
    while now < until:
        due = min([detector.deadline(), *(at for at, _ in arriving)])
        now = max(now, due)
        if now >= until:
            break
        for entry in [entry for entry in arriving if entry[0] <= now]:
            arriving.remove(entry)
            detector.record_received(now)
            detector.on_pong(Pong(entry[1], 0), now)
        if detector.is_dead(now):
            return now
        if detector.is_ping_due(now):
            token = detector.make_ping(now, 0).token
            detector.record_sent(now)
            at = answer(now, token)
            if at is not None:
                arriving.append((at, token))
    return None


def test_a_peer_that_answers_lives():
    assert step(FailureDetector(0, heartbeat_ms=BEAT), 600_000) is None


@pytest.mark.parametrize("alive_ms", [0, 500, 10_000, 100_000])
def test_a_dead_peer_is_noticed_within_3_s(alive_ms):
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    died = step(detector, 300_000, answer=lambda now, token: now + 1 if now < alive_ms else None)
    assert died is not None
    assert alive_ms + 900 < died <= alive_ms + 3_000


def test_traffic_between_pings_does_not_delay_the_notice():
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    now = 0
    for number in range(60):  # writes of the peer, and pauses that only a ping ends
        now += (600, 2_000, 900)[number % 3]
        detector.record_received(now)
        detector.record_sent(now)
    died = step(detector, now + 60_000, answer=lambda _now, _token: None, start=now)
    assert now + 900 < died <= now + 3_000


@pytest.mark.slow
def test_one_end_pings_and_the_other_replies():
    ends = [FailureDetector(start, heartbeat_ms=BEAT) for start in (0, 3)]
    pings, now = [], 0  # which end sent it
    while now < 600_000:
        for at, (end, other) in enumerate((ends, ends[::-1])):
            if end.deadline() <= now:
                assert not end.is_dead(now)
                assert end.is_ping_due(now)
                pings.append(at)
                end.make_ping(now, 0)
                for one in (end, other):  # the Pong comes at once
                    one.record_sent(now)
                    one.record_received(now)
                other.on_ping()
        now = max(now + 1, min(end.deadline() for end in ends))
    changes = sum(one != other for one, other in pairwise(pings))
    assert 290 <= len(pings) <= 310
    assert changes <= 600 / MEASURE_EVERY, "the end that has not pinged for long measures the link, and goes on pinging"


def test_it_is_probed_before_it_is_given_up():
    pings = []

    def answer(now, token):
        pings.append(now)

    died = step(FailureDetector(0, heartbeat_ms=BEAT), 60_000, answer=answer)
    assert len([at for at in pings if at > died - 1_500]) >= 4


def tcp(rng, loss):
    """Ping and answer over TCP at this loss of packets: a lost one is repaired by its timer, or by a later arrival."""
    arrived = {}

    def answer(now, token):
        rtt, timeout = 2, 200
        at = now + rtt
        while rng.random() < 1 - (1 - loss) ** 2:
            at += timeout
            timeout *= 2
        # Whatever arrives later shows the gap (RFC 8985), so nothing before it is outstanding any more.
        for earlier, when in arrived.items():
            if when > at:
                arrived[earlier] = at + rtt
        arrived[token] = at
        return at

    return answer


def test_ten_percent_of_loss_kills_nobody():
    deaths = [
        step(FailureDetector(0, heartbeat_ms=BEAT), 900_000, answer=tcp(random.Random(seed), 0.1)) for seed in range(20)
    ]
    assert deaths == [None] * 20


def test_lossy_link_gets_more_patience_than_regular_one():
    regular, lossy = FailureDetector(0, heartbeat_ms=BEAT), FailureDetector(0, heartbeat_ms=BEAT)
    for index in range(1, 40):
        regular.record_received(index * 2_000)
        lossy.record_received(index * 2_000 + index % 4 * 300)
    for detector, now in ((regular, 78_000), (lossy, 78_900)):
        assert detector.phi(now + 500) < 1
    assert lossy.phi(78_900 + 3_000) < PHI_DEAD < regular.phi(78_000 + 3_000)


def test_any_traffic_is_sign_of_life_and_saves_ping():
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    pings = 0
    for now in range(0, 20_000, 100):
        detector.record_received(now)
        detector.record_sent(now)
        pings += detector.is_ping_due(now)
        assert not detector.is_dead(now)
    assert pings == 0


def test_a_busy_link_is_measured_now_and_then():
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    pings = []
    for now in range(0, 100_000, 100):
        detector.record_received(now)
        detector.record_sent(now)
        if detector.is_ping_due(now):
            pings.append(now)
            detector.make_ping(now, 0)
    assert pings == [30_000, 60_000, 90_000]


def test_round_trip_and_clock_offset_are_measured():
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    assert detector.metrics(0).rtt_ms is None
    for index in range(8):
        sent, delay = index * 1_000, 20 if index == 3 else 200
        ping = detector.make_ping(sent, 5_000_000 + sent)
        # The peer's clock is 90 s ahead; only the sample of the shortest way there and back is symmetric.
        there = delay // 2 if index == 3 else delay
        detector.on_pong(Pong(ping.token, 5_090_000 + sent + there), sent + delay)
    assert detector.metrics(8_000).offset_ms == 90_000
    assert 100 < detector.metrics(8_000).rtt_ms < 200


def test_unmatched_pongs_are_ignored_and_pings_are_bounded():
    detector = FailureDetector(0, heartbeat_ms=BEAT)
    detector.on_pong(Pong(77, 0), 5)
    assert detector.metrics(5).rtt_ms is None
    for now in range(1_000):
        detector.make_ping(now, 0)
    assert len(detector._pings) <= 16


@pytest.mark.parametrize("beat", [50, 1_000, 30_000])
def test_the_deadline_moves_on_after_it_was_served(beat):
    detector = FailureDetector(0, heartbeat_ms=beat)
    for _ in range(1_000):
        now = detector.deadline()
        assert detector.is_ping_due(now) or detector.is_dead(now)
        if detector.is_dead(now):
            detector.record_received(now)
        if detector.is_ping_due(now):
            detector.make_ping(now, 0)
        assert detector.deadline() > now


def test_a_set_clock_is_known_at_the_next_measurement():
    detector = FailureDetector(0, heartbeat_ms=1_000)

    def measured(at_ms, wall_ms, peer_ms):
        ping = detector.make_ping(at_ms, wall_ms)
        detector.on_pong(Pong(ping.token, peer_ms), at_ms)

    for at_ms in (1_000, 2_000, 3_000):
        measured(at_ms, 500_000 + at_ms, 800_000 + at_ms)
    assert detector.metrics(3_000).offset_ms == 300_000
    assert detector.offset_ms(790_000) == 10_000, "our clock was set since"
    measured(4_000, 504_000, 524_000)
    assert detector.metrics(4_000).offset_ms == 20_000, "the peer's was"
