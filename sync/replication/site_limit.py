"""Limit on the sites that a replica takes in: each costs an entry in every version vector, for good.

A file takes another site when it is restored or its clock was wrong, so a node needs few. The site of a change is an
8-byte prefix of its node's id and 8 bytes that the node chooses, so without a limit a member could name any number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.storage.store import Store
from mycomesh.sync.wire.bundle import Bundle

__all__ = ["NODE_SITES_MAX", "SITES_MAX", "limit_sites", "refused_sites"]

# Sites of one node: its files, one after the other, and the restored backups of each.
NODE_SITES_MAX = 64
# Sites in all: a table's vector then has 2 MB on the wire. A mesh of 1,024 members that all changed 63 times has as many.
SITES_MAX = 65_536


def refused_sites(store: Store, sites: Iterable[bytes]) -> set[bytes]:
    """Return those of the sites that the file does not know and has no room for."""
    unknown = [site for site in dict.fromkeys(sites) if store.site_number(site) is None]
    if not unknown:
        return set()
    known = store.sites
    room = SITES_MAX - len(known)
    count = Counter(site[:SITE_PREFIX] for site in known)
    refused = set()
    for site in unknown:
        prefix = site[:SITE_PREFIX]
        if room > 0 and count[prefix] < NODE_SITES_MAX:
            count[prefix] += 1
            room -= 1
        else:
            refused.add(site)
    return refused


def limit_sites(store: Store, bundle: Bundle, *, live: bool) -> int:
    """Remove the changes and priors of sites for which the file has no room; return how many changes were removed.

    Raises:
        BatchRefusedError: a live batch has changes of such a site. Its ranges must not be covered without them.
    """
    refused = refused_sites(store, _sites_of(bundle))
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
        for site, _, _ in section.ranges:
            yield site
        for group in section.groups:
            yield group.site
            if group.priors is not None:
                for parts in group.priors:
                    for _, site, _ in parts:
                        yield site


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
