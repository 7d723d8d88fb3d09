"""Mailboxes between bases: batches on storage that both sides reach at different times, and that nobody has to trust."""
