"""Ships from AIS sentences (!AIVDM), with pyais.

A message may come in several sentences, between which others come. Values that stand for "unknown" become NULL. Class A and B
positions, static data, search aircraft and aids to navigation make rows. pyais reads a message that ends within a number as if
its last bits were the number, so short messages are refused here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Final

import pyais

from mycomesh.tools.vehicles.rows import Row, Value, within

__all__ = ["FRAGMENTS_MAX", "LINE_BYTES_MAX", "SHIPS_MAX", "AisReader"]

SHIPS_MAX = 20_000  # the least recently heard is forgotten first
FRAGMENTS_MAX = 64  # messages that wait for their other sentences
LINE_BYTES_MAX = 512  # a sentence has 82; a tag block may stand before it

_KNOT = 0.514444
_SENTENCE = re.compile(
    rb"!(?:AI|AB|AD|AN|AR|AS|AT|AX|BS|SA)VD[MO],([1-9]),([1-9]),([0-9]?),([AB12]?),([^,]*),([0-5])\*([0-9A-Fa-f]{2})"
)
_POSITIONS: Final = (1, 2, 3, 9, 18, 19, 21, 27)
_STATIC: Final = (5, 19, 21, 24)
# Bits of each kind of message; of static data of class B those of the shorter part.
_BITS: Final = {1: 168, 2: 168, 3: 168, 5: 420, 9: 168, 18: 168, 19: 312, 21: 272, 24: 160, 27: 96}
_UNKNOWN: Final = {"speed": 102.3, "course": 360.0, "heading": 511, "status": 15}


class AisReader:
    """Keeps the state of each ship; `damaged` counts sentences with a wrong checksum or form."""

    def __init__(self) -> None:
        self._ships: OrderedDict[int, dict[str, Value]] = OrderedDict()
        self._waiting: OrderedDict[tuple[bytes, bytes, bytes], dict[int, bytes]] = OrderedDict()
        self.damaged = 0

    def feed(self, line: bytes, at: int) -> Row | None:
        """Take one line; return the row of the ship that it says something of."""
        if not line.strip() or line.startswith((b"#", b"$")):  # remarks, and a receiver's own position
            return None
        found = _SENTENCE.search(line) if len(line) <= LINE_BYTES_MAX else None
        if found is None or _checksum(found[0]) != int(found[7], 16):
            self.damaged += 1
            return None
        sentences = self._assemble(found)
        if sentences is None:
            return None
        try:
            message = pyais.decode(*sentences)
        except (pyais.exceptions.AISBaseException, ValueError, TypeError, IndexError, KeyError):
            self.damaged += 1
            return None
        if 6 * sum(_payload(sentence) for sentence in sentences) < _BITS.get(message.msg_type, 0):
            self.damaged += 1
            return None
        return self._take(message, at)

    def _assemble(self, found: re.Match[bytes]) -> list[bytes] | None:
        """Return all sentences of a message, None while some are missing."""
        total, number = int(found[1]), int(found[2])
        if total == 1:
            return [found[0]]
        key = (found[1], found[3], found[4])
        parts = self._waiting.pop(key, {})
        if number in parts:  # the rest of an earlier message never came
            parts = {}
        parts[number] = found[0]
        if len(parts) == total:
            return [parts[place] for place in sorted(parts)]
        self._waiting[key] = parts
        if len(self._waiting) > FRAGMENTS_MAX:
            self._waiting.popitem(last=False)
            self.damaged += 1
        return None

    def _take(self, message: Any, at: int) -> Row | None:
        kind = message.msg_type
        if kind not in _BITS:
            return None
        mmsi = int(message.mmsi)
        state = self._ships.pop(mmsi, None) or {"mmsi": mmsi}
        self._ships[mmsi] = state
        if len(self._ships) > SHIPS_MAX:
            self._ships.popitem(last=False)
        state["at"] = at
        if kind in _POSITIONS:
            self._move(state, message)
        if kind in _STATIC:
            self._describe(state, message)
        return Row("ships", dict(state))

    @staticmethod
    def _move(state: dict[str, Value], message: Any) -> None:
        lat, lon = float(message.lat), float(message.lon)
        if within(lat, lon):
            state["lat"], state["lon"] = lat, lon
        speed = _known(message, "speed")
        state["speed_mps"] = None if speed is None else round(speed * _KNOT, 2)
        state["course_deg"] = _known(message, "course")
        state["heading_deg"] = _known(message, "heading")
        if hasattr(message, "status"):
            status = _known(message, "status")
            state["status"] = None if status is None else int(status)

    @staticmethod
    def _describe(state: dict[str, Value], message: Any) -> None:
        for name, field in (("name", "shipname"), ("callsign", "callsign"), ("destination", "destination")):
            text = getattr(message, field, None) or (getattr(message, "name", None) if name == "name" else None)
            if isinstance(text, str) and text.strip(" @"):
                state[name] = text.strip(" @")
        for name, field in (("type", "ship_type"), ("imo", "imo")):
            number = getattr(message, field, None)
            if number:
                state[name] = int(number)


def _known(message: Any, name: str) -> float | None:
    value = getattr(message, name, None)
    return None if value is None or float(value) >= _UNKNOWN[name] else float(value)


def _payload(sentence: bytes) -> int:
    """Return the number of characters that carry the message, of 6 bits each."""
    return len(sentence.split(b",")[5])


def _checksum(sentence: bytes) -> int:
    total = 0
    for byte in sentence[1:].partition(b"*")[0]:
        total ^= byte
    return total
