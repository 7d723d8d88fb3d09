"""The event list of `top`: news about links is gathered into one line, and a split is one line while it lasts.

In a split of n nodes each end of each cut link reports it within some seconds: n * n lines that say one thing.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["EVENTS_MAX", "Event", "EventLog"]

EVENTS_MAX = 500  # the number of events that a filter can search
GATHER_S = 6.0  # links of one split time out within this
LATE_S = 20.0  # after a split that is named, its links may time out this late
NEAR = 4
NAMES_MAX = 4
HOUSEKEEPING = "enough links"  # a node of a large mesh closes links that it does not need, all the time
LINK = re.compile(r"link with (.+?)(?: at .+| is gone: .+)", re.DOTALL)
WORDS = {"link.down": "links are gone", "link.up": "links are up"}


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the event list."""

    at: str
    level: str
    text: str


@dataclass(slots=True)
class _Entry:
    at: str
    level: str
    text: str


@dataclass(slots=True)
class _Gathered:
    """An entry about links that grows: when its first link was reported, and the names of all. None: a split's line says it."""

    entry: _Entry | None
    since_s: float
    names: dict[str, None]


@dataclass(slots=True)
class EventLog:
    """The latest events, in the order of their first news."""

    _entries: deque[_Entry] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))
    _gathered: dict[str, _Gathered] = field(default_factory=dict)  # by event name
    _split: _Entry | None = None

    def events(self) -> tuple[Event, ...]:
        """Return the events, the latest last."""
        return tuple(Event(entry.at, entry.level, entry.text) for entry in self._entries)

    def record(self, at: str, level: str, text: str) -> None:
        """Add one line."""
        self._entries.append(_Entry(at, level, text))

    def record_notice(self, at: str, at_s: float, notice: tuple[str, str, str], node: str = "") -> None:
        """Add a notice (event, level, text) of a node, unless it is debug or housekeeping; `at_s` orders it in time.

        `node` is the name of its node, empty for the only one.
        """
        event, level, text = notice
        if level == "debug" or (event == "link.down" and text.endswith(HOUSEKEEPING)):
            return
        found = LINK.fullmatch(text) if event in WORDS else None
        line = f"{node}: {text}" if node else text
        if found is None:
            self.record(at, level, line)
            return
        ends = " - ".join(sorted(filter(None, (node, found[1]))))
        known = self._gathered.get(event)
        if known is None or at_s - known.since_s > GATHER_S:
            self.record(at, level, line)
            self._gathered[event] = _Gathered(self._entries[-1], at_s, {ends: None})
            return
        known.names[ends] = None
        if known.entry is not None and len(known.names) > 1:
            known.entry.text = f"{len(known.names)} {WORDS[event]}: {_some(list(known.names))}"

    def record_split(self, at: str, at_s: float, text: str) -> None:
        """Record a split that the source names; no line follows for the links that it cuts."""
        self.record(at, "warning", text)
        self._gathered["link.down"] = _Gathered(None, at_s + LATE_S, {})

    def record_islands(self, at: str, islands: Sequence[Sequence[str]]) -> None:
        """Record into which groups of names the mesh is split, in one line until it is whole again."""
        if len(islands) > 1:
            text = "split, or stopped: " + " | ".join(_some(island) for island in islands)
            if self._split is None:
                self._split = self._entry_of_links() or self._new_entry(at)
            self._split.level, self._split.text = "warning", text
        elif self._split is not None:
            self._split = None
            self.record(at, "info", "connected again: all members that run")

    def _new_entry(self, at: str) -> _Entry:
        self.record(at, "", "")
        return self._entries[-1]

    def _entry_of_links(self) -> _Entry | None:
        """Return the latest entry about lost links, if it is one of the last, which the line of a split then replaces."""
        known = self._gathered.get("link.down")
        if (
            known is None
            or known.entry is None
            or not any(entry is known.entry for entry in list(self._entries)[-NEAR:])
        ):
            return None
        entry, known.entry = known.entry, None
        return entry


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")
