"""Bridges: tables as streams of an outside system, and its streams as tables. Each bridge is a process of its own."""
