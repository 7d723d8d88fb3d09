"""Caches signature checks and decoded records and envelopes across the nodes of one simulation.

Each record of one node reaches all others, so 1,000 simulated nodes verify and decode it once, not 1,000 times, and share one
copy. The cached functions are pure and return immutable values, so the results are those of real nodes.

Invariant: the functions are restored after the run.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

from nacl import bindings

from mycomesh.mesh.mailbox import streams
from mycomesh.mesh.membership.certificate import Certificate
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.overlay.topology import LinkState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SHARED", "computed_once"]

# Cached results of each function: a record of some hundred bytes reaches all nodes within seconds.
RESULTS_MAX = 16_384

SHARED = (
    (bindings, "crypto_sign_open"),
    (Certificate, "decode_signed"),
    (LinkState, "decode"),
    (streams, "open_envelope"),
    (statement, "decode"),
)


@contextlib.contextmanager
def computed_once() -> Iterator[None]:
    """Cache results within the block. Errors are not cached."""
    with contextlib.ExitStack() as stack:
        for owner, name in SHARED:
            stack.enter_context(mock.patch.object(owner, name, _cached(getattr(owner, name))))
        yield


def _cached(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.lru_cache(maxsize=RESULTS_MAX)(function)
