"""Warning for `status`: which limit of the state comes near, long before it is reached."""

from __future__ import annotations

from collections import Counter

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.replication.site_limit import NODE_AREA_SITES_MAX, NODE_SITES_MAX, SITES_MAX
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.storage.areas import area_numbers
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.parts import PART_TABLES_MAX

__all__ = ["near_limit"]

# Warn at a quarter of a limit on sites, which only grow, and at half of the others.
SITES_SHARE = 4
SHARE = 2


def near_limit(store: Store, registry: Registry) -> str:
    """Return one line about the first limit that comes near, "" if none does."""
    areas = area_numbers(store)  # sites of areas have a limit of their own
    sites = Counter(site[:SITE_PREFIX] for number, site in enumerate(store.sites) if number not in areas)
    prefix, most = max(sites.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))
    records, size = store.conflict_room.left
    limits = store.conflict_room.limits
    if most >= NODE_SITES_MAX // SITES_SHARE:
        return (
            f"node {prefix.hex()[:8]} has written under {most} sites, of {NODE_SITES_MAX} that nodes take in: a restored"
            " file has a new one; before the last, join it to the mesh as another node"
        )
    of_areas = Counter(store.site(number)[:SITE_PREFIX] for number in areas)
    prefix, most = max(of_areas.items(), key=lambda item: (item[1], item[0]), default=(b"", 0))
    if most >= NODE_AREA_SITES_MAX // SHARE:
        return (
            f"node {prefix.hex()[:8]} has written to {most} areas, of {NODE_AREA_SITES_MAX} that nodes take in: cut tables by a"
            " column with fewer values"
        )
    if len(store.sites) >= SITES_MAX // SITES_SHARE:
        return (
            f"the file knows {len(store.sites)} sites, of {SITES_MAX} that nodes take in: each file that a node ever served"
            " has one, and one for each area that it wrote; before the last, begin a new mesh"
        )
    if len(registry.tables) >= PART_TABLES_MAX // SHARE:
        return (
            f"{len(registry.tables)} tables are replicated: each comparison sends 40 bytes a table and link, and nodes of"
            f" version 0.1 compare {PART_TABLES_MAX}"
        )
    if records < limits.records // SHARE or size < limits.size // SHARE:
        return "mycomesh_conflicts is more than half full, and its oldest records go first: see 'mycomesh conflicts'"
    return ""
