"""Wire form of changes: a bundle has one section a table, each with covered ranges and groups of similar changes.

The encoding is columnar (docs/PROTOCOL.md, "Bundle"). Changes of one site that own the same columns share one group, clocks
are sent as deltas, and an insert sends no key if its values contain the key.

Invariant: `decode(encode(x)) == x`, and `decode` returns only values that meet the shapes and limits of the protocol. Whether
they fit their tables is checked when they are merged.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.sqlite.raw_text import is_raw, is_valid_raw
from mycomesh.sync.wire.seals import Seal
from mycomesh.sync.wire.unread_rows import UnreadRows, read_bundle

__all__ = ["BUNDLE_BYTES_MAX", "SEALS", "Bundle", "Group", "Kind", "Part", "Section", "filtered"]

VERSION = 1
# A bundle must have room for one row with a blob of 16 MiB. SQLite's default limit is far higher, but it would exceed the
# memory of a small node.
BUNDLE_BYTES_MAX = 24 << 20
SITES_MAX = 4_096
SECTIONS_MAX = 1_024
GROUPS_MAX = 32_768  # an honest bundle has no more groups than the 2,048 changes of a chunk
ROWS_MAX = 65_536
COLUMNS_MAX = 2_000  # SQLite's own default
# The last section of a bundle with signed tables: an older version knows no such table, and ignores it. Its inserts are seals,
# one a row, by the last clock of each, in a column with the name of the table; its updates are certificates of their signers.
SEALS = "mycomesh_seals"
SIGNERS_MAX = 4_096  # one for each site
_CERTIFICATE = ("certificate",)
# Before the name of a table: a section with the priors of its deletes and inserts by column, which their own groups cannot name.
# An older version knows no such table, and ignores it.
SEEN_PREFIX = "mycomesh_seen:"

# One stamp that a change overwrote: (names of the columns where it did, None for all of the change's columns; site; hlc).
Part = tuple[tuple[str, ...] | None, bytes, int]


class Kind(enum.IntEnum):
    """The parts of a row that the changes of a group own."""

    UPDATE = 0  # columns
    INSERT = 1  # columns and the row's existence, which begins
    DELETE = 2  # the row's existence, which ends


@dataclass(slots=True)
class Group:
    """Changes of one site with one kind and one set of columns.

    site: 16 bytes.
    columns: sorted names.
    hlcs: strictly ascending clocks, one a change.
    keys: a list of the row keys, one a change; None if the values or the stamps name the rows.
    rows: a list with the values of each change in the order of `columns`; empty lists for DELETE. Of a large bundle that was
        received, keys and rows are `UnreadRows`.
    priors: the stamps that each change overwrote; None if no change overwrote any. A part of an insert or a delete may name
        columns that the group does not have: they travel in a section of their own.
    encoded: the elements of `rows` in CBOR, one after the other, if the caller has them already.
    """

    site: bytes
    kind: Kind
    columns: tuple[str, ...]
    hlcs: list[int]
    keys: Any
    rows: Any
    priors: list[list[Part]] | None
    encoded: bytes | None = None


@dataclass(slots=True)
class Section:
    """Changes of one table. The groups have everything of each range (site, after, upto]."""

    table: str
    ranges: list[tuple[bytes, int, int]]
    groups: list[Group] = field(default_factory=list)
    seals: list[Seal] = field(default_factory=list)  # of a signed table: they cover all its changes

    @property
    def rows(self) -> int:
        """The number of changes."""
        return sum(len(group.hlcs) for group in self.groups)


@dataclass(slots=True)
class Bundle:
    """Sections that are merged in one transaction; `signers` are certificates of those whose seals are in them."""

    sections: list[Section]
    signers: list[bytes] = field(default_factory=list)

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        site_numbers: dict[bytes, int] = {}
        own = {window[0] for section in self.sections for window in section.ranges}
        own |= {group.site for section in self.sections for group in section.groups}
        room = SITES_MAX - len(own)

        def site_number(site: bytes) -> int:
            return site_numbers.setdefault(site, len(site_numbers))

        def has_room(site: bytes) -> bool:
            nonlocal room
            if site in own:
                return True
            if room <= 0:
                return False
            own.add(site)
            room -= 1
            return True

        sections = []
        sealed = [section for section in self.sections if section.seals]
        every = [*self.sections, *_seen_sections(self.sections, SECTIONS_MAX - len(self.sections) - bool(sealed))]
        for section in [*every, _seals_section(sealed, self.signers)] if sealed else every:
            ranges = [[site_number(site), after, upto] for site, after, upto in section.ranges]
            groups = [_encode_group(group, site_number(group.site), site_number, has_room) for group in section.groups]
            head = [codec.encode(section.table), codec.encode(ranges)]
            sections.append(codec.encode_array([*head, codec.encode_array(groups)]))
        return codec.encode_array(
            [codec.encode(VERSION), codec.encode(list(site_numbers)), codec.encode_array(sections)]
        )

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Return the bundle in `data`; raise `DecodeError` for anything that the protocol does not allow."""
        limits = {"bytes_max": BUNDLE_BYTES_MAX, "groups_max": GROUPS_MAX, "rows_max": ROWS_MAX}
        value = read_bundle(data, version=VERSION, **limits)
        require(is_array(value, 3), "a bundle is not an array of 3")
        version, sites, sections = value
        require(is_int(version), "a bundle's version is not an integer")
        require(version == VERSION, f"bundle version {version} is not supported, only {VERSION}")
        require(is_array(sites) and len(sites) <= SITES_MAX, "malformed list of sites")
        require(all(is_bytes(site, 16) for site in sites), "a site is not 16 bytes")
        require(is_array(sections) and len(sections) <= SECTIONS_MAX, "malformed list of sections")
        found = [_decode_section(section, sites) for section in sections]
        signers = _take_seals(found) if found and found[-1].table == SEALS else []
        sections = _take_seen(found)
        return cls(sections, signers if any(section.seals for section in sections) else [])


