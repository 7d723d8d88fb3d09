"""The status of one link, for the operator."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LinkStatus", "Progress"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a round, for the operator.

    rows: changes received.
    expected: about how many changes the sender announced; 0 if it has not announced any.
    received_bytes: bytes received.
    left_ms: estimated milliseconds until the end; None if there is no estimate.
    """

    rows: int
    expected: int
    received_bytes: int
    left_ms: int | None


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link, for the operator. Tables have the folded names of this file.

    peer: 16-byte node id.
    equal: whether every table was equal to ours in the last comparison.
    behind: the tables that were not equal.
    rows_sent, rows_received: changes that rounds have carried.
    streaming: whether a catch-up stream to the peer is under way.
    waiting: the tables of which rows for the peer wait for their budget.
    fetching, progress: whether a round from the peer is under way, and its progress.
    compared_ms_ago: milliseconds since the last comparison; None before the first.
    equal_ms: for each equal table, how many milliseconds it has been equal.
    """

    peer: bytes
    equal: bool
    behind: tuple[str, ...]
    rows_sent: int
    rows_received: int
    streaming: bool
    fetching: bool
    progress: Progress | None = None
    compared_ms_ago: int | None = None
    equal_ms: tuple[tuple[str, int], ...] = ()
    waiting: tuple[str, ...] = ()
