"""Talk with peers: catch-up, repair, acknowledgements and tombstone collection."""
