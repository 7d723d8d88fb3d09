"""The real node core in a simulated world: virtual time, a virtual network, real SQLite files."""
