"""What the nodes of one simulated mesh need not each compute: what a record says that all of them get, and who signed it.

Owns three functions of the mesh while runs go on. What always holds: they answer as they do in life, for each depends on
its arguments alone and returns what nobody changes; they are put back. A record of one node goes to all the others: 1,000
simulated nodes check and read each once, not 1,000 times, and hold one copy of it.
Must not know what becomes of the answers.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

from nacl import bindings

from mycomesh.mesh.membership.certificate import Certificate
from mycomesh.mesh.overlay.topology import LinkState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["computed_once"]

# Answers remembered of each: a record of some hundred bytes reaches everybody within seconds.
ANSWERS_MAX = 16_384


@contextlib.contextmanager
def computed_once() -> Iterator[None]:
    """Remember answers; what is refused raises, and is looked at each time."""
    with contextlib.ExitStack() as stack:
        for owner, name in ((bindings, "crypto_sign_open"), (Certificate, "decode_signed"), (LinkState, "decode")):
            stack.enter_context(mock.patch.object(owner, name, _remembered(getattr(owner, name))))
        yield


def _remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    return functools.lru_cache(maxsize=ANSWERS_MAX)(function)
