"""Clocks, version vectors, the merge lattice and set-difference sketches; no SQLite, no network."""
