"""Tries a mailbox step by step, as `mycomesh mailbox test` shows: what works, what is wrong, and what to do about it.

It uses the names of a mesh and a stream that nobody has, and removes what it has written.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import POSITION_MAX, STREAM_BYTES
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.primitives import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mycomesh.mesh.mailbox.mailbox import Mailbox

__all__ = ["CLOCK_MS_MAX", "Finding", "probe"]

CLOCK_MS_MAX = 60_000  # apart; a stamp from further ahead waits on other nodes
_SMALL = 4_096
_LARGE = 2 << 20  # beyond what JetStream takes in one message; a large value may need 27 MiB


@dataclass(frozen=True, slots=True)
class Finding:
    """One step: its name, whether it went well, and what was seen or what to do."""

    step: str
    good: bool
    text: str


def probe(mailbox: Mailbox, entropy: Callable[[int], bytes], wall_ms: Callable[[], int]) -> list[Finding]:
    """Append, list, read back and remove envelopes; end with the first step without which no other can work."""
    found: list[Finding] = []
    mesh, stream = entropy(ID_BYTES), entropy(STREAM_BYTES)
    written: list[Listed] = []
    try:
        for finding in _steps(mailbox, mesh, stream, entropy, written):
            found.append(finding)  # noqa: PERF402 -- those before an error count
        found.append(_clock(mailbox, wall_ms))
    except MailboxError as error:
        found.append(Finding(_STEPS[len(found)], False, str(error)))
    try:
        for each in written:
            mailbox.remove(mesh, each)
        left = [each for each in written if mailbox.get(mesh, each) is not None]
        if isinstance(mailbox, DirectoryMailbox):
            mailbox.tidy(mesh)
        if written:
            found.append(
                Finding(
                    "remove",
                    not left,
                    "a gateway can remove its own old envelopes" if not left else "nothing was removed",
                )
            )
    except MailboxError as error:
        if written:
            found.append(Finding("remove", False, str(error)))
    return found


_STEPS = ("list", "append", "read back", "taken position", "list after", "large", "clock")


def _steps(
    mailbox: Mailbox, mesh: bytes, stream: bytes, entropy: Callable[[int], bytes], written: list[Listed]
) -> Iterator[Finding]:
    empty = not mailbox.list_after(mesh, stream, 0) and not mailbox.streams(mesh)
    yield Finding("list", empty, "reached" if empty else "it lists envelopes that nobody wrote")
    data = entropy(_SMALL)
    begun = time.monotonic()
    first = Listed(stream, 1, _SMALL)
    stored = mailbox.append(mesh, stream, 1, data)
    written.append(first)
    took_ms = (time.monotonic() - begun) * 1_000
    yield Finding("append", stored, f"in {took_ms:,.0f} ms" if stored else "a position that nobody has is taken")
    same = mailbox.get(mesh, first) == data
    yield Finding("read back", same, f"{_SMALL:,} bytes, unchanged" if same else "other bytes than were written")
    kept = not mailbox.append(mesh, stream, 1, entropy(_SMALL)) and mailbox.get(mesh, first) == data
    how = (
        "" if getattr(mailbox, "conditional", True) else "; the store has no conditional put, so a look comes before it"
    )
    yield Finding("taken position", kept, f"left as it is{how}" if kept else "an envelope was overwritten")
    big = entropy(_LARGE)
    last = Listed(stream, POSITION_MAX, len(big))
    mailbox.append(mesh, stream, POSITION_MAX, big)
    written.append(last)
    listed = [(each.position, each.size) for each in mailbox.list_after(mesh, stream, 0)]
    after = [each.position for each in mailbox.list_after(mesh, stream, 1)]
    good = listed == [(1, _SMALL), (POSITION_MAX, len(big))] and after == [POSITION_MAX]
    yield Finding(
        "list after", good and mailbox.streams(mesh) == [stream], "in order" if good else f"it lists {listed}"
    )
    whole = mailbox.get(mesh, last) == big
    yield Finding("large", whole, f"{len(big):,} bytes" if whole else f"{len(big):,} bytes did not come back whole")


def _clock(mailbox: Mailbox, wall_ms: Callable[[], int]) -> Finding:
    before = wall_ms()
    there = mailbox.server_ms()
    apart_ms = there - (before + wall_ms()) // 2
    if abs(apart_ms) > CLOCK_MS_MAX:
        return Finding(
            "clock", False, f"the storage's clock is {apart_ms / 1000:+,.0f} s from this machine's; set one of them"
        )
    return Finding("clock", True, f"within {CLOCK_MS_MAX // 1000} s of this machine's")
