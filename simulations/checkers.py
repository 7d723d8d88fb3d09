"""What must hold after a run: design.md section 8, invariants 1-3, against the users' own history.

Owns the verdict. What always holds: a checker reads databases as any client would and the oracle, never the state
of a core; each violation is one line that names the node, the table and the value. Must not know the scenario.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.simulations.oracle import Oracle, text_of, tokens_in

if TYPE_CHECKING:
    import apsw

    from mycomesh.simulations.cluster import Cluster, Host

__all__ = ["agreed", "contents_of", "digests", "history_violations", "violations"]

COPYING = ("restore", "clone", "power_cut")
SPREAD_US = 2_000_000  # a revocation has reached every member in reach after this long
USER_TABLES = """
SELECT name FROM sqlite_schema
WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"""
REPAIRED = "warning: repair.done"
LISTED_MAX = 20  # violations that a result spells out; more of them say the same
# Where a write that is not visible may be.
TRACES = (("mycomesh_conflicts", "lost"), ("mycomesh_parked", "content"), ("mycomesh_held", "content"))


def digests(place: Host) -> tuple[tuple[str, bytes], ...]:
    """The digest of each replicated table, as the node itself compares it with its peers."""
    assert place.shell is not None
    return tuple((digest.table, digest.entries) for digest in place.shell.replica.digests())


def agreed(cluster: Cluster) -> bool:
    """Whether all nodes are up and have equal digests, with nothing captured but not drained."""
    members = cluster.members()
    if not all(place.shell is not None and place.shell.up for place in members):
        return False
    first = digests(members[0])
    return all(digests(place) == first for place in members[1:])


def violations(cluster: Cluster) -> list[str]:
    """Everything that is wrong after the run, one line each, at most `LISTED_MAX` and a count."""
    found = [
        f"node {place.index}: is down at the end"
        for place in cluster.places
        if place.shell is None or not place.shell.up
    ]
    found += cluster.failures
    found += repairs(cluster)
    contents = [(place, contents_of(place.application.db)) for place in cluster.up() if place in cluster.members()]
    if contents:
        found += _unequal(contents)
        visible: Counter[int] = Counter()
        for rows in contents[0][1].values():
            visible.update(token for row in rows for value in row for token in tokens_in(value))
        traced: dict[int, None] = {}
        for place, _ in contents:
            traced.update(dict.fromkeys(traced_in(place.application.db)))
        found += history_violations(cluster.oracle, visible, traced)
        found += strangers(cluster, visible)
        found += miscounted(cluster, contents[0][1])
    if len(found) > LISTED_MAX:
        found[LISTED_MAX:] = [f"and {len(found) - LISTED_MAX} more"]
    return found


def strangers(cluster: Cluster, visible: Counter[int]) -> list[str]:
    """Invariant 7 for members that were revoked: nothing of theirs is taken after that, and nothing is told to them."""
    found = []
    for node, revoked_us in cluster.revoked.items():
        place = cluster.places[node]
        rows = contents_of(place.application.db) if place.application.running else {}
        there = {token for table in rows.values() for row in table for value in row for token in tokens_in(value)}
        for token, written in cluster.oracle.written.items():
            if written.at_us <= revoked_us + SPREAD_US:
                continue
            at = f"written {text_of(token)} {(written.at_us - revoked_us) / 1e6:.1f} s after node {node} was revoked"
            if written.node == node and visible[token]:
                found.append(f"{written.table}.{written.column} of row {written.key}, {at} and by it: a member took it")
            elif written.node != node and token in there:
                found.append(f"{written.table}.{written.column} of row {written.key}, {at}: it was told")
    return found


def miscounted(cluster: Cluster, rows: dict[str, list[tuple[object, ...]]]) -> list[str]:
    """Counters that do not show what was counted: each count once.

    A file that went back in time takes counts along, and a copy tells its own again: nothing is said of such runs.
    """
    if any(cluster.network.faults[kind] for kind in (*COPYING, "revoke")):
        return []
    shown = {row[0]: row[1] for row in rows.get("stock", [])}
    return [
        f"stock.n of {item}: shows {shown.get(item)}, all counts come to {total}"
        for item, total in sorted(cluster.oracle.counts.items())
        if shown.get(item) != total
    ]


def repairs(cluster: Cluster) -> list[str]:
    """Entries that a node had to fetch by a Merkle repair, though no file was damaged: a vector covered what was not held.

    A file that was copied or went back in time is mended that way, and rightly so: nothing is said of such runs.
    """
    if any(cluster.network.faults[kind] for kind in COPYING):
        return []
    found = []
    for place in cluster.places:
        done = place.notices[REPAIRED] + (place.shell.notices[REPAIRED] if place.shell is not None else 0)
        if done:
            found.append(f"node {place.index}: {done} repair(s) of entries that its vector covered and it did not hold")
    return found


def contents_of(db: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every user table, its rows in an order that depends on their values alone."""
    contents: dict[str, list[tuple[object, ...]]] = {}
    for table in [str(name) for (name,) in db.execute(USER_TABLES)]:
        # By name: columns that two sides added during a split stand in another order on each.
        columns = [
            f'"{name}"' for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY name", (table,))
        ]
        order = ", ".join(f"typeof({name}), {name}" for name in columns)
        contents[table] = db.execute(f'SELECT {", ".join(columns)} FROM "{table}" ORDER BY {order}').fetchall()
    return contents


