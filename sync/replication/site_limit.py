"""Limit on the sites that a replica takes in: each costs an entry in a version vector, for good.

A file takes another site when it is restored or its clock was wrong, so a node needs few. The site of a change is an
8-byte prefix of its node's id and 8 bytes that the node chooses, so without a limit a member could name any number. A table
that is cut has a site of each node for each area that it writes; they are counted by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.storage.areas import area_numbers
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Bundle, Section
from mycomesh.sync.wire.units import split_unit

__all__ = ["NODE_AREA_SITES_MAX", "NODE_SITES_MAX", "SITES_MAX", "limit_sites", "refused_sites"]

# Sites of one node: its files, one after the other, and the restored backups of each.
NODE_SITES_MAX = 64
# Sites of areas of one node: a base that writes to each of ten thousand vehicles. Four such nodes fill `SITES_MAX`.
NODE_AREA_SITES_MAX = 16_384
# Sites in all: a table's vector then has 2 MB on the wire. A mesh of 1,024 members that all changed 63 times has as many.
SITES_MAX = 65_536


def refused_sites(store: Store, sites: Iterable[bytes], of_areas: Collection[bytes] = ()) -> set[bytes]:
    """Return those of the sites that the file does not know and has no room for; `of_areas` are those that write areas."""
    unknown = [site for site in dict.fromkeys(sites) if store.site_number(site) is None]
    if not unknown:
        return set()
    known = store.sites
    room = SITES_MAX - len(known)
    members = Counter(site[:SITE_PREFIX] for site in unknown)
    if room >= len(unknown) and all(
        store.sites_of_node(member) + more <= NODE_SITES_MAX for member, more in members.items()
    ):
        return set()  # whichever of them write areas, and without a look at the sites of all others
    areas = area_numbers(store)
    count = Counter((site[:SITE_PREFIX], number in areas) for number, site in enumerate(known))
    refused = set()
    for site in unknown:
        kind = site[:SITE_PREFIX], site in of_areas
        if room > 0 and count[kind] < (NODE_AREA_SITES_MAX if kind[1] else NODE_SITES_MAX):
            count[kind] += 1
            room -= 1
        else:
            refused.add(site)
    return refused


def limit_sites(store: Store, bundle: Bundle, *, live: bool) -> int:
    """Remove the changes and priors of sites for which the file has no room; return how many changes were removed.

    Raises:
        BatchRefusedError: a live batch has changes of such a site. Its ranges must not be covered without them.
    """
    of_areas = {site for section in bundle.sections if split_unit(section.table) for site in _sites_of_section(section)}
    refused = refused_sites(store, _sites_of(bundle), of_areas)
    if not refused:
        return 0
    if live and any(site in refused for section in bundle.sections for site, _, _ in section.ranges):
        raise BatchRefusedError(
            f"this file has no room for its site: {NODE_SITES_MAX} sites a node, {SITES_MAX} in all"
        )
    return _drop_sites(bundle, refused)


def _sites_of(bundle: Bundle) -> Iterator[bytes]:
    """Yield every site that a bundle names, some of them several times."""
    for section in bundle.sections:
        yield from _sites_of_section(section)
        for group in section.groups:
            if group.priors is not None:
                for parts in group.priors:
                    for _, site, _ in parts:
                        yield site


def _sites_of_section(section: Section) -> Iterator[bytes]:
    yield from (site for site, _, _ in section.ranges)
    yield from (group.site for group in section.groups)


def _drop_sites(bundle: Bundle, refused: set[bytes]) -> int:
    dropped = 0
    for section in bundle.sections:
        dropped += sum(len(group.hlcs) for group in section.groups if group.site in refused)
        section.groups = [group for group in section.groups if group.site not in refused]
        section.ranges = [window for window in section.ranges if window[0] not in refused]
        for group in section.groups:
            if group.priors is not None:
                group.priors = [[part for part in parts if part[1] not in refused] for parts in group.priors]
    return dropped
