"""Cuts a byte stream into MAVLink frames, versions 1 and 2, and decodes them with pymavlink's dialect.

pymavlink's own connection reads a byte at a time and keeps one record of each message for all vehicles of a socket. This reader
has one instance a source, skips damaged bytes and counts them. A frame of an unknown message is passed over by its length.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any

from mycomesh.mesh.node.errors import NodeError

__all__ = ["FRAME_BYTES_MAX", "FrameReader", "dialect"]

FRAME_BYTES_MAX = 280  # a frame of version 2 with 255 bytes of payload and a signature
_V1, _V2 = 0xFE, 0xFD
_SIGNED = 1


def dialect() -> Any:
    """Return pymavlink's dialect of ArduPilot, which contains the common messages that PX4 sends too."""
    try:
        return importlib.import_module("pymavlink.dialects.v20.ardupilotmega")
    except ImportError as error:
        raise NodeError(
            f"MAVLink needs pymavlink ({error}); install it with: python -m pip install 'mycomesh[mavlink]'"
        ) from error


class FrameReader:
    """Frames of one source; `damaged` counts the bytes that belong to no frame with a right checksum."""

    def __init__(self) -> None:
        self._dialect = dialect()
        self._mav = self._dialect.MAVLink(None)
        self._rest = b""
        self.damaged = 0

    def feed(self, data: bytes, *, whole: bool = False) -> list[Any]:
        """Return the messages that the bytes complete. `whole`: the bytes are a datagram, and what remains of it is damaged."""
        buffer = self._rest + data
        messages: list[Any] = []
        at = 0
        while at < len(buffer):
            size = frame_size(buffer, at)
            if size is None:
                break
            message = self.decode(buffer[at : at + size]) if size and at + size <= len(buffer) else None
            if size and at + size > len(buffer) and not whole:
                break
            if message is None or self._is_noise(message, buffer, at + (size or 0)):
                self.damaged += 1
                at += 1
                continue
            at += size
            messages.append(message)
        self._rest = b"" if whole else buffer[at:]
        if whole:
            self.damaged += len(buffer) - at
        return messages

    def _is_noise(self, message: Any, buffer: bytes, end: int) -> bool:
        """Return True for a frame that the dialect does not know, so that its checksum says nothing, if no frame follows it.

        Else one byte of noise that looks like a beginning would swallow the frames of the next 280 bytes.
        """
        return (
            isinstance(message, self._dialect.MAVLink_unknown) and end < len(buffer) and buffer[end] not in (_V1, _V2)
        )

    def decode(self, frame: bytes) -> Any:
        """Return the message of one frame, or None if its checksum or its length is wrong."""
        try:
            return self._mav.decode(bytearray(frame))
        except (self._dialect.MAVError, struct.error, IndexError):
            return None


def frame_size(buffer: bytes, at: int) -> int | None:
    """Return the size of the frame that begins there, 0 if none does, None if its header is incomplete."""
    magic = buffer[at]
    if magic not in (_V1, _V2):
        return 0
    if len(buffer) < at + 3:
        return None
    length = buffer[at + 1]
    if magic == _V1:
        return length + 8
    return length + 12 + (13 if buffer[at + 2] & _SIGNED else 0)
