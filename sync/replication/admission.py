"""Admission: what of a peer's bundle may enter this replica at all.

Owns three rules: nobody writes what it may not, a live batch holds nothing but its origin's sites, and nobody's stamps lie far
in the future. What always holds: what is refused is not covered. It must not know tables.
"""

from __future__ import annotations

from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX, SITE_PREFIX, hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema.facts import check_facts
from mycomesh.sync.wire.bundle import Bundle

__all__ = ["admit", "future_bound", "last_hlcs"]


def admit(
    payload: bytes, rights: Rights, wall_ms: int, origin: bytes | None, sender: bytes | None
) -> tuple[Bundle, Applied]:
    """Read a bundle, a live batch of `origin` or a catch-up chunk of `sender`, and leaves out what that one may not tell.

    Raises:
        DecodeError: not a bundle.
        BatchRefusedError: a live batch with a forged site or a stamp from the future.
    """
    bundle = Bundle.decode(payload)
    forbidden = rights.drop_forbidden(bundle, origin or sender or b"")
    check_facts(bundle)
    applied = Applied(changes=sum(section.rows for section in bundle.sections), forbidden=forbidden)
    if origin is None:
        applied.windows = [(section.table, *window) for section in bundle.sections for window in section.ranges]
        applied.refused = _drop_future(bundle, wall_ms)
    else:
        _check_sites(bundle, origin, wall_ms)
    return bundle, applied


def _check_sites(bundle: Bundle, origin: bytes, wall_ms: int) -> None:
    """Refuses a live batch as a whole: its ranges may not be covered if any of it is left out."""
    bound = future_bound(wall_ms)
    for section in bundle.sections:
        sites = [site for site, _, _ in section.ranges] + [group.site for group in section.groups]
        if any(site[:SITE_PREFIX] != origin[:SITE_PREFIX] for site in sites):
            raise BatchRefusedError(f"{section.table}: stamped with a site that is not its sender's")
        newest = max([upto for _, _, upto in section.ranges] + [group.hlcs[-1] for group in section.groups], default=0)
        if newest > bound:
            ahead_s = (ms_from_hlc(newest) - wall_ms) / 1000
            raise BatchRefusedError(
                f"{section.table}: stamped {ahead_s:.0f} s ahead of this clock; set the sender's clock"
            )


def _drop_future(bundle: Bundle, wall_ms: int) -> int:
    """Take groups with stamps too far ahead out of a catch-up chunk; returns how many changes that are."""
    bound = future_bound(wall_ms)
    refused = 0
    for section in bundle.sections:
        refused += sum(len(group.hlcs) for group in section.groups if group.hlcs[-1] > bound)
        section.groups = [group for group in section.groups if group.hlcs[-1] <= bound]
        section.ranges = []  # a chunk covers nothing; the round's end does
    return refused


def last_hlcs(bundle: Bundle, site: bytes) -> dict[str, int]:
    """Return by table the greatest hlc of one site in a bundle, 0 without any."""
    return {
        section.table: max((group.hlcs[-1] for group in section.groups if group.site == site), default=0)
        for section in bundle.sections
    }


def future_bound(wall_ms: int) -> int:
    """Return the highest stamp that is taken at a wall time."""
    return hlc_from_ms(wall_ms + DRIFT_MS_MAX) | 0xFFFF
