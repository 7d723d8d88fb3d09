"""Topics with columns in them: `fleet.{drone_id}.position` is made from a row, `orders.{shop}.>` takes a value from a topic.

A value is written so that it is one level: what would separate levels or be a wildcard is percent-encoded, and decoded again on
the way in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.tools.bridges.scheme import Scheme

__all__ = ["Pattern", "Template", "TopicError"]

TOPIC_BYTES_MAX = 250  # of one topic that is made from a row; AMQP allows 255
_COLUMN = re.compile(r"\{([^{}]*)\}")
SAMPLE = "x"


class TopicError(ValueError):
    """A row makes no topic."""


@dataclass(frozen=True, slots=True)
class Template:
    """The topic of a table's rows."""

    text: str
    parts: tuple[str, ...]  # text and column in turn, beginning and ending with text
    wildcards: str  # with the scheme's wildcard in place of each level that has a column
    reserved: str  # characters that a value cannot have as they are

    @classmethod
    def parse(cls, text: str, scheme: type[Scheme]) -> Template:
        """Return the template in a text; raise `ValueError` for anything else."""
        parts = _parts(text)
        for fixed in parts[::2]:
            if any(wild in fixed for wild in (scheme.wildcard_level, scheme.wildcard_rest)) and scheme.separator:
                raise ValueError(f"topic {text!r} has a wildcard, which cannot be published to")
            if any(char.isspace() or not char.isprintable() for char in fixed):
                raise ValueError(f"topic {text!r} has a space or a control character")
        reserved = (
            f"{scheme.separator}{scheme.wildcard_level}{scheme.wildcard_rest}%/#+*>.$"  # $SYS, $JS: the broker's own
        )
        return cls(text, parts, _wildcards(text, scheme), reserved)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template names."""
        return self.parts[1::2]

    @property
    def sample(self) -> str:
        """A topic as a row might make it."""
        return "".join(SAMPLE if number % 2 else part for number, part in enumerate(self.parts))

    def topic(self, values: Mapping[str, Any]) -> str:
        """Return the topic of a row; raise `TopicError` if a value is missing or too long."""
        if len(self.parts) == 1:
            return self.text
        made = [self._level(part, values) if number % 2 else part for number, part in enumerate(self.parts)]
        topic = "".join(made)
        if len(topic.encode()) > TOPIC_BYTES_MAX:
            raise TopicError(f"the topic has more than {TOPIC_BYTES_MAX} bytes")
        return topic

    def _level(self, column: str, values: Mapping[str, Any]) -> str:
        value = values.get(column)
        if value is None or value == "" or isinstance(value, dict):
            what = "a blob" if isinstance(value, dict) else "NULL or empty"
            raise TopicError(f"column {column!r} of the topic {self.text!r} is {what}")
        text = str(value)
        if text.isalnum() and text.isascii():
            return text
        return "".join(_escaped(char) if char in self.reserved or not _is_plain(char) else char for char in text)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The topics that come in to a table."""

    text: str
    table: str
    wildcards: str  # as in `Template`
    columns: tuple[str, ...]
    shape: re.Pattern[str]

    @classmethod
    def parse(cls, text: str, table: str, scheme: type[Scheme]) -> Pattern:
        """Return the pattern in a text; raise `ValueError` for anything else."""
        parts = _parts(text)
        if not text or any(char.isspace() or not char.isprintable() for char in text):
            raise ValueError(f"topic {text!r} is empty, or has a space or a control character")
        level, separator = scheme.wildcard_level, scheme.separator
        one = f"[^{re.escape(separator)}]+" if separator else ".+"
        regex = ""
        for number, part in enumerate(parts):
            if number % 2:
                regex += f"({one})"
                continue
            for piece in re.split(f"({re.escape(scheme.wildcard_rest)}|{re.escape(level)})", part):
                regex += ".*" if piece == scheme.wildcard_rest else one if piece == level else re.escape(piece)
        if scheme.wildcard_rest == "#" and regex.endswith(re.escape(separator) + ".*"):
            regex = regex.removesuffix(re.escape(separator) + ".*") + f"(?:{re.escape(separator)}.*)?"  # the parent too
        return cls(text, table, _wildcards(text, scheme), parts[1::2], re.compile(regex))

    def matches(self, topic: str) -> dict[str, str] | None:
        """Return the values that a topic has for the columns, None if it is not one of these topics."""
        found = self.shape.fullmatch(topic)
        return None if found is None else dict(zip(self.columns, map(unquote, found.groups()), strict=True))


def _parts(text: str) -> tuple[str, ...]:
    if not text:
        raise ValueError("a topic is empty")
    parts = tuple(_COLUMN.split(text))
    if any("{" in fixed or "}" in fixed for fixed in parts[::2]) or not all(parts[1::2]):
        raise ValueError(f"topic {text!r} has braces that name no column")
    return parts


def _wildcards(text: str, scheme: type[Scheme]) -> str:
    levels = text.split(scheme.separator) if scheme.separator else [text]
    return scheme.separator.join(scheme.wildcard_level if _COLUMN.search(level) else level for level in levels)


def _is_plain(char: str) -> bool:
    return char.isprintable() and not char.isspace()


def _escaped(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode())
