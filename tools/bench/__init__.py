"""Measurements: ratios to plain SQLite in the same run, and the figures of running nodes."""
