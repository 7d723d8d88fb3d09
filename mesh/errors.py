"""The error tree of `mesh`. Every message is one line: what is wrong, where, and what a person can do about it."""

from __future__ import annotations

__all__ = ["CertificateError", "DecodeError", "EnrolmentError", "HandshakeError", "LimitError", "MeshError"]


class MeshError(Exception):
    """Base class of every error that `mesh` raises on purpose. Catch it per link, never around a whole node."""

    code = "mesh"  # stable: `mycomesh explain` takes it


class HandshakeError(MeshError):
    """A handshake message or an encrypted frame is invalid.

    Fault: the peer, an unauthenticated peer, or the network. State: the handshake has failed and must be dropped; a
    `CipherState` is unchanged. To do: close that one connection and send the other side nothing.
    """

    code = "handshake.failed"


class CertificateError(MeshError):
    """A membership certificate was refused. `reason` is a stable word for logs and tests.

    Fault: the certificate's holder, or the operator who let it expire. State: unchanged. To do: close the link. If it is
    this node's own certificate, renew it or join again.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.code = f"certificate.{reason}"


class DecodeError(MeshError):
    """Bytes are not the canonical encoding of a value that is allowed there.

    Fault: the sender (or the disk, for files of this node). State: unchanged. To do: close that one link. If it is a file,
    restore it or join again.
    """

    code = "protocol.malformed"


class LimitError(MeshError):
    """The caller exceeded a named limit.

    Fault: the local caller. State: unchanged, nothing was sent. To do: send less, or split it.
    """

    code = "limit.exceeded"


class EnrolmentError(MeshError):
    """A join code, an invitation or a step of the enrolment exchange is invalid.

    Fault: the person who typed the code, or the other side. State: no identity was created. To do: check the code or ask
    for another one, then join again.
    """

    code = "enrolment.refused"
