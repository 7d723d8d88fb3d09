"""Table definitions as replicated facts, and the pass over a changed schema."""
