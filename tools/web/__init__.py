"""The web console: a process beside the node that serves a page, an HTTP API and live changes (ADR 49)."""

from __future__ import annotations

from pathlib import Path

__all__ = ["STATIC"]

STATIC = Path(__file__).parent / "static"  # the bundled page, if this installation has it