def _encode_group(
    group: Group, site: int, site_number: Callable[[bytes], int], has_room: Callable[[bytes], bool]
) -> bytes:
    """Return the bytes of a group. A prior of a site for which the bundle has no room is left out."""
    hlcs = group.hlcs
    deltas = [hlcs[0], *map(int.__sub__, hlcs[1:], hlcs)]
    priors = None
    if group.priors is not None:
        numbers = {name: number for number, name in enumerate(group.columns)}
        priors = [
            [
                [None if names is None else [numbers[name] for name in names], site_number(origin), hlc]
                for names, origin, hlc in parts
                if (names is None or numbers.keys() >= set(names)) and has_room(origin)
            ]
            for parts in group.priors
        ]
    rows = codec.encode(group.rows) if group.encoded is None else codec.array_head(len(group.rows)) + group.encoded
    before = [site, int(group.kind), group.columns, deltas, group.keys]
    return codec.encode_array([*map(codec.encode, before), rows, codec.encode(priors)])


def filtered(group: Group, flags: Sequence[bool]) -> Group:
    """Return the flagged changes of a group."""
    if all(flags):
        return group
    kept, rows = itertools.compress, group.rows
    return Group(
        group.site,
        group.kind,
        group.columns,
        list(kept(group.hlcs, flags)),
        None if group.keys is None else list(kept(group.keys, flags)),
        rows.only(flags) if isinstance(rows, UnreadRows) else list(kept(rows, flags)),
        None if group.priors is None else list(kept(group.priors, flags)),
    )


def _seen_sections(sections: Sequence[Section], room: int) -> list[Section]:
    """Return at most `room` sections with the parts of priors that name columns which their own groups do not have."""
    found = []
    for section in sections:
        name = SEEN_PREFIX + section.table
        groups = [seen for group in section.groups if group.priors and (seen := _seen_group(group)) is not None]
        if groups and len(name) <= NAME_MAX:
            found.append(Section(name, [], groups))
    return found if len(found) <= room else []


def _seen_group(group: Group) -> Group | None:
    """Return what the changes of a group had seen by column, as updates of these columns to NULL; None if nothing."""
    own = set(group.columns)
    hlcs, priors = [], []
    for hlc, parts in zip(group.hlcs, group.priors or (), strict=True):
        named = [part for part in parts if part[0] is not None and not own.issuperset(part[0])]
        if named:
            hlcs.append(hlc)
            priors.append(named)
    columns = tuple(sorted({name for parts in priors for names, _, _ in parts for name in names or ()}))
    if not hlcs or len(columns) > COLUMNS_MAX:
        return None
    return Group(group.site, Kind.UPDATE, columns, hlcs, None, [[None] * len(columns)] * len(hlcs), priors)


def _take_seen(sections: list[Section]) -> list[Section]:
    """Give the changes of each section the parts of their priors that another section has; return the sections of tables."""
    kept = [section for section in sections if not section.table.startswith(SEEN_PREFIX)]
    if len(kept) == len(sections):
        return sections
    seen = {
        (section.table, group.site, hlc): parts
        for section in sections
        if section.table.startswith(SEEN_PREFIX)
        for group in section.groups
        for hlc, parts in zip(group.hlcs, group.priors or (), strict=False)
    }
    for section in kept:
        for group in section.groups:
            if group.kind is not Kind.UPDATE and group.priors is not None:
                name = SEEN_PREFIX + section.table
                more = (seen.get((name, group.site, hlc), []) for hlc in group.hlcs)
                group.priors = [[*parts, *named][:COLUMNS_MAX] for parts, named in zip(group.priors, more, strict=True)]
    return kept


def _seals_section(sections: Sequence[Section], signers: Sequence[bytes]) -> Section:
    """Return the section that has the seals of others."""
    groups = []
    for section in sections:
        by_site: dict[bytes, dict[int, Seal]] = {}
        for seal in section.seals:
            by_site.setdefault(seal.site, {})[seal.hlcs[-1]] = seal
        for site, seals in by_site.items():
            rows = [[seals[hlc].encode()] for hlc in sorted(seals)]
            groups.append(Group(site, Kind.INSERT, (section.table,), sorted(seals), None, rows, None))
    if signers:
        first, rows = groups[0], [[certificate] for certificate in signers]
        groups.append(Group(first.site, Kind.UPDATE, _CERTIFICATE, list(range(1, len(rows) + 1)), None, rows, None))
    return Section(SEALS, [], groups)


