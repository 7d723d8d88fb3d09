"""Counts messages by kind at the edge of the encrypted sessions, where they are still readable.

A tap wraps two functions of the mesh, so it counts only in runs on the real mesh.

Invariants: the functions are restored at the end; messages pass unchanged.
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
    """Counts within a `with` block: bytes sent of each kind of message, before encryption, and received batches."""

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
