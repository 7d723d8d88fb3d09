"""Checks the invariants of design.md section 8 after a run, against the oracle's history.

The checkers read the oracle, and the databases as any client would, never the state of a core. Each violation is one line that
names the node, the table and the value.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.simulations.oracle import Oracle, kept_tokens, text_of, tokens_in
from mycomesh.simulations.traitor import FORGED, HIDDEN
from mycomesh.simulations.workload import CUT, REPORTS, RETAINED
from mycomesh.sync.exchange.area_release import COPIES
from mycomesh.sync.wire.units import NO_AREA, area_of, split_unit

if TYPE_CHECKING:
    import apsw

    from mycomesh.simulations.cluster import Cluster, Host

__all__ = ["checks_causality", "contents_of", "converged", "digests", "history_violations", "violations"]

AREA_AT = 1  # of `drone_id` among the columns of `drones`, by name
COPYING = ("restore", "clone", "power_cut")
LYING = "betray"
LATE_MS = 4_000  # a row may stay for a step of the horizon longer, and counts from its stamp
SPREAD_US = 2_000_000  # after this time a revocation has arrived at every reachable member
USER_TABLES = """
SELECT name FROM sqlite_schema
WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE 'mycomesh\\_%' ESCAPE '\\' ORDER BY name"""
REPAIRED = "warning: repair.done"
LISTED_MAX = 20  # violations in a result; more of them would say the same


def digests(host: Host) -> tuple[tuple[str, bytes], ...]:
    """Return the digests of all replicated tables, which nodes compare with their peers."""
    assert host.shell is not None
    return tuple((digest.table, digest.entries) for digest in host.shell.replica.digests())


def doubted(cluster: Cluster) -> frozenset[str]:
    """Return the tables of which a traitor's claims wait for a person: its lies leave those unequal, and nothing is lost."""
    if not cluster.traitors:
        return frozenset()
    return frozenset(
        name for host in cluster.members() if host.shell is not None for name in host.shell.replica.drop_guard.waiting()
    )


def converged(cluster: Cluster) -> bool:
    """Return whether all members are up and have equal digests, which also means that all captured writes are drained."""
    members = cluster.members()
    if cluster.ordering() or not all(host.shell is not None and host.shell.up for host in members):
        return False
    beside = doubted(cluster)
    if cluster.areas:
        return _areas_converged(cluster)
    each = ([digest for digest in digests(host) if digest[0] not in beside] for host in members)
    first = next(each)
    return all(other == first for other in each)  # up to the first that differs


def _areas_converged(cluster: Cluster) -> bool:
    """Return whether members are equal in each unit that both keep, and hold no area that enough others keep.

    Left out is what nobody takes from a node: `differs`, and `strays` where digests differ.
    """
    by_unit: dict[str, dict[int, bytes]] = {}
    for host in cluster.members():
        assert host.shell is not None
        held = [unit.area for unit in host.shell.replica.releases.held() if not differs(cluster, host, unit.area)]
        if any(has_copies(cluster, host, area) for area in held):
            return False
        for name, entries in digests(host):
            by_unit.setdefault(name, {})[host.index] = entries
    for name, found in by_unit.items():
        area = (split_unit(name) or ("", None))[1]
        keepers = [host for host in cluster.members() if keeps(host, area) and not differs(cluster, host, area)]
        if _differ(keepers, found) and _differ([host for host in keepers if not strays(cluster, host, area)], found):
            return False
    return True


def _differ(hosts: list[Host], found: dict[int, bytes]) -> bool:
    """Return whether the digests of one unit differ between some nodes."""
    return len({found.get(host.index) for host in hosts}) > 1


def has_copies(cluster: Cluster, host: Host, area: str | None) -> bool:
    """Return whether so many members that a node reaches keep an area that it has to release it; no base asks over a mailbox."""
    near = [each for each in cluster.members() if cluster.bases.get(each.index) == cluster.bases.get(host.index)]
    return sum(keeps(each, area) and may_write(cluster, each, area) for each in near) >= COPIES


def may_write(cluster: Cluster, host: Host, area: str | None) -> bool:
    """Return whether others take an area of the table that is cut from a node."""
    areas = cluster.writes[host.index] if cluster.writes else None
    return areas is None or area in areas


def differs(cluster: Cluster, host: Host, area: str | None) -> bool:
    """Return whether a node has written to an area that nobody takes from it: it has what no other node has."""
    return (host.index, area or "") in cluster.oracle.unequal


