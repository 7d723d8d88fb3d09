"""The web console: a process beside the node that serves a page, an HTTP API and live changes (ADR 49)."""
