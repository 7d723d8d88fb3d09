"""What the applications wrote: every committed value, and what its writer saw when it replaced or deleted another.

Owns the history that the checkers hold the replicas to. What always holds: each value ever written is a token,
unique in the whole run, so that a value found anywhere names its write; a write that happened in one transaction
with a read of the old value *saw* it, and must win over it everywhere (design.md section 3: a user always
overwrites what he sees). Must not know stamps, merging or the network: it is the user's view alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["TOKEN", "Oracle", "Written"]

TOKEN = re.compile(rb"<w(\d+)>")


@dataclass(slots=True)
class Written:
    """One value of one cell: where it was written, and the writes that replaced or deleted it having seen it."""

    table: str
    key: str
    column: str
    node: int
    at_us: int
    seen_by: list[int] = field(default_factory=list)


class Oracle:
    """Every committed write of every application, by token number."""

    def __init__(self) -> None:
        self.written: dict[int, Written] = {}
        self.deletes: dict[int, tuple[int, int]] = {}  # token number of a delete -> node, virtual microseconds
        self.excused: dict[int, None] = {}  # writes that a lost file may have taken with it
        self.strangers: dict[int, int] = {}  # node -> virtual microseconds from which its writes belong to no member
        self.doubled: dict[int, None] = {}  # writes that were in a copied file before they had a stamp
        self.counts: dict[str, int] = {}  # by item: what all committed counts come to
        self._last = 0

    def token(self) -> int:
        """A number that was never used before."""
        self._last += 1
        return self._last

    def wrote(self, token: int, written: Written, over: str | None) -> None:
        """A committed cell; `over` is the value it replaced, as its writer saw it."""
        self.written[token] = written
        if written.node in self.strangers:
            self.excused[token] = None
        self._sees(token, over)

    def deleted(self, token: int, node: int, at_us: int, values: tuple[object, ...]) -> None:
        """A committed delete of a row that held `values`."""
        self.deletes[token] = (node, at_us)
        if node in self.strangers:
            self.excused[token] = None
        for value in values:
            self._sees(token, value)

    def counted(self, item: str, by: int) -> None:
        """A committed `n = n + by`."""
        self.counts[item] = self.counts.get(item, 0) + by

    def forgive(self, node: int, since_us: int) -> None:
        """The file of `node` fell back to its state at `since_us`: what only it had written since is gone with it."""
        for token, written in self.written.items():
            if written.node == node and written.at_us >= since_us:
                self.excused[token] = None
        for token, (where, at_us) in self.deletes.items():
            if where == node and at_us >= since_us:
                self.excused[token] = None

    def revoked(self, node: int, since_us: int, at_us: int) -> None:
        """The node is no member from `at_us` on: what it writes is nobody's, what it wrote since `since_us` may be refused."""
        self.forgive(node, since_us)
        self.strangers[node] = at_us

    def copied(self, node: int, since_us: int, at_us: int) -> None:
        """The file was copied at `at_us`; what was written after `since_us` may be in the copy without a stamp.

        A row without a key is then stamped once in the file and once in its copy, and is two rows: nothing in the copy
        tells that write from one that only the copy has. A user who then deletes one has not seen the other.
        """
        for token, written in self.written.items():
            if written.node == node and since_us < written.at_us <= at_us:
                self.doubled[token] = None

    def replaced(self, token: int) -> bool:
        """Whether a write that stands for certain saw this value and put another (or nothing) in its place."""
        return any(by not in self.excused for by in self.written[token].seen_by)

    def _sees(self, token: int, value: object) -> None:
        for old in tokens_in(value):
            self.written[old].seen_by.append(token)


def text_of(token: int) -> str:
    """The value that carries a token."""
    return f"<w{token}>"


def tokens_in(value: object) -> list[int]:
    """The tokens in a value of any type, in order."""
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        return []
    return [int(found) for found in TOKEN.findall(value)]