def strays(cluster: Cluster, host: Host, area: str | None) -> bool:
    """Return whether a node that may only read an area differs just by writes and deletes that went with their writer's old file.

    Nobody takes those from it (docs/LIMITS.md). Nothing is held against a row that may be there twice.
    """
    if area is None or may_write(cluster, host, area) or not cluster.network.faults["restore"]:
        return False
    writer = next((each for each in cluster.members() if keeps(each, area) and may_write(cluster, each, area)), None)
    if writer is None:
        return False
    oracle = cluster.oracle
    here, there = (Counter(_rows_of(each, area)) for each in (host, writer))
    if here == there:  # a row that went with the file may have been deleted before
        lost = [oracle.deletes[token] for token in oracle.rolled_back if token in oracle.deletes]
        return any(each.row[0] == CUT and may_write(cluster, cluster.hosts[each.node], area) for each in lost)
    extra = all(token in oracle.rolled_back or token in oracle.duplicable for token in _tokens(here - there))
    missing = all(
        token in oracle.duplicable or any(by in oracle.rolled_back for by in oracle.written[token].seen_by)
        for token in _tokens(there - here)
    )
    return extra and missing


def _rows_of(host: Host, area: str | None) -> list[tuple[object, ...]]:
    """Return the rows of one area of the table that is cut."""
    return [row for row in contents_of(host.application.db).get(CUT, []) if area_of(row[AREA_AT]) == area]


def keeps(host: Host, area: str | None) -> bool:
    """Return whether a node keeps an area of the table that is cut; True for rows of no area."""
    return area in (None, NO_AREA) or host.keeps is None or area in host.keeps


def violations(cluster: Cluster) -> list[str]:
    """Return all violations after a run, one line each: at most `LISTED_MAX` and a count of the others."""
    found = [
        f"node {host.index}: is down at the end" for host in cluster.hosts if host.shell is None or not host.shell.up
    ]
    found += cluster.failures
    found += repair_violations(cluster)
    found += causality_violations(cluster)
    contents = [(host, contents_of(host.application.db)) for host in cluster.up() if host in cluster.members()]
    if contents:
        beside = doubted(cluster)
        found += _unequal_tables([(host, _without(rows, beside)) for host, rows in contents], cluster)
        found += forged_violations(contents)
        found += rights_violations(cluster, contents)
        visible: Counter[int] = Counter()
        for name in contents[0][1]:
            # Of a table in doubt, what all show: where a delete was left out, on false word of its sender, the row stays.
            showing = contents if name in beside else contents[:1]
            shown = [Counter(_tokens(tables.get(name, []))) for _, tables in showing]
            visible += functools.reduce(operator.and_, shown)
        kept: dict[int, None] = {}
        for host, _ in contents:
            kept.update(dict.fromkeys(kept_tokens(host.application.db)))
        for _, tables in contents:
            for name in sorted(beside):
                kept.update(dict.fromkeys(_tokens(tables.get(name, []))))
        for host in cluster.hosts:
            if host.shell is not None and host.shell.traitor is not None:
                cluster.oracle.made_up.update(host.shell.traitor.made_up)
        found += retention_violations(cluster, visible)
        found += history_violations(cluster.oracle, visible, kept)
        found += revocation_violations(cluster, visible)
        found += purge_violations(cluster, visible)
        found += counter_violations(cluster, contents[0][1])
        found += numbering_violations(cluster.oracle, visible)
    undone = cluster.oracle.undone()
    for host in cluster.members():
        for reader in host.readers:
            found += reader.violations(cluster.oracle.excused, undone)
    if len(found) > LISTED_MAX:
        found[LISTED_MAX:] = [f"and {len(found) - LISTED_MAX} more"]
    return found


def _tokens(rows: Iterable[tuple[object, ...]]) -> Iterator[int]:
    """Return the tokens of the values of some rows."""
    return (token for row in rows for value in row for token in tokens_in(value))


def forged_violations(contents: list[tuple[Host, dict[str, list[tuple[object, ...]]]]]) -> list[str]:
    """Return the rows that a traitor brought in the name of a node that never wrote them."""
    return [
        f"node {host.index}: {table} has {row}, which a traitor wrote in another's name"
        for host, rows in contents
        for table, listed in sorted(rows.items())
        for row in listed
        if FORGED in row
    ]


def rights_violations(cluster: Cluster, contents: list[tuple[Host, dict[str, list[tuple[object, ...]]]]]) -> list[str]:
    """Return the rows of areas that their writer may not write, on other nodes than its own.

    A row that has moved may have come to the area by a move that another node was allowed to make.
    """
    oracle, found = cluster.oracle, []
    for host, rows in contents if cluster.writes else ():
        for row in rows.get(CUT, []):
            tokens = [token for value in row for token in tokens_in(value)]
            writers = [
                oracle.written[token].node
                for token in tokens
                if token in oracle.refused and token not in oracle.duplicable
            ]
            if HIDDEN in row or any(writer != host.index for writer in writers):
                area = area_of(row[AREA_AT])
                found.append(f"node {host.index}: {CUT} has {row} in area {area}, which its writer may not write")
    return found


