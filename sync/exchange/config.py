"""Settings of an `Exchange`: one frozen value, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["ExchangeConfig"]

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """Times in milliseconds, each with its reason.

    safety_ms: how often `data_version` is checked although no commit was seen; inotify is blind to mmap and network writes.
    compare_ms: how often digests are exchanged on an idle link, with jitter; a lost or corrupted row waits this long.
    settle_ms: digests are exchanged this long after the last change, so that `status` tells the truth soon.
    gap_ms: how long a gap in a site's clock may be filled by the live path before a round asks for it; a round that
        fails doubles it each time, up to compare_ms.
    busy_ms: how long to wait when another program holds the write lock.
    stall_ms: a round that brings nothing for this long is given up, and another peer may be asked.
    repair_pause_ms: how long after a repair of a table the next may start on the same link; its effect has to be told first.
    claim_ms: a table is fetched from one peer at a time, but a round that lasts longer does not keep others from it.
    beat_ms: how long after a delete an idle site says that it has nothing older to tell; many deletes cost one such word.
        Everybody's word goes to everybody: in a larger mesh each waits so long for every `beat_members` members.
    collect_ms: how often tombstones are collected, and how long they stay after they have become stable: long enough for
        every linked peer to fetch them first, which saves it an audit.
    scrub_ms: how often the scrub compares `scrub_rows` rows with their entries in the background: a million rows take eleven
        hours, and 3 ms of work in ten seconds are 0.03 % of a core.
    scrub_rows: see there.
    retention_ms: a member that was not heard of for this long stops holding up the collection of tombstones.
    """

    safety_ms: int = 1_000
    compare_ms: int = 15_000
    settle_ms: int = 500
    gap_ms: int = 100
    busy_ms: int = 50
    stall_ms: int = 10_000
    repair_pause_ms: int = 5_000
    claim_ms: int = 60_000
    beat_ms: int = 30_000
    beat_members: int = 5
    collect_ms: int = 300_000
    scrub_ms: int = 10_000
    scrub_rows: int = 256
    retention_ms: int = 30 * _DAY_MS

    def __post_init__(self) -> None:
        """Refuses times that would make a node spin."""
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")
