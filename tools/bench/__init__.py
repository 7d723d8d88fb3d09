"""Benchmarks: ratios to plain SQLite in the same run, and figures of running nodes."""
