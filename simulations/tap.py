"""Messages counted by kind as they enter and leave the sessions, where they are still readable.

Owns two wrapped functions of the mesh while a tap is open. What always holds: the functions are put back; what passes is
not changed. Only runs on the real mesh have messages to count. Must not know scenarios.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from mycomesh.mesh import core
from mycomesh.mesh.links import link
from mycomesh.mesh.messages import App, Batch, decode_pieces, encode_parts
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import messages as sync_message

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Tap"]


@dataclass(slots=True)
class Tap:
    """Counts while it is open: bytes of each kind of message sent, before encryption, and batches that arrived."""

    sent: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    _patches: list[Any] = field(default_factory=list)

    def __enter__(self) -> Self:
        def encoded(message: Any, version: int) -> Any:
            parts = encode_parts(message, version)
            self.sent[_kind(message)] += sum(map(len, parts))
            return parts

        def decoded(pieces: Any, version: int) -> Any:
            message = decode_pieces(pieces, version)
            self.batches += isinstance(message, Batch)
            return message

        self._patches = [
            mock.patch.object(link, "encode_parts", encoded),
            mock.patch.object(core, "decode_pieces", decoded),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for patch in self._patches:
            patch.stop()


def _kind(message: Any) -> str:
    if not isinstance(message, App):
        return type(message).__name__.lower()
    try:
        return f"round: {type(sync_message.decode(message.payload)).__name__.lower()}"
    except DecodeError:
        return "round: other"
