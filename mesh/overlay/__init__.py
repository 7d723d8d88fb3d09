"""Which members a node links to, and how batches and link states spread over those links."""
