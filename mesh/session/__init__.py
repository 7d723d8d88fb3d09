"""One encrypted connection: Noise handshake, frames, records and key refresh."""
