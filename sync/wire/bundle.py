"""Wire form of changes: a bundle of sections (one a table), each with covered ranges and groups of like changes.

Owns the columnar encoding (docs/PROTOCOL.md, "Bundle"): changes of one site that own the same columns share one group, their
clocks are deltas, and a birth sends no key that its values already hold. What always holds: `decode(encode(x)) == x`, and
whatever `decode` returns has been checked for shape and limits, though not for meaning. It must not know SQL or the log.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.codec import is_array, is_bytes, is_int, require
from mycomesh.sync.crdt.hlc import HLC_MAX
from mycomesh.sync.sqlite.identifiers import NAME_MAX
from mycomesh.sync.sqlite.raw_text import is_raw, is_valid_raw

__all__ = ["BUNDLE_BYTES_MAX", "Bundle", "Group", "Kind", "Part", "Section"]

VERSION = 1
# A 16 MiB blob must travel in one row; SQLite's own default limit is far above, memory of a small node is not.
BUNDLE_BYTES_MAX = 24 << 20
SITES_MAX = 4_096
SECTIONS_MAX = 1_024
GROUPS_MAX = 65_536
ROWS_MAX = 65_536
COLUMNS_MAX = 2_000  # SQLite's own default

# What a change overwrote: (column names or None for all of them, site, hlc)
Part = tuple[tuple[str, ...] | None, bytes, int]


class Kind(enum.IntEnum):
    """What a group's changes own."""

    UPDATE = 0  # columns
    INSERT = 1  # columns and the row's existence
    DELETE = 2  # the row's existence, ended


@dataclass(slots=True)
class Group:
    """Changes of one site with one kind and one column set.

    `hlcs` ascend strictly. `keys` is None where values or stamps name the rows; `rows` hold values in the order of
    `columns` (sorted names) and are empty lists for DELETE. `priors` holds, a change, the stamps that it overwrote.
    """

    site: bytes
    kind: Kind
    columns: tuple[str, ...]
    hlcs: list[int]
    keys: list[Any] | None
    rows: list[Any]
    priors: list[list[Part]] | None
    encoded: bytes | None = None  # `rows` one after the other as the codec writes them, where that is at hand


