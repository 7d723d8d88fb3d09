"""The sync protocol of one replica with its peers: comparison, catch-up, repair, acknowledgements, tombstone GC."""
