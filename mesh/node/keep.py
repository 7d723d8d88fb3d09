"""The table [keep] of config.toml and `up --keep`: which areas of tables that the mesh has cut this node keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.wire.interest import INTEREST_BYTES_MAX, Interest, interest_fact
from mycomesh.sync.wire.units import AREA_CHARS_MAX, CUT_NAME_CHARS_MAX, area_of

__all__ = ["COPIES_MAX", "Keep"]

SELF = "self"
COPIES_MAX = 16  # members that keep an area; each copy more is the user's own wish
_EXAMPLE = 'telemetry = ["self", "7"]'


@dataclass(frozen=True, slots=True)
class Keep:
    """The areas that a node keeps of each table that is cut; all areas of tables that are not named.

    tables: the texts of areas by name of a table, folded. "self" is this node's own area.
    own: what "self" is; "" for the node's name.
    copies: members, 1..16, that are to keep each area. A node releases what it does not keep once so many have it, and `status`
        warns where fewer keep one.
    """

    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    own: str = ""
    copies: int = 2

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: a name or an area that no table can have, or more of them than a node states.
        """
        if not 1 <= self.copies <= COPIES_MAX:
            raise ConfigError(f"[keep]: 'copies' {self.copies} is out of range; choose 1..{COPIES_MAX}")
        texts = [text for areas in self.tables.values() for text in areas] + ([self.own] if self.own else [])
        wrong = next((text for text in texts if area_of(text) is None), None)
        if wrong is not None:
            raise ConfigError(f"[keep]: {wrong[:40]!r} is no area; an area has 1 to {AREA_CHARS_MAX} characters")
        name = next((name for name in self.tables if not 0 < len(name) <= CUT_NAME_CHARS_MAX), None)
        if name is not None:
            raise ConfigError(
                f"[keep]: {name[:40]!r} is no name of a table; it has 1 to {CUT_NAME_CHARS_MAX} characters"
            )
        size = len(interest_fact(bytes(8), self.interest("x" * AREA_CHARS_MAX))[2].encode())
        if size > INTEREST_BYTES_MAX:
            raise ConfigError(
                f"[keep] has {size:,} bytes, and a node states at most {INTEREST_BYTES_MAX:,} to the others; keep a table whole"
            )

    @classmethod
    def parse(cls, value: Any) -> Keep:
        """Check the table [keep] of the file.

        Raises:
            ConfigError: a value has another type, or as the constructor.
        """
        if not isinstance(value, dict):
            raise ConfigError(f"'keep' must be a table such as [keep] with {_EXAMPLE}, not {value!r}")
        tables: dict[str, tuple[str, ...]] = {}
        own, copies = "", 2
        for name, each in value.items():
            match name, each:
                case "self", str() | int() | float() if type(each) is not bool:
                    own = str(each)
                case "copies", int() if type(each) is not bool:
                    copies = each
                case _, list() if all(type(item) in (str, int, float) for item in each):
                    tables[fold(name)] = tuple(dict.fromkeys(map(str, each)))
                case _:
                    raise ConfigError(f"[keep]: {name!r} must be a list of areas, such as {_EXAMPLE}, not {each!r}")
        return cls(tables, own, copies)

    def with_words(self, words: Iterable[str]) -> Keep:
        """Return these settings with the tables of `--keep TABLE=AREA` in the place of those of the file.

        Raises:
            ConfigError: a word has another form, or as the constructor.
        """
        tables: dict[str, tuple[str, ...]] = {}
        own = self.own
        for word in words:
            name, equals, area = word.partition("=")
            if not equals or not name:
                raise ConfigError(f"--keep {word!r} is not TABLE=AREA; write for example --keep telemetry=self")
            if name == SELF:
                own = area
            else:
                tables[fold(name)] = (*tables.get(fold(name), ()), *([area] if area else []))
        return replace(self, tables=tables, own=own)

    def interest(self, node_name: str) -> Interest:
        """Return what a node of this name keeps."""
        own = self.own or node_name
        return Interest(
            {name: frozenset(own if text == SELF else text for text in texts) for name, texts in self.tables.items()}
        )