def content_hash(contents: dict[str, list[tuple[object, ...]]]) -> str:
    """One hash of all user tables."""
    return blake2b(repr(sorted(contents.items())).encode(), digest_size=16).hexdigest()


def traced_in(db: apsw.Connection) -> list[int]:
    """The tokens that this replica holds without showing them: conflicts, parked and held values."""
    tokens: list[int] = []
    for table, column in TRACES:
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table,)).fetchone() is not None:
            for (value,) in db.execute(f"SELECT {column} FROM {table} ORDER BY 1"):
                tokens += tokens_in(value)
    return tokens


def _unequal(contents: list[tuple[Host, dict[str, list[tuple[object, ...]]]]]) -> list[str]:
    """Invariant 1: byte-for-byte equal user tables."""
    found = []
    first, expected = contents[0]
    for place, rows in contents[1:]:
        for table in sorted({*expected, *rows}):
            here, there = Counter(rows.get(table, [])), Counter(expected.get(table, []))
            if here != there:
                extra, missing = list(here - there), list(there - here)
                found.append(
                    f"node {place.index}: {table} differs from node {first.index}: {len(missing)} rows missing, "
                    f"{len(extra)} extra, e.g. {(missing or extra)[0]}"
                )
    return found


def history_violations(oracle: Oracle, visible: Counter[int], traced: dict[int, None]) -> list[str]:
    """Invariants 2 and 3: nothing lost, nothing resurrected, nothing twice."""
    found = []
    for token, written in oracle.written.items():
        count = visible[token]
        where = (
            f"{written.table}.{written.column} of row {written.key}, written {text_of(token)} at node {written.node}"
        )
        at = f"at {written.at_us / 1e6:.3f} s"
        if count > (2 if token in oracle.doubled else 1):
            found.append(f"{where} {at}: is there {count} times")
        elif count == 1 and oracle.replaced(token) and token not in oracle.doubled:
            by = ", ".join(_name(oracle, late) for late in written.seen_by)
            found.append(f"{where} {at}: visible although replaced or deleted by {by} who saw it")
        elif count == 0 and not (written.seen_by or token in traced or token in oracle.excused):
            found.append(f"{where} {at}: lost (not visible, nobody replaced it, not in conflicts, not parked)")
    return found


def _name(oracle: Oracle, token: int) -> str:
    """A later write, for a person."""
    if token in oracle.deletes:
        return f"delete {text_of(token)} at node {oracle.deletes[token][0]}"
    later = oracle.written[token]
    return f"{text_of(token)} at node {later.node}"
