"""What SQLite's catalogue and SQL texts say about tables, columns and indexes."""
