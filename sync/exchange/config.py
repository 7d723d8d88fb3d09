"""Settings of an `Exchange`: one frozen value, validated at construction."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["COPIES", "ExchangeConfig"]

COPIES = 2  # of each area, in the hands of members that keep it
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """Intervals, counts and timeouts of one exchange. Every value is at least 1; a name that ends in `_ms` is in milliseconds.

    safety_ms: how often the exchange checks `data_version` when it saw no commit. inotify does not report writes through
        mmap or over the network. Each check that finds nothing doubles the wait, up to `SAFETY_FACTOR` times this.
    compare_ms: how often idle links exchange digests, with jitter. A lost or corrupted row is noticed after this time.
    settle_ms: how long after the last change links exchange digests, so that `status` soon shows the truth.
    gap_ms: how long the live path may take to fill a gap in a site's clock before a round requests it. Each failed round
        doubles the wait, up to `compare_ms`.
    busy_ms: how long to wait when another program holds the write lock.
    stall_ms: how long a round may receive nothing before it is abandoned and another peer may be asked.
    dead_ms: how long an abandoned round may go on bringing nothing before its link is closed. A chunk takes more than a
        minute on the slowest radio (1 kB/s).
    repair_pause_ms: how long after a repair of a table the next one may start on the same link. Digests have to show the
        effect of the first one before that.
    claim_ms: how long a round keeps other links from fetching the same table. A table is fetched from one peer at a time.
    beat_ms: how long after a delete an idle site publishes a batch without changes (a beat), which promises that nothing
        older will follow. One beat covers many deletes.
    beat_members: a beat reaches every member, so a mesh with more than this many members multiplies `beat_ms` by
        members // beat_members.
    collect_ms: how often tombstones are collected, and how long they stay after they became stable. Every linked peer can
        fetch them in that time, which saves it an audit.
    doubt_ms: how long a table is not fetched from a peer that reports too many of its rows as deleted. Another peer may
        confirm it meanwhile.
    scrub_ms: how often the background scrub takes a step. With `scrub_rows`, a million rows take eleven hours, at 0.015 %
        of a core or less (1.5 ms of work in ten seconds).
    scrub_rows: how many rows one background step compares with their entries.
    release_ms: how often a node asks which members cover the areas that it holds and does not keep.
    copies: how many members that keep an area have to cover it before this node releases it; all others, if they are fewer.
    retention_ms: how long a silent member holds up the collection of tombstones.
    """

    safety_ms: int = 1_000
    compare_ms: int = 15_000
    settle_ms: int = 500
    gap_ms: int = 100
    busy_ms: int = 50
    stall_ms: int = 10_000
    dead_ms: int = 300_000
    repair_pause_ms: int = 5_000
    claim_ms: int = 60_000
    beat_ms: int = 30_000
    beat_members: int = 5
    collect_ms: int = 300_000
    doubt_ms: int = 300_000
    scrub_ms: int = 10_000
    scrub_rows: int = 256
    release_ms: int = 10_000
    copies: int = COPIES
    retention_ms: int = 30 * _DAY_MS

    def __post_init__(self) -> None:
        """Refuse a value that would make a node spin."""
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")