@dataclass(slots=True)
class Section:
    """Changes of one table; `ranges` are the (site, after, upto) that the groups cover completely."""

    table: str
    ranges: list[tuple[bytes, int, int]]
    groups: list[Group] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of changes."""
        return sum(len(group.hlcs) for group in self.groups)


@dataclass(slots=True)
class Bundle:
    """Sections that are applied in one transaction."""

    sections: list[Section]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        places: dict[bytes, int] = {}

        def place(site: bytes) -> int:
            return places.setdefault(site, len(places))

        sections = []
        for section in self.sections:
            ranges = [[place(site), after, upto] for site, after, upto in section.ranges]
            groups = [_encode_group(group, place(group.site), place) for group in section.groups]
            head = [codec.encode(section.table), codec.encode(ranges)]
            sections.append(codec.array([*head, codec.array(groups)]))
        return codec.array([codec.encode(VERSION), codec.encode(list(places)), codec.array(sections)])

    @classmethod
    def decode(cls, data: bytes) -> Bundle:
        """Return the bundle in `data`; raises `DecodeError` for anything that the protocol does not allow."""
        value = codec.decode(data, bytes_max=BUNDLE_BYTES_MAX)
        require(is_array(value, 3), "a bundle is an array of 3")
        version, sites, sections = value
        require(is_int(version), "a bundle's version is not an integer")
        require(version == VERSION, f"bundle version {version} is not {VERSION}")
        require(is_array(sites) and len(sites) <= SITES_MAX, "bad list of sites")
        require(all(is_bytes(site, 16) for site in sites), "a site is 16 bytes")
        require(is_array(sections) and len(sections) <= SECTIONS_MAX, "bad list of sections")
        return cls([_decode_section(section, sites) for section in sections])


def _encode_group(group: Group, site: int, place: Any) -> bytes:
    hlcs = group.hlcs
    deltas = [hlcs[0], *map(int.__sub__, hlcs[1:], hlcs)]
    priors = None
    if group.priors is not None:
        numbers = {name: number for number, name in enumerate(group.columns)}
        priors = [
            [
                [None if names is None else [numbers[name] for name in names], place(origin), hlc]
                for names, origin, hlc in parts
            ]
            for parts in group.priors
        ]
    rows = codec.encode(group.rows) if group.encoded is None else codec.head(len(group.rows)) + group.encoded
    before = [site, int(group.kind), group.columns, deltas, group.keys]
    return codec.array([*map(codec.encode, before), rows, codec.encode(priors)])


def _decode_section(value: Any, sites: list[bytes]) -> Section:
    require(is_array(value, 3), "a section is an array of 3")
    table, ranges, groups = value
    require(type(table) is str and 0 < len(table) <= NAME_MAX, "bad table name")
    require(is_array(ranges) and len(ranges) <= SITES_MAX, "bad list of ranges")
    require(is_array(groups) and len(groups) <= GROUPS_MAX, "bad list of groups")
    covered = []
    for item in ranges:
        require(is_array(item, 3) and is_int(item[0], 0, len(sites) - 1), "bad range")
        require(is_int(item[1]) and is_int(item[2], item[1]), "bad range")
        covered.append((sites[item[0]], item[1], item[2]))
    return Section(table, covered, [_decode_group(group, sites) for group in groups])


def _decode_group(value: Any, sites: list[bytes]) -> Group:
    require(is_array(value, 7), "a group is an array of 7")
    site, kind, columns, deltas, keys, rows, priors = value
    require(is_int(site, 0, len(sites) - 1) and is_int(kind, 0, 2), "bad site or kind of a group")
    require(is_array(columns) and len(columns) <= COLUMNS_MAX, "bad list of columns")
    require(all(type(name) is str and 0 < len(name) <= NAME_MAX for name in columns), "bad column name")
    require(all(low < high for low, high in itertools.pairwise(columns)), "columns are not sorted")
    require(is_array(deltas) and 0 < len(deltas) <= ROWS_MAX, "bad list of clocks")
    require(all(type(delta) is int and delta > 0 for delta in deltas), "clocks do not ascend")
    hlcs = list(itertools.accumulate(deltas))
    require(hlcs[-1] <= HLC_MAX, "a clock is out of range")
    count = len(hlcs)
    require(is_array(rows, count), "rows and clocks differ in number")
    width = 0 if kind == Kind.DELETE else len(columns)
    require(kind != Kind.DELETE or not columns, "a delete owns no columns")
    require(set(map(type, rows)) == {list} and set(map(len, rows)) == {width}, "a row has the wrong width")
    kinds = set(map(type, itertools.chain.from_iterable(rows)))
    require(kinds <= codec.PLAIN | {list}, "a value is not an SQLite value")
    if list in kinds:
        lists = (value for row in rows for value in row if is_raw(value))
        require(all(map(is_valid_raw, lists)), "a value is not an SQLite value")
    if keys is not None:
        require(is_array(keys, count) and set(map(type, keys)) <= {int, bytes}, "bad list of keys")
    names = tuple(columns)
    parts = None
    if priors is not None:
        require(is_array(priors, count), "bad list of priors")
        parts = [_decode_prior(prior, names, sites) for prior in priors]
    return Group(sites[site], Kind(kind), names, hlcs, keys, rows, parts)


def _decode_prior(value: Any, columns: tuple[str, ...], sites: list[bytes]) -> list[Part]:
    require(is_array(value) and len(value) <= COLUMNS_MAX, "bad prior")
    parts: list[Part] = []
    for item in value:
        require(is_array(item, 3) and is_int(item[1], 0, len(sites) - 1) and is_int(item[2]), "bad prior")
        numbers = item[0]
        names = None
        if numbers is not None:
            require(is_array(numbers) and all(is_int(n, 0, len(columns) - 1) for n in numbers), "bad prior")
            names = tuple(columns[number] for number in numbers)
        parts.append((names, sites[item[1]], item[2]))
    return parts
