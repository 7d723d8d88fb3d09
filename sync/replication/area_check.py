"""Checks that the changes of a section are of rows of its area, since rights and interests go by the name of the section.

Invariant: units share no row, whatever a peer sends. A peer whose certificate names areas changes no row of another area.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema.policy import has_equal_texts
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.affinity import as_stored
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.storage.moved_rows import key_area
from mycomesh.sync.storage.table import INSERT_KEY_SIZE, insert_stamp
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Bundle, Group, Kind
from mycomesh.sync.wire.units import NO_AREA, area_of, unit_name

__all__ = ["check_areas"]


def check_areas(bundle: Bundle, registry: Registry, rights: Rights, writer: bytes) -> list[str]:
    """Refuse changes that are of another area than their section; return the units whose changes cannot be judged yet.

    Only a writer that may not write the whole table leaves anything to judge: it may have named rows that nobody here knows.
    The sections of these units are removed from the bundle.

    Raises:
        DecodeError: a change is of another area.
    """
    if not registry.policies.areas:
        return []
    unsure: list[str] = []
    for section in bundle.sections:
        unit = registry.unit(section.table)
        areas = None if unit is None else unit.table.areas
        if unit is None or areas is None:
            continue
        strict = not rights.may_write(writer, unit.table.spec.folded)
        if unit.area is None:
            if rights.names_areas(writer):
                _check_base(unit, section.groups, rights, writer)
        elif areas.moved is not None:
            if not all(_is_of_moved(unit, group) for group in section.groups):
                unsure.append(section.table)
        elif not all(_is_of(unit, group, strict=strict) for group in section.groups):
            unsure.append(section.table)
    if unsure:
        bundle.sections[:] = [section for section in bundle.sections if section.table not in unsure]
    return unsure


def _is_of(unit: Unit, group: Group, *, strict: bool) -> bool:
    """Return False if it is not known whether all rows of a group are of its area."""
    areas, spec = unit.table.areas, unit.table.spec
    assert areas is not None
    affinity = _affinity(unit)
    for value in _values(unit, group):
        stored = as_stored((value,), affinity)[0] if strict and type(value) is str else value
        if area_of(value) != unit.area or area_of(stored) != unit.area:
            if has_equal_texts(spec, areas.column):
                return False  # an honest update may have changed the text of the key, and not the key
            raise DecodeError(f"{spec.name}: a row of another area than its section's")
    if strict and group.kind is Kind.INSERT and areas.column not in group.columns:
        return spec.kind is KeyKind.KEYED and group.keys is not None  # else the column's default would say the area
    return group.keys is None or all(_is_known(unit, key, group.site, strict=strict) for key in group.keys)


def _is_of_moved(unit: Unit, group: Group) -> bool:
    """Return False if some row of a group is of another area of a table that was cut with its rows.

    That is no malice yet: the sender may know of a cut by another column, until the decision for this one reaches it.
    """
    table, areas = unit.table, unit.table.areas
    assert areas is not None
    assert areas.moved is not None
    column, spec = areas.moved.column, table.spec
    if unit.area == NO_AREA or group.keys is not None or spec.kind is not KeyKind.KEYED:
        return all(key_area(spec, column, key) == unit.area for key in keys_of(table, group))
    places = [group.columns.index(each.folded) for each in spec.key if each.folded in group.columns]
    if len(places) < len(spec.key) or (
        spec.nullable_key and any(row[at] is None for row in group.rows for at in places)
    ):
        return False
    return all(areas.area_of(value) == unit.area for value in _values(unit, group))


def _values(unit: Unit, group: Group) -> list[Any]:
    """Return the different values of the column of areas that a group has, in its rows and in its keys."""
    areas, spec = unit.table.areas, unit.table.spec
    assert areas is not None
    found: dict[Any, Any] = {}
    if areas.column in group.columns:
        at = group.columns.index(areas.column)
        for row in group.rows:
            found[_distinct(row[at])] = row[at]
    if group.keys is not None and spec.kind is KeyKind.KEYED:
        place = [column.folded for column in spec.key].index(areas.column)
        for key in dict.fromkeys(key for key in group.keys if type(key) is bytes and key[:1] != b"\x00"):
            values = codec.decode(key, bytes_max=len(key))
            codec.require(codec.is_array(values, len(spec.key)), f"{spec.name}: a row key has the wrong width")
            found[_distinct(values[place])] = values[place]
    return list(found.values())


def _distinct(value: Any) -> Any:
    return "raw" if type(value) is list else (type(value), value)


def _is_known(unit: Unit, key: Any, writer: bytes, *, strict: bool) -> bool:
    """Return False for a key that is the stamp of an insert which may be of any area.

    A row of the `writer` itself, the site of the change, is of its area: a site is of one.
    """
    if type(key) is not bytes or key[:1] != b"\x00" or len(key) != INSERT_KEY_SIZE:
        return True  # its values, or a later check, say what it is
    site, areas = insert_stamp(key)[0], unit.table.areas
    assert areas is not None
    if site == writer and unit.has_site(site):
        return True
    number = unit.table.store.site_number(site)
    area = None if number is None else areas.of(number)
    if area is not None or (number is not None and unit.table.coverage.staged.ranges(site)):
        codec.require(
            area == unit.area, f"{unit.table.spec.name}: a change of a row of another area than its section's"
        )
        return True
    return not strict


def _check_base(unit: Unit, groups: Iterable[Group], rights: Rights, writer: bytes) -> None:
    """Refuse a row of the base whose value is of an area that the writer may not write, although it may write the table."""
    name, affinity = unit.table.spec.folded, _affinity(unit)
    for group in groups:
        for value in _values(unit, group):
            stored = as_stored((value,), affinity)[0] if type(value) is str else value
            area = area_of(stored)
            if area is not None and not rights.may_write(writer, unit_name(name, area)):
                raise DecodeError(f"{unit.table.spec.name}: a row of an area that its writer may not write")


def _affinity(unit: Unit) -> str:
    areas = unit.table.areas
    assert areas is not None
    return next((column.affinity for column in unit.table.spec.columns if column.folded == areas.column), "")