def revocation_violations(cluster: Cluster, visible: Counter[int]) -> list[str]:
    """Return violations of invariant 7: a member applied a write of a revoked node, or a revoked node received one."""
    found = []
    for node, revoked_us in cluster.revoked.items():
        if (
            node in cluster.purged
        ):  # members that a split keeps from the order may go on with it, until they learn of it
            continue
        host = cluster.hosts[node]
        rows = contents_of(host.application.db) if host.application.running else {}
        received = {token for table in rows.values() for row in table for value in row for token in tokens_in(value)}
        for token, written in cluster.oracle.written.items():
            if written.at_us <= revoked_us + SPREAD_US:
                continue
            at = f"written {text_of(token)} {(written.at_us - revoked_us) / 1e6:.1f} s after node {node} was revoked"
            if written.node == node and visible[token]:
                found.append(
                    f"{written.table}.{written.column} of row {written.key}, {at} and by it: a member applied it"
                )
            elif written.node != node and token in received:
                found.append(
                    f"{written.table}.{written.column} of row {written.key}, {at}: the revoked node received it"
                )
    return found


def purge_violations(cluster: Cluster, visible: Counter[int]) -> list[str]:
    """Return the writes of a purged node that members still show."""
    return [
        f"{written.table}.{written.column} of row {written.key}, written {text_of(token)} by the purged node {written.node}:"
        " is still there"
        for token, written in cluster.oracle.written.items()
        if visible[token] and written.at_us > cluster.purged.get(written.node, sys.maxsize - SPREAD_US) + SPREAD_US
    ]


def retention_violations(cluster: Cluster, visible: Counter[int]) -> list[str]:
    """Return the rows that are older than the horizon and still there; excuse those that are gone with time.

    Where clocks were wrong, rows count from what these have stamped, and may stay longer.
    """
    found = []
    late_ms = sys.maxsize if cluster.network.faults["clock"] else LATE_MS
    for token, written in cluster.oracle.written.items() if cluster.retain_ms else ():
        age_ms = (cluster.now_us - written.at_us) // 1_000
        if written.table != RETAINED or age_ms < cluster.retain_ms:
            continue
        cluster.oracle.excused[token] = None
        moved = token in cluster.oracle.duplicable  # a row that has moved to another area counts from then
        if visible[token] and age_ms > cluster.retain_ms + late_ms and not moved:
            found.append(
                f"{RETAINED}: {text_of(token)} of node {written.node} is {age_ms / 1_000:.1f} s old and still there"
            )
    return found


def counter_violations(cluster: Cluster, rows: dict[str, list[tuple[object, ...]]]) -> list[str]:
    """Return the counters whose value differs from the sum of all increments.

    Runs with restored or copied files are not checked: the one loses increments, the other sends its own again. Nor are runs
    with a traitor, which may count what it likes.
    """
    if any(cluster.network.faults[kind] for kind in (*COPYING, "revoke", LYING)):
        return []
    actual = {row[0]: row[1] for row in rows.get("stock", [])}
    return [
        f"stock.n of {item}: is {actual.get(item)}, but the sum of all increments is {total}"
        for item, total in sorted(cluster.oracle.counts.items())
        if actual.get(item) != total
    ]


def numbering_violations(oracle: Oracle, visible: Counter[int]) -> list[str]:
    """Return the rows of a table with own ids that are not there: another node has given their id to its own row."""
    return [
        f"tickets: node {written.node} numbered {text_of(token)} as {written.key}, and the row is gone"
        for token, written in oracle.written.items()
        if written.table == "tickets" and token not in oracle.excused and not visible[token]
    ]


def repair_violations(cluster: Cluster) -> list[str]:
    """Return the repairs of nodes whose files were not damaged: their vectors covered entries that they did not have.

    Runs with restored or copied files are not checked, because they need repairs, nor those with a purge, which leaves nodes
    different that had received different writes, nor those with a traitor, which can claim to cover what it withholds.
    """
    # Repairs bring back the rows that a pin has removed.
    if any(cluster.network.faults[kind] for kind in (*COPYING, LYING, "purge", "pin")):
        return []
    found = []
    for host in cluster.hosts:
        done = host.notices[REPAIRED] + (host.shell.notices[REPAIRED] if host.shell is not None else 0)
        if done:
            found.append(f"node {host.index}: {done} repair(s) of entries that its vector covered but it did not have")
    return found


