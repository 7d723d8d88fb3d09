"""Reads recorded files (flight logs, tracks, tables of text) and writes their records into ordinary tables.

Readers yield records; `table_writer` writes them as any SQLite client does. `READERS` chooses a reader by the file's suffix.
"""
