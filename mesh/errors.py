"""The one error tree of `mesh`. Every message is one line: what is wrong, where, and what a person can do about it."""

from __future__ import annotations

__all__ = ["CertificateError", "DecodeError", "EnrolmentError", "HandshakeError", "LimitError", "MeshError"]


class MeshError(Exception):
    """Root of everything that `mesh` raises on purpose; catch it at the edge of one link, never around a whole node."""

    code = "mesh"  # stable: what `mycomesh explain` takes


class HandshakeError(MeshError):
    """A handshake or transport message does not hold.

    Fault: the peer, a stranger, or the line. State: the handshake is dead and must be dropped; a `CipherState` is as
    it was before the call. To do: close that one connection and tell the other side nothing.
    """

    code = "handshake.failed"


class CertificateError(MeshError):
    """A membership certificate is refused; `reason` is a stable word for logs and tests.

    Fault: the certificate's holder, or the operator who let it expire. State: nothing changed. To do: close the link;
    when it is this node's own certificate, renew it or join again.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = f"certificate.{reason}"


class DecodeError(MeshError):
    """Bytes are not the one canonical encoding of a value that may stand there.

    Fault: the sender (or the disk, for files of this node). State: nothing changed. To do: close that one link; for a
    file, restore it or join again.
    """

    code = "protocol.malformed"


class LimitError(MeshError):
    """The caller asked for more than a named limit allows.

    Fault: this node's own caller. State: nothing was sent, nothing changed. To do: send less, or split it.
    """

    code = "limit.exceeded"


class EnrolmentError(MeshError):
    """A join code, an invitation or a step of the enrolment exchange does not hold.

    Fault: the person who typed the code, or the other side. State: no identity was made. To do: check the code or ask
    for another one, then join again.
    """

    code = "enrolment.refused"
