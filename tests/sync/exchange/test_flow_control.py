"""Flow control of rounds: the window of a link follows its speed, whatever its latency."""

from __future__ import annotations

import pytest

from mycomesh.sync.errors import DecodeError
from mycomesh.sync.exchange.flow_control import SLOW_MS, WINDOW_BYTES, WINDOW_MIN, SendWindow

CHUNK = 8 << 10


def carried(rate, latency_ms, seconds):
    """Run a stream of chunks over a link of so many bytes a second; return its window, and the longest wait of the last half."""
    window, now, free_at, flying, waits = SendWindow(), 0, 0.0, [], []
    while now < 1_000 * seconds:
        while window.has_room:
            free_at = max(free_at, now) + CHUNK * 1_000 / rate
            flying.append((int(free_at) + latency_ms, now))
            window.record_sent(CHUNK, now)
        arrives, sent = flying.pop(0)
        now = max(now, arrives)
        window.on_ack(CHUNK, now)
        if now > 500 * seconds:
            waits.append(now - sent - latency_ms)
    return window, max(waits)


@pytest.mark.parametrize("latency_ms", [2, 600, 2_000])
@pytest.mark.parametrize("rate", [20_000, 100_000, 300_000])
def test_little_waits_on_a_slow_link(rate, latency_ms):
    _, wait_ms = carried(rate, latency_ms, 200)
    assert wait_ms <= 1_000 * WINDOW_MIN / rate + 2 * SLOW_MS + 4 * latency_ms


@pytest.mark.parametrize("latency_ms", [2, 600, 2_000])
def test_fast_link_gets_the_whole_window(latency_ms):
    window, _ = carried(50_000_000, latency_ms, 60)
    assert window.size == WINDOW_BYTES


def test_smallest_window_holds_where_every_chunk_is_slow():
    window, _ = carried(500, 2, 2_000)
    assert window.size == WINDOW_MIN


def test_acknowledging_more_than_was_sent_is_refused():
    window = SendWindow()
    window.record_sent(10, 5)
    window.on_ack(4, 6)
    assert window.waiting_since == 5
    with pytest.raises(DecodeError):
        window.on_ack(7, 7)
    window.on_ack(6, 8)
    assert window.waiting_since is None