def checks_causality(cluster: Cluster) -> bool:
    """Return whether `causality_violations` may hold anything against a run, so that logs have to be read while it goes on.

    Not checked: runs with copied files and traitors, as in `repair_violations`, and where rows go without a later change, by
    their age, with their area or by a purge.
    """
    kinds = (*COPYING, LYING, "purge")
    return not (cluster.retain_ms or cluster.areas or any(cluster.network.faults[kind] for kind in kinds))


def causality_violations(cluster: Cluster) -> list[str]:
    """Return what replicas covered for a while without having it, or what replaced it."""
    return cluster.causality.violations if checks_causality(cluster) else []


def contents_of(db: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return all user tables, with rows in an order that depends on their values alone."""
    contents: dict[str, list[tuple[object, ...]]] = {}
    for table in [str(name) for (name,) in db.execute(USER_TABLES)]:
        # By name: columns that two sides added during a split have a different order on each.
        if table in REPORTS:  # of the node's own readers
            continue
        columns = [
            f'"{name}"' for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY name", (table,))
        ]
        order = ", ".join(f"typeof({name}), {name}" for name in columns)
        contents[table] = db.execute(f'SELECT {", ".join(columns)} FROM "{table}" ORDER BY {order}').fetchall()
    return contents


def content_hash(contents: dict[str, list[tuple[object, ...]]]) -> str:
    """Return one hash of all user tables."""
    return blake2b(repr(sorted(contents.items())).encode(), digest_size=16).hexdigest()


def _without(rows: dict[str, list[tuple[object, ...]]], names: frozenset[str]) -> dict[str, list[tuple[object, ...]]]:
    return {table: listed for table, listed in rows.items() if table not in names}


def _unequal_tables(contents: list[tuple[Host, dict[str, list[tuple[object, ...]]]]], cluster: Cluster) -> list[str]:
    """Return violations of invariant 1: user tables are equal byte for byte.

    Of a table that is cut a node has the areas that it keeps, and perhaps rows of those that too few others keep.
    """
    found = []
    first, expected = contents[0]
    for host, rows in contents[1:]:
        for table in sorted({*expected, *rows}):
            actual, wanted = Counter(rows.get(table, [])), Counter(expected.get(table, []))
            if cluster.areas and table == CUT:
                unequal = {area_of(row[AREA_AT]) for row in (actual - wanted) + (wanted - actual)}
                strayed = {area for area in unequal if keeps(host, area) and strays(cluster, host, area)}
                areas = {row: area_of(row[AREA_AT]) for row in actual | wanted}
                alone = {row for row, area in areas.items() if area in strayed or differs(cluster, host, area)}
                actual, wanted = (
                    Counter({row: n for row, n in each.items() if row not in alone}) for each in (actual, wanted)
                )
                wanted = Counter(row for row in wanted.elements() if keeps(host, area_of(row[AREA_AT])))
                scarce = [row for row in actual if not has_copies(cluster, host, area_of(row[AREA_AT]))]
                actual -= Counter(
                    dict.fromkeys((row for row in scarce if not keeps(host, area_of(row[AREA_AT]))), 1 << 30)
                )
            if actual != wanted:
                extra, missing = list(actual - wanted), list(wanted - actual)
                found.append(
                    f"node {host.index}: {table} differs from node {first.index}: {len(missing)} rows missing, "
                    f"{len(extra)} extra, e.g. {(missing or extra)[0]}"
                )
    return found


def history_violations(oracle: Oracle, visible: Counter[int], kept: dict[int, None]) -> list[str]:
    """Return violations of invariants 2 and 3: no write is lost, resurrected or duplicated."""
    found = []
    for token, written in oracle.written.items():
        if written.node in oracle.traitors:
            continue  # it can do what it likes with its own rows
        count = visible[token]
        where = (
            f"{written.table}.{written.column} of row {written.key}, written {text_of(token)} at node {written.node}"
        )
        at = f"at {written.at_us / 1e6:.3f} s"
        if count > (2 if token in oracle.duplicable else 1):
            found.append(f"{where} {at}: is there {count} times")
        elif (
            count == 1
            and oracle.is_replaced(token)
            and token not in oracle.duplicable
            and not oracle.is_uncovered(token, visible)
        ):
            by = ", ".join(_name(oracle, late) for late in written.seen_by)
            found.append(f"{where} {at}: visible although replaced or deleted by {by} who saw it")
        elif count == 0 and not (written.seen_by or token in kept or token in oracle.excused):
            found.append(f"{where} {at}: lost (not visible, not replaced, not in conflicts, not parked)")
    return found


def _name(oracle: Oracle, token: int) -> str:
    """Return a short description of a later write."""
    if token in oracle.deletes:
        return f"delete {text_of(token)} at node {oracle.deletes[token][0]}"
    later = oracle.written[token]
    return f"{text_of(token)} at node {later.node}"
