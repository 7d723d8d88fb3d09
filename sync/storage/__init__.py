"""The node's own tables in the file: change log, coverage, digests, held values."""
