"""`python -m tests.protocol`: write tests/vectors/protocol.json again; its bytes change only with the protocol."""

from __future__ import annotations

from tests.protocol.story import VECTORS, text

if __name__ == "__main__":
    VECTORS.write_text(text())
