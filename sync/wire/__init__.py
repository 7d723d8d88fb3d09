"""Wire formats of changes and of anti-entropy messages."""
