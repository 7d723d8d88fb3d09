"""Protocol version negotiation: two nodes use the highest version that both support.

Both ends compute the same version from the same two ranges. The ranges travel inside the encrypted part of the handshake, so
an attacker on the wire cannot lower the version. See docs/adr/0016-versions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OLDEST", "SUPPORTED", "VERSION_MAX", "VersionMismatches", "Versions"]

VERSION_MAX = 255  # one byte in front of each message


@dataclass(frozen=True, slots=True)
class Versions:
    """All versions from `oldest` to `newest`, within 1..255.

    Raises:
        ValueError: the two numbers are not such a range.
    """

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
        """Return the highest version in both ranges, 0 if they do not overlap."""
        highest = min(self.newest, other.newest)
        return highest if highest in self and highest in other else 0


OLDEST = 1
SUPPORTED = Versions(OLDEST, 2)  # by this program


class VersionMismatches:
    """Members that share no protocol version with this node. The node reports each of them once, until its range changes."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        # Node id -> the range it supports. Only members get here, so there are never more than the mesh has.
        self._ranges: dict[bytes, Versions] = {}

    def record(self, node_id: bytes, versions: Versions) -> bool:
        """Record the range that a member supports; return True if it differs from the recorded one."""
        news = self._ranges.get(node_id) != versions
        self._ranges[node_id] = versions
        return news

    def forget(self, node_id: bytes) -> None:
        """Remove a member that shares a version with this node."""
        self._ranges.pop(node_id, None)

    def versions_of(self, node_id: bytes) -> Versions | None:
        """Return the range of a member that shares no version with this node, None for any other member."""
        return self._ranges.get(node_id)
