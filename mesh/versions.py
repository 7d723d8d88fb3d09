"""Which versions of the protocol a node speaks, and what two nodes make of their ranges.

Owns the range of this program and the rule of agreement: the highest version that both speak. What always holds: both
ends come to the same answer from the same two ranges, which travel inside the encrypted part of the handshake, so that
nobody on the wire can lower it. Must not know: connections, what differs between versions. See docs/adr/0016-versions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OLDEST", "SUPPORTED", "VERSION_MAX", "VersionMismatches", "Versions"]

VERSION_MAX = 255  # it is one byte before each message


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions from `oldest` to `newest`, 1..255; ValueError if that is no range."""

    oldest: int
    newest: int

    def __post_init__(self) -> None:
        if not 1 <= self.oldest <= self.newest <= VERSION_MAX:
            raise ValueError(f"versions are 1 <= oldest <= newest <= {VERSION_MAX}, not {self}")

    def __str__(self) -> str:
        return f"{self.oldest}" if self.oldest == self.newest else f"{self.oldest} to {self.newest}"

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def common(self, other: Versions) -> int:
        """The highest version that both speak; 0 if there is none."""
        highest = min(self.newest, other.newest)
        return highest if highest in self and highest in other else 0


OLDEST = 1
SUPPORTED = Versions(OLDEST, 2)  # of this program


class VersionMismatches:
    """Members that were met and speak no version of ours, as long as they do: each is told of once."""

    __slots__ = ("_recorded",)

    def __init__(self) -> None:
        self._recorded: dict[
            bytes, Versions
        ] = {}  # node id -> its range; members alone, so never more than the mesh has

    def record(self, node_id: bytes, versions: Versions) -> bool:
        """Keep in mind what this member speaks; whether that is news."""
        news = self._recorded.get(node_id) != versions
        self._recorded[node_id] = versions
        return news

    def forget(self, node_id: bytes) -> None:
        """This member speaks with us."""
        self._recorded.pop(node_id, None)

    def versions_of(self, node_id: bytes) -> Versions | None:
        """What a member speaks that does not speak with us; None of any other."""
        return self._recorded.get(node_id)
