"""What `invite` does where no node runs; apart, so that asking a running node does not load the keys' libraries."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from mesh.node.keystore import Keystore

if TYPE_CHECKING:
    from mesh.node.home import Home

__all__ = ["invite"]


def invite(home: Home, expires_s: int, uses: int) -> str:
    """Make an invitation that the next `up` accepts; return its code."""
    with home.locked():
        code, _ = Keystore(home).invite(
            expires_s=expires_s, uses=uses, wall_ms=time.time_ns() // 1_000_000, entropy=os.urandom
        )
    return str(code)
