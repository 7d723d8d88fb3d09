"""TLS of the schemes that use Python's: which certificates count, and the one line for a server without a trusted one."""

from __future__ import annotations

import ssl

from mycomesh.tools.bridges.scheme import SchemeError

__all__ = ["context_of", "tls_error"]


def context_of(ca: str | None) -> ssl.SSLContext:
    """Return the settings of a client that trusts the certificates in a file, without one those of the system.

    Raises:
        SchemeError: the file has no certificates.
    """
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError too
        raise SchemeError(f"ca: {ca} has no certificates in PEM: {error.strerror or error}") from error


def tls_error(server: str, error: BaseException) -> SchemeError:
    """Return what to do where a handshake fails."""
    why = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
    return SchemeError(f'TLS with {server} fails: {why}; name the certificates to trust: ca = "FILE"')
