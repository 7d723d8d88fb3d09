"""Check a bundle from a peer before anything of it is applied.

There are three rules. A node may write only the tables for which it has the right. A live batch holds only stamps of the node
that signed it. No stamp lies far in the future.

Invariant: the replica does not cover what it refuses, so it stays missing here.
"""

from __future__ import annotations

from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX, SITE_PREFIX, UNSET_MS, hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema.facts import check_facts
from mycomesh.sync.wire.bundle import Bundle, Section

__all__ = ["admit", "clock_remedy", "future_bound", "last_hlc"]


def admit(
    payload: bytes, rights: Rights, wall_ms: int, origin: bytes | None, sender: bytes | None
) -> tuple[Bundle, Applied]:
    """Decode a bundle and remove the changes that its origin or sender may not write.

    Args:
        payload: an encoded bundle.
        rights: the rights of all nodes.
        wall_ms: wall time of this node.
        origin: 16-byte node id that signed a live batch; None for a catch-up chunk.
        sender: 16-byte node id of the peer that sent a catch-up chunk; None for a live batch.

    Raises:
        DecodeError: not a bundle.
        BatchRefusedError: a live batch with a forged site or a stamp from the future.
    """
    bundle = Bundle.decode(payload)
    forbidden = rights.drop_forbidden(bundle, origin or sender or b"", live=origin is not None)
    check_facts(bundle)
    applied = Applied(changes=sum(section.rows for section in bundle.sections), forbidden=forbidden)
    if origin is None:
        applied.windows = [(section.table, *window) for section in bundle.sections for window in section.ranges]
        applied.refused = _drop_future(bundle, wall_ms)
    else:
        _check_sites(bundle, origin, wall_ms)
    return bundle, applied


def _check_sites(bundle: Bundle, origin: bytes, wall_ms: int) -> None:
    """Refuse a live batch as a whole if any of it is wrong: its ranges must not be covered without all of its changes."""
    bound = future_bound(wall_ms)
    for section in bundle.sections:
        sites = [site for site, _, _ in section.ranges] + [group.site for group in section.groups]
        if any(site[:SITE_PREFIX] != origin[:SITE_PREFIX] for site in sites):
            raise BatchRefusedError(f"{section.table}: a change is stamped with a site of another node than its sender")
        newest = max([upto for _, _, upto in section.ranges] + [group.hlcs[-1] for group in section.groups], default=0)
        if newest > bound:
            ahead_s = (ms_from_hlc(newest) - wall_ms) / 1000
            raise BatchRefusedError(
                f"{section.table}: a change is stamped {ahead_s:.0f} s ahead of this clock; {clock_remedy(wall_ms)}"
            )


def _drop_future(bundle: Bundle, wall_ms: int) -> int:
    """Remove the groups of a catch-up chunk whose stamps lie too far ahead; return the number of changes removed."""
    bound = future_bound(wall_ms)
    refused = 0
    for section in bundle.sections:
        refused += sum(len(group.hlcs) for group in section.groups if group.hlcs[-1] > bound)
        section.groups = [group for group in section.groups if group.hlcs[-1] <= bound]
        section.ranges = []  # a chunk covers nothing: coverage follows at the end of the round
    return refused


def last_hlc(section: Section, site: bytes) -> int:
    """Return the greatest hlc of one site in a section, 0 if the site has no change there."""
    return max((group.hlcs[-1] for group in section.groups if group.site == site), default=0)


def clock_remedy(wall_ms: int) -> str:
    """Return what to do about stamps from the future, at a wall time of this node."""
    if wall_ms < UNSET_MS:
        return "this node's clock was never set: set it, or start its time service"
    return "set the sender's clock"


def future_bound(wall_ms: int) -> int:
    """Return the greatest hlc that a node accepts at a wall time."""
    return hlc_from_ms(wall_ms + DRIFT_MS_MAX) | 0xFFFF
