"""SQLite's catalogue and SQL text: definitions, indexes, identifiers and raw text; no replication state."""
