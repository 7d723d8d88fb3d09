"""Limit on the decisions that a replica takes in: policies, rules and interests, which each pass over the schema reads.

Definitions beyond their limits stay in the table of facts without effect (`schema.fact_limits`). A decision always has effect,
since a dropped column must not come back. So decisions are left out as they come, once there are more than an honest mesh has:
those of members that have stated many, and in the end all.
"""

from __future__ import annotations

from collections import Counter

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.schema.fact_limits import newest_stamps
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import DEFINITIONS
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Bundle, Kind, Section

__all__ = ["DECISIONS_MAX", "DECISIONS_OF_ALL_MAX", "MEMBER_DECISIONS", "limit_decisions"]

# A mesh of a thousand members with an interest each, and some hundred tables with some policies each. A pass takes 9 us of each,
# with the write lock: 37 ms, computed from 18 ms for 2,000.
DECISIONS_MAX = 4_096
MEMBER_DECISIONS = 1_024  # that a member may have made, beyond that
DECISIONS_OF_ALL_MAX = 2 * DECISIONS_MAX


def limit_decisions(table: Table | None, bundle: Bundle, *, live: bool) -> tuple[int, set[bytes]]:
    """Remove decisions for which the file has no room, and what their sites cover; return how many changes, and of which sites.

    Raises:
        BatchRefusedError: a live batch has such a decision. Its ranges must not be covered without it.
    """
    sections = [section for section in bundle.sections if section.table == SCHEMA_TABLE and _decides(section)]
    if not sections or table is None:
        return 0, set()
    more = sum(section.rows for section in sections)
    if table.log.staged_count + more <= DECISIONS_MAX:  # a fact has an entry at least: no need to count them
        return 0, set()
    marks = ", ".join("?" * len(DEFINITIONS))
    source = f"FROM {SCHEMA_TABLE} WHERE kind NOT IN ({marks})"
    (count,) = table.store.db.execute(f"SELECT count(*) {source}", DEFINITIONS).fetchone()
    if count + more <= DECISIONS_MAX:
        return 0, set()
    decided = {name for (name,) in table.store.db.execute(f"SELECT name {source} ORDER BY name", DEFINITIONS)}
    made = Counter(site[:SITE_PREFIX] for name, (_, site) in newest_stamps(table).items() if name in decided)
    for section in sections:
        for group in section.groups:
            made[group.site[:SITE_PREFIX]] += len(group.hlcs)
    full = count + more > DECISIONS_OF_ALL_MAX
    sites = {group.site for section in sections for group in section.groups}
    refused = {site for site in sites if full or made[site[:SITE_PREFIX]] > MEMBER_DECISIONS}
    if live and refused:
        raise BatchRefusedError(
            f"this mesh has {count:,} policies, rules and interests, so it takes no more of a member with {MEMBER_DECISIONS:,};"
            " 'mycomesh status --accounts' shows who has stated them"
        )
    return sum(_drop(section, refused) for section in sections), refused


def _decides(section: Section) -> bool:
    """Return whether a section of facts states decisions, not definitions alone. A delete makes room."""
    for group in section.groups:
        if group.kind is not Kind.DELETE and "kind" in group.columns:
            place = group.columns.index("kind")
            if any(row[place] not in DEFINITIONS for row in group.rows):
                return True
    return False


def _drop(section: Section, refused: set[bytes]) -> int:
    dropped = sum(len(group.hlcs) for group in section.groups if group.site in refused)
    section.groups = [group for group in section.groups if group.site not in refused]
    section.ranges = [window for window in section.ranges if window[0] not in refused]
    return dropped