def _take_seals(sections: list[Section]) -> list[bytes]:
    """Give each section its seals, out of the last one, and return the certificates there."""
    by_table = {section.table: section for section in sections[:-1]}
    signers: list[bytes] = []
    for group in sections.pop().groups:
        require(len(group.columns) == 1 and group.kind is not Kind.DELETE, "malformed group of seals")
        contents = [row[0] for row in group.rows]
        require(set(map(type, contents)) == {bytes}, "malformed group of seals")
        if group.kind is Kind.UPDATE:
            signers += contents
            require(len(signers) <= SIGNERS_MAX, "too many signers")
            continue
        seals = [Seal.decode(group.site, content) for content in contents]
        if group.columns[0] in by_table:
            by_table[group.columns[0]].seals += seals
    return signers


def _decode_section(value: Any, sites: list[bytes]) -> Section:
    require(is_array(value, 3), "a section is not an array of 3")
    table, ranges, groups = value
    require(type(table) is str and 0 < len(table) <= NAME_MAX, "malformed table name")
    require(is_array(ranges) and len(ranges) <= SITES_MAX, "malformed list of ranges")
    require(is_array(groups) and len(groups) <= GROUPS_MAX, "malformed list of groups")
    covered = []
    for item in ranges:
        require(is_array(item, 3) and is_int(item[0], 0, len(sites) - 1), "malformed range")
        require(is_int(item[1]) and is_int(item[2], item[1]), "malformed range")
        covered.append((sites[item[0]], item[1], item[2]))
    names: dict[tuple[str, ...], tuple[str, ...]] = {}
    # Each takes the place of what it was decoded from, and names are kept once: thousands of groups may have a row each.
    for number, item in enumerate(groups):
        group = groups[number] = _decode_group(item, sites)
        group.columns = names.setdefault(group.columns, group.columns)
    return Section(table, covered, groups)


def _decode_group(value: Any, sites: list[bytes]) -> Group:
    require(is_array(value, 7), "a group is not an array of 7")
    site, kind, columns, deltas, keys, rows, priors = value
    require(is_int(site, 0, len(sites) - 1) and is_int(kind, 0, 2), "malformed site or kind of a group")
    require(is_array(columns) and len(columns) <= COLUMNS_MAX, "malformed list of columns")
    require(all(type(name) is str and 0 < len(name) <= NAME_MAX for name in columns), "malformed column name")
    require(all(low < high for low, high in itertools.pairwise(columns)), "columns are not sorted")
    require(is_array(deltas) and 0 < len(deltas) <= ROWS_MAX, "malformed list of clocks")
    require(all(type(delta) is int and delta > 0 for delta in deltas), "clocks do not ascend")
    hlcs = list(itertools.accumulate(deltas))
    require(hlcs[-1] <= HLC_MAX, "a clock is out of range")
    count = len(hlcs)
    unread = isinstance(rows, UnreadRows)
    require(len(rows) == count if unread else is_array(rows, count), "rows and clocks differ in number")
    width = 0 if kind == Kind.DELETE else len(columns)
    require(kind != Kind.DELETE or not columns, "a delete has columns")
    for block in rows.blocks() if unread else (rows,):
        _check_rows(block, width)
    if keys is not None:
        listed = len(keys) == count if isinstance(keys, UnreadRows) else is_array(keys, count)
        require(listed and set(map(type, keys)) <= {int, bytes}, "malformed list of keys")
    names = tuple(columns)
    parts = None
    if priors is not None:
        require(is_array(priors, count), "malformed list of priors")
        parts = [_decode_prior(prior, names, sites) for prior in priors]
    return Group(sites[site], Kind(kind), names, hlcs, keys, rows, parts)


def _check_rows(rows: list[Any], width: int) -> None:
    require(set(map(type, rows)) == {list} and set(map(len, rows)) == {width}, "a row has the wrong width")
    kinds = set(map(type, itertools.chain.from_iterable(rows)))
    require(kinds <= codec.PLAIN | {list}, "a value is not an SQLite value")
    if list in kinds:
        lists = (value for row in rows for value in row if is_raw(value))
        require(all(map(is_valid_raw, lists)), "a value is not an SQLite value")


def _decode_prior(value: Any, columns: tuple[str, ...], sites: list[bytes]) -> list[Part]:
    require(is_array(value) and len(value) <= COLUMNS_MAX, "malformed prior")
    parts: list[Part] = []
    for item in value:
        shaped = type(item) is list and len(item) == 3 and type(item[1]) is type(item[2]) is int  # a call takes longer
        require(shaped and 0 <= item[1] < len(sites) and 0 <= item[2] <= HLC_MAX, "malformed prior")
        numbers = item[0]
        names = None
        if numbers is not None:
            require(is_array(numbers) and all(is_int(n, 0, len(columns) - 1) for n in numbers), "malformed prior")
            names = tuple(columns[number] for number in numbers)
        parts.append((names, sites[item[1]], item[2]))
    return parts
